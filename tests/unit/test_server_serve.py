"""The whole service, with a fake house: it starts, answers, says so, and ends when it is told to."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from served import FakeConductor
from test_server_provisioning import Rack

from provisioner.client.client import Client
from provisioner.errors import Conflict, HostError
from provisioner.events import Observer
from provisioner.server.listener import ServiceLock
from provisioner.server.serve import READY, serve
from provisioner.system.settings import Settings
from provisioner.trust.ca import ensure_ca
from provisioner_agent.protocol.servers import build_trust


class Both(FakeConductor, Rack):
    """The conductor for operators and for guests."""

    def __init__(self) -> None:
        Rack.__init__(self)
        FakeConductor.__init__(self)


class FakeHouse:
    handover = None

    def __init__(self, on_start: Callable[[], None] = lambda: None) -> None:
        self.conductor = Both()
        self.on_start = on_start
        self.story: list[str] = []

    def build(self, settings: Settings, observer: Observer) -> FakeHouse:
        self.story.append("built")
        return self

    def images(self) -> list[Any]:
        return []

    def forget(self) -> None:
        pass

    def path_of(self, image: str, name: str) -> Path:
        raise AssertionError

    def rest(self) -> None:
        raise AssertionError

    def start(self) -> None:
        self.story.append("started")
        self.on_start()

    def stop(self) -> None:
        self.story.append("stopped")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_service(settings: Settings, house: FakeHouse, visit: Callable[[], None], number: int = signal.SIGTERM) -> None:
    """Serve in this thread, as signals need; ``visit`` in another one, then the signal."""
    faults: list[BaseException] = []

    def visitor() -> None:
        try:
            visit()
        except BaseException as fault:
            faults.append(fault)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=visitor)
    house.on_start = thread.start
    serve(settings, house.build)
    thread.join(10)
    if faults:
        raise faults[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_it_serves_both_listeners_until_a_signal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    port = free_port()
    settings = Settings(
        state_dir=tmp_path, run_dir=tmp_path / "run", interface="lo", address="127.0.0.1/8", http_port=port
    )
    house = FakeHouse()

    def visit() -> None:
        assert (tmp_path / "run" / "serve.pid").read_text().strip() == str(os.getpid())
        assert stat.S_IMODE(settings.socket.stat().st_mode) == 0o600
        with Client(settings.socket) as client:
            assert client.status()["url"] == f"http://127.0.0.1:{port}"
            assert len(client.nodes()) == 1
        with httpx.Client(trust_env=False) as http:
            assert http.get(f"http://127.0.0.1:{port}/boot/52:54:00:77:00:01").text.startswith("#!ipxe")
            assert http.get(f"http://127.0.0.1:{port}/v1/nodes").status_code == 404

    run_service(settings, house, visit, number)
    assert house.story == ["built", "started", "stopped"]
    assert not settings.socket.exists() and not (tmp_path / "run" / "serve.pid").exists()
    assert house.conductor.callbacks == []
    said = capsys.readouterr().err
    assert f" {READY} - operators on {settings.socket}; nodes on lo at http://127.0.0.1:{port}" in said
    assert said.splitlines()[-1].endswith("serve.ended - the service has ended")


def test_agents_are_answered_by_tls_and_their_open_connections_do_not_hold_the_end_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(
        state_dir=tmp_path,
        run_dir=tmp_path / "run",
        interface="lo",
        address="127.0.0.1/8",
        http_port=free_port(),
        https_port=free_port(),
    )
    kept: list[http.client.HTTPSConnection] = []
    trust = build_trust(ensure_ca(settings.keys).read_text())

    def visit() -> None:
        kept.append(http.client.HTTPSConnection("127.0.0.1", settings.https_port, timeout=10, context=trust))
        kept[0].request("GET", "/nothing")
        answer = kept[0].getresponse()
        assert (answer.status, bool(answer.read())) == (404, True)

    try:
        run_service(settings, FakeHouse(), visit)
    finally:
        for connection in kept:
            connection.close()
    assert "graceful" not in capsys.readouterr().err


@pytest.mark.parametrize("piece", [b"x" * 1000, b"a: b\r\n" * 200], ids=["one header", "many headers"])
def test_a_head_without_end_is_not_kept(tmp_path: Path, piece: bytes) -> None:
    ports = {"http_port": free_port(), "https_port": free_port()}
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path / "run", interface="lo", address="127.0.0.1/8", **ports)
    answers: list[bytes] = []

    def visit() -> None:
        with socket.create_connection(("127.0.0.1", settings.http_port), timeout=10) as door:
            door.sendall(b"GET /boot/x HTTP/1.1\r\nhost: x\r\n" + piece.rstrip(b"\r\n"))
            try:
                for _ in range(20_000_000 // len(piece)):
                    door.sendall(piece)
            except OSError:
                return  # it was closed while we sent
            answers.append(door.recv(100))

    run_service(settings, FakeHouse(), visit)
    assert not answers, "twenty megabytes were taken"


def test_without_an_interface_it_serves_operators_only_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)

    def visit() -> None:
        with Client(settings.socket) as client:
            assert client.status()["interface"] is None

    run_service(settings, FakeHouse(), visit)
    assert "interface is not set" in capsys.readouterr().err


class Turning:
    """A handover whose duty has changed: the service begins anew."""

    turn: Callable[[], None]


class TurningHouse(FakeHouse):
    """Its first round ends only when somebody has called meanwhile."""

    handover: Any = Turning()

    def __init__(self) -> None:
        super().__init__()
        self.ending, self.called = threading.Event(), threading.Event()

    def start(self) -> None:
        self.story.append("started")
        if self.story.count("started") == 1:
            self.on_start()

    def stop(self) -> None:
        super().stop()
        self.ending.set()
        assert self.called.wait(10)


def test_who_calls_while_it_begins_anew_is_answered_by_the_next_round(tmp_path: Path) -> None:
    port = free_port()
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path, operators_listen=f"127.0.0.1:{port}")
    house = TurningHouse()

    def visit() -> None:
        house.handover.turn()
        try:
            assert house.ending.wait(10)
            with socket.socket(socket.AF_UNIX) as caller, socket.create_connection(("127.0.0.1", port), 10):
                caller.settimeout(10)
                caller.connect(str(settings.socket))
                caller.sendall(b"GET /v1/status HTTP/1.1\r\nhost: x\r\n\r\n")
                house.called.set()
                assert caller.recv(100).startswith(b"HTTP/1.1 200 OK")
        finally:
            house.called.set()

    run_service(settings, house, visit)
    assert house.story == ["built", "started", "stopped"] * 2
    assert not settings.socket.exists()


def test_a_long_poll_does_not_hold_the_end_up(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    house = FakeHouse()
    answered: list[Any] = []
    waiting: list[threading.Thread] = []

    def wait_long() -> None:
        with Client(settings.socket) as client:
            answered.append(client.events(0, wait=50))

    def visit() -> None:
        looked = threading.Event()
        find = house.conductor.events

        def events(since: int, limit: int) -> Any:
            looked.set()
            return find(since, limit)

        house.conductor.events = events  # type: ignore[method-assign]
        waiting.append(threading.Thread(target=wait_long))
        waiting[0].start()
        assert looked.wait(10)

    run_service(settings, house, visit)
    waiting[0].join(10)
    assert answered == [[]]


def test_what_a_killed_service_left_is_taken_over(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(settings.socket))
    (tmp_path / "serve.pid").write_text("1\n")
    (tmp_path / "serve.lock").touch()
    house = FakeHouse()
    run_service(settings, house, lambda: None)
    assert house.story == ["built", "started", "stopped"]


def test_a_second_service_touches_nothing_of_the_first(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)
    lock = ServiceLock(tmp_path)
    house = FakeHouse()
    with pytest.raises(Conflict, match="runs already"):
        serve(settings, house.build)
    assert house.story == []
    assert (tmp_path / "serve.pid").exists()
    lock.release()


def test_an_address_that_is_not_ours_ends_it_before_anything_is_built(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path, interface="lo", address="192.0.2.1/24", http_port=8080)
    house = FakeHouse()
    with pytest.raises(HostError, match=r"192\.0\.2\.1:8080"):
        serve(settings, house.build)
    assert house.story == []
    assert not settings.socket.exists() and not (tmp_path / "serve.pid").exists()


def test_a_house_that_does_not_start_is_taken_down(tmp_path: Path) -> None:
    settings = Settings(state_dir=tmp_path, run_dir=tmp_path)

    def fail() -> None:
        raise HostError("dnsmasq is not installed")

    house = FakeHouse(fail)
    with pytest.raises(HostError, match="dnsmasq"):
        serve(settings, house.build)
    assert house.story == ["built", "started", "stopped"]
    assert not settings.socket.exists()
