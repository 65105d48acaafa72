"""Members leave their nodes by name: drained before, in their turn, with something in their place or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Killed, Rack, Server, cloud, role
from test_conductor_rescue import KEY, is_open

from provisioner.conductor.instance_steps import CONFIGURE_SECONDS
from provisioner.conductor.order import SILENT
from provisioner.errors import Conflict, GuardFailed, ManifestError, NotFound
from provisioner.model.deployment import DeploymentState
from provisioner.model.hardware import Power
from provisioner.model.plan import Configure, Move, Plan, Rebuild, Release
from provisioner.model.policy import Policy
from provisioner.model.role import Network
from provisioner.model.states import NodeState
from provisioner.model.status import MemberStatus

NEW = "web-" + "1" * 12


def ready(folder: Path, count: int, nodes: int | None = None, *, scripts: int | None = 1, **policy: Any) -> Rack:
    """A cloud of so many members that is ready, whose image has scripts to drain them."""
    rack = Rack(folder, nodes or count, cloud(count, (role(change=Policy(**policy)),), wipe=("node1",)))
    for server in rack.servers.values():
        server.drain_scripts = scripts
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def desired(rack: Rack, count: int, **uses: Any) -> Any:
    return cloud(count, tuple(rack.desired.roles.values()), **uses)


def new_image(rack: Rack) -> None:
    rack.images.known["old"] = rack.images.known["web"]
    rack.images.known["web"] = rack.images.known["web"].model_copy(update={"id": NEW})


def images(rack: Rack) -> dict[str, str]:
    return {one.placement.hostname: one.placement.image for one in rack.store.deployments.live("lab")}


def member(rack: Rack, hostname: str) -> MemberStatus:
    return next(one for one in rack.conductor.cloud_status("lab").members if one.hostname == hostname)


def server_of(rack: Rack, hostname: str) -> Server:
    return rack.servers[member(rack, hostname).node]


def live(rack: Rack, rounds: int) -> None:
    left = iter(range(rounds))
    rack.play(lambda: next(left, None) is None, rounds + 1)


def test_a_member_that_is_removed_is_drained_and_then_its_node_is_free(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    before = {one.hostname: one.addresses for one in rack.conductor.cloud_status("lab").members}
    plan = rack.conductor.plan(desired(rack, 2, remove=("web-1",)))
    assert [type(action) for action in plan.actions] == [Release]
    rack.conductor.apply(plan)
    status = rack.conductor.cloud_status("lab")
    assert not status.ready and status.leaving == {"web-1": "is released"}
    rack.desired = plan.desired
    rack.play()
    assert rack.servers["node2"].drains == ["release"] and rack.servers["node2"].power is Power.OFF
    assert rack.states() == {"node1": "active", "node2": "available", "node3": "active"}
    after = {one.hostname: one.addresses for one in rack.conductor.cloud_status("lab").members}
    assert after == {name: before[name] for name in ("web-0", "web-2")}, "the others keep names and addresses"
    assert rack.conductor.plan(rack.desired).empty
    again = rack.conductor.plan(desired(rack, 3))
    assert [action.placement.hostname for action in again.actions] == ["web-1"]  # type: ignore[union-attr]


def test_a_member_whose_node_is_lost_gets_another_at_once(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, 4)
    lost = rack.servers["node2"]
    rack.bmcs.silent.add(lost.spec.bmc.address)
    lost.running = "nothing"
    plan = rack.conductor.plan(desired(rack, 3, lost=("node2",)))
    (move,) = plan.actions
    assert isinstance(move, Move) and not move.drain
    assert (move.hostname, move.node, move.placement.node) == ("web-1", "node2", "node4")
    rack.conductor.apply(Plan.model_validate_json(plan.model_dump_json()))
    rack.desired = plan.desired
    rack.play()
    assert lost.drains == [] and rack.states()["node4"] == "active"
    assert {one.placement.hostname: one.placement.node for one in rack.store.deployments.live("lab")} == {
        "web-0": "node1",
        "web-1": "node4",
        "web-2": "node3",
    }
    assert rack.conductor.plan(rack.desired).empty, "the file may say so for as long as the node is away"
    rack.play(lambda: rack.states()["node2"] == "failed")


def test_a_member_that_moves_is_drained_and_what_takes_its_place_has_its_name(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, 3)
    rack.apply(desired(rack, 2, nodes=("node1", "node3")))
    assert rack.conductor.plan(rack.desired).empty, "what was asked for is not asked for twice"
    rack.play()
    assert rack.servers["node2"].drains == ["release"], "nothing of its disks is used again"
    assert member(rack, "web-1").node == "node3" and rack.states()["node2"] == "available"


def test_the_node_to_which_a_member_moves_is_kept_for_it(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, 3)
    plan = rack.conductor.plan(desired(rack, 2, nodes=("node1", "node3")))
    rack.conductor.inspect("node3")
    with pytest.raises(GuardFailed, match="it was available and is inspecting"):
        rack.conductor.apply(plan)
    rack.play(lambda: rack.states()["node3"] == "available")
    rack.apply(desired(rack, 2, nodes=("node1", "node3")))
    rack.conductor.inspect("node3")
    rack.play()
    failure = member(rack, "web-1").failure
    assert failure is not None and "node3, to which it is to move, is inspecting" in failure["summary"]
    assert member(rack, "web-1").node == "node2", "it stays where it is"
    rack.play(lambda: rack.states()["node3"] == "available")
    rack.conductor.resume("lab")
    rack.play()
    assert member(rack, "web-1").node == "node3"


def test_a_node_that_others_took_meanwhile_is_not_taken_from_them_without_a_drain(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, 3)
    rack.servers["node2"].drain = "failed"
    elsewhere = {"main": Network(cidr="10.78.0.0/24", pool="10.78.0.20-10.78.0.60")}
    theirs_says = desired(rack, 1).cloud.model_copy(update={"cloud": "other", "networks": elsewhere})
    other = desired(rack, 1).model_copy(update={"cloud": theirs_says})
    theirs = rack.conductor.plan(other)  # made before anybody was to move there
    rack.apply(desired(rack, 2, nodes=("node1", "node3")))
    rack.play()
    rack.conductor.apply(theirs)
    rack.play(lambda: rack.states()["node3"] == "active")
    with pytest.raises(Conflict, match="node3, to which it is to move, is active"):
        rack.conductor.resume("lab", ["node2"])
    assert member(rack, "web-1").node == "node2" and rack.states()["node2"] == "active"
    assert [one.hostname for one in rack.conductor.cloud_status("other").members] == ["web-0"]


TREE = {"etc/others": "{{#members.web}}{{hostname}} {{/members.web}}"}


def test_a_plan_shows_no_file_of_a_member_that_is_drained_and_hears_nothing_else(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 4, cloud(3))
    for server in rack.servers.values():
        server.drain_scripts, server.drain = 1, "never"
    rack.images.trees["web"] = TREE
    rack.enroll()
    rack.apply()
    rack.play()
    rack.apply(desired(rack, 2, remove=("web-1",)))
    rack.play(lambda: bool(rack.servers["node2"].drains))
    plan = rack.conductor.plan(desired(rack, 3, remove=("web-1",)))
    before = {name: rack.store.nodes.get(name).generation for name in rack.servers}
    rack.conductor.apply(plan)
    told = {name for name, known in before.items() if known and rack.store.nodes.get(name).generation > known}
    assert told == {effect.node for effect in plan.effects} | {
        action.node for action in plan.actions if isinstance(action, Configure)
    }


def test_nobody_was_heard_while_the_service_was_down_and_that_is_no_failure(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.clock.sleep(SILENT + 60.0)
    rack.restart()
    rack.play(lambda: images(rack) == {"web-0": NEW} and rack.settled())
    assert rack.servers["node1"].drains == ["rebuild"]


def test_an_image_that_is_damaged_by_then_stops_it_with_a_reason(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.images.damaged.add(NEW)
    rack.play()
    failure = member(rack, "web-0").failure
    assert failure is not None and "signature does not hold" in failure["summary"] and "cloud abort" in failure["hint"]
    assert rack.servers["node1"].drains == []


def test_to_apply_again_tries_again_to_move_a_member_that_was_not_drained(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, 3)
    rack.servers["node2"].drain = "failed"
    rack.apply(desired(rack, 2, nodes=("node1", "node3")))
    rack.play()
    address = rack.store.departures.all()[0].placement
    rack.servers["node2"].drain = "drained"
    rack.apply()
    rack.play(lambda: rack.settled() and rack.states()["node3"] == "active")
    assert member(rack, "web-1").node == "node3" and address is not None
    assert member(rack, "web-1").addresses == tuple(one.address for one in address.addresses)


def test_a_drain_that_ends_while_the_service_is_down_is_no_failure(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, drain=900.0)
    rack.servers["node2"].drain = "never"
    rack.apply(desired(rack, 1, remove=("web-1",)))
    rack.play(lambda: bool(rack.servers["node2"].drains))
    rack.servers["node2"].drain = "drained"
    rack.clock.sleep(1000.0)
    rack.restart()
    rack.play(lambda: rack.states()["node2"] == "available")


def test_a_drain_that_fails_stops_with_node_phase_cause_and_next_command(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    rack.servers["node2"].drain = "failed"
    rack.apply(desired(rack, 2, remove=("web-1",)))
    rack.play()
    one = member(rack, "web-1")
    assert one.failure is not None and one.failure["where"] == "node2"
    assert one.failure["summary"] == "guests are left"
    assert one.failure["cause"].startswith("drain of web-1, which is released: a test")
    for command in ("cloud resume lab;", "cloud resume lab --without-drain node2", "cloud abort lab web-1"):
        assert f"provisioner {command}" in one.failure["hint"]
    assert rack.states()["node2"] == "active" and rack.servers["node2"].running == "instance"
    live(rack, 10)
    assert member(rack, "web-1").failure is not None, "reports do not take it back"
    rack.servers["node2"].drain = "drained"
    rack.conductor.resume("lab")
    rack.play()
    assert rack.states()["node2"] == "available" and rack.servers["node2"].drains.count("release") > 1


def test_apply_again_goes_on_with_what_has_stopped(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.servers["node2"].drain = "failed"
    rack.apply(desired(rack, 1, remove=("web-1",)))
    rack.play()
    rack.servers["node2"].drain = "drained"
    rack.apply()
    rack.play()
    assert rack.states()["node2"] == "available"


def test_a_named_node_leaves_without_being_drained(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    rack.servers["node2"].drain = "failed"
    rack.apply(desired(rack, 2, remove=("web-1",)))
    rack.play()
    with pytest.raises(NotFound, match="nothing on node3 is to leave"):
        rack.conductor.resume("lab", ("node3",))
    rack.conductor.resume("lab", ("node2",))
    rack.play()
    assert rack.states()["node2"] == "available"
    rack.conductor.release("node3", drain=False)
    assert rack.states()["node3"] == "cleaning" and rack.servers["node3"].drains == []


@pytest.mark.parametrize("why", ["off", "silent", "old"])
def test_who_cannot_be_drained_is_refused_before_anything_is_done(tmp_path: Path, why: str) -> None:
    rack = ready(tmp_path, 2, scripts=None if why == "old" else 1)
    words = {"off": "the node is switched off", "silent": "its agent is silent", "old": "of an older image"}[why]
    if why == "off":
        rack.conductor.set_power("node2", "off")
    elif why == "silent":
        rack.clock.sleep(1000.0)
    plan = rack.conductor.plan(desired(rack, 1, remove=("web-1",)))
    for call in (lambda: rack.conductor.apply(plan), lambda: rack.conductor.release("node2")):
        with pytest.raises(Conflict, match=words) as caught:
            call()
        assert "--without-drain node2" in str(caught.value.hint)
    with pytest.raises(Conflict, match=words):
        rack.conductor.rebuild("node2")
    with pytest.raises(Conflict, match=words) as caught:
        rack.conductor.plan_replacement("lab", "web-1", None, drain=True)
    assert str(caught.value.hint).endswith("or the same command without --drain")
    assert rack.states() == {"node1": "active", "node2": "active"}
    assert rack.conductor.plan(cloud(2)).empty, "nothing of it was recorded"
    (release,) = plan.actions
    assert isinstance(release, Release)
    rack.conductor.apply(plan.model_copy(update={"actions": (release.model_copy(update={"drain": False}),)}))
    assert rack.states()["node2"] == "cleaning"


def test_an_instance_with_nothing_to_drain_leaves_at_once(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, scripts=0)
    rack.clock.sleep(1000.0)
    rack.apply(desired(rack, 1, remove=("web-1",)))
    assert rack.states()["node2"] == "cleaning"


def test_a_drain_has_its_time(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, drain=60.0)
    rack.servers["node2"].drain = "never"
    rack.conductor.release("node2")
    rack.play(lambda: member(rack, "web-1").failure is not None)
    failure = member(rack, "web-1").failure
    assert failure is not None and failure["summary"] == "it was not drained within 60 s"


def test_who_was_drained_stays_when_that_is_aborted(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.servers["node2"].drain = "never"
    rack.conductor.release("node2")
    rack.play(lambda: bool(rack.servers["node2"].drains))
    assert member(rack, "web-1").waiting == "drained before it is released"
    with pytest.raises(Conflict, match="web-1 is released already") as caught:
        rack.conductor.release("node2")
    assert "provisioner cloud abort lab web-1" in str(caught.value.hint)
    with pytest.raises(NotFound, match="web-0 is not to leave"):
        rack.conductor.abort_departures("lab", ("web-0",))
    rack.conductor.abort_departures("lab", ("web-1",))
    rack.play()
    assert rack.servers["node2"].drained == {} and rack.states()["node2"] == "active"
    assert rack.store.permits.taken("lab", "web") == [], "what it held for leaving is given back"
    with pytest.raises(Conflict, match="nobody of it is to leave"):
        rack.conductor.abort_departures("lab")


def test_what_changed_while_it_was_drained_reaches_it_when_it_stays(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.servers["node2"].drain = "never"
    rack.conductor.rebuild("node2")
    rack.play(lambda: bool(rack.servers["node2"].drains))
    before = rack.conductor.node("node2").node.generation
    rack.apply(desired(rack, 2, values={"web": {"size": 7}}))
    assert rack.conductor.node("node2").node.generation == before
    rack.conductor.abort_departures("lab")
    rack.play()
    newest = rack.store.clouds.newest("node2")
    assert newest is not None and rack.store.clouds.document(newest)["values"]["web"]["size"] == 7
    assert "drain" not in rack.store.clouds.document(newest)


def test_a_whole_role_that_goes_is_drained_though_nobody_knows_it_any_more(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3, cloud(1, (role("web"), role("db"))))
    for server in rack.servers.values():
        server.drain_scripts = 1
    rack.enroll()
    rack.apply()
    rack.play()
    gone = server_of(rack, "db-0")
    rack.apply(cloud(1, (role("web"),)))
    assert not rack.conductor.cloud_status("lab").ready
    rack.play()
    assert gone.drains == ["release"]
    rack.play(lambda: rack.states()[gone.name] == "available")


def test_a_member_of_a_role_that_goes_is_let_back_in_though_its_drain_was_to_be_tried_again(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2, cloud(1, (role("web"), role("db"))))
    for server in rack.servers.values():
        server.drain_scripts, server.drain = 1, "failed"
    rack.enroll()
    rack.apply()
    rack.play()
    gone = server_of(rack, "db-0")
    rack.apply(cloud(1, (role("web"),)))
    rack.play(lambda: bool(gone.drained) and rack.store.departures.all()[0].failure is not None)
    rack.conductor.resume("lab")
    rack.conductor.abort_departures("lab", ["db-0"])
    newest = rack.store.clouds.newest(gone.name)
    assert newest is not None and "drain" not in rack.store.clouds.document(newest)
    rack.clock.sleep(CONFIGURE_SECONDS + 60.0)
    live(rack, 3)
    assert rack.states()[gone.name] == "active", "nobody gives it a permit for that, and it goes on as it is"
    with pytest.raises(Conflict, match="lab does not use the role db any more"):
        rack.conductor.rebuild(gone.name)


def test_a_generation_that_waits_while_the_service_is_down_has_not_run_out_of_time(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.apply(desired(rack, 2, values={"web": {"size": 2}}))
    rack.clock.sleep(2 * CONFIGURE_SECONDS)
    rack.restart()
    rack.play()
    assert rack.states() == {"node1": "active", "node2": "active"} and rack.conductor.plan(rack.desired).empty


def test_a_member_that_was_to_be_rebuilt_is_not_when_its_role_goes_meanwhile(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2, cloud(1, (role("web"), role("db"))))
    rack.enroll()
    rack.apply()
    rack.play()
    new_image(rack)
    gone = server_of(rack, "web-0")
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.apply(cloud(1, (role("db"),)))
    rack.play(lambda: rack.store.departures.all()[0].failure is not None)
    failure = rack.store.departures.all()[0].failure
    assert failure is not None and "lab does not use the role web any more" in failure["summary"]
    rack.apply()
    rack.play(lambda: rack.states()[gone.name] == "available")


# A role gets another image.


def test_a_role_is_rebuilt_one_after_another_and_then_there_is_nothing_to_do(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, canary=1, settle=30.0)
    before = {one.hostname: (one.node, one.addresses) for one in rack.conductor.cloud_status("lab").members}
    new_image(rack)
    plan = rack.conductor.plan_rebuild("lab", "web")
    assert {type(action) for action in plan.actions} == {Rebuild} and len(plan.actions) == 3
    rack.conductor.apply(plan)
    away: set[int] = set()
    order: list[str] = []

    def look() -> bool:
        found = rack.states()
        away.add(sum(state != "active" for state in found.values()))
        order.extend(name for name, state in found.items() if state == "deploying" and name not in order)
        return bool(rack.settled())

    rack.play(look, 300)
    assert away == {0, 1} and order == ["node1", "node2", "node3"]
    assert set(images(rack).values()) == {NEW}
    assert [server.drains for server in rack.servers.values()] == [["rebuild"]] * 3
    assert {one.hostname: (one.node, one.addresses) for one in rack.conductor.cloud_status("lab").members} == before
    live(rack, 5)
    assert rack.conductor.plan_rebuild("lab", "web").empty and rack.store.departures.all() == []
    assert rack.store.permits.taken("lab", "web") == []


def test_the_canary_of_a_rebuild_is_green_for_a_while_before_the_next(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, canary=1, settle=100.0)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.play(lambda: images(rack)["web-0"] == NEW and rack.states()["node1"] == "active", 100)
    green = rack.clock.now()
    live(rack, 3)
    assert "canary web-0 on node1 is not green for 100 s yet" in str(member(rack, "web-1").waiting)
    rack.play(lambda: rack.states()["node2"] == "deploying", 100)
    assert rack.clock.now() - green >= 90.0


def test_what_the_cloud_file_says_of_an_image_is_a_plan(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    assert rack.conductor.plan(desired(rack, 2, image="newest")).empty
    new_image(rack)
    assert rack.conductor.plan(desired(rack, 2)).empty
    old = desired(rack, 2, image=images(rack)["web-0"])
    assert rack.conductor.plan(old).empty
    rack.apply(old)
    with pytest.raises(Conflict, match="the cloud file says that web runs web-0"):
        rack.conductor.plan_rebuild("lab", "web", NEW)
    with pytest.raises(NotFound, match="no such image"):
        rack.conductor.plan(desired(rack, 2, image="web-nothing"))
    with pytest.raises(NotFound, match="lab has no role db"):
        rack.conductor.plan_rebuild("lab", "db")
    rack.apply(desired(rack, 2, image="newest"))
    rack.play(rounds=200)
    assert set(images(rack).values()) == {NEW}


def test_a_saved_plan_of_a_rebuild_is_not_done_when_something_has_changed(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    new_image(rack)
    plan = Plan.model_validate_json(rack.conductor.plan_rebuild("lab", "web").model_dump_json())
    rack.conductor.rebuild("node2")
    rack.play(lambda: rack.states()["node2"] == "deploying")
    with pytest.raises(GuardFailed, match="has changed since the plan was made"):
        rack.conductor.apply(plan)
    assert rack.states()["node1"] == "active"


def test_a_rebuild_stops_when_too_many_have_failed_and_goes_on_when_they_are_mended(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    new_image(rack)
    rack.servers["node1"].fail_orders["write-image"] = "the disk is full"
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.play(lambda: rack.states()["node1"] == "failed", 100)
    live(rack, 20)
    assert rack.states() == {"node1": "failed", "node2": "active", "node3": "active"}
    assert "web-0 on node1 failed; provisioner node show node1" in str(member(rack, "web-1").waiting)
    status = rack.conductor.cloud_status("lab")
    assert status.failed and status.leaving == {"web-1": "is rebuilt", "web-2": "is rebuilt"}
    rack.servers["node1"].fail_orders.clear()
    rack.conductor.verb("node1", "retry")
    rack.play(lambda: rack.conductor.cloud_status("lab").ready, 300)
    assert set(images(rack).values()) == {NEW}


def test_a_budget_lets_the_others_go_on(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, max_failures=1)
    new_image(rack)
    rack.servers["node1"].fail_orders["write-image"] = "the disk is full"
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.play(
        lambda: "old" in rack.images.known and images(rack)["web-2"] == NEW and rack.states()["node3"] == "active", 300
    )
    assert rack.states() == {"node1": "failed", "node2": "active", "node3": "active"}


def test_a_rebuild_that_is_aborted_leaves_who_has_not_had_a_turn(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    old = images(rack)["web-0"]
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.play(lambda: rack.states()["node1"] == "deploying", 100)
    rack.conductor.abort_departures("lab")
    rack.play(rounds=100)
    assert images(rack) == {"web-0": NEW, "web-1": old, "web-2": old}
    again = rack.conductor.plan_rebuild("lab", "web")
    assert [one.placement.hostname for one in again.actions if isinstance(one, Rebuild)] == ["web-1", "web-2"]
    rack.conductor.apply(again)
    rack.play(rounds=300)
    assert set(images(rack).values()) == {NEW}


@pytest.mark.parametrize("canary", [0, 1])
def test_a_member_in_maintenance_keeps_its_image_and_holds_up_nobody(tmp_path: Path, canary: int) -> None:
    rack = ready(tmp_path, 2, canary=canary, settle=5.0)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.conductor.maintenance("node1", "a fan")
    rack.play(lambda: images(rack)["web-1"] == NEW and rack.states()["node2"] == "active", 300)
    assert images(rack)["web-0"] != NEW
    rack.conductor.maintenance("node1", None)
    rack.play(rounds=300)
    assert set(images(rack).values()) == {NEW}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("every", [3, 7])
def test_kills_again_and_again_lose_nothing(tmp_path: Path, every: int) -> None:
    """At each third or seventh commit: a member goes, the others are rebuilt, and that is aborted and done."""
    rack = ready(tmp_path, 3)
    new_image(rack)
    done = 0

    def strike() -> None:
        nonlocal done
        done += 1
        if done % every == 0:
            raise Killed

    def insist(call: Callable[[], object], recorded: Callable[[], bool]) -> None:
        for _ in range(5):
            if recorded():
                return
            rack.surviving(lambda: (call(), None)[1])

    rack.on_commit = strike
    rack.desired = desired(rack, 2, remove=("web-1",))
    insist(rack.apply, lambda: bool(rack.store.departures.all()))
    rack.play(rounds=400)
    rack.servers["node1"].drain = "never"
    insist(
        lambda: rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web")),
        lambda: len(rack.store.departures.all()) == 2,
    )
    rack.play(lambda: rack.servers["node1"].drains == ["rebuild"], 400)
    insist(lambda: rack.conductor.abort_departures("lab"), lambda: not rack.store.departures.all())
    rack.play(rounds=400)
    rack.servers["node1"].drain = "drained"
    insist(
        lambda: rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web")),
        lambda: len(rack.store.departures.all()) == 2,
    )
    rack.play(rounds=400)
    live(rack, 20)
    assert rack.states() == {"node1": "active", "node2": "available", "node3": "active"}
    assert images(rack) == {"web-0": NEW, "web-2": NEW}
    assert rack.store.departures.all() == [] and rack.store.permits.taken("lab", "web") == []
    assert {one.state for one in rack.store.deployments.live("lab")} == {DeploymentState.ACTIVE}
    assert rack.restarts > 30 / every


def test_a_node_that_failed_is_retried_and_not_released(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    rack.servers["node2"].drain = "never"
    rack.conductor.release("node2")
    rack.play(lambda: bool(rack.servers["node2"].drains))
    node = rack.store.nodes.get("node2")
    failure = {"summary": "a test", "hint": "none"}
    rack.store.nodes.move(node, NodeState.FAILED, now=rack.clock.now(), deployment=node.deployment, failure=failure)
    rack.conductor.verb("node2", "retry")
    rack.play()
    assert rack.states()["node2"] == "active" and rack.servers["node2"].drained == {}
    assert rack.store.departures.all() == []


def test_a_member_whose_change_failed_may_leave_and_the_others_still_wait(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    rack.servers["node1"].bad_generations = {2, 3}
    rack.apply(desired(rack, 3, values={"web": {"size": 7}}))
    rack.play(lambda: rack.store.nodes.get("node1").failure is not None)
    live(rack, 3)
    assert "web-0 on node1 failed" in str(member(rack, "web-1").waiting)
    rack.conductor.release("node1")
    rack.play(lambda: rack.servers["node1"].drains == ["release"])
    assert "web-0 on node1 changes now" in str(member(rack, "web-1").waiting), "until it is gone"
    rack.play(lambda: rack.states()["node1"] == "available")


def test_an_image_whose_templates_cannot_be_rendered_is_refused_before_anybody_leaves(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    new_image(rack)
    rack.images.trees["web"] = {"etc/web.conf": "word={{web.sword}}\n"}
    with pytest.raises(ManifestError, match=r"web\.sword"):
        rack.conductor.plan_rebuild("lab", "web")
    rack.images.trees["web"] = {"etc/web.conf": "word={{web.word}}\n"}
    assert [action.kind for action in rack.conductor.plan_rebuild("lab", "web").actions] == ["rebuild"]


def test_who_has_a_permit_already_does_not_wait_for_those_who_wait_for_it(tmp_path: Path) -> None:
    """It hangs in a change when a new image is asked for: it has failed some time; nobody waits for ever."""
    rack = ready(tmp_path, 3)
    rack.apply(desired(rack, 3, values={"web": {"size": 7}}))
    rack.play(lambda: rack.servers["node2"].permit > 0, 50)
    rack.servers["node2"].running = "nothing"
    live(rack, 3)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    for _ in range(20):
        rack.clock.sleep(600)
        rack.conductor.tick()
        for name in ("node1", "node3"):
            rack.live(rack.servers[name])
    assert rack.conductor.cloud_status("lab").failed


def test_a_member_that_went_on_without_a_drain_has_its_turn_though_another_is_back(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3)
    new_image(rack)
    rack.servers["node2"].drain = "never"
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.conductor.maintenance("node1", "a fan")
    rack.play(lambda: bool(rack.servers["node2"].drains), 100)
    rack.conductor.maintenance("node1", None)
    rack.servers["node2"].running = "nothing"
    rack.conductor.resume("lab", ["node2"])
    rack.play(lambda: images(rack)["web-1"] == NEW, 200)


def test_of_a_role_no_more_are_away_while_one_is_deployed_on_another_node(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, 4)
    dead = rack.servers["node3"]
    rack.bmcs.silent.add(dead.spec.bmc.address)
    dead.running = "nothing"
    for _ in range(30):
        rack.clock.sleep(60)
        rack.conductor.tick()
        for name in ("node1", "node2"):
            rack.live(rack.servers[name])
    rack.apply(desired(rack, 3, values={"web": {"size": 7}}))
    live(rack, 5)
    assert not any(rack.servers[name].permit for name in ("node1", "node2"))
    rack.conductor.apply(rack.conductor.plan_replacement("lab", "web-2", "node4"))
    for _ in range(100):
        live(rack, 1)
        if rack.states()["node4"] == "active":
            break
        assert not any(rack.servers[name].permit for name in ("node1", "node2"))
    rack.play(lambda: rack.conductor.cloud_status("lab").ready, 300)


def test_a_member_that_moved_and_is_tried_again_counts_as_away(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, 5)
    for name in ("node4", "node5"):
        rack.servers[name].fail_orders["write-image"] = "the disk is full"
    rack.apply(desired(rack, 3, nodes=("node3", "node4", "node5")))
    rack.play(lambda: "failed" in rack.states().values(), 200)
    live(rack, 20)
    (failed,) = [name for name, state in rack.states().items() if state == "failed"]
    rack.servers[failed].fail_orders.clear()
    rack.conductor.verb(failed, "retry")
    for _ in range(60):
        live(rack, 1)
        if rack.states()[failed] == "active":
            break
        assert sum(one.state == "active" for one in rack.conductor.cloud_status("lab").members) == 2


def test_a_member_that_has_had_its_turn_gets_a_still_newer_image(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2)
    new_image(rack)
    rack.conductor.apply(rack.conductor.plan_rebuild("lab", "web"))
    rack.conductor.maintenance("node2", "a fan")
    rack.play(lambda: images(rack)["web-0"] == NEW and rack.states()["node1"] == "active", 200)
    live(rack, 5)
    rack.images.known["web-before"] = rack.images.known["web"]
    rack.images.known["web"] = rack.images.known["web"].model_copy(update={"id": "web-" + "2" * 12})
    for plan in (rack.conductor.plan_rebuild("lab", "web"), rack.conductor.plan(desired(rack, 2, image="newest"))):
        assert [one.placement.hostname for one in plan.actions if isinstance(one, Rebuild)] == ["web-0"]


@pytest.mark.parametrize("how", ["maintenance", "rescue"])
def test_who_was_let_alone_has_all_the_time_to_be_drained_afterwards(tmp_path: Path, how: str) -> None:
    rack = ready(tmp_path, 2, drain=600.0)
    rack.servers["node2"].drain = "never"
    rack.conductor.release("node2")
    rack.play(lambda: bool(rack.servers["node2"].drains))
    if how == "rescue":
        rack.conductor.rescue("node2", [KEY])
        rack.play(lambda: is_open(rack, "node2"))
        rack.clock.sleep(700)
        rack.conductor.end_rescue("node2")
    else:
        rack.conductor.maintenance("node2", "a fan")
        rack.clock.sleep(700)
        rack.conductor.maintenance("node2", None)
    rack.servers["node2"].drain = "drained"
    rack.play(lambda: rack.states()["node2"] in ("cleaning", "available") or rack.conductor.cloud_status("lab").failed)
    assert rack.states()["node2"] in ("cleaning", "available")


def test_a_holder_that_dies_before_it_is_healthy_has_failed_some_time(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3, cloud(3, (role(change=Policy(at_a_time=1)),)))
    rack.enroll()
    rack.apply()
    rack.play()
    for server in rack.servers.values():
        server.red = True
    rack.apply(desired(rack, 3, values={"web": {"size": 7}}))
    rack.play(lambda: any(server.applied and server.permit for server in rack.servers.values()), 50)
    live(rack, 2)
    (holder,) = rack.store.permits.taken("lab", "web")
    rack.servers[holder.node].running = "nothing"
    for server in rack.servers.values():
        server.red = False
    for _ in range(20):
        rack.clock.sleep(600)
        rack.conductor.tick()
        for server in rack.servers.values():
            rack.live(server)
    assert rack.store.permits.taken("lab", "web")[0].state == "failed"
    said = rack.conductor.node(holder.node).node.failure
    assert said is not None and "was not healthy within" in said["summary"]


def test_a_member_that_joins_is_there_before_the_others_get_another_image(tmp_path: Path) -> None:
    rack = ready(tmp_path, 3, 4)
    rack.servers["node4"].drain_scripts = 1
    new_image(rack)
    rack.apply(desired(rack, 4, image="newest"))
    rack.play(lambda: any(s.drains for s in rack.servers.values()) or rack.states()["node4"] == "active", 100)
    assert rack.states()["node4"] == "active"
    rack.play(lambda: set(images(rack).values()) == {NEW}, 600)
