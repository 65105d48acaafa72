"""Outages of a whole role: what members say and are told, over real records; and random walks over them."""

from __future__ import annotations

import os
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import role
from members import Members

from provisioner.conductor.guests import Guests
from provisioner.conductor.recovery import leave_out
from provisioner.conductor.status import read_status
from provisioner.errors import Conflict, NotFound, UsageError
from provisioner.model.deployment import DeploymentState
from provisioner.model.hardware import Power
from provisioner.model.states import NodeState
from provisioner.model.status import RecoveryStatus

EXAMPLES = int(os.environ.get("EXAMPLES", "60"))


class Cluster(Members):
    """Three members of a role that holds one state."""

    def __init__(self, folder: Path, **more: Any) -> None:
        super().__init__(folder, (role(recover=True),), **more)

    def say(self, name: str, sequence: int, history: str = "a") -> tuple[str, str, int]:
        answer = self.guests.recover(self.members[name].ident, {"history": history, "sequence": sequence, "wait": 0})
        return answer["verdict"], answer["why"], answer["fence"]

    def verdict(self, name: str, sequence: int) -> str:
        return self.say(name, sequence)[0]

    def outage(self) -> RecoveryStatus | None:
        return read_status(self.doors, "lab").recoveries.get("web")

    def power(self, name: str, power: Power) -> None:
        self.store.nodes.set_power(self.members[name].node, power, self.clock.now())

    def leave_out(self, *names: str) -> RecoveryStatus:
        return leave_out(self.doors, "lab", "web", tuple(self.members[name].node for name in names))


def test_the_one_that_had_come_furthest_begins_when_all_have_spoken(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    verdict, why, _ = cluster.say("web-0", 7)
    assert verdict == "wait" and "web-1 on n-web-1, web-2 on n-web-2" in why
    assert cluster.verdict("web-2", 9) == "wait"
    waiting = cluster.waiting()
    assert "web-1 on n-web-1" in str(waiting["web-0"]) and "--without n-web-1" in str(waiting["web-2"])
    assert cluster.verdict("web-1", 8) == "wait"
    assert cluster.say("web-2", 9) == ("lead", "web-2 on n-web-2 begins again from a:9", 1)
    assert cluster.verdict("web-0", 7) == "wait"
    found = cluster.outage()
    assert found is not None and found.leader == "web-2" and [one.sequence for one in found.members] == [7, 8, 9]
    cluster.report("web-2")
    assert cluster.outage() is None
    assert [cluster.verdict(name, 1) for name in ("web-0", "web-1")] == ["join", "join"]
    assert set(cluster.waiting().values()) == {None}
    assert cluster.events("recovery.over") == ["n-web-2: web is up again; web-2 is healthy"]


def test_who_was_told_to_begin_and_asks_again_hears_the_others_again(tmp_path: Path) -> None:
    """They may have joined it, and gone on without it, and nobody told us."""
    cluster = Cluster(tmp_path)
    for name, sequence in (("web-0", 7), ("web-1", 9), ("web-2", 8)):
        cluster.say(name, sequence)
    assert cluster.verdict("web-1", 9) == "lead"
    assert cluster.verdict("web-1", 9) == "wait"
    assert cluster.verdict("web-0", 30) == "wait"
    assert cluster.say("web-2", 31)[::2] == ("lead", 2)
    assert cluster.verdict("web-1", 9) == "wait"


def test_a_member_that_asks_is_not_healthy(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 7)
    assert [cluster.node(f"web-{n}").healthy for n in range(3)] == [False, True, True]


def test_what_was_said_counts_in_its_outage_only(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for name in ("web-0", "web-1"):
        cluster.say(name, 7)
    cluster.report("web-2")
    assert cluster.outage() is None, "it lives"
    assert cluster.verdict("web-0", 7) == "join"
    assert cluster.verdict("web-0", 7) == "wait", "it could not join"
    assert cluster.verdict("web-2", 5) == "wait", "the others may have gone on since"
    assert cluster.say("web-1", 11)[::2] == ("lead", 1)


def test_who_falls_silent_is_heard_again(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 7)
    cluster.say("web-1", 9)
    cluster.clock.sleep(200)
    assert "web-1 on n-web-1" in cluster.say("web-0", 7)[1]
    cluster.say("web-2", 5)
    assert cluster.verdict("web-1", 9) == "lead"


def test_asking_in_vain_again_wakes_nobody(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    first = cluster.say("web-0", 7)
    heard: list[frozenset[str]] = []
    cluster.store.listen(heard.append)
    assert cluster.say("web-0", 7) == first and heard == []


def test_members_that_never_ran_are_not_waited_for_and_do_not_begin(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, active=False)
    for name in ("web-0", "web-1"):
        cluster.activate(name)
    assert cluster.say("web-2", -1, "")[0] == "wait"
    assert cluster.verdict("web-0", 3) == "wait"
    assert cluster.verdict("web-1", 2) == "wait"
    assert cluster.verdict("web-0", 3) == "lead"


def test_a_member_that_is_rebuilt_may_have_kept_its_state(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.rebuild("web-1")
    cluster.say("web-0", 3)
    assert "web-1 on n-web-1" in cluster.say("web-2", 3)[1]
    cluster.say("web-1", -1, "")
    assert cluster.verdict("web-0", 3) == "lead"


def test_a_member_that_is_released_is_not_waited_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 3)
    cluster.say("web-1", 4)
    cluster.release("web-2")
    assert cluster.verdict("web-1", 4) == "lead"


def test_members_of_different_clusters_are_named(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 3)
    cluster.say("web-1", 900, "b")
    verdict, why, fence = cluster.say("web-2", 4)
    assert (verdict, fence) == ("wait", 0) and "web-1 on n-web-1 b:900" in why
    cluster.leave_out("web-1")
    assert cluster.verdict("web-2", 4) == "lead" and cluster.verdict("web-1", 900) == "wait"


def test_whom_an_operator_gives_up_must_be_off(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    with pytest.raises(Conflict, match="no member of web waits"):
        cluster.leave_out("web-2")
    for name in ("web-0", "web-1"):
        cluster.say(name, 7)
    with pytest.raises(Conflict, match="may still be at work") as told:
        cluster.leave_out("web-2")
    assert "provisioner node power n-web-2 off" in str(told.value.hint)
    cluster.power("web-2", Power.OFF)
    assert cluster.leave_out("web-2").leader == "web-0"
    assert "what it had after 7 is lost" in cluster.events("recovery.lost")[0]
    assert cluster.verdict("web-2", 99) == "wait", "too late"
    assert cluster.say("web-0", 7)[::2] == ("lead", 1)


def test_a_member_that_comes_before_the_decision_has_not_been_lost(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 7)
    cluster.power("web-2", Power.OFF)
    cluster.leave_out("web-2")
    assert cluster.verdict("web-2", 9) == "wait"
    cluster.say("web-1", 7)
    assert cluster.verdict("web-2", 9) == "lead"


def test_who_was_named_and_died_is_followed_by_another_with_a_higher_fence(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for name, sequence in (("web-0", 7), ("web-1", 9), ("web-2", 8)):
        cluster.say(name, sequence)
    assert cluster.say("web-1", 9)[::2] == ("lead", 1)
    with pytest.raises(Conflict, match="may still be at work"):
        cluster.leave_out("web-1")
    cluster.power("web-1", Power.OFF)
    assert cluster.leave_out("web-1").leader is None
    assert cluster.verdict("web-2", 8) == "wait", "the others may have been up with it"
    assert cluster.say("web-0", 12)[::2] == ("lead", 2)
    assert cluster.verdict("web-1", 9) == "wait", "named was another one"


def test_somebody_is_left(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    cluster.say("web-0", 7)
    for name in ("web-1", "web-2"):
        cluster.power(name, Power.OFF)
    cluster.leave_out("web-1", "web-2")
    cluster.power("web-0", Power.OFF)
    with pytest.raises(Conflict, match="nobody of web would be left"):
        cluster.leave_out("web-0")
    with pytest.raises(NotFound, match="nowhere is no member"):
        leave_out(cluster.doors, "lab", "web", ("nowhere",))


def test_a_role_that_holds_no_state_together_is_not_asked(tmp_path: Path) -> None:
    members = Members(tmp_path, (role(),))
    answer = members.guests.recover(members.members["web-0"].ident, {"history": "a", "sequence": 1})
    assert answer["verdict"] == "join"
    with pytest.raises(NotFound, match="no role whose members hold one state"):
        leave_out(members.doors, "lab", "web", ("n-web-0",))


@pytest.mark.parametrize(
    "message",
    [
        {}, {"history": "a"}, {"history": 1, "sequence": 1}, {"history": "a b", "sequence": 1},
        {"history": "a", "sequence": True}, {"history": "a", "sequence": -2}, {"history": "a", "sequence": 1 << 63},
    ],
)  # fmt: skip
def test_what_is_no_position_is_refused(tmp_path: Path, message: dict[str, Any]) -> None:
    cluster = Cluster(tmp_path)
    with pytest.raises(UsageError):
        cluster.guests.recover(cluster.members["web-0"].ident, message)
    assert cluster.outage() is None


def test_restored_records_begin_anew(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for name in ("web-0", "web-1"):
        cluster.say(name, 7)
    cluster.store.make_fresh()
    assert cluster.outage() is None
    assert cluster.verdict("web-2", 3) == "wait", "what was said before the copy does not count"
    for name in ("web-0", "web-1"):
        cluster.say(name, 9)
    verdict, _, fence = cluster.say("web-0", 9)
    assert verdict == "lead" and fence > 1000


@dataclass
class Database:
    """A member of the walk. ``rows``: what it holds; a row is acknowledged when all that live hold it."""

    rows: int = 0
    alive: bool = True


@pytest.mark.parametrize("seed", range(EXAMPLES))
def test_whatever_happens_nobody_begins_without_what_was_acknowledged(tmp_path: Path, seed: int) -> None:
    """Members crash, come back, speak, write and are given up in any order; the service is killed in between.

    Only what members hold that were given up may be lost.
    """
    chance = random.Random(seed)
    cluster = Cluster(tmp_path)
    world = {name: Database() for name in cluster.members}
    begun = 0
    for _ in range(120):
        name = chance.choice(sorted(world))
        one, living = world[name], [other for other, known in world.items() if known.alive]
        step = chance.choice(("write", "write", "crash", "cut", "return", "return", "return", "report", "kill", "give"))
        if step == "write" and len(living) * 2 > len(world):
            for other in living:
                world[other].rows += 1
        elif step == "crash":
            one.alive = False
        elif step == "cut":
            for known in world.values():
                known.alive = False
        elif step == "report" and one.alive:
            cluster.report(name)
        elif step == "kill":
            cluster.guests = Guests(cluster.doors)
        elif step == "give" and not living and chance.random() < 0.3:
            cluster.power(name, Power.OFF)
            with suppress(Conflict):  # nobody asks, or nobody would be left
                cluster.leave_out(name)
            cluster.power(name, Power.ON)
        elif step == "return" and not one.alive:
            if living:  # it sees them, and copies what they hold
                one.rows, one.alive = world[living[0]].rows, True
                continue
            verdict, _, _ = cluster.say(name, one.rows)
            if verdict == "lead":
                found = cluster.outage()
                assert found is not None and found.leader == name
                held = [world[member.hostname].rows for member in found.members if not member.lost]
                assert one.rows == max(held), (seed, world)
                one.alive = True
                begun += 1
    if seed == 0:
        assert begun, "the walk came nowhere"


def test_who_was_named_and_not_told_begins_only_while_all_that_was_said_holds(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path)
    for name, sequence in (("web-1", 9), ("web-0", 7), ("web-2", 8)):
        assert cluster.verdict(name, sequence) == "wait"
    cluster.clock.sleep(86400)  # the service was away; the others were up meanwhile, and have gone on
    assert cluster.verdict("web-1", 9) == "wait"
    assert cluster.verdict("web-0", 200) == "wait"
    assert cluster.verdict("web-2", 200) == "wait"
    assert cluster.verdict("web-0", 200) == "lead"


def test_a_member_that_runs_though_its_deployment_failed_is_waited_for(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, active=False)
    for name in ("web-0", "web-1"):
        cluster.activate(name)
    slow, now, said = cluster.members["web-2"], cluster.clock.now(), {"summary": "its probe was not green in time"}
    running, failed = (DeploymentState.RUNNING,), DeploymentState.FAILED
    cluster.store.deployments.set_state(slow.deployment, running, failed, now=now, failure=said)
    cluster.store.nodes.move(cluster.node("web-2"), NodeState.FAILED, now=now, deployment=slow.deployment, failure=said)
    cluster.report("web-2")
    for name, sequence in (("web-0", 3), ("web-1", 2), ("web-0", 3)):
        assert cluster.verdict(name, sequence) == "wait"
