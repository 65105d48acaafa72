"""The config agent as one file: the real one, run by a bare Python, from its installation to a change and a restart."""

from __future__ import annotations

import ast
import io
import json
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from agent_server import TOKEN, AgentServer, served
from agent_world import metadata

from provisioner.conductor.cloudinit import APP, CONFIG, PYTHONS, START
from provisioner.system.agent import pack_agent
from provisioner_agent.instance import install, places
from provisioner_agent.instance.host import FakeHost, Finished
from provisioner_agent.instance.root import find_root
from provisioner_agent.protocol import auth, messages

PYTHON = "/usr/bin/python3"
FILES = {
    f"{places.TEMPLATES}/etc/web.conf": ("port={{port}}\n", 0o644),
    f"{places.TEMPLATES}/etc/web.conf.control": ('{"mode": "0600"}', 0o644),
    f"{places.PHASES}/configure.d/50-web": ("#!/bin/sh\ncp etc/web.conf running\n", 0o755),
}


def document(generation: int, port: int) -> dict[str, Any]:
    probe = {"name": "runs", "command": ["cat", "running"], "expect": f"port={port}"}
    return metadata(generation, port, health={"node": [probe], "role": [], "wait": 5})


@dataclass(frozen=True)
class Instance:
    """What cloud-init has written below a folder, ``root``, that stands for the root of an instance."""

    root: Path

    @property
    def app(self) -> Path:
        return self.root / APP.lstrip("/")

    def seed(self, url: str) -> None:
        self.app.parent.mkdir(parents=True)
        self.app.write_bytes(pack_agent(FILES))
        (self.root / "run/systemd/system").mkdir(parents=True)
        (self.root / places.TEMPLATES.lstrip("/")).mkdir(parents=True)
        (self.root / places.TEMPLATES.lstrip("/") / "another").write_text("{{what nobody knows}}")
        config = {"url": url, "token": TOKEN, "node": "n1", "hostname": "web-0", "whole_disk": True}
        (self.root / CONFIG.lstrip("/")).write_text(json.dumps(config))

    def run(self, *words: str, **more: Any) -> subprocess.CompletedProcess[str]:
        """By a Python that has nothing but what came with it."""
        argv = [PYTHON, "-I", "-S", str(self.app), *words, "--root", str(self.root)]
        return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=self.root, **more)

    @contextmanager
    def running(self) -> Iterator[None]:
        command = [str(self.root / install.COMMAND.lstrip("/")), "run", "--root", str(self.root)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=self.root)
        try:
            yield
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def server() -> Iterator[AgentServer]:
    with served() as server:
        yield server


@pytest.fixture
def instance(tmp_path: Path, server: AgentServer) -> Instance:
    found = Instance(tmp_path)
    found.seed(server.url)
    return found


def test_from_the_seed_to_a_change_and_a_restart(instance: Instance, server: AgentServer) -> None:
    done = instance.run("install")
    assert (done.returncode, done.stderr) == (0, "")
    root = instance.root
    units = sorted(path.name for path in (root / "etc/systemd/system").iterdir())
    assert units == sorted(install.UNITS)
    config = root / messages.AGENT_CONFIG.lstrip("/")
    assert config.stat().st_mode & 0o777 == 0o600 and not (root / CONFIG.lstrip("/")).exists()
    server.offer(document(1, 80))
    with instance.running():
        report = server.wait_for("applied 1 True")
        assert (root / "etc/web.conf").stat().st_mode & 0o777 == 0o600
        assert report["root"].startswith("PARTUUID=") or report["root"] == "", "not what the kernel was told"
        server.offer(document(2, 81))
        server.wait_for("applied 2 True")
        assert (root / "running").read_text() == "port=81\n"
        server.offer(document(3, 82) | {"health": document(3, 1)["health"]})
        assert "runs said 'port=82'" in server.wait_for("rolled-back 2 True")["error"]["cause"]
    (root / "etc/web.conf").write_text("by hand\n")
    why = subprocess.run(
        [str(root / install.COMMAND.lstrip("/")), "why", "/etc/web.conf", "--root", str(root)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert why.returncode == 2 and "-by hand" in why.stdout
    server.reports.clear()
    server.offer(document(4, 83))
    with instance.running():
        server.wait_for("applied 4 True")
    assert json.loads(instance.run("status", "--json").stdout)["applied"] == 4


def test_the_tools_of_old_are_there_by_their_names(instance: Instance) -> None:
    assert instance.run("install").returncode == 0
    for name in install.CLASSIC:
        text = (instance.root / f"usr/local/bin/os-{name}-config").read_text()
        assert f"exec {install.COMMAND} {name} " in text
        argv = [PYTHON, "-I", "-S", str(instance.app), name, "--help"]
        assert subprocess.run(argv, capture_output=True, check=False).returncode == 0


def test_an_instance_without_systemd_is_told_to_the_server(instance: Instance, server: AgentServer) -> None:
    (instance.root / "run/systemd/system").rmdir()
    server.offer(document(7, 80))
    done = instance.run("install")
    assert done.returncode == 1 and "systemd does not run here" in done.stderr
    (report,) = server.reports
    assert (report["generation"], report["state"], report["healthy"]) == (7, "failed", False)
    assert (
        report["error"]["cause"] == "systemd does not run here" and "deploy the node again" in report["error"]["hint"]
    )
    assert not (instance.root / install.COMMAND.lstrip("/")).exists(), "nothing is half done"


def test_an_instance_without_openssl_is_told_to_the_server(instance: Instance, server: AgentServer) -> None:
    server.offer(document(7, 80))
    assert instance.run("install", env={"PATH": str(instance.root)}).returncode == 1
    assert "openssl" in server.reports[0]["error"]["cause"]


def test_a_python_that_is_too_old_is_told_to_the_server(
    instance: Instance, server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.offer(document(7, 80))
    monkeypatch.setattr(install.sys, "version_info", (3, 6, 8))
    monkeypatch.setattr(install.sys, "argv", [str(instance.app), "install"])
    assert install.install_or_tell(instance.root) == 1
    assert "and the agent needs 3.9" in server.reports[0]["error"]["cause"]
    monkeypatch.setattr(install.sys, "argv", [str(instance.app), "run"])
    with pytest.raises(SystemExit, match=r"the agent needs 3\.9"):
        install.main()


def test_what_a_python_that_is_too_old_reads_is_in_its_language() -> None:
    with zipfile.ZipFile(io.BytesIO(pack_agent({}))) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    read = [
        "__main__.py",
        *(f"provisioner_agent/{name}.py" for name in ("__init__", "instance/__init__", "instance/install")),
    ]
    for name in read:
        tree = ast.parse(texts[name], name, feature_version=(3, 6))
        froms = [found.module for found in ast.walk(tree) if isinstance(found, ast.ImportFrom)]
        assert "__future__" not in froms, "annotations came with 3.7"
        for found in ast.walk(tree):
            called = found.func.attr if isinstance(found, ast.Call) and isinstance(found.func, ast.Attribute) else ""
            words = {keyword.arg for keyword in found.keywords} if isinstance(found, ast.Call) else set()
            assert not words & {"capture_output", "text", "missing_ok"}, f"{name}: {called} has that since 3.7 or later"
    notes = [found.annotation for found in ast.walk(ast.parse(texts[read[-1]])) if isinstance(found, ast.arg)]
    assert not [note for note in notes if isinstance(note, ast.Subscript | ast.BinOp)], "they are run there"


def test_it_speaks_as_the_protocol_says(server: AgentServer) -> None:
    assert f"{messages.METADATA}?since=0&wait=0" == install.METADATA and install.REPORT == messages.REPORT
    assert f"/{install.CONFIG}" == messages.AGENT_CONFIG
    assert [f"/{tree}" for tree in install.TREES] == [places.TEMPLATES, places.PHASES]
    config = {"url": f"http://127.0.0.1:1,{server.url}", "token": TOKEN}
    assert install.call(config, "GET", install.METADATA, b"") == b"{}", "the first server was away"
    with pytest.raises(OSError, match="answers 401"):
        install.call(config | {"token": f"{auth.split_token(TOKEN)[0]}.wrong"}, "GET", install.METADATA, b"")


def test_the_file_is_the_same_each_time_and_has_nothing_of_the_ramdisk() -> None:
    assert pack_agent(FILES) == pack_agent(dict(reversed(FILES.items())))
    with zipfile.ZipFile(io.BytesIO(pack_agent({}))) as archive:
        names = archive.namelist()
    assert not [name for name in names if "ramdisk" in name]
    assert {f"files/etc/systemd/system/{unit}" for unit in install.UNITS} <= set(names)


@pytest.mark.parametrize(("versions", "taken"), [([8, 11, 9], 11), ([6], 6)])
def test_cloud_init_takes_the_first_python_that_is_new_enough(tmp_path: Path, versions: list[int], taken: int) -> None:
    for number, minor in enumerate(versions):
        python = tmp_path / ("python3" if number == 0 else f"python3.{minor}")
        answer = f"exit {int(minor < 9)}" if minor else ""
        python.write_text(f'#!/bin/sh\n[ "$1" = -c ] && {answer}\necho {minor} "$@"\n')
        python.chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", START], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"{taken} {APP} install\n"


def test_an_image_without_python_says_so(tmp_path: Path) -> None:
    assert not Path(PYTHONS[-1]).exists()
    env = {"PATH": str(tmp_path)}
    done = subprocess.run(["/bin/sh", "-c", START], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "there is no Python for the config agent" in done.stderr


@pytest.mark.parametrize(
    ("said", "root"),
    [
        (Finished(0, "\nAB-CD\n\n"), "PARTUUID=ab-cd"),
        (Finished(0, "lsblk: a warning\n5CA1AB1E-01\n"), "PARTUUID=5ca1ab1e-01"),
        (Finished(32, "lsblk: /dev/mapper/vg-root: not a block device\n"), ""),
        (Finished(127, "lsblk: No such file or directory"), ""),
    ],
)
def test_the_partition_is_that_on_which_the_root_lies_in_the_end(said: Finished, root: str) -> None:
    host = FakeHost()
    host.programs["findmnt"] = lambda argv, env: Finished(0, "/dev/mapper/vg-root\n")
    host.programs["lsblk"] = lambda argv, env: said if argv[-1] == "/dev/mapper/vg-root" else Finished(1, "")
    assert find_root(host) == root
