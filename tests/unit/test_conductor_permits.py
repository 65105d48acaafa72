"""Permits, what is done once in the life of a cluster, and failed configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack, Server, cloud, role
from members import Members

from provisioner.conductor.metadata import Ask
from provisioner.errors import TrustError
from provisioner.model.states import NodeState


def once_rack(tmp_path: Path, count: int = 3, width: int = 1) -> Rack:
    rack = Rack(tmp_path, count, desired=cloud(count, (role(once=("bootstrap",), at_a_time=width),)))
    rack.enroll()
    return rack


def said(rack: Rack) -> list[tuple[str, bool, int]]:
    """(node, whether it was told to do it, fence) of each permit that a server was granted."""
    return [
        (server.name, answer["bootstrap"]["do"], answer["bootstrap"]["fence"])
        for server in rack.servers.values()
        for answer in server.once
    ]


def instance(rack: Rack, name: str) -> str:
    """The id of an instance's token."""
    deployment = rack.conductor.node(name).node.deployment
    assert deployment is not None
    return str(rack.store.tokens.token(deployment, "instance")).partition(".")[0]


def acquire(rack: Rack, name: str, generation: int = 1) -> dict[str, Any]:
    return rack.conductor.permit(instance(rack, name), {"action": "acquire", "generation": generation, "wait": 0})


def all_configure(rack: Rack) -> None:
    """Play until every server runs its instance, and none has a permit yet."""
    rack.play(until=lambda: all(server.running == "instance" for server in rack.servers.values()))


class Paused(Rack):
    """Instances say nothing by themselves; the test speaks for them."""

    def live(self, server: Server) -> None:
        if server.running != "instance":
            super().live(server)


def paused(tmp_path: Path, count: int = 3, width: int = 1) -> Rack:
    rack = Paused(tmp_path, count, desired=cloud(count, (role(once=("bootstrap",), at_a_time=width),)))
    rack.enroll()
    rack.apply()
    all_configure(rack)
    rack.conductor.tick()
    return rack


def test_one_member_bootstraps_and_the_others_join_one_after_another(tmp_path: Path) -> None:
    rack = once_rack(tmp_path)
    rack.apply()
    rack.play()
    answers = said(rack)
    assert len(answers) == 3 and sorted(do for _, do, _ in answers) == [False, False, True]
    assert {fence for _, _, fence in answers} == {1}
    assert rack.max_at_once == 1


def test_a_member_that_is_deployed_again_later_joins(tmp_path: Path) -> None:
    rack = once_rack(tmp_path)
    rack.apply()
    rack.play()
    (first,) = [name for name, do, _ in said(rack) if do]
    rack.conductor.verb(first, "release")
    rack.play(until=lambda: rack.states()[first] == "available")
    rack.servers[first].once = []
    rack.apply(cloud(3, (role(once=("bootstrap",)),), wipe=(first,)))
    rack.play()
    assert set(rack.states().values()) == {"active"}
    assert rack.servers[first].once == [{"bootstrap": {"do": False, "fence": 1}}]


def test_a_role_that_nobody_is_left_of_begins_anew(tmp_path: Path) -> None:
    rack = once_rack(tmp_path)
    rack.apply()
    rack.play()
    for server in rack.servers.values():
        rack.conductor.release(server.name, drain=False)
        server.once = []
    rack.play(until=lambda: set(rack.states().values()) == {"available"})
    rack.apply(cloud(3, (role(once=("bootstrap",)),), wipe=("node1", "node2", "node3")))
    rack.play()
    assert set(rack.states().values()) == {"active"}
    answers = said(rack)
    assert sorted(do for _, do, _ in answers) == [False, False, True] and {fence for _, _, fence in answers} == {2}


def test_asking_again_gives_the_same_answer_and_tells_nobody(tmp_path: Path) -> None:
    rack = paused(tmp_path, 2)
    first, second = acquire(rack, "node1"), acquire(rack, "node2")
    assert first == {"granted": True, "why": "", "once": {"bootstrap": {"do": True, "fence": 1}}}
    assert not second["granted"] and "web-0" in second["why"]
    heard: list[int] = []
    rack.conductor.subscribe(lambda topics: heard.append(1))
    assert acquire(rack, "node1") == first and acquire(rack, "node2") == second
    assert heard == [], "whoever waits asks after each change: an answer must not be one"
    members = {member.node: member for member in rack.conductor.cloud_status("lab").members}
    assert members["node2"].waiting == f"permit: {second['why']}"


def test_nobody_joins_before_what_is_done_once_is_done(tmp_path: Path) -> None:
    rack = paused(tmp_path, 2, width=2)
    assert acquire(rack, "node1")["granted"]
    assert "does bootstrap first" in acquire(rack, "node2")["why"]
    rack.report(rack.servers["node1"], instance(rack, "node1"), 1, "applied", True)
    answer = acquire(rack, "node2")
    assert answer["granted"] and answer["once"] == {"bootstrap": {"do": False, "fence": 1}}


def test_the_width_is_kept(tmp_path: Path) -> None:
    rack = paused(tmp_path, 3, width=2)
    assert acquire(rack, "node1")["granted"]
    rack.report(rack.servers["node1"], instance(rack, "node1"), 1, "applied", True)
    assert [acquire(rack, name)["granted"] for name in ("node2", "node3", "node1")] == [True, True, False]
    rack.conductor.permit(instance(rack, "node2"), {"action": "release", "generation": 1})
    assert acquire(rack, "node1", 2)["granted"]


def test_a_failed_holder_halts_its_role_and_bootstraps_again_after_a_retry(tmp_path: Path) -> None:
    rack = paused(tmp_path, 2)
    assert acquire(rack, "node1")["granted"]
    error = {"summary": "mariadb did not start", "cause": "exit code 1"}
    rack.report(rack.servers["node1"], instance(rack, "node1"), 1, "failed", False, error=error)
    rack.conductor.permit(instance(rack, "node1"), {"action": "release", "generation": 1})
    rack.conductor.tick()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "mariadb did not start" in failure["summary"]
    answer = acquire(rack, "node2")
    assert not answer["granted"] and "node1 failed" in answer["why"]
    rack.conductor.verb("node1", "retry")
    rack.play(until=lambda: rack.servers["node1"].boots == 2 and rack.servers["node1"].running == "instance")
    assert "does bootstrap first" in acquire(rack, "node2")["why"]
    assert acquire(rack, "node1")["once"] == {"bootstrap": {"do": True, "fence": 2}}


def test_the_next_one_bootstraps_when_the_first_was_aborted(tmp_path: Path) -> None:
    rack = paused(tmp_path, 2)
    assert acquire(rack, "node1")["granted"]
    rack.conductor.verb("node1", "abort")
    assert acquire(rack, "node2")["once"] == {"bootstrap": {"do": True, "fence": 2}}


def test_waiting_for_a_permit_is_no_failure_but_waiting_behind_a_failed_member_is(tmp_path: Path) -> None:
    rack = paused(tmp_path, 2)
    for _ in range(30):
        rack.clock.sleep(60)
        rack.store.nodes.set_waiting("node1", "it is its turn soon", rack.clock.now())
        rack.store.permits.take("lab", "web", 1, node="x", deployment="x", generation=1, now=rack.clock.now())
        acquire(rack, "node2")
        rack.conductor.tick()
    assert rack.states() == {"node1": "deploying", "node2": "deploying"}, "half an hour of waiting is no failure"
    rack.store.permits.give_back("x")
    acquire(rack, "node1")
    for _ in range(10):
        rack.clock.sleep(60)
        acquire(rack, "node2")
        rack.report(rack.servers["node1"], instance(rack, "node1"), 1, "applied", False)
        rack.conductor.tick()
    assert rack.states() == {"node1": "failed", "node2": "deploying"}, "its probe was red for too long"
    for _ in range(30):
        rack.clock.sleep(60)
        if rack.states()["node2"] == "deploying":
            acquire(rack, "node2")
        rack.conductor.tick()
    assert rack.states()["node2"] == "failed"


def test_a_change_that_is_rolled_back_stops_at_the_first_member_and_a_better_one_goes_on(tmp_path: Path) -> None:
    rack = once_rack(tmp_path)
    rack.apply()
    rack.play()
    for server in rack.servers.values():
        server.bad_generations = {2}
    rack.apply(cloud(3, (role(once=("bootstrap",)),), values={"web": {"word": "bad"}}))
    rack.play()
    rack.play(until=lambda: True)
    status = rack.conductor.cloud_status("lab")
    assert status.failed and not status.ready
    assert [member.failure is not None for member in status.members].count(True) == 1
    (bad,) = [member for member in status.members if member.failure is not None]
    assert bad.state == "active" and "it did not start" in str(bad.failure)
    for _ in range(5):
        for server in rack.servers.values():
            rack.live(server)
        rack.conductor.tick()
    assert sorted(node.applied for node in rack.conductor.nodes()) == [1, 1, 1], "nobody follows"
    rack.apply(cloud(3, (role(once=("bootstrap",)),), values={"web": {"word": "good"}}))
    rack.play()
    assert [(node.applied, node.generation, node.failure) for node in rack.conductor.nodes()] == [(3, 3, None)] * 3


def test_a_change_that_failed_for_a_reason_that_is_gone_is_tried_again_by_apply(tmp_path: Path) -> None:
    """A full disk, say: the values are right, so there is nothing to correct in the cloud file."""
    rack = once_rack(tmp_path)
    rack.apply()
    rack.play()
    for server in rack.servers.values():
        server.bad_generations = {2}
    changed = cloud(3, (role(once=("bootstrap",)),), values={"web": {"word": "good"}})
    rack.apply(changed)
    rack.play()
    assert rack.conductor.cloud_status("lab").failed
    for server in rack.servers.values():
        server.bad_generations = set()
    (action,) = rack.conductor.plan(changed).actions
    assert action.kind == "retry" and "it did not start" in action.why
    rack.apply(changed)
    rack.play()
    assert all(node.applied == node.generation for node in rack.conductor.nodes())
    assert rack.conductor.cloud_status("lab").ready and rack.conductor.plan(changed).empty


def test_a_broken_instance_is_a_failed_node_that_can_be_retried(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    server = rack.servers["node1"]
    rack.apply(cloud(1, (role(once=("bootstrap",)),), values={"web": {"word": "bad"}}))
    ident = instance(rack, "node1")
    rack.report(server, ident, 2, "broken", False, error={"summary": "a migration failed"})
    node = rack.conductor.node("node1").node
    assert node.state is NodeState.FAILED and "a migration failed" in str(node.failure)
    rack.conductor.verb("node1", "retry")
    node = rack.conductor.node("node1").node
    assert (node.state, node.generation) == (NodeState.ACTIVE, 3)
    rack.play()
    assert rack.conductor.node("node1").node.applied == 3 and rack.servers["node1"].boots == 1


def test_a_broken_instance_is_tried_again_with_values_that_were_corrected(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    rack.apply(cloud(1, (role(once=("bootstrap",)),), values={"web": {"word": "bad"}}))
    rack.report(rack.servers["node1"], instance(rack, "node1"), 2, "broken", False, error={"summary": "no migration"})
    corrected = cloud(1, (role(once=("bootstrap",)),), values={"web": {"word": "good"}})
    assert {action.kind for action in rack.conductor.plan(corrected).actions} == {"configure", "retry"}
    rack.apply(corrected)
    assert not rack.conductor.cloud_status("lab").failed
    rack.play()
    assert rack.conductor.cloud_status("lab").ready and rack.conductor.plan(corrected).empty


def test_who_failed_and_is_let_alone_is_named_by_the_plan(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.servers["node1"].fail_orders["boot-loader"] = "no room"
    rack.apply()
    rack.play()
    rack.conductor.maintenance("node1", "a fan")
    plan = rack.conductor.plan(rack.desired)
    assert plan.actions == ()
    assert plan.notes == (
        "web-0 on node1 has failed and is in maintenance; next: provisioner node maintenance node1 --off",
    )


def test_a_rescue_that_failed_is_named_by_the_plan(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    rack.servers["node1"].fail_orders["rescue"] = "no key"
    rack.conductor.rescue("node1", [])
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    plan = rack.conductor.plan(rack.desired)
    assert plan.actions == ()
    assert plan.notes == ("the rescue of web-0 on node1 has failed; next: provisioner node show node1",)


def test_an_active_instance_that_never_takes_a_generation_has_failed(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    rack.servers["node1"].running = "nothing"
    rack.apply(cloud(1, (role(once=("bootstrap",)),), values={"web": {"word": "new"}}))
    rack.clock.sleep(900)
    rack.conductor.tick()
    assert rack.states() == {"node1": "active"}
    rack.clock.sleep(200)
    rack.conductor.tick()
    node = rack.conductor.node("node1").node
    assert node.state is NodeState.FAILED and "generation 2" in str(node.failure)
    rack.servers["node1"].running = "instance"
    rack.play(until=lambda: rack.states() == {"node1": "active"})
    assert rack.conductor.node("node1").node.failure is None


def test_metadata_is_given_once_for_each_generation_and_only_to_its_own(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 2)
    rack.apply()
    rack.play()
    ident = instance(rack, "node1")
    found = rack.metadata(ident, 0)
    assert found is not None
    answer = json.loads(found)
    assert answer["generation"] == 1
    assert answer["metadata"]["secrets"]["web_password"] == rack.conductor.cloud_secret("lab", "web_password")
    assert list(answer["parts"]) == answer["metadata"]["parts"]
    again = rack.metadata(ident, 0, answer["metadata"]["parts"])
    assert again is not None and json.loads(again) == {**answer, "parts": {}}
    assert rack.metadata(ident, 1) is None
    rack.conductor.release("node1")
    for call in (lambda: rack.metadata(ident, 0), lambda: rack.conductor.guest(ident, "instance")):
        with pytest.raises(TrustError):
            call()


def test_who_asks_for_what_comes_after_a_generation_has_that_one(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 2)
    rack.apply()
    rack.play()
    one, two = instance(rack, "node1"), instance(rack, "node2")

    def heard() -> list[int]:
        return [rack.store.nodes.get(name).heard for name in ("node1", "node2")]

    before = heard()
    rack.apply(cloud(2, (role(once=("bootstrap",)),), values={"web": {"word": "new"}}))
    newest = rack.conductor.node("node1").node.generation
    assert heard() == before, "it is told, and nobody knows yet whether it came through"
    first, second, stranger = rack.conductor.metadata([Ask(one, 0), Ask(two, newest), Ask("ffff", 0)])
    assert isinstance(first, str) and json.loads(first)["generation"] == newest
    assert second is None and isinstance(stranger, TrustError)
    assert heard() == [before[0], newest]
    rack.conductor.metadata([Ask(one, newest), Ask(two, newest - 1)])
    assert heard() == [newest, newest], "what was heard once is not unheard"
    rack.conductor.metadata([Ask(one, newest + 5)])
    assert heard() == [newest, newest], "nobody has what we never made"


def test_one_report_of_many_that_is_refused_leaves_the_others(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 2)
    rack.apply()
    rack.play()
    one, two = instance(rack, "node1"), instance(rack, "node2")
    said = {"generation": 1, "applied": 1, "state": "applied", "healthy": False}
    answers = rack.conductor.reports([(one, said), (two, {"state": 1}), ("ffff", said), (two, said)])
    assert [type(answer).__name__ for answer in answers] == ["dict", "UsageError", "TrustError", "dict"]
    assert [rack.conductor.node(name).node.healthy for name in ("node1", "node2")] == [False, False]


WRONG = {
    "a number that is none": {"applied": "x"},
    "a number that no column takes": {"applied": 1 << 70},
    "a generation that no column takes": {"generation": 1 << 70, "state": "rolled-back"},
    "a clock that no number holds": {"clock": 10**400},
    "an error without parts": {"state": "rolled-back", "error": "it failed"},
    "probes without names": {"probes": [1]},
    "a probe that is none": {"probes": {"up": 1}},
    "a text that is none": {"state": "\ud800"},
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_report_of_any_shape_leaves_the_others_and_the_status_alone(tmp_path: Path, wrong: dict[str, Any]) -> None:
    rack = once_rack(tmp_path, 2)
    rack.apply()
    rack.play()
    one, two = instance(rack, "node1"), instance(rack, "node2")
    said = {"generation": 1, "applied": 1, "state": "applied", "healthy": False, "probes": {}}
    answers = rack.conductor.reports([(one, said), (two, said | wrong), (one, said | {"healthy": True})])
    assert answers[0] == answers[2] == {}
    if wrong.get("clock") is None:
        assert isinstance(answers[1], Exception)
    assert rack.conductor.cloud_status("lab").members[0].healthy
    assert [event for event in rack.events() if "node1 instance.report" in event][-2:] == [
        "node1 instance.report: generation 1 applied, not healthy",
        "node1 instance.report: generation 1 applied, healthy",
    ], "nothing is told twice"


def test_two_questions_of_one_instance_are_answered_each_for_itself(tmp_path: Path) -> None:
    """A connection that has gone unseen still asks while the agent, started anew, asks for all."""
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    ident = instance(rack, "node1")
    newest = rack.conductor.node("node1").node.generation
    parts = json.loads(str(rack.metadata(ident, 0)))["metadata"]["parts"]
    whole, nothing = rack.conductor.metadata([Ask(ident, 0), Ask(ident, newest)])
    assert nothing is None and isinstance(whole, str) and sorted(json.loads(whole)["parts"]) == sorted(parts)
    bare, whole = rack.conductor.metadata([Ask(ident, 0, parts), Ask(ident, 0)])
    assert isinstance(bare, str) and json.loads(bare)["parts"] == {}
    assert isinstance(whole, str) and sorted(json.loads(whole)["parts"]) == sorted(parts)


def test_of_two_generations_that_one_instance_says_it_has_the_newer_counts(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    for word in ("new", "newer"):
        rack.apply(cloud(1, (role(once=("bootstrap",)),), values={"web": {"word": word}}))
    ident, newest = instance(rack, "node1"), rack.conductor.node("node1").node.generation
    rack.conductor.metadata([Ask(ident, newest), Ask(ident, newest - 1)])
    assert rack.store.nodes.get("node1").heard == newest


def test_what_is_changed_by_hand_in_an_instance_is_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    ident = instance(rack, "node1")
    for drift in ({"/etc/x": "-1\n+2"}, {"/etc/x": "-1\n+3"}, {}, {}):
        said = {"generation": 1, "applied": 1, "state": "applied", "healthy": True, "drift": drift}
        rack.conductor.report(ident, said)
    told = [event for event in rack.events() if "instance.drift" in event]
    assert told == [
        "node1 instance.drift: changed by hand: /etc/x",
        "node1 instance.drift-over: all files are as the agent wrote them",
    ]


def test_once_is_done_by_the_change_for_which_it_was_permitted(tmp_path: Path) -> None:
    """Its agent says how it is with the generation of before, right after the permit."""
    world = Members(tmp_path, (role(once=("migrate",)),))
    world.change("new")
    body = {"action": "acquire", "generation": world.node("web-0").generation, "wait": 0}
    assert world.guests.permit(world.members["web-0"].ident, body)["once"]["migrate"]["do"] is True
    world.report("web-0", generation=1)
    assert world.events("once.done") == []
    world.report("web-0")
    assert len(world.events("once.done")) == 1
