"""The real agent, its link and its host door: over loopback, below a folder that stands for the root."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from agent_server import TOKEN, AgentServer, served
from agent_world import metadata

from provisioner_agent.instance import places
from provisioner_agent.instance.host import FileState, LinuxHost
from provisioner_agent.instance.main import run_command
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import ForgedAnswer, HttpLink, Refused, ServerAway, watch_peer
from provisioner_agent.protocol.servers import Servers


def test_of_what_runs_long_a_word_is_said_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    host, go = LinuxHost(tmp_path), tmp_path / "go"
    os.mkfifo(go)
    monkeypatch.setattr("provisioner_agent.instance.host.SLOW_SECONDS", 0.0)
    done = host.run(["sh", "-c", "read word <go; echo $word"], limit=30, slow=lambda: bool(go.write_text("on\n")))
    assert (done.code, done.output, done.timed_out) == (0, "on\n", False)
    late = host.run(["sh", "-c", "read word <go"], limit=0.1, slow=lambda: None)
    assert late.timed_out and late.code == -signal.SIGKILL


def test_and_again_while_it_still_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the server would take an instance for dead that has been at it for a quarter of an hour."""
    host, go, said = LinuxHost(tmp_path), tmp_path / "go", list[str]()
    os.mkfifo(go)
    for name in ("SLOW_SECONDS", "AGAIN_SECONDS"):
        monkeypatch.setattr(f"provisioner_agent.instance.host.{name}", 0.0)

    def tell() -> None:
        said.append("it runs")
        if len(said) == 3:
            go.write_text("on\n")

    done = host.run(["sh", "-c", "read word <go; echo $word"], limit=30, slow=tell)
    assert (done.code, done.output, done.timed_out) == (0, "on\n", False) and len(said) >= 3


def test_a_quick_one_is_not_worth_a_word(tmp_path: Path) -> None:
    said: list[str] = []
    assert LinuxHost(tmp_path).run(["true"], limit=30, slow=lambda: said.append("slow")).code == 0
    assert said == []


def test_link_both_ways() -> None:
    with served() as server:
        link = HttpLink(Servers(server.url), TOKEN)
        server.offer(metadata(4))
        answer = link.call("GET", f"{messages.METADATA}?since=3&wait=0", timeout=5)
        assert answer["metadata"]["generation"] == 4
        with pytest.raises(Refused, match="there is no such thing"):
            link.call("GET", "/agent/v1/nothing", timeout=5)
        for lie in ("mac", "replay"):
            server.forge = lie
            with pytest.raises(ForgedAnswer):
                link.call("GET", f"{messages.METADATA}?since=3&wait=0", timeout=5)
        server.forge = "none"
        with pytest.raises(ServerAway, match="401 without authentication"):
            stranger = HttpLink(Servers(server.url), "agent-1.wrong")
            with closing(stranger):
                stranger.call("POST", messages.REPORT, {}, timeout=5)
        assert server.reports == []
        link.close()


def test_the_kernel_watches_whether_the_server_is_still_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as door:
        watch_peer(door)
        assert door.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        idle, pause, times = (door.getsockopt(socket.IPPROTO_TCP, option) for option in options)
        assert idle + pause * times < messages.METADATA_POLL, "before the poll is over"


def test_link_without_a_server() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerAway, match="does not answer"):
        HttpLink(Servers(f"http://127.0.0.1:{port}"), TOKEN).call("GET", messages.METADATA, timeout=5)


def test_host_files(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    host.write("/etc/deep/a", FileState(b"x", 0o640))
    assert host.read("/etc/deep/a") == FileState(b"x", 0o640)
    assert (tmp_path / "etc/deep/a").stat().st_mode & 0o7777 == 0o640
    assert [path.name for path in (tmp_path / "etc/deep").iterdir()] == ["a"]
    assert host.tree("/etc") == {"deep/a": "x"}
    (tmp_path / "kept").write_text("")
    (tmp_path / "etc/deep/folder").mkdir()
    (tmp_path / "etc/deep/folder/link").symlink_to(tmp_path)
    (tmp_path / "etc/deep/folder/nowhere").symlink_to("nothing")
    host.remove("/etc/deep")
    host.remove("/etc/deep")
    assert (tmp_path / "kept").exists()
    assert host.read("/etc/deep/a") is None and host.tree("/etc") == {} and host.scripts("/none") == []


def test_content_is_on_the_disk_before_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, tape = LinuxHost(tmp_path), []
    real_flush, real_replace = os.fsync, os.replace

    def flush(handle: int) -> None:
        real_flush(handle)
        tape.append(("flushed", os.fstat(handle).st_ino))

    def replace(old: str, new: Path) -> None:
        state = Path(old).stat()
        assert (state.st_size, state.st_mode & 0o7777) == (5, 0o640)
        real_replace(old, new)
        tape.append(("named", state.st_ino))

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", replace)
    host.write("/etc/a", FileState(b"12345", 0o640))
    file, folder = (tmp_path / "etc/a").stat().st_ino, (tmp_path / "etc").stat().st_ino
    assert tape == [("flushed", file), ("named", file), ("flushed", folder)]
    host.remove("/etc/a")
    assert tape[3:] == [("flushed", folder)]


def test_host_programs(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    assert host.run(["sh", "-c", "echo out; echo err >&2; exit 3"], limit=10).output.split() == ["out", "err"]
    assert host.run(["sh", "-c", "exit 3"], limit=10).code == 3
    assert host.run(["no-such-program"], limit=10).code == 127
    assert host.run(["sh", "-c", "echo $A$HOME"], limit=10, env={"A": "a"}).output == "a/root\n"
    late = host.run(["sh", "-c", "echo begun; sleep 1000 & wait"], limit=0.2)
    assert late.timed_out and late.output == "begun\n"
    assert not host.has_units, "no unit of this machine is one of the folder's"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    files = {
        f"{places.TEMPLATES}/etc/service.conf": "port={{port}}\n",
        f"{places.TEMPLATES}/etc/service.conf.control": '{"mode": "0600", "validate": ["grep", "port=", "{path}"]}',
    }
    for path, text in files.items():
        target = tmp_path / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    script(tmp_path, "configure.d/50-service", 'cp "$PROVISIONER_PERMIT" permit; cp etc/service.conf running')
    return tmp_path


def script(root: Path, name: str, text: str) -> None:
    path = root / places.PHASES.lstrip("/") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\nset -e\n{text}\n")
    path.chmod(0o755)


def document(generation: int, port: int) -> dict[str, object]:
    probe = {"name": "runs", "command": ["cat", "running"], "expect": f"port={port}"}
    return metadata(generation, port, health={"node": [probe], "role": [], "wait": 1})


@contextmanager
def running(root: Path, server: AgentServer) -> Iterator[subprocess.Popen[bytes]]:
    config = root / messages.AGENT_CONFIG.lstrip("/")
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(json.dumps({"url": server.url, "token": TOKEN, "node": "n1", "hostname": "web-0"}))
    begin = "from provisioner_agent.command import main; main()"
    words = [sys.executable, "-c", begin, "run", "--root", str(root)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_the_running_agent(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with served() as server:
        server.offer(document(1, 80))
        with running(root, server):
            server.wait_for("applied 1 True")
            assert (root / "running").read_text() == "port=80\n"
            assert (root / "etc/service.conf").stat().st_mode & 0o777 == 0o600
            assert (root / places.METADATA.lstrip("/")).stat().st_mode & 0o777 == 0o600
            assert json.loads((root / "permit").read_text())["once"] == {"first": {"do": True, "fence": 1}}
            server.offer(document(2, 81))
            server.wait_for("applied 2 True")
            server.offer(document(3, 82) | {"health": document(3, 1)["health"]})
            said = server.wait_for("rolled-back 2 True")
            assert said["generation"] == 3 and "runs said 'port=82'" in said["error"]["cause"]
            assert (root / "running").read_text() == "port=81\n"
            script(root, "configure.d/60-hangs", "mkfifo gate; read word <gate")
            server.offer(document(4, 83))
            while not (root / "gate").exists():
                os.sched_yield()
        assert run_command(["status", "--root", str(root)]) == 0
        assert "generation 3: rolled-back" in capsys.readouterr().out
        (root / "gate").write_text("end\n")  # the script of the killed agent; systemd would have ended it
        script(root, "configure.d/60-hangs", "true")
        with running(root, server) as process:  # killed in a phase: it goes on
            server.wait_for("applied 4 True")
            assert (root / "running").read_text() == "port=83\n"
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=10)
    assert run_command(["status", "--json", "--root", str(root)]) == 0
    assert json.loads(capsys.readouterr().out)["applied"] == 4


def test_a_change_after_which_no_new_connection_is_made_is_taken_back(root: Path) -> None:
    control = root / f"{places.TEMPLATES}/etc/service.conf.control".lstrip("/")
    control.write_text('{"confirm": true}')
    role = {"name": "web", "count": 3, "confirm": 1}

    def cut_off() -> bool:
        return (root / "running").exists() and (root / "running").read_text() == "port=81\n"

    with served() as server:
        server.offer(document(1, 80) | {"role": role})
        server.deaf = cut_off
        with running(root, server):
            server.wait_for("applied 1 True")
            server.offer(document(2, 81) | {"role": role})
            said = server.wait_for("rolled-back 1 True")
            assert said["generation"] == 2 and "not heard over a new connection" in said["error"]["summary"]
            assert (root / "etc/service.conf").read_text() == (root / "running").read_text() == "port=80\n"
            server.offer(document(3, 82) | {"role": role})
            server.wait_for("applied 3 True")
            file = messages.AGENT_CONFIG.lstrip("/")
            (root / "good").write_bytes((root / file).read_bytes())
            (root / "lost").write_text(json.dumps({"url": "http://127.0.0.1:1", "token": TOKEN}))
            script(root, "configure.d/70-agent", f"if grep -q 83 running; then cp lost {file}; else cp good {file}; fi")
            server.offer(document(4, 83) | {"role": role})
            said = server.wait_for("rolled-back 3 True")
            assert said["generation"] == 4, "the agent would not find the server when it starts again"
        assert [report["confirming"] for report in server.reports if "confirming" in report] == [1, 3]


def test_what_would_change_is_shown(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "metadata.json"
    file.write_text(json.dumps(document(1, 80)))
    words = ["diff", "--metadata", str(file), "--root", str(root)]
    assert run_command(words) == 2
    assert "+port=80" in capsys.readouterr().out and not (root / "etc/service.conf").exists()
    (root / "etc").mkdir(exist_ok=True)
    (root / "etc/service.conf").write_text("port=80\n")
    (root / "etc/service.conf").chmod(0o600)
    assert run_command(words) == 0
    assert capsys.readouterr().out == "Nothing to change.\n"
    file.write_text(json.dumps(metadata(2) | {"values": {}}))
    assert run_command(words) == 1
    assert "etc/service.conf:1:6: the key port is not in the data" in capsys.readouterr().err
    file.write_text("port: 80")
    assert run_command(words) == 1
    assert f"{file} is not JSON: Expecting value: line 1" in capsys.readouterr().err
    file.write_text(json.dumps(document(1, 80)))
    assert run_command([*words, "--templates", "/elsewhere"]) == 1, "a folder that is not there is no change either"
    assert f"there is no template folder {root}/elsewhere" in capsys.readouterr().err
    assert run_command(["aply"]) == 64
