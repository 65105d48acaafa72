"""What goes wrong and how it goes on: failures with their reasons, verbs, guards, enrolling, changes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from conductor_rack import GIB, PASSWORD, Rack, Server, cloud, role
from test_conductor_permits import instance

from provisioner.conductor.instance_steps import CONFIGURE_SECONDS
from provisioner.conductor.walk import LEASE_SECONDS
from provisioner.errors import BmcSilent, Conflict, GuardFailed, LeaseLost, NotFound, TrustError, UsageError
from provisioner.model.deployment import StepName, StepState
from provisioner.model.hardware import Port, Power
from provisioner.model.policy import Policy
from provisioner.model.role import Health
from provisioner.model.states import NodeState
from provisioner.model.status import EnrollItem
from provisioner.model.storage import Storage


def ready(tmp_path: Path, count: int = 1, **more: object) -> Rack:
    """A rack whose cloud is ready."""
    rack = Rack(tmp_path, count, **more)  # type: ignore[arg-type]
    rack.enroll()
    rack.apply()
    rack.play()
    assert rack.conductor.cloud_status("lab").ready
    return rack


def failure(rack: Rack, name: str = "node1") -> dict[str, str]:
    found = rack.conductor.node(name).node.failure
    assert found is not None
    return found


def test_enrolling_twice_changes_nothing_and_a_changed_file_is_told(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    items = [EnrollItem(spec=server.spec, password=PASSWORD) for server in rack.servers.values()]
    assert {result.result for result in rack.conductor.enroll(items)} == {"unchanged"}
    changed = rack.servers["node1"].spec.model_copy(update={"tags": ("fast",), "properties": {"memory_mib": 4096}})
    (result,) = rack.conductor.enroll([EnrollItem(spec=changed, password=PASSWORD)])
    assert result.result == "updated"
    assert result.changes == ("properties.memory_mib: 2048 → 4096", "tags: nothing → fast")
    rack.bmcs.password = "another"
    (result,) = rack.conductor.enroll([EnrollItem(spec=changed, password="another")])
    assert result.changes == ("bmc.password: changed",)
    assert rack.store.nodes.password("node1") == "another"
    assert sorted(str(port.address) for port in rack.conductor.ports()) == ["10.77.0.100", "10.77.0.101"]


def test_a_silent_controller_delays_no_other_and_its_node_is_not_stored(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3)
    rack.bmcs.held["10.77.1.2"] = threading.Event()
    rack.bmcs.silent.add("10.77.1.2")
    items = [EnrollItem(spec=server.spec, password=PASSWORD) for server in rack.servers.values()]
    results = rack.conductor.enroll(items)
    first = {next(results).node, next(results).node}
    assert first == {"node1", "node3"} and set(rack.states()) == first
    rack.bmcs.held["10.77.1.2"].set()
    last = next(results)
    assert (last.node, last.result) == ("node2", "failed")
    assert last.error is not None and last.error["error"] == "BmcSilent" and last.error["where"] == "10.77.1.2"
    assert "node2" not in rack.states()


def test_a_known_node_stays_as_it_was_when_its_controller_is_silent(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    before = rack.conductor.node("node1")
    rack.bmcs.silent.add("10.77.1.1")
    changed = rack.servers["node1"].spec.model_copy(update={"tags": ("fast",)})
    (result,) = rack.conductor.enroll([EnrollItem(spec=changed, password=PASSWORD)])
    assert result.result == "failed"
    assert rack.conductor.node("node1") == before


def test_a_twin_is_refused(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    spec = rack.servers["node2"].spec
    calls = len(rack.bmcs.calls)
    twins = [
        spec.model_copy(update={"name": "twin"}),
        spec.model_copy(update={"ports": (Port(mac=rack.servers["node1"].mac),)}),
    ]
    results = list(rack.conductor.enroll([EnrollItem(spec=twin, password=PASSWORD) for twin in twins]))
    assert [result.error and result.error["error"] for result in results] == ["Conflict", "Conflict"]
    assert len(rack.bmcs.calls) == calls, "nothing is asked of a controller that is another's"


def test_power_is_switched_and_not_while_a_node_is_deployed(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    assert rack.conductor.set_power("node1", None) is Power.OFF
    assert rack.conductor.set_power("node1", "on") is Power.ON
    assert rack.conductor.node("node1").node.power is Power.ON
    with pytest.raises(UsageError):
        rack.conductor.set_power("node1", "up")
    rack.apply()
    with pytest.raises(Conflict) as caught:
        rack.conductor.set_power("node1", "off")
    assert "abort" in str(caught.value.hint)
    with pytest.raises(NotFound):
        rack.conductor.set_power("nobody", "on")


def test_a_plan_whose_guard_does_not_hold_records_nothing(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    plan = rack.conductor.plan(rack.desired)
    rack.conductor.verb("node2", "forget")
    with pytest.raises(NotFound):
        rack.conductor.apply(plan)
    rack.enroll_again("node2")
    first = rack.conductor.plan(cloud(1))
    rack.conductor.apply(first)
    with pytest.raises(GuardFailed):
        rack.conductor.apply(plan)
    assert rack.states() == {"node1": "deploying", "node2": "available"}
    assert rack.conductor.cloud_status("lab").roles == {"web": "0 of 1 active"}


def test_a_changed_value_makes_a_generation_where_it_is_needed_and_deploys_nothing(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    before = {node.name: node for node in rack.conductor.nodes()}
    rack.apply()
    assert {node.name: node.generation for node in rack.conductor.nodes()} == {"node1": 1, "node2": 1}
    wanted = cloud(2, values={"web": {"size": 7}})
    plan = rack.conductor.plan(wanted)
    assert [action.kind for action in plan.actions] == ["configure", "configure"]
    rack.conductor.apply(plan)
    rack.play()
    for node in rack.conductor.nodes():
        assert (node.generation, node.applied, node.state) == (2, 2, NodeState.ACTIVE)
        assert node.deployment == before[node.name].deployment
    assert rack.conductor.plan(wanted).empty
    assert rack.servers["node1"].boots == 1


def test_a_smaller_count_releases_and_powers_off(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.apply(cloud(1, remove=("web-1",)))
    rack.play()
    assert rack.states() == {"node1": "active", "node2": "available"}
    assert rack.servers["node2"].power is Power.OFF
    assert rack.conductor.node("node1").node.generation == 2, "its peers have changed"


@pytest.mark.parametrize("how", ["retry", "apply"])
@pytest.mark.parametrize(
    ("step", "word"), [("storage", "cannot write"), ("write-image", "hash"), ("boot-loader", "no EFI")]
)
def test_an_order_that_fails_fails_the_node_with_reason_and_a_retry_succeeds(
    tmp_path: Path, step: str, word: str, how: str
) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].fail_orders = {step: word}
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "failed"}
    said = failure(rack)
    assert word in said["summary"] and "a test" in said["cause"] and "order.result" in said["cause"]
    assert said["hint"] == "provisioner node retry node1"
    status = rack.conductor.cloud_status("lab")
    assert status.failed and status.members[0].step == step and status.roles["web"] == "failed: web-0"
    rack.servers["node1"].fail_orders = {}
    if how == "retry":
        assert rack.conductor.verb("node1", "retry").state is NodeState.DEPLOYING
    else:
        rack.apply()
        assert rack.states() == {"node1": "deploying"} and rack.conductor.plan(rack.desired).empty
    rack.play()
    assert rack.states() == {"node1": "active"}
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None and deployment.steps[0].attempts == 2


def test_a_controller_that_fails_a_few_times_is_asked_again(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.bmcs.errors["10.77.1.1"] = 3
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}
    rack.conductor.release("node1")
    rack.bmcs.errors["10.77.1.1"] = 3
    rack.play(until=lambda: rack.states() == {"node1": "available"})


def test_how_far_a_network_boot_came_is_the_evidence_of_its_failure(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    addresses = {port.node: str(port.address) for port in rack.conductor.ports()}
    rack.conductor.seen_on_wire(addresses["node1"], "dhcp.answered", "not worked on")
    rack.apply()
    rack.conductor.tick()
    assert rack.servers["node1"].power is Power.ON
    rack.conductor.seen_on_wire(addresses["node1"], "boot.fetched", "it fetched initramfs: 7 of 9 bytes")
    rack.conductor.seen_on_wire("10.77.0.250", "boot.fetched", "nobody's")
    for _ in range(600):  # none of its guests ever speaks
        rack.conductor.tick()
        rack.clock.sleep(3)
    assert "boot.fetched" in failure(rack)["cause"] and "7 of 9 bytes" in failure(rack)["cause"]
    told = [event for event in rack.events() if "dhcp.answered" in event or "boot.fetched" in event]
    assert len(told) == 1 and told[0].startswith("node1 ")


def test_a_controller_that_stays_silent_fails_its_node_alone(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    rack.bmcs.silent.add("10.77.1.1")
    rack.apply()
    rack.play(until=lambda: rack.states() == {"node1": "failed", "node2": "active"})
    assert failure(rack)["error"] == "BmcSilent"
    with pytest.raises(BmcSilent):
        rack.conductor.set_power("node1", None)
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states()["node1"] == "failed")
    assert rack.conductor.node("node1").node.deployment is None
    rack.bmcs.silent.clear()
    rack.conductor.verb("node1", "retry")
    rack.play(until=lambda: rack.states()["node1"] == "available")


@pytest.mark.parametrize(
    ("running", "greeted", "step", "word"),
    [
        ("ramdisk", False, StepName.HELLO, "did not say hello within 600 s"),
        ("ramdisk", True, StepName.STORAGE, "did not come on with storage within 180 s"),
        ("instance", False, StepName.CONFIGURE, "not reported as applied within 1000 s"),
    ],
)
def test_nothing_waits_for_ever(tmp_path: Path, running: str, greeted: bool, step: StepName, word: str) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]

    def stuck() -> bool:
        return server.running == running and (running != "ramdisk" or server.greeted is greeted)

    rack.play(until=stuck)
    server.running = "nothing"
    for _ in range(1200):
        rack.conductor.tick()
        rack.clock.sleep(1)
    said = failure(rack)
    assert word in said["summary"] and "Last seen" in said["cause"]
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None
    assert [s.name for s in deployment.steps if s.state is StepState.FAILED] == [step]


STUCK = [
    ("ramdisk", False, StepName.HELLO),
    ("ramdisk", True, StepName.STORAGE),
    ("instance", False, StepName.CONFIGURE),
]


def play_until_stuck(rack: Rack, running: str, greeted: bool) -> Server:
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: server.running == running and (running != "ramdisk" or server.greeted is greeted))
    return server


@pytest.mark.parametrize(("running", "greeted", "step"), STUCK)
def test_a_node_that_loses_its_power_fails_soon_and_a_retry_succeeds(
    tmp_path: Path, running: str, greeted: bool, step: StepName
) -> None:
    rack = Rack(tmp_path, 1)
    play_until_stuck(rack, running, greeted).switch("off")
    for _ in range(100):
        rack.conductor.tick()
        rack.clock.sleep(1)
    said = failure(rack)
    assert "power is off" in said["summary"] and said["hint"] == "provisioner node retry node1"
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None
    assert [s.name for s in deployment.steps if s.state is StepState.FAILED] == [step]
    rack.conductor.verb("node1", "retry")
    rack.play(until=lambda: rack.states() == {"node1": "active"})


@pytest.mark.parametrize(("running", "greeted", "step"), STUCK)
def test_a_sweep_that_sees_it_off_lets_its_step_look_at_once(
    tmp_path: Path, running: str, greeted: bool, step: StepName
) -> None:
    rack = Rack(tmp_path, 1)
    server = play_until_stuck(rack, running, greeted)
    rack.clock.sleep(1)
    list(rack.conductor.sweep())
    rack.conductor.tick()
    assert rack.states()["node1"] == "deploying"
    server.switch("off")
    list(rack.conductor.sweep())
    rack.conductor.tick()
    assert "power is off" in failure(rack)["summary"]


@pytest.mark.parametrize(("running", "greeted", "step"), STUCK)
def test_a_controller_that_does_not_answer_is_no_loss_of_power(
    tmp_path: Path, running: str, greeted: bool, step: StepName
) -> None:
    rack = Rack(tmp_path, 1)
    play_until_stuck(rack, running, greeted)
    rack.bmcs.silent.add("10.77.1.1")
    for _ in range(100):
        rack.conductor.tick()
        rack.clock.sleep(1)
    rack.bmcs.silent.clear()
    rack.play(until=lambda: rack.states() == {"node1": "active"})


def test_progress_is_shown_and_keeps_a_long_write_alive(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: "storage" in server.orders)
    rack.conductor.tick()
    ident = server.token.partition(".")[0]
    order = rack.conductor.order(ident)
    assert order is not None and order["step"] == "write-image"
    for number in range(10):
        news = {"order": order["id"], "bytes": number, "total": 10, "rate": 1.5, "remaining": 10.0 - number}
        rack.conductor.progress(ident, news)
        rack.conductor.tick()
        rack.clock.sleep(100)
    (member,) = rack.conductor.cloud_status("lab").members
    assert member.state == "deploying"
    assert {key: member.detail[key] for key in ("bytes", "total", "rate", "remaining")} == {
        "bytes": 9, "total": 10, "rate": 1.5, "remaining": 1.0,
    }  # fmt: skip
    rack.conductor.tick()
    rack.clock.sleep(200)
    rack.conductor.tick()
    assert rack.states() == {"node1": "failed"}


def test_a_probe_that_stays_red_fails_the_node(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].red = True
    rack.apply()
    rack.play(rounds=150)
    said = failure(rack)
    assert "not green within 220 s" in said["summary"] and "synced" in said["cause"]


def test_a_disk_that_holds_something_is_refused_until_it_is_named(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    server = rack.servers["node1"]
    server.foreign = ("ext4",)
    rack.apply()
    rack.play()
    assert "not overwritten" in failure(rack)["summary"] and "ext4" in failure(rack)["cause"]
    assert server.orders == []
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    rack.apply(cloud(1, wipe=("node1",)))
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_what_was_active_is_not_overwritten_and_what_never_was_is(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    server = rack.servers["node1"]
    server.fail_orders = {"write-image": "no"}
    rack.apply()
    rack.play()
    assert server.disk_guid is not None
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    server.fail_orders = {}
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "active"}, "its own unfinished deployment is no obstacle"
    rack.conductor.release("node1")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    rack.apply()
    rack.play()
    assert "not overwritten" in failure(rack)["summary"]


def test_an_abort_halts_the_ramdisk_and_frees_the_slot(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: "storage" in server.orders)
    ident = server.token.partition(".")[0]
    rack.conductor.verb("node1", "abort")
    order = rack.conductor.order(ident)
    assert order is not None and order["step"] == "power-off"
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert server.power is Power.OFF
    with pytest.raises(TrustError):
        rack.conductor.guest(ident, "boot")
    assert rack.conductor.cloud_status("lab").members == ()


def test_a_step_that_ends_after_an_abort_changes_nothing(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.bmcs.after = lambda call: rack.conductor.verb("node1", "abort") and None if call == "on" else None
    rack.conductor.tick()
    assert rack.states() == {"node1": "cleaning"}
    rack.bmcs.after = lambda call: None
    rack.conductor.tick()
    assert rack.states() == {"node1": "available"}
    assert rack.servers["node1"].power is Power.OFF


def test_verbs_that_a_state_does_not_offer(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    for verb in ("retry", "abort", "release"):
        with pytest.raises(Conflict) as caught:
            rack.conductor.verb("node1", verb)
        assert "forget" in str(caught.value.hint)
    with pytest.raises(UsageError):
        rack.conductor.verb("node1", "destroy")
    rack.apply()
    with pytest.raises(Conflict):
        rack.conductor.verb("node1", "forget")
    rack.play()
    with pytest.raises(Conflict):
        rack.conductor.verb("node1", "forget")


def test_a_failed_node_is_forgotten_with_all_it_had(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].fail_orders = {"storage": "no"}
    rack.apply()
    rack.play()
    rack.conductor.verb("node1", "forget")
    assert rack.states() == {} and rack.conductor.ports() == []
    with pytest.raises(NotFound):
        rack.conductor.node("node1")
    with pytest.raises(TrustError):
        rack.conductor.guest(rack.servers["node1"].token.partition(".")[0], "boot")
    rack.enroll()
    assert rack.conductor.boot_script(rack.servers["node1"].mac)


def waits_for_a_role(folder: Path) -> tuple[Rack, str]:
    """(a rack in which web waits in its ramdisk for base, whose probe is red; the node of web)."""
    rack = Rack(folder, 2, desired=cloud(1, (role("web", after=("base",)), role("base"))))
    rack.enroll()
    rack.apply()
    nodes = {member.role: member.node for member in rack.conductor.cloud_status("lab").members}
    rack.servers[nodes["base"]].red = True
    rack.play(until=lambda: "waits until" in str(waiting(rack, nodes["web"])))
    return rack, nodes["web"]


@pytest.mark.parametrize("moved", [False, True])
def test_who_holds_a_permit_while_it_waits_does_not_wait_for_those_who_want_one(tmp_path: Path, moved: bool) -> None:
    """Web keeps the permit with which it was drained; base, which keeps apart from it, gets another generation."""

    web_role = role("web", after=("base",), change=Policy(after=("base",), apart=("quorum",)))
    wanted = cloud(1, (web_role, role("base", change=Policy(apart=("quorum",)))))
    rack = Rack(tmp_path, 3 if moved else 2, wanted)
    for server in rack.servers.values():
        server.drain_scripts = 1
    rack.enroll()
    rack.apply()
    rack.play()
    web = next(member.node for member in rack.conductor.cloud_status("lab").members if member.role == "web")
    if moved:  # all are told of its new address
        rack.apply(wanted.with_use("web", nodes=("node3",)))
    else:
        rack.conductor.rebuild(web)
        rack.play(until=lambda: rack.servers[web].running == "ramdisk")
        rack.apply(wanted.with_use("base", values={"web": {"word": "other"}}))
    rack.play(rounds=2500)
    assert rack.conductor.cloud_status("lab").ready


def waiting(rack: Rack, node: str) -> str | None:
    return next(m.waiting for m in rack.conductor.cloud_status("lab").members if m.node == node)


def test_a_role_waits_for_the_roles_it_comes_after_when_its_disk_is_written(tmp_path: Path) -> None:
    rack, web = waits_for_a_role(tmp_path)
    (member,) = [m for m in rack.conductor.cloud_status("lab").members if m.role == "web"]
    assert (member.step, member.state) == ("seed-instance", "deploying")
    assert "waits until these roles are ready: base (" in str(member.waiting)
    assert "write-image" in rack.servers[web].orders and "seed-instance" not in rack.servers[web].orders
    for _ in range(20):  # longer than the ramdisk's token holds, and than any of its work may take
        rack.clock.sleep(3600)
        rack.conductor.tick()
    assert rack.states()[web] == "deploying" and "base (failed: base-0)" in str(waiting(rack, web))
    for server in rack.servers.values():
        server.red = False
    rack.apply()
    rack.play()
    assert set(rack.states().values()) == {"active"}
    assert rack.conductor.deployment_report(web).shares["others"] > 20 * 3600


def test_a_node_that_loses_its_power_while_it_waits_for_a_role_is_named(tmp_path: Path) -> None:
    rack, web = waits_for_a_role(tmp_path)
    rack.servers[web].power = Power.OFF
    rack.play(until=lambda: rack.states()[web] == "failed")
    assert "the node's power is off" in str(rack.conductor.node(web).node.failure)


def test_what_takes_an_instance_long_is_what_its_deployment_waits_for(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.play(until=lambda: rack.servers["node1"].permit == 1)
    said = {"generation": 1, "applied": 0, "state": "applying", "healthy": False, "doing": "runs configure.d/20-b"}
    rack.conductor.report(instance(rack, "node1"), said)
    rack.conductor.tick()
    (member,) = rack.conductor.cloud_status("lab").members
    assert (member.step, member.waiting) == ("configure", "generation 1: runs configure.d/20-b")
    rack.clock.sleep(CONFIGURE_SECONDS + rack.desired.roles["web"].health.wait + 1)
    rack.conductor.tick()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None
    assert failure["summary"] == "generation 1 was not reported as applied within 1000 s"
    assert failure["cause"].startswith("generation 1: runs configure.d/20-b. Last seen: ")


def test_a_role_probe_decides_when_the_cloud_is_ready(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2)
    rack.enroll()
    rack.servers["node2"].role_red = True
    rack.apply()
    rack.play(until=lambda: set(rack.states().values()) == {"active"})
    status = rack.conductor.cloud_status("lab")
    assert not status.ready and not status.failed and "probe size is red on web-" in status.roles["web"]
    rack.servers["node2"].role_red = False
    rack.play()
    assert rack.conductor.cloud_status("lab").ready


def test_another_conductor_keeps_away_from_a_leased_node(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    rack.store.leases.take("node1", "other", "deploy", rack.clock.now(), 60)
    rack.conductor.tick()
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None and deployment.steps[0].state is StepState.WAITING
    with pytest.raises(LeaseLost):
        rack.store.leases.take("node1", "conductor", "deploy", rack.clock.now(), 60)
    rack.clock.sleep(61)
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_a_messenger_of_another_shape_is_refused(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.apply()
    server = rack.servers["node1"]
    rack.play(until=lambda: server.greeted)
    ident = server.token.partition(".")[0]
    for message in ({}, {"boot_id": "x"}, {"boot_id": "", "hardware": rack.hardware(server)}):
        with pytest.raises(UsageError):
            rack.conductor.hello(ident, message)
    with pytest.raises(UsageError):
        rack.conductor.report(ident, {"state": "applied"})
    with pytest.raises(UsageError):
        rack.conductor.permit(ident, {"action": "steal", "generation": 1})
    with pytest.raises(TrustError):
        rack.conductor.guest(ident, "instance")


def test_an_image_larger_than_every_disk(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, desired=cloud(1, (role(health=Health()),)))
    rack.enroll()
    rack.images.size = 9 * GIB
    rack.apply()
    rack.play()
    assert "no disk is large enough" in failure(rack)["summary"]


KEEPS = Storage.model_validate(
    {
        "volumes": [
            {"name": "root", "disk": "root", "size": "4GiB", "mount": "/"},
            {"name": "data", "disk": "root", "filesystem": "ext4", "mount": "/srv", "keep": True},
        ]
    }
)


def released(tmp_path: Path, storage: Storage, ignores: bool = False) -> list[str]:
    """What a release tells the controller."""
    rack = ready(tmp_path, desired=cloud(1, (role(storage=storage),)))
    rack.bmcs.ignores_soft = ignores
    rack.bmcs.calls.clear()
    rack.conductor.release("node1")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.servers["node1"].power is Power.OFF
    return [call for _, call in rack.bmcs.calls if call in ("soft", "off")]


def test_an_instance_with_volumes_that_are_kept_shuts_down_itself(tmp_path: Path) -> None:
    assert released(tmp_path, KEEPS) == ["soft"]


def test_one_that_does_not_shut_down_loses_its_power(tmp_path: Path) -> None:
    assert released(tmp_path, KEEPS, ignores=True) == ["soft", "off"]


def test_one_that_keeps_nothing_is_switched_off_at_once(tmp_path: Path) -> None:
    assert released(tmp_path, Storage()) == ["off"]


@pytest.mark.parametrize("call", ["boot pxe", "off", "on"])
def test_a_conductor_that_has_lost_the_node_does_nothing_more_to_it(tmp_path: Path, call: str) -> None:
    rack = Rack(tmp_path, 1)
    rack.enroll()
    rack.servers["node1"].power = Power.ON
    rack.apply()

    def take_over(done: str) -> None:
        """While the controller is at it, the lease runs out and another conductor takes it."""
        if done == call:
            rack.bmcs.after = lambda call: None
            rack.clock.sleep(LEASE_SECONDS + 1)
            rack.store.leases.take("node1", "other", "deploy", rack.clock.now(), LEASE_SECONDS)

    rack.bmcs.after = take_over
    for _ in range(6):
        rack.conductor.tick()
        rack.clock.sleep(3)
    changes = [done for _, done in rack.bmcs.calls if done in ("boot pxe", "off", "on")]
    assert changes[-1] == call, "that was the last"
    assert rack.store.leases.get("node1")[0] == "other"
    rack.clock.sleep(LEASE_SECONDS)
    rack.play()
    assert rack.states() == {"node1": "active"}, "the lease of the other ran out in turn"
