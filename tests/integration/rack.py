"""A virtual rack of its own for the tests: its namespace, records and service stand apart from any other lab.

Everything goes through the program's command line and the rack's network, as an operator's hands would.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "provisioner-test"
INSIDE = ("ip", "netns", "exec", NAMESPACE)
RECORDS = "provisioner.db*"
KEPT = "kept"
"""Records of racks that were put aside, by name; beside them the lab keeps its machines."""
PROGRAM = str(Path(sys.executable).with_name("provisioner"))


@dataclass
class Rack:
    """A rack under test. ``folder`` holds its manifests, ``state`` its records and images."""

    folder: Path
    state: Path
    service: subprocess.Popen[bytes] | None = None

    @property
    def config(self) -> Path:
        return self.folder / "provisioner.conf"

    def run(self, *words: str, codes: tuple[int, ...] = (0,), timeout: float = 1800) -> str:
        """Run a command of the program; its standard output. Fails the test on another exit code."""
        return run_words([PROGRAM, "--config", str(self.config)], words, codes, timeout)

    def json(self, *words: str, codes: tuple[int, ...] = (0,)) -> Any:
        done = self.run(*words, "-o", "json", codes=codes)
        return json.loads(done)

    def start(self) -> None:
        log = (self.folder / "serve.log").open("ab")
        self.service = subprocess.Popen(
            [*INSIDE, PROGRAM, "--config", str(self.config), "serve"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()
        self.wait("the service answers", self.answers, 60)

    def keep(self, name: str) -> None:
        """Put the rack and its records aside, as they are now; then all goes on. ``started_rack`` begins from there."""
        self.stop()
        kept = self.state / KEPT / name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        self.run("lab", "forget", name, codes=(0, 1))
        self.run("lab", "save", name, "--file", str(self.folder / "lab.yaml"))
        for path in self.state.glob(RECORDS):
            shutil.copy2(path, kept)
        self.start()

    def answers(self) -> bool:
        words = [PROGRAM, "--config", str(self.config), "node", "list"]
        return subprocess.run(words, capture_output=True).returncode == 0

    def kill(self) -> None:
        """kill -9 of the service alone, as a crash would be: its children stay."""
        assert self.service is not None
        os.kill(self.service.pid, signal.SIGKILL)
        self.service.wait()

    def stop(self) -> None:
        if self.service is not None and self.service.poll() is None:
            self.service.terminate()
            try:
                self.service.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.service.kill()
                self.service.wait()

    def wait(self, what: str, holds: Callable[[], bool], seconds: float) -> None:
        """Wait until something holds, at most ``seconds``."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(1)
        raise AssertionError(f"not within {seconds:g} s: {what}\n{self.log()}")

    def log(self) -> str:
        path = self.folder / "serve.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-60:]) if path.exists() else ""

    def cloud(self, **galera: Any) -> Path:
        """Write the rack's cloud file: cloud-lab.yaml with this use of the role galera; values on top of its own."""
        cloud = yaml.safe_load((ROOT / "cloud-lab.yaml").read_text())
        values = cloud["roles"]["galera"]["values"] | galera.pop("values", {})
        cloud["roles"]["galera"] |= galera | {"values": values}
        path = self.folder / "cloud.yaml"
        path.write_text(yaml.safe_dump(cloud))
        return path

    def nodes(self, cloud: str) -> dict[str, str]:
        """The node of each member of a cloud, by host name."""
        return {member["hostname"]: member["node"] for member in self.json("cloud", "status", cloud)["members"]}

    def member(self, hostname: str, cloud: str = "lab") -> dict[str, Any]:
        members = self.json("cloud", "status", cloud)["members"]
        return next(member for member in members if member["hostname"] == hostname)

    def sql(self, address: str, statement: str) -> str:
        """Run a statement on a member over the rack's network; values are separated by tabs."""
        password = self.run("cloud", "secret", "lab", "galera_app_password").strip()
        done = subprocess.run(
            [*INSIDE, "mariadb", "-NB", "-h", address, "-u", "app", "--connect-timeout=10", "-e", statement],
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": os.environ["PATH"], "MYSQL_PWD": password},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()


def run_words(
    program: Sequence[str],
    words: Sequence[str],
    codes: Sequence[int],
    timeout: float,
    env: Mapping[str, str] | None = None,
) -> str:
    """Standard output of a program, and what it says of an error. Fails the test on another exit code.

    :param program: and what stands before the words that are named then.
    """
    done = subprocess.run([*program, *words], capture_output=True, text=True, timeout=timeout, env=env)
    assert done.returncode in codes, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout + (done.stderr if done.returncode else "")


def no_change(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """The rack as it is shipped."""


@contextmanager
def started_rack(
    folder: Path,
    nodes: int,
    cloud: Path = ROOT / "cloud-lab.yaml",
    change: Callable[[dict[str, Any], dict[str, Any]], None] = no_change,
    network: str = "",
    kept: str = "",
) -> Iterator[Rack]:
    """A rack with ``nodes`` nodes, powered off, with images built and its service running; gone afterwards.

    The third node has a BIOS, the others UEFI.

    :param cloud: whose images are built. :param change: changes what the lab file and the hardware file say,
        when the images are there. :param network: more options of the configuration's section.
    :param kept: what :meth:`Rack.keep` has put aside, to go on from there with the images of then.

    Records and images stay in ``.tox/rack`` so that a second run of the tests starts with warm layers.
    """
    state = ROOT / ".tox" / "rack"
    for path in state.glob(RECORDS):
        path.unlink()
    rack = Rack(folder, state)
    rack.config.write_text(
        f"[DEFAULT]\nstate_dir = {state}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n"
        f"elements_path = {ROOT / 'tests' / 'integration' / 'elements'}\n"
        "[network]\ninterface = rack0\naddress = 10.77.0.1/24\ndhcp_first = 10.77.0.100\ndhcp_last = 10.77.0.199\n"
        f"{network}\n"
    )
    if not kept:
        rack.run("image", "build", "--cloud", str(cloud), "--no-test")  # the rack itself boots them
    lab = yaml.safe_load((ROOT / "seed" / "lab.yaml").read_text())
    lab["namespace"] = NAMESPACE
    lab["nodes"] = lab["nodes"][:nodes]
    for node in lab["nodes"][2:]:
        node["firmware"] = "bios"
    hardware = yaml.safe_load((ROOT / "hardware" / "lab.yaml").read_text())
    hardware["nodes"] = hardware["nodes"][:nodes]
    for node in hardware["nodes"][2:]:
        node["firmware"] = "bios"
    change(lab, hardware)
    (folder / "lab.yaml").write_text(yaml.safe_dump(lab))
    text = yaml.safe_dump(hardware).replace("/var/lib/provisioner/lab", str(state / "lab"))
    (folder / "hardware.yaml").write_text(text)
    try:
        if kept:
            rack.run("lab", "restore", kept, "--file", str(folder / "lab.yaml"))
            for path in (state / KEPT / kept).iterdir():
                shutil.copy2(path, state)
        else:
            rack.run("lab", "up", "--file", str(folder / "lab.yaml"))
        rack.start()
        yield rack
    finally:
        rack.stop()
        rack.run("lab", "down", "--file", str(folder / "lab.yaml"), codes=(0, 1))
