"""The way of a deployment: three nodes to active, and a conductor that is killed at every point of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from pathlib import Path

import pytest
from conductor_rack import Killed, Rack, cloud, role
from records import SERVER

from provisioner.errors import TrustError
from provisioner.model.deployment import STEPS, StepName, StepState


def check_active(rack: Rack) -> None:
    status = rack.conductor.cloud_status("lab")
    assert status.ready and not status.failed, status
    for name in rack.servers:
        view = rack.conductor.node(name)
        assert view.node.state == "active" and view.node.failure is None
        assert view.deployment is not None
        assert [step.name for step in view.deployment.steps] == list(STEPS)
        for step in view.deployment.steps:
            assert step.state is StepState.DONE
            assert step.started is not None and step.ended is not None and step.ended >= step.started
            assert "waiting" not in step.detail


def test_three_nodes_from_power_off_to_a_ready_cloud(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3)
    rack.enroll()
    plan = rack.conductor.plan(rack.desired)
    assert [action.kind for action in plan.actions] == ["deploy"] * 3
    status = rack.conductor.apply(plan)
    assert not status.ready and [member.state for member in status.members] == ["deploying"] * 3
    rack.play()
    check_active(rack)
    assert rack.conductor.plan(rack.desired).empty
    for server in rack.servers.values():
        assert server.boots == 1
        assert server.orders == ["storage", "write-image", "seed-instance", "boot-loader"]
    written = rack.conductor.node("node1").deployment
    assert written is not None
    detail = next(step.detail for step in written.steps if step.name is StepName.WRITE_IMAGE)
    assert (detail["bytes"], detail["seen"]) == (50, "write-image")
    assert rack.max_at_once == 1


def test_an_instance_may_be_started_without_the_firmware(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1, (role(start="kexec"),)))
    rack.enroll()
    rack.apply()
    rack.play()
    check_active(rack)
    assert rack.servers["node1"].orders[-1] == "restart" and rack.servers["node1"].boot == 1
    assert "root=PARTUUID=" in rack.servers["node1"].order_bodies["restart"]["cmdline"]
    assert [call for _, call in rack.bmcs.calls].count("on") == 1


def test_what_the_ramdisk_cannot_start_is_started_by_its_power(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1, (role(start="kexec"),)))
    rack.enroll()
    rack.servers["node1"].fail_orders["restart"] = "the kernel does not allow it"
    rack.apply()
    rack.play()
    check_active(rack)
    assert rack.servers["node1"].boot == 2
    assert any("the kernel does not allow it; its power is switched" in event for event in rack.events())


def test_an_instance_that_runs_from_another_disk_is_found_out(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].root = "PARTUUID=another"
    rack.apply()
    rack.play()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "did not boot from the disk that was written" in failure["summary"]
    assert "PARTUUID=another" in failure["cause"] and "boot-device node1 disk" in failure["hint"]


def test_nothing_secret_is_told(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.play()
    secret = rack.conductor.cloud_secret("lab", "web_password")
    tokens = [rack.servers["node1"].token.partition(".")[2]]
    tokens.append(json.loads(rack.servers["node1"].files["/etc/provisioner-agent/agent.json"])["token"].split(".")[1])
    shown = json.dumps(rack.conductor.events(0, 10_000))
    shown += rack.conductor.node("node1").model_dump_json() + rack.conductor.cloud_status("lab").model_dump_json()
    for word in (secret, "hunter2", *tokens):
        assert word and word not in shown
        assert SERVER or word.encode() not in (tmp_path / "rack.db").read_bytes()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("word", ["started", "done"])
def test_killed_when_a_step_was_journaled(tmp_path: Path, step: StepName, word: str) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()

    def kill() -> None:
        news = rack.conductor.events(0, 10_000)[-2:]  # that a step is done and that the next begins is one commit
        said = {(event["kind"], str(event["data"].get("step", event["message"]))) for event in news}
        if (f"step.{word}", step) in said and not rack.restarts:
            raise Killed

    rack.on_commit = kill
    rack.play()
    assert rack.restarts == 1
    check_active(rack)
    assert rack.servers["node1"].boots == 1


@pytest.mark.parametrize("call", range(6))
def test_killed_when_a_controller_had_obeyed_and_nothing_was_journaled(tmp_path: Path, call: int) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].switch("on")
    rack.apply()
    seen: list[str] = []

    def kill(what: str) -> None:
        seen.append(what)
        if len(seen) == call + 1:
            raise Killed

    rack.bmcs.after = kill
    rack.play()
    assert rack.restarts == 1
    check_active(rack)


@pytest.mark.parametrize("pattern", ["KL", "LK", "KKL"])
def test_killed_again_and_again(tmp_path: Path, pattern: str) -> None:
    """Killed (K) or left alone (L) after one commit after another; an answer that was lost is asked for again."""
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    fates = itertools.cycle(pattern)

    def kill() -> None:
        if next(fates) == "K":
            raise Killed

    rack.on_commit = kill
    rack.play(rounds=300)
    rack.on_commit = None
    assert rack.restarts > 20
    check_active(rack)


def test_a_ramdisk_that_boots_anew_begins_its_steps_again(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: "write-image" in server.orders)
    ident = server.token.partition(".")[0]
    rack.conductor.hello(ident, {"boot_id": "another", "secret": server.secret, "hardware": rack.hardware(server)})
    rack.play()
    check_active(rack)
    assert server.orders.count("storage") == 2
    assert any("ramdisk.rebooted" in event for event in rack.events())


def test_boot_scripts_are_served_only_while_they_are_due(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    server = rack.servers["node1"]
    local = rack.conductor.boot_script(server.mac)
    assert local is not None and "token" not in local
    assert rack.conductor.boot_script("52:54:00:77:00:99") is None
    rack.apply()
    rack.conductor.tick()
    due = rack.conductor.boot_script(server.mac, "10.77.0.100")
    assert due is not None and "ramdisk-" in due and "10.77.0.100/24" in due and server.mac in due
    assert "token" not in str(rack.conductor.boot_script(server.mac, "10.77.0.199")), "it is served once"


def fetch(rack: Rack, peer: str) -> str:
    script = rack.conductor.boot_script(rack.servers["node1"].mac, peer)
    assert script is not None
    found = re.search(r"provisioner\.token=(\S+)\.(\S+)", script)
    return found.group(1) if found else ""


@pytest.mark.parametrize("when", ["before the node", "after the node"])
def test_whoever_fetches_a_boot_script_beside_the_node_ends_the_deployment(tmp_path: Path, when: str) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    server = rack.servers["node1"]
    rack.apply()
    rack.conductor.tick()
    if when == "before the node":
        stolen = fetch(rack, "10.77.0.66")
        assert stolen and fetch(rack, "10.77.0.100") == ""
    else:
        rack.play(until=lambda: server.greeted)
        stolen = server.token.partition(".")[0]
        assert fetch(rack, "10.77.0.66") == ""
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "asked for twice" in failure["summary"] and "10.77.0.66" in failure["cause"]
    with pytest.raises(TrustError):
        rack.conductor.guest(stolen, "boot")
    assert server.disk_guid is None or when == "after the node"
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_whoever_read_the_boot_script_on_the_wire_cannot_speak_for_the_ramdisk(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: server.greeted)
    ident, _, seen = server.token.partition(".")
    assert rack.conductor.guest(ident, "hello")[0] == seen
    assert rack.conductor.guest(ident, "boot")[0] == server.secret != seen
    before = rack.store.nodes.get("node1").hardware
    forged = {"boot_id": "x", "secret": "y" * 43, "hardware": rack.hardware(server) | {"cpus": 99}}
    with pytest.raises(TrustError):
        rack.conductor.hello(ident, forged, "10.77.0.66")
    assert rack.store.nodes.get("node1").hardware == before
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "second machine" in failure["summary"] and "10.77.0.66" in failure["cause"]
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_before_its_hello_nobody_speaks_for_a_ramdisk(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.conductor.tick()
    ident = fetch(rack, "10.77.0.100")
    with pytest.raises(TrustError):
        rack.conductor.guest(ident, "boot")


def test_an_answer_that_was_lost_with_the_service_is_given_again_and_what_it_carried_is_void(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.conductor.tick()
    lost = fetch(rack, "10.77.0.100")
    rack.restart()
    assert fetch(rack, "10.77.0.100") not in ("", lost)
    with pytest.raises(TrustError):
        rack.conductor.guest(lost, "hello")
    assert fetch(rack, "10.77.0.100") == ""


def test_an_instance_that_asks_for_a_boot_script_is_only_told_to_boot_from_its_disk(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.play(until=lambda: rack.servers["node1"].running == "instance")
    assert fetch(rack, "10.77.0.100") == "" == fetch(rack, "10.77.0.100")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_order_survives_until_its_result_came(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: server.greeted)
    rack.conductor.tick()
    ident = server.token.partition(".")[0]
    first = rack.conductor.order(ident)
    rack.restart()
    rack.conductor.tick()
    assert first is not None and rack.conductor.order(ident) == first
    rack.conductor.result(ident, {"order": "another", "ok": True})
    assert rack.conductor.order(ident) == first
    rack.conductor.result(ident, {"order": first["id"], "ok": True})
    assert rack.conductor.order(ident) is None


def test_threads_walk_the_nodes_and_a_slow_controller_holds_up_nobody(tmp_path: Path) -> None:
    """The real loop: one controller answers only when the other node is active already."""
    rack = Rack(tmp_path, 2)
    rack.enroll()
    slow = threading.Event()
    rack.bmcs.held["10.77.1.1"] = slow
    changed = threading.Event()
    rack.conductor.subscribe(lambda topics: changed.set())
    rack.apply()
    rack.conductor.start()
    try:
        for wanted in ("node2", "node1"):
            for _ in range(2000):
                changed.clear()
                for server in rack.servers.values():
                    rack.live(server)
                if rack.states()[wanted] == "active":
                    break
                changed.wait(0.05)
            assert rack.states()[wanted] == "active"
            slow.set()
    finally:
        slow.set()
        rack.conductor.stop()
    check_active(rack)
