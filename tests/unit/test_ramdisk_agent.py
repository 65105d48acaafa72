"""The agent's loop against a server that is away, repeats itself, refuses, and orders the node off."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from provisioner.images.ramdisk import UNUSED_LIBRARY
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import FakeLink, Refused, ServerAway
from provisioner_agent.ramdisk.agent import BOOT_ID, Agent
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.main import parse_cmdline, run, set_clock
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import Meter, Progress

HARDWARE = {"cpus": 2, "disks": [{"name": "vda", "size": 8_000_000_000}]}
OFF = {"id": "end", "step": "power-off"}


class Server:
    """Gives ``orders`` one after the other, each until its result came; ``trouble`` is raised first."""

    def __init__(self, *orders: Mapping[str, Any]) -> None:
        self.orders = [dict(order) for order in orders]
        self.results: list[dict[str, Any]] = []
        self.hellos: list[dict[str, Any]] = []
        self.trouble: dict[str, list[Exception]] = {}
        self.deaf = 0
        self.clock: float | None = None

    def __call__(self, method: str, target: str, body: Mapping[str, Any]) -> Any:
        path = target.split("?")[0]
        if self.trouble.get(path):
            raise self.trouble[path].pop(0)
        if path == messages.HELLO:
            self.hellos.append(dict(body))
            return {} if self.clock is None else {"clock": self.clock}
        if path == messages.ORDER:
            assert target == f"{messages.ORDER}?wait=25"
            return {"order": self.orders[0]} if self.orders else {}
        if path == messages.RESULT:
            self.results.append(dict(body))
            if self.deaf:
                self.deaf -= 1
            elif self.orders and self.orders[0]["id"] == body["order"]:
                self.orders.pop(0)
        return {}


class Bench:
    def __init__(self, folder: Path, *orders: Mapping[str, Any]) -> None:
        self.host = FakeHost(folder, {BOOT_ID: "boot-7"})
        self.server = Server(*orders)
        self.link = FakeLink(self.server)
        self.done: list[str] = []
        works = {"storage": self.work, "seed-instance": self.fail, "restart": self.restart}
        self.may_restart = True
        self.agent = Agent(self.host, self.link, works, lambda: HARDWARE)

    def restart(self, order: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
        if not self.may_restart:
            raise OrderFailed("the kernel does not allow it")
        return {}

    def work(self, order: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
        self.done.append(str(order["id"]))
        return {"disk": order["disk"]}

    def fail(self, order: Mapping[str, Any], meter: Meter) -> dict[str, Any]:
        raise OrderFailed("the disk is gone", "I/O error")


def test_orders_are_done_and_answered_until_the_node_is_off(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"id": "a", "step": "storage", "disk": "vda"}, {"id": "b", "step": "seed-instance"}, OFF)
    bench.agent.run()
    secret = bench.host.texts["/run/provisioner-secret"]
    assert bench.server.hellos == [{"boot_id": "boot-7", "secret": secret, "hardware": HARDWARE}]
    assert bench.link.secret == secret and len(secret) > 40
    assert bench.server.results == [
        {"order": "a", "ok": True, "detail": {"disk": "vda"}},
        {"order": "b", "ok": False, "detail": {}, "error": {"summary": "the disk is gone", "cause": "I/O error"}},
        {"order": "end", "ok": True, "detail": {}},
    ]
    assert bench.host.off


def test_an_unknown_step_and_an_order_of_another_shape_are_answered(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"id": "a", "step": "dance"}, {"id": "b", "step": "storage"}, OFF)
    bench.agent.run()
    unknown, other = bench.server.results[:2]
    assert (unknown["ok"], unknown["error"]["summary"]) == (False, "this ramdisk does not know the step 'dance'")
    assert (other["ok"], other["error"]["cause"]) == (False, "KeyError('disk')")


def test_a_lost_result_is_answered_again_and_the_work_not_repeated(tmp_path: Path) -> None:
    bench = Bench(tmp_path, {"id": "a", "step": "storage", "disk": "vda"}, OFF)
    bench.server.trouble[messages.RESULT] = [ServerAway("cut"), ServerAway("cut"), Refused("database is locked")]
    bench.server.deaf = 2
    bench.agent.run()
    assert bench.done == ["a"]
    assert [result["order"] for result in bench.server.results] == ["a", "a", "a", "end"]


def test_a_server_that_is_away_is_waited_for(tmp_path: Path) -> None:
    bench = Bench(tmp_path, OFF)
    bench.server.trouble[messages.HELLO] = [ServerAway("no route")] * 8 + [Refused("not now")]
    bench.agent.run()
    assert len(bench.server.hellos) == 1
    assert bench.host.slept == [0.25, 0.5, 1, 2, 4, 5, 5, 5, 5]
    told = [line for line in bench.host.said if "tried again" in line]
    assert told == ["no route; tried again", "not now; tried again"], "only what changes is told"


def test_the_end_is_not_held_up_by_a_silent_server(tmp_path: Path) -> None:
    bench = Bench(tmp_path, OFF)
    bench.server.trouble[messages.RESULT] = [ServerAway("away")] * 99
    bench.agent.run()
    assert bench.host.off


RESTART = {"id": "r", "step": "restart"}


def test_the_instance_is_started_when_the_server_has_heard_that_it_can(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RESTART)
    bench.server.trouble[messages.RESULT] = [ServerAway("cut")] * 9
    bench.agent.run()
    assert bench.host.jumped and not bench.host.off
    assert [result["order"] for result in bench.server.results] == ["r"]


def test_an_instance_that_cannot_be_started_leaves_the_ramdisk_running(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RESTART, OFF)
    bench.may_restart = False
    bench.agent.run()
    assert bench.host.off and not bench.host.jumped
    assert bench.server.results[0]["error"]["summary"] == "the kernel does not allow it"


def test_a_start_that_the_server_does_not_want_any_more_is_not_made(tmp_path: Path) -> None:
    bench = Bench(tmp_path, RESTART, OFF)
    bench.server.trouble[messages.RESULT] = [Refused("the deployment has ended")]
    bench.agent.serve_once()
    assert not bench.host.jumped


@pytest.mark.parametrize(("difference", "set_to"), [(59.0, 0.0), (-61.0, -61.0), (86400.0, 86400.0)])
def test_the_clock_is_set_when_it_is_wrong(tmp_path: Path, difference: float, set_to: float) -> None:
    bench = Bench(tmp_path)
    begun = bench.host.time
    bench.server.clock = begun + difference
    bench.agent.say_hello()
    assert bench.host.time == begun + set_to


def test_a_server_that_does_not_hold_requests_is_not_flooded(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    assert bench.agent.serve_once() == ""
    assert bench.host.slept == [1]


def test_an_agent_that_is_started_again_is_the_same_ramdisk(tmp_path: Path) -> None:
    bench = Bench(tmp_path, OFF)
    bench.agent.say_hello()
    Agent(bench.host, bench.link, {}, lambda: HARDWARE).say_hello()
    assert len({hello["secret"] for hello in bench.server.hellos}) == 1


@pytest.mark.parametrize(("served", "set_to"), [("", 0.0), ("now", 0.0), ("1500000000", -1.0)])
def test_the_clock_is_set_before_a_certificate_is_looked_at(tmp_path: Path, served: str, set_to: float) -> None:
    host = FakeHost(tmp_path)
    begun = host.now()
    set_clock(host, f"{begun + 60:.0f}" if served == "now" else served)
    assert host.now() == (1_500_000_000.0 if set_to else begun)


def test_progress_in_numbers(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    meter = Progress(bench.host, bench.link, "a")
    assert meter.message() == {"order": "a"}
    meter.begin("write", 1000)
    meter.add(200)
    bench.host.time += 4
    said = {"order": "a", "phase": "write", "bytes": 200, "total": 1000, "rate": 50, "remaining": 16.0}
    assert meter.message() == said
    bench.host.time += 20
    meter.message()
    bench.host.time += 10
    meter.add(100)
    assert meter.message()["rate"] == 10, "what is long past does not count"


def test_without_a_token_the_console_says_what_is_missing(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"/proc/cmdline": "quiet provisioner.url=http://10.0.0.1:80 console=ttyS0"})
    assert run(host) == 1
    assert "lack provisioner.token" in host.said[0]
    host.texts["/proc/cmdline"] += " provisioner.token=nodot"
    assert run(host) == 1
    assert "ID.SECRET" in host.said[1]
    assert "nodot" not in " ".join(host.said)


def test_the_kernels_arguments() -> None:
    assert parse_cmdline("a b=1 c=x=y b=2") == {"b": "2", "c": "x=y"}


def test_it_starts_with_the_library_that_the_ramdisk_carries() -> None:
    missing = [*(name.removesuffix(".py") for name in UNUSED_LIBRARY), "_decimal", "pystache"]
    code = f"import sys; sys.modules.update(dict.fromkeys({missing!r})); import provisioner_agent.ramdisk.main"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
