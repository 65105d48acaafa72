"""One controller's requests: what is sent, what is waited for, how it is paced, when it is given up."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest

from provisioner.bmc.driver import Controller, Kept, Way
from provisioner.bmc.quirks import Quirk
from provisioner.bmc.session import ANSWER_SECONDS, LAST_SPACING, MARGIN_SECONDS, Session
from provisioner.bmc.trouble import Busy, Refused, Silent, TimeUp
from provisioner.model.hardware import BootDevice, Power
from provisioner.system.clock import FakeClock


class FakeController:
    """Turns its power only after it was looked at ``lag`` more times; fails where ``fails`` says so."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.now = Power.OFF
        self.goal = Power.OFF
        self.lag = 0
        self.is_alive = True
        self.kept: Kept | None = None
        self.quirks: frozenset[Quirk] = frozenset()
        self.sent: list[tuple[float, str]] = []
        self.fails: Callable[[str], BaseException | None] = lambda command: None

    def names(self) -> list[str]:
        return [name for _, name in self.sent]

    def _send(self, name: str) -> None:
        self.sent.append((self.clock.monotonic(), name))
        error = self.fails(name)
        if error:
            raise error

    def identity(self) -> dict[str, Any]:
        return {}

    def alive(self) -> bool:
        self._send("alive")
        return self.is_alive

    def facts(self) -> dict[str, Any]:
        self._send("facts")
        return {"ipmi_version": "2.0"}

    def power(self) -> Power:
        self._send("power")
        if self.lag:
            self.lag -= 1
        else:
            self.now = self.goal
        return self.now

    def switch(self, word: str) -> None:
        self._send(word)
        self.goal = Power.OFF if word in ("off", "soft") else Power.ON

    def set_boot_device(self, device: BootDevice, uefi: bool, persistent: bool) -> None:
        self._send(f"set {device} {'uefi' if uefi else 'bios'}{' for ever' if persistent else ''}")

    def boot_device(self) -> Kept | None:
        self._send("get")
        return self.kept

    def identify(self, seconds: int | None) -> None:
        self._send(f"light {seconds}")

    def sensors(self) -> Sequence[dict[str, Any]]:
        self._send("sensors")
        return [{"name": "fan"}]

    def log(self) -> Sequence[dict[str, Any]]:
        return []

    def event_record(self, record: int) -> bytes:
        return record.to_bytes(14, "little")

    def inventory(self) -> dict[str, Any]:
        return {}

    def audit(self, now: float) -> Sequence[dict[str, Any]]:
        return [{"check": "clock"}]

    def change_password(self, password: str) -> None:
        self._send("change")

    def close(self) -> None:
        self._send("close")


class Bench:
    def __init__(self) -> None:
        self.clock = FakeClock()
        self.controller = FakeController(self.clock)
        self.alarms: list[float] = []
        self.logins: list[tuple[str, int, str, str]] = []
        self.session = Session({"ipmi": self._connect}, self.clock, self.alarms.append)

    def _connect(self, way: Way, /) -> Controller:
        self.logins.append((way.address, way.port, way.username, way.password))
        error = self.controller.fails("login")
        if error:
            raise error
        return self.controller

    def ask(self, verb: str, *, seconds: float = 8.0, password: str = "geheim", **arguments: Any) -> dict[str, Any]:
        request = {
            "id": 5, "driver": "ipmi",
            "way": {"address": "10.0.0.1", "port": 623, "username": "admin", "password": password},
            "verb": verb, "arguments": arguments, "seconds": seconds, "spacing": self.session.spacing,
        }  # fmt: skip
        answer = self.session.serve(request)
        assert answer["id"] == 5
        assert password not in json.dumps(answer)
        assert self.alarms[-1] == 0, "an alarm was left behind"
        return answer

    def set_power(self, want: str, seconds: float = 8.0) -> dict[str, Any]:
        return self.ask("set_power", want=want, seconds=seconds)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_verify_is_the_facts_with_the_power(bench: Bench) -> None:
    assert bench.ask("verify")["result"] == {"ipmi_version": "2.0", "power": "off"}
    assert bench.logins == [("10.0.0.1", 623, "admin", "geheim")]


@pytest.mark.parametrize(("now", "want"), [(Power.ON, "on"), (Power.OFF, "off")])
def test_power_that_is_so_already_is_left_alone(bench: Bench, now: Power, want: str) -> None:
    bench.controller.now = bench.controller.goal = now
    assert bench.set_power(want)["result"] == {"power": now}
    assert bench.controller.names() == ["power"]


@pytest.mark.parametrize(
    ("now", "want", "sent", "then"),
    [
        (Power.OFF, "on", "on", Power.ON),
        (Power.ON, "off", "off", Power.OFF),
        (Power.ON, "reset", "reset", Power.ON),
        (Power.OFF, "reset", "on", Power.ON),
    ],
)
def test_power_is_switched_once_and_read_back_until_it_holds(
    bench: Bench, now: Power, want: str, sent: str, then: Power
) -> None:
    bench.controller.now = bench.controller.goal = now
    assert bench.set_power("off" if now is Power.OFF else "on")["result"] == {"power": now}
    bench.controller.sent.clear()
    bench.controller.fails = lambda command: setattr(bench.controller, "lag", 4) if command == sent else None
    assert bench.set_power(want)["result"] == {"power": then}
    names = bench.controller.names()
    assert [name for name in names if name not in ("power", "alive")] == [sent]
    looks = [at for at, name in bench.controller.sent if name == "power"][1:]
    pauses = [later - earlier for earlier, later in pairwise(looks)]
    if want != "reset" or now is Power.OFF:
        assert len(pauses) == 4
    assert pauses == sorted(pauses)


def test_power_that_does_not_follow_is_a_failure_within_the_deadline(bench: Bench) -> None:
    bench.controller.lag = 10_000
    start = bench.clock.monotonic()
    error = bench.set_power("on", seconds=6)["error"]
    assert error["kind"] == "failed"
    assert "did not turn on" in error["summary"]
    assert bench.clock.monotonic() - start <= 6 - MARGIN_SECONDS


def test_a_busy_controller_is_left_alone_longer_each_time_and_less_again_later(bench: Bench) -> None:
    left = [3]

    def busy(command: str) -> BaseException | None:
        left[0] -= command == "power"
        return Busy("the controller is busy", "completion code 0xc0") if command == "power" and left[0] >= 0 else None

    bench.controller.fails = busy
    answer = bench.ask("power")
    assert answer["result"] == {"power": "off"}
    times = [at for at, _ in bench.controller.sent]
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses == sorted(pauses) and pauses[0] > 0 and len(pauses) == 3
    spacing = answer["spacing"]
    assert 0 < spacing < LAST_SPACING
    for _ in range(20):
        bench.ask("power")
    assert bench.session.spacing == 0


def test_a_controller_that_stays_busy_is_given_up_within_the_deadline(bench: Bench) -> None:
    bench.controller.fails = lambda command: Busy("busy") if command == "power" else None
    start = bench.clock.monotonic()
    answer = bench.ask("power", seconds=8)
    assert answer["error"]["kind"] == "busy"
    assert bench.clock.monotonic() - start <= 8
    assert answer["spacing"] == LAST_SPACING


def test_a_session_that_is_gone_is_stale_and_nothing_was_done(bench: Bench) -> None:
    bench.ask("power")
    bench.controller.sent.clear()
    bench.controller.is_alive = False
    assert bench.set_power("on")["error"]["kind"] == "stale"
    assert bench.controller.names() == ["alive"]


def test_other_credentials_end_the_session_before_anything_is_done(bench: Bench) -> None:
    bench.ask("power")
    bench.controller.sent.clear()
    assert bench.ask("power", password="anders")["error"]["kind"] == "stale"
    assert bench.controller.names() == ["close"]


def test_an_error_keeps_its_words(bench: Bench) -> None:
    bench.controller.fails = lambda command: Refused("no", "because", "do") if command == "login" else None
    assert bench.ask("power")["error"] == {"kind": "refused", "summary": "no", "cause": "because", "hint": "do"}


def test_a_library_that_breaks_is_named_by_its_kind_only(bench: Bench) -> None:
    bench.controller.fails = lambda command: ValueError("geheim is not a number") if command == "power" else None
    assert "ValueError" in bench.ask("power")["error"]["cause"]


@pytest.mark.parametrize("command", ["login", "power"])
def test_time_that_is_up_is_silence(bench: Bench, command: str) -> None:
    bench.controller.fails = lambda name: TimeUp() if name == command else None
    assert bench.ask("power")["error"]["kind"] == "silent"


def test_a_login_has_its_own_time_even_when_the_deadline_is_late(bench: Bench) -> None:
    bench.ask("power", seconds=60)
    assert bench.alarms == [ANSWER_SECONDS, pytest.approx(60 - MARGIN_SECONDS), 0]


def test_silence_slows_down_only_a_controller_that_had_answered(bench: Bench) -> None:
    bench.controller.fails = lambda command: Silent("no answer") if command == "login" else None
    assert bench.ask("power")["spacing"] == 0
    bench.controller.fails = lambda command: Silent("no answer") if command == "power" else None
    assert bench.ask("power")["spacing"] > 0


@pytest.mark.parametrize(
    ("kept", "confirmed"),
    [
        (Kept(BootDevice.PXE), True),
        (Kept(BootDevice.PXE, True, False), True),
        (None, False),
        (Kept(BootDevice.DISK), None),
        (Kept("device 5"), None),
        (Kept(BootDevice.PXE, False, False), None),
        (Kept(BootDevice.PXE, True, True), None),
    ],
)
def test_a_boot_device_is_read_back(bench: Bench, kept: Kept | None, confirmed: bool | None) -> None:
    bench.controller.kept = kept
    answer = bench.ask("set_boot_device", device="pxe", uefi=True, persistent=False)
    assert bench.controller.names() == ["set pxe uefi", "get"]
    if confirmed is None:
        assert answer["error"]["kind"] == "failed"
        assert "but says that" in answer["error"]["cause"]
    else:
        assert answer["result"] == {"confirmed": confirmed}


def test_what_it_reads_and_the_light(bench: Bench) -> None:
    assert bench.ask("sensors")["result"] == {"sensors": [{"name": "fan"}]}
    assert bench.ask("identify", light=30)["result"] == {}
    assert bench.ask("change_password", new="other")["result"] == {}
    assert bench.controller.names() == ["sensors", "alive", "light 30", "alive", "change"]


@pytest.mark.parametrize(
    ("want", "now", "sent", "then"),
    [
        ("soft", Power.ON, ["power", "soft", "power"], "off"),
        ("soft", Power.OFF, ["power"], "off"),
        ("cycle", Power.ON, ["power", "cycle", "power"], "on"),
        ("cycle", Power.OFF, ["power", "on", "power"], "on"),
    ],
)
def test_a_soft_end_and_a_cycle(bench: Bench, want: str, now: Power, sent: list[str], then: str) -> None:
    bench.controller.now = bench.controller.goal = now
    assert bench.set_power(want)["result"] == {"power": then}
    assert bench.controller.names() == sent


def test_an_operating_system_that_does_not_follow_is_named(bench: Bench) -> None:
    bench.controller.now = bench.controller.goal = Power.ON
    bench.controller.lag = 10_000
    error = bench.set_power("soft")["error"]
    assert error["summary"] == "the power did not turn off" and "node power {node} off" in error["hint"]
