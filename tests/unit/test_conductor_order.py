"""The order of changes: canaries, who is away, other roles, groups, failures; and that nobody waits for ever."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rot, role
from members import Members
from records import records_url
from sqlalchemy import create_engine

from provisioner.conductor.guests import Guests
from provisioner.conductor.order import SILENT, is_away, refuse_behind
from provisioner.conductor.status import read_status
from provisioner.errors import BmcSilent
from provisioner.model.hardware import Power
from provisioner.model.policy import Policy
from provisioner.model.role import Desired, ImageSpec, Role
from provisioner.model.states import NodeState
from provisioner.store.permits import FAILED, FREE, HELD
from provisioner.store.schema import NODES, REPORTS
from provisioner.store.store import Store
from provisioner_agent.instance.report import INTERVAL, TIMEOUT


def roles(*names: str, **policy: Any) -> tuple[Role, ...]:
    return tuple(role(name, change=Policy(**policy)) for name in names or ("web",))


def test_a_canary_changes_first_and_the_others_when_it_has_been_green_for_a_while(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=60.0))
    world.change("new")
    assert world.ask("web-1") == "canary web-0 on n-web-0 has not generation 2 in force yet"
    assert world.ask("web-0") == ""
    assert world.ask("web-1") == "web-0 on n-web-0 changes now"
    world.finish("web-0")
    world.clock.sleep(12)
    assert world.ask("web-1") == "canary web-0 on n-web-0 is not green for 60 s yet (12 s so far)"
    assert world.waiting()["web-1"] == "permit: canary web-0 on n-web-0 is not green for 60 s yet (12 s so far)"
    world.clock.sleep(33)
    assert world.ask("web-1").endswith("(45 s so far)") and str(world.waiting()["web-1"]).endswith("(45 s so far)")
    told = world.events("permit.refused")
    assert len(told) == 3, f"only another reason is news, not another second: {told}"
    world.clock.sleep(15)
    assert world.ask("web-1") == ""
    world.finish("web-1")
    assert world.ask("web-2") == "", "once the canary has settled, nobody else is waited for"
    assert world.waiting() == {"web-0": None, "web-1": None, "web-2": None}


def role_says(world: Members) -> str:
    return read_status(world.doors, "lab").roles["web"]


def test_what_takes_a_member_long_is_what_its_role_waits_for(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())

    def says(generation: int, **more: Any) -> None:
        about = {"generation": generation, "applied": 1, "healthy": False}
        world.guests.report(world.members["web-0"].ident, about | more)

    says(1, state="applying", doing="waits for systemctl start web.service")
    assert role_says(world) == "web-0 is not healthy; it applies generation 1: waits for systemctl start web.service"
    world.change("new")
    assert world.ask("web-0") == ""
    says(2, state="applying", doing="runs configure.d/20-b")
    assert role_says(world) == "web-0 applies generation 2: runs configure.d/20-b"
    world.finish("web-0")
    assert role_says(world) == "web-1 applies generation 2"


def test_a_canary_that_turns_red_settles_anew(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=60.0, at_a_time=2))
    world.change("new")
    world.ask("web-0")
    world.finish("web-0")
    world.clock.sleep(50)
    world.sicken("web-0")
    assert world.ask("web-1") == "canary web-0 on n-web-0 is not healthy; provisioner node show n-web-0"
    world.sicken("web-0", well=True)
    world.clock.sleep(50)
    assert world.ask("web-1") == "canary web-0 on n-web-0 is not green for 60 s yet (50 s so far)"


def test_a_canary_that_fails_holds_up_the_others_until_a_better_change(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=0.0, max_failures=2))
    world.change("bad")
    world.ask("web-0")
    world.fail("web-0")
    assert world.ask("web-1") == "canary web-0 on n-web-0 failed; provisioner node show n-web-0"
    assert "failed" in world.ask("web-0"), "nor does it try again by itself"
    world.change("good")
    assert world.ask("web-1") == "canary web-0 on n-web-0 has not generation 3 in force yet"
    assert world.ask("web-0") == ""
    world.finish("web-0")
    assert world.ask("web-1") == ""


@pytest.mark.parametrize("how", ["released", "in maintenance"])
def test_a_canary_that_is_taken_away_is_followed_by_the_next(tmp_path: Path, how: str) -> None:
    world = Members(tmp_path, roles(canary=1, settle=0.0))
    world.change("new")
    if how == "released":
        world.release("web-0")
    else:
        world.store.nodes.set_maintenance("n-web-0", {"reason": "a new fan"}, world.clock.now())
        assert world.ask("web-0") == "it is in maintenance: a new fan"
    assert world.ask("web-2") == "canary web-1 on n-web-1 has not generation 2 in force yet"
    assert world.ask("web-1") == ""
    world.finish("web-1")
    assert world.ask("web-2") == ""


def test_two_canaries_of_a_role_of_two_and_a_role_of_one_wait_for_nobody(tmp_path: Path) -> None:
    for number, count in enumerate((2, 1)):
        (tmp_path / str(number)).mkdir()
        world = Members(tmp_path / str(number), roles(canary=2), count)
        world.change("new")
        for name in list(world.members):
            assert world.ask(name) == ""
            world.finish(name)


def test_with_one_member_down_no_second_one_is_taken_down_but_that_one_may_be_mended(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=600.0))
    world.sicken("web-2")
    world.change("new")
    limit = "and at most 1 of web may be away at once; provisioner node show n-web-2"
    assert world.ask("web-0") == f"web-2 on n-web-2 is not healthy, {limit}"
    assert world.ask("web-2") == "", "not even the canary comes before it"
    world.finish("web-2")
    assert world.ask("web-0") == ""


def test_a_member_is_down_when_it_is_switched_off_or_silent(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())
    world.change("new")
    drift = {"expected": "on", "since": world.clock.now()}
    world.store.nodes.set_seen("n-web-2", Power.OFF, drift, world.clock.now())
    assert world.ask("web-0").startswith("web-2 on n-web-2 is switched off, and at most 1 of web")
    world.set_desired(world.desired.model_copy(update={"roles": {"web": roles(canary=1)[0]}}))
    assert "canary" in world.ask("web-2"), "whoever asks runs, whatever its controller says"
    world.set_desired(world.desired.model_copy(update={"roles": {"web": roles()[0]}}))
    world.store.nodes.set_seen("n-web-2", Power.ON, None, world.clock.now())
    gone = world.members.pop("web-2")
    world.sleep(SILENT + 20)
    assert world.ask("web-0").startswith("web-2 on n-web-2 is silent, and at most 1 of web")
    world.members["web-2"] = gone
    world.beat()
    assert world.ask("web-0") == ""


def test_what_a_member_said_before_it_was_switched_off_holds_no_more(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())

    def switch(power: Power) -> None:
        world.store.nodes.set_power("n-web-1", power, world.clock.now())

    switch(Power.ON)
    assert role_says(world) == "ready"
    switch(Power.OFF)
    assert role_says(world) == "web-1 is switched off"
    switch(Power.ON)
    assert role_says(world) == "web-1 is not healthy"
    world.report("web-1")
    assert role_says(world) == "ready"


def test_a_role_is_not_ready_while_a_member_is_seen_off_or_is_silent(tmp_path: Path) -> None:
    """Whatever it said last: power failed without our command, or its instance hangs."""
    world = Members(tmp_path, roles())

    def healthy() -> list[bool | None]:
        return [member.healthy for member in read_status(world.doors, "lab").members]

    assert (role_says(world), healthy()) == ("ready", [True, True, True])
    drift = {"expected": "on", "since": world.clock.now()}
    world.store.nodes.set_seen("n-web-2", Power.OFF, drift, world.clock.now())
    assert (role_says(world), healthy()) == ("web-2 is switched off", [True, True, None])
    world.store.nodes.set_seen("n-web-2", Power.ON, None, world.clock.now())
    assert role_says(world) == "ready"
    world.members.pop("web-2")
    world.sleep(SILENT + 20)
    assert (role_says(world), healthy()) == ("web-2 is silent", [True, True, None])


def test_who_has_spoken_since_a_sweep_saw_it_off_is_on(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())
    drift = {"expected": "on", "since": world.clock.now()}
    world.store.nodes.set_seen("n-web-2", Power.OFF, drift, world.clock.now())
    world.store.nodes.set_bmc_error("n-web-2", BmcSilent("no answer").to_dict(), world.clock.now())
    assert role_says(world) == "web-2 is switched off"
    world.sleep(60)
    assert role_says(world) == "ready"


def test_nobody_is_silent_before_the_service_could_have_heard_it(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())
    world.clock.sleep(SILENT + 20)  # the service was away
    assert role_says(world) == "web-0 is silent"
    world.doors = replace(world.doors, opened=world.clock.now())
    assert role_says(world) == "ready"
    world.clock.sleep(SILENT + 20)
    assert role_says(world) == "web-0 is silent"


def test_nobody_holds_up_a_change_before_the_service_could_have_heard_it(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())
    world.change("new")
    world.clock.sleep(SILENT + 20)  # the service was away
    world.guests = Guests(replace(world.doors, opened=world.clock.now()))
    world.clock.sleep(60)
    assert world.ask("web-0") == "", "the others have had no time to speak yet"
    world.give_back("web-0")
    world.clock.sleep(SILENT + 20)
    assert world.ask("web-0").startswith("web-1 on n-web-1 is silent")


def test_who_reports_as_seldom_as_agents_do_at_rest_is_not_silent() -> None:
    assert INTERVAL + 2 * TIMEOUT < SILENT


def test_whoever_waits_for_a_permit_is_heard_however_long_it_waits(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=0.0))
    world.change("new")
    assert world.ask("web-0") == ""
    for _ in range(30):  # none of these reports: each waits
        world.clock.sleep(26)
        assert world.ask("web-1") and world.ask("web-2")
    world.finish("web-0")
    assert world.ask("web-1") == ""
    world.finish("web-1")
    assert world.ask("web-2") == ""


def test_members_that_join_are_not_held_up_and_hold_up_nobody(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=600.0), 4, active=False)
    for name in ("web-0", "web-1"):
        world.activate(name)
    world.sicken("web-0")
    assert world.ask("web-2") == "", "it joins, and takes nothing away"
    world.activate("web-2")
    world.give_back("web-2")
    world.sicken("web-0", well=True)
    world.change("new")
    assert world.ask("web-0") == "", "web-3 was never there"


def test_a_member_that_is_rebuilt_is_away(tmp_path: Path) -> None:
    world = Members(tmp_path, roles())
    world.rebuild("web-1")
    world.change("new")
    assert world.ask("web-0").startswith("web-1 on n-web-1 is being deployed, and at most 1 of web may be away")
    assert world.ask("web-1") == ""
    world.activate("web-1")
    world.give_back("web-1")
    assert world.ask("web-0") == ""


def test_a_share_of_the_members_is_rounded_down_and_at_least_one(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(at_a_time="50%"), 5)
    world.change("new")
    assert [world.ask(name) == "" for name in sorted(world.members)] == [True, True, False, False, False]
    assert Policy(at_a_time="10%").width(5) == 1 and Policy(at_a_time="100%").width(5) == 5
    world.finish("web-0")
    world.sicken("web-4")
    assert "web-4 on n-web-4 is not healthy" in world.ask("web-2"), "one changes, one is down: that is half of five"


def test_fewer_at_a_time_than_change_already(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(at_a_time=2))
    world.change("new")
    assert [world.ask("web-0"), world.ask("web-1")] == ["", ""]
    world.give_back("web-0")
    world.set_desired(world.desired.model_copy(update={"roles": {"web": roles()[0]}}))
    assert world.ask("web-2") == "web-1 on n-web-1 changes now"


def test_a_role_changes_after_another_has_changed_all_its_members(tmp_path: Path) -> None:
    galera, web = role("galera"), role("web", change=Policy(after=("galera",)))
    world = Members(tmp_path, (galera, web), 2)
    world.change("new")
    assert world.ask("web-0") == "galera comes first: galera-0 on n-galera-0 has not generation 2 in force yet"
    world.ask("galera-0")
    assert world.ask("web-0") == "galera comes first: galera-0 on n-galera-0 changes now"
    world.finish("galera-0")
    assert world.ask("web-0") == "galera comes first: galera-1 on n-galera-1 has not generation 2 in force yet"
    world.ask("galera-1")
    world.fail("galera-1")
    reason = "galera comes first: galera-1 on n-galera-1 failed; provisioner node show n-galera-1"
    assert world.ask("web-0") == reason and world.waiting()["web-0"] == f"permit: {reason}"
    world.sicken("web-1")
    assert world.ask("web-1") == "", "what is down may always be mended"
    world.finish("web-1")
    world.release("galera-1")
    assert world.ask("web-0") == ""


def test_a_role_that_the_cloud_does_not_use_is_not_waited_for(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(after=("galera",)), 1)
    world.change("new")
    assert world.ask("web-0") == ""


def test_an_instance_of_a_whole_disk_is_waited_for_like_any_other(tmp_path: Path) -> None:
    disk = role("disk", image=ImageSpec(disk="noble", templates=("web",)))
    world = Members(tmp_path, (disk, role("web", change=Policy(after=("disk",)))), 1)
    world.change("new")
    assert world.ask("web-0") == "disk comes first: disk-0 on n-disk-0 has not generation 2 in force yet"
    world.ask("disk-0")
    world.finish("disk-0")
    world.release("disk-0")
    assert world.ask("web-0") == ""


def test_what_was_left_of_a_role_that_is_gone_is_not_waited_for(tmp_path: Path) -> None:
    world = Members(tmp_path, (role("galera"), role("web", change=Policy(after=("galera",)))), 1)
    world.change("new")
    assert "galera-0" in world.ask("web-0")
    uses = {"web": world.desired.cloud.roles["web"]}
    cloud = world.desired.cloud.model_copy(update={"roles": uses})
    world.set_desired(Desired(cloud=cloud, roles={"web": world.desired.roles["web"]}))
    assert world.ask("web-0") == ""


def test_of_roles_that_are_kept_apart_one_member_changes_at_a_time_even_when_it_joins(tmp_path: Path) -> None:
    galera, queue = role("galera", change=Policy(apart=("quorum",))), role("queue", change=Policy(apart=("quorum",)))
    world = Members(tmp_path, (galera, queue, role("web")), 2, active=False)
    assert world.ask("galera-0") == ""
    assert world.ask("queue-0") == "galera-0 on n-galera-0 changes now, and quorum keeps queue apart from it"
    assert world.ask("web-0") == "", "it names no group"
    world.activate("galera-0")
    world.give_back("galera-0")
    assert world.ask("queue-0") == ""
    assert "quorum keeps galera apart from it" in world.ask("galera-1")
    world.members["queue-0"].well = False
    world.report("queue-0", "failed")
    assert world.ask("galera-1") == "", "a failure halts its own role alone"
    assert world.ask("queue-1") == "queue-0 on n-queue-0 failed; provisioner node show n-queue-0"


def test_so_many_members_may_fail(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(max_failures=1), 4)
    world.change("bad")
    world.ask("web-0")
    world.fail("web-0", "broken")
    assert world.ask("web-1") == "", "it is down by its own change: that is the one failure that may be"
    world.fail("web-1")
    failed = "web-0 on n-web-0, web-1 on n-web-1 failed; provisioner node show n-web-0"
    assert world.ask("web-2") == world.ask("web-3") == failed


def test_waiting_for_what_comes_is_no_failure_and_waiting_for_what_is_broken_is(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(canary=1, settle=1000.0))
    begun = world.clock.now()
    world.change("new")
    world.ask("web-0")
    world.finish("web-0")
    world.sleep(600)
    world.ask("web-1")
    assert world.store.nodes.waiting("n-web-1")[1] == begun + 600
    world.sicken("web-0")
    for _ in range(3):
        world.sleep(60)
        assert "web-0 on n-web-0 is not healthy" in world.ask("web-1")
    assert world.store.nodes.waiting("n-web-1")[1] == begun + 600, "its deadline goes on"


def test_a_node_that_was_left_in_a_role_that_is_gone_is_told_so(tmp_path: Path) -> None:
    world = Members(tmp_path, roles("galera", "web"), 1)
    web = world.desired.cloud.model_copy(update={"roles": {"web": world.desired.cloud.roles["web"]}})
    world.set_desired(Desired(cloud=web, roles={"web": world.desired.roles["web"]}))
    assert world.ask("galera-0") == "the cloud does not use its role any more"


def test_records_of_an_older_service_say_at_a_time_as_it_did(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(at_a_time=2))
    old = world.desired.model_dump(mode="json")
    del old["roles"]["web"]["change"]
    old["roles"]["web"]["at_a_time"] = 3
    world.set_desired(Desired.model_validate(old))
    world.change("new")
    assert [world.ask(name) for name in sorted(world.members)] == ["", "", ""]


def test_what_is_read_of_the_records_is_what_is_decided_about(tmp_path: Path) -> None:
    world = Members(tmp_path, roles(), 1)
    now = world.clock.now()
    since = now - SILENT
    permits, deployment = world.store.permits, world.members["web-0"].deployment
    engine = create_engine(records_url(tmp_path, "members"))
    node, report = NODES.update(), REPORTS.update()
    states = (NodeState.ACTIVE, NodeState.FAILED, NodeState.DEPLOYING, NodeState.RESCUE)
    known: list[tuple[bool, bool]] = []
    for state, power, healthy, failed, silent in product(
        states, (Power.ON, Power.OFF), (True, False, None), (False, True), (False, True)
    ):
        failure = {"summary": "it did not start"} if failed else None
        with engine.begin() as tx:
            tx.execute(node.values(state=state, power=power, healthy=healthy, failure=failure, applied=1, generation=1))
            tx.execute(report.values(at=since - silent))
        for generation, taken in product((1, 2), (FREE, HELD, FAILED)):
            with engine.begin() as tx:
                tx.execute(node.values(generation=generation))
            permits.clear(deployment)
            if taken != FREE:
                permits.take("lab", "web", 1, node="n-web-0", deployment=deployment, generation=1, now=now)
            if taken == FAILED:
                permits.fail(deployment)
            (member,) = permits.canaries("lab", "web", 1) if state is not NodeState.RESCUE else [None]
            away, behind = permits.away("lab", "web", since), permits.behind("lab", "web", since)
            member = member or (away or [behind])[0]
            assert member is not None
            found = (is_away(member, since) is not None, refuse_behind("", member, since) is not None)
            assert (bool(away), behind is not None) == (found[0] or taken == HELD, found[1]), member
            known.append(found)
    engine.dispose()
    assert set(known) == {(False, False), (False, True), (True, True)}


def test_two_conductors_grant_one_permit_of_a_group_however_many_ask_at_once(tmp_path: Path) -> None:
    kept = {"change": Policy(at_a_time=3, apart=("quorum",))}
    world = Members(tmp_path, (role("galera", **kept), role("queue", **kept)), 3)
    other = Store(records_url(tmp_path, "members"), Rot())
    try:
        elsewhere = Guests(replace(world.doors, store=other))
        for word in ("one", "two", "three"):
            world.change(word)
            start = threading.Barrier(len(world.members))

            def ask(
                guests: Guests, name: str, generation: int, start: threading.Barrier = start
            ) -> tuple[str, dict[str, Any]]:
                body = {"action": "acquire", "generation": generation, "wait": 0}
                start.wait(20)
                return name, guests.permit(world.members[name].ident, body)

            with ThreadPoolExecutor(len(world.members)) as pool:
                asked = [
                    pool.submit(ask, (world.guests, elsewhere)[number % 2], name, world.node(name).generation)
                    for number, name in enumerate(world.members)
                ]
                answers = dict(found.result(60) for found in asked)
            granted = [name for name, answer in answers.items() if answer["granted"]]
            assert len(granted) == 1, answers
            refused = {answer["why"] for answer in answers.values() if not answer["granted"]}
            assert all(granted[0] in why for why in refused)
            world.finish(granted[0])
    finally:
        other.close()
