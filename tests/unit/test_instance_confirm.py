"""What may cut the node off stays only when the server is heard again, over a connection of its own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from agent_world import CONF, SECRET, World
from test_instance_services import controlled

from provisioner_agent.instance import places
from provisioner_agent.instance.host import Finished, Killed
from provisioner_agent.protocol.link import Refused, ServerAway

SECONDS = 120.0


def risky(**more: object) -> World:
    """Generation 1 is in force; CONF is a file whose change may cut the node off, with the port 81 it does."""
    world = World()
    control = {"confirm": True, "services": {"web.service": "reload"}}
    world.control(CONF, json.dumps(control))
    world.unit("web.service")
    world.offer(1, **more)
    world.start()
    world.go()
    assert (world.agent.record.applied, world.confirms) == (1, [1])
    world.forget()
    world.confirms.clear()
    world.cut_off = lambda: "81" in world.units["web.service"].read
    return world


def change(world: World, port: int, generation: int = 2, **more: object) -> None:
    world.offer(generation, port, **({"secrets": {"key": "key-1"}} | more))
    world.go()


def cut_both(world: World) -> None:
    """With the port 81 no connection gets through, those that were there before neither."""
    real = world.link.answer

    def answer(method: str, target: str, body: object) -> object:
        if world.cut_off():
            raise ServerAway("the server does not answer: timed out")
        return real(method, target, body)  # type: ignore[arg-type]

    world.link.answer = answer


def test_a_change_that_is_confirmed_stays() -> None:
    world = risky()
    change(world, 82)
    assert world.confirms == [2] and world.text(CONF) == "port=82\n"
    states = [(r["state"], r["generation"], r["applied"], r["healthy"]) for r in world.reports]
    assert states[0] == ("unconfirmed", 2, 1, False) and states[-1] == ("applied", 2, 2, True)
    world.forget()
    world.confirms.clear()
    world.go()
    assert world.confirms == [] and world.ran() == []


def test_a_change_that_cuts_the_node_off_is_taken_back() -> None:
    world = risky()
    before = world.host.time
    change(world, 81)
    assert world.text(CONF) == world.units["web.service"].read == "port=80\n"
    assert world.systemctl == ["reload-or-restart web.service"] * 2
    assert SECONDS <= world.host.time - before <= SECONDS + 20
    report = world.reports[-1]
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("rolled-back", 2, 1, True)
    assert report["error"]["summary"] == "the server was not heard over a new connection within 120 s of the switch"
    assert report["error"]["cause"] == "the server does not answer: timed out"
    assert world.confirms == []
    change(world, 82, 3)
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=82\n"


def test_a_connection_from_before_proves_nothing() -> None:
    """The links that were open before go on; only a new one shows that the node is cut off."""
    world = risky()
    change(world, 81)
    assert world.reports[-1]["state"] == "rolled-back"
    assert [r["state"] for r in world.reports if r["generation"] == 2] == ["rolled-back"]


def test_what_became_of_it_is_told_when_the_server_is_heard_again() -> None:
    world = risky()
    cut_both(world)
    stays_away = False
    world.cut_off = lambda: "81" in world.units["web.service"].read or stays_away

    def stay_away(seconds: float) -> None:
        nonlocal stays_away
        stays_away = True

    world.host.on_sleep = stay_away
    change(world, 81)
    assert world.agent.record.state == "rolled-back" and world.reports == []
    assert json.loads(world.text(places.RUN_STATUS))["state"] == "rolled-back"
    stays_away, world.host.on_sleep = False, None
    world.host.time += 60
    world.go()
    assert (world.reports[-1]["state"], world.reports[-1]["generation"]) == ("rolled-back", 2)
    assert "not heard" in world.reports[-1]["error"]["summary"]


def test_the_role_says_how_long() -> None:
    role = {"name": "web", "count": 3, "once": ["first"], "at_a_time": 1, "confirm": 30}
    world = risky(role=role)
    before = world.host.time
    change(world, 81, role=role)
    assert world.reports[-1]["state"] == "rolled-back" and 30 <= world.host.time - before <= 50


def test_it_is_said_what_is_waited_for() -> None:
    world = risky()
    seen = []

    def look(seconds: float) -> None:
        seen.append(json.loads(world.text(places.RUN_STATUS))["waiting"])

    world.host.on_sleep = look
    change(world, 81)
    assert "generation 2 is taken back at" in seen[0] and "timed out" in seen[0]
    assert len(set(seen)) == 1
    assert json.loads(world.text(places.RUN_STATUS))["waiting"] is None


def test_without_the_server_it_is_not_begun() -> None:
    world = risky(permit=False)
    world.offer(2, 82, permit=False)
    world.collector.step()
    world.away = True
    seen = []

    def look(seconds: float) -> None:
        assert world.text(CONF) == "port=80\n" and world.ran() == []
        seen.append(json.loads(world.text(places.RUN_STATUS))["waiting"])
        world.away = len(seen) < 5

    world.host.on_sleep = look
    world.agent.turn()
    assert len(seen) == 5 and "must be heard before it: the server does not answer" in seen[0]
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=82\n"


def test_what_may_not_be_begun_gives_way_to_a_newer_generation() -> None:
    world = risky(permit=False)
    world.offer(2, 81, permit=False)
    world.collector.step()
    world.cut_off = lambda: True

    def newer(seconds: float) -> None:
        world.offer(3, 80, permit=False)
        world.collector.step()

    world.host.on_sleep = newer
    world.agent.turn()
    assert world.ran() == []
    world.agent.turn()
    assert world.agent.record.applied == 3 and world.text(CONF) == "port=80\n" and world.confirms == []


def test_without_the_server_other_changes_go_on() -> None:
    world = risky(permit=False)
    world.offer(2, secrets={"key": "key-2"}, permit=False)
    world.collector.step()
    world.away = True
    world.agent.turn()
    assert world.text(SECRET) == "key-2" and world.agent.record.applied == 2 and world.confirms == []


def test_a_boot_without_a_server_needs_no_word() -> None:
    world = risky()
    world.away = True
    world.put(CONF, "port=99\n")
    world.reboot()
    world.go()
    assert world.text(CONF) == "port=80\n" and world.agent.record.boot_id == world.host.boot
    assert world.confirms == []


def test_a_file_that_goes_may_cut_off_as_well() -> None:
    world = risky()
    for path in (f"{places.TEMPLATES}{CONF}", f"{places.TEMPLATES}{CONF}.control"):
        del world.host.files[path]
    world.start()
    world.cut_off = lambda: CONF not in world.host.files
    change(world, 80)
    assert world.text(CONF) == "port=80\n" and world.reports[-1]["state"] == "rolled-back"


def test_no_migration_runs_before_the_word() -> None:
    world = risky()
    world.script("migration.d/10-schema")
    change(world, 81)
    assert "migration.d/10-schema" not in world.ran() and world.reports[-1]["state"] == "rolled-back"
    change(world, 82, 3)
    assert world.ran()[-1] == "migration.d/10-schema" and world.reports[-1]["state"] == "applied"


def test_a_first_generation_that_cuts_off_leaves_the_files_of_the_image() -> None:
    world = World()
    world.put(CONF, "of the image\n")
    world.control(CONF, '{"confirm": true, "services": {"web.service": "restart"}}')
    world.unit("web.service")
    world.cut_off = lambda: "81" in world.units["web.service"].read
    world.offer(1, 81)
    world.start()
    world.go()
    assert world.text(CONF) == world.units["web.service"].read == "of the image\n"
    report = world.reports[-1]
    assert (report["state"], report["applied"]) == ("broken", 0) and "not heard" in report["error"]["summary"]
    world.offer(2, 82)
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=82\n"


def test_a_configuration_that_leads_nowhere_is_not_heard() -> None:
    """A new link is made from the agent's configuration as it is then; what cannot be read confirms nothing."""
    world = risky()
    real = world.open_link

    def damaged() -> object:
        if "82" in world.text(CONF):
            raise KeyError("url")
        return real()

    world.open_link = damaged  # type: ignore[method-assign,assignment]
    world.start()
    change(world, 82)
    assert world.reports[-1]["state"] == "rolled-back" and world.text(CONF) == "port=80\n"
    assert "agent.json cannot be used: KeyError: 'url'" in world.reports[-1]["error"]["cause"]


def cut_in_waiting(world: World, after: int) -> None:
    """The agent dies at the pause of that number in its waiting for the word."""
    pauses = [0]

    def die(seconds: float) -> None:
        pauses[0] += 1
        if pauses[0] > after:
            raise Killed

    world.host.on_sleep = die
    with pytest.raises(Killed):
        change(world, 81)
    world.host.on_sleep = None
    assert world.text(CONF) == "port=81\n"


def test_an_agent_that_starts_again_has_only_the_time_that_is_left() -> None:
    world = risky()
    cut_both(world)
    before = world.host.time
    cut_in_waiting(world, 10)
    world.start()
    world.go()
    assert world.agent.record.state == "rolled-back" and world.text(CONF) == "port=80\n"
    assert SECONDS <= world.host.time - before <= SECONDS + 20


def test_an_agent_that_starts_again_within_the_time_may_still_be_confirmed() -> None:
    world = risky()
    cut_in_waiting(world, 3)
    world.cut_off = bool
    world.forget()
    world.start()
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=81\n" and world.confirms == [2]
    assert world.systemctl == [], "it was reloaded before"


def test_a_boot_after_the_time_takes_it_back_although_the_server_would_be_heard() -> None:
    world = risky()
    cut_in_waiting(world, 3)
    world.cut_off = bool
    world.host.time += SECONDS
    world.reboot()
    world.go()
    assert world.agent.record.state == "rolled-back" and world.text(CONF) == "port=80\n" and world.confirms == []
    assert world.units["web.service"].read == "port=80\n"
    assert world.reports[-1]["error"]["cause"] == "the time was over before the agent started again"


def test_a_boot_within_the_time_may_still_be_confirmed_and_brings_all_up() -> None:
    world = risky()
    cut_in_waiting(world, 3)
    world.cut_off = bool
    world.forget()
    world.reboot()
    world.go()
    assert world.agent.record.applied == 2 and world.units["web.service"].read == "port=81\n"
    assert world.scripts[0][1]["PROVISIONER_BOOT"] == "1" and world.agent.record.boot_id == world.host.boot


def test_a_clock_that_was_set_back_gives_no_more_time() -> None:
    world = risky()
    cut_both(world)
    cut_in_waiting(world, 3)
    world.cut_off = lambda: "81" in world.text(CONF)
    world.host.time -= 1_000_000
    world.reboot()
    before = world.host.time
    world.go()
    assert world.agent.record.state == "rolled-back" and world.host.time - before <= SECONDS + 20


def test_an_agent_that_died_in_a_phase_does_not_wait_for_a_permit_for_ever() -> None:
    world = risky()
    cut_both(world)
    world.failing["post-configure.d/10-start"] = -1
    with pytest.raises(Killed):
        change(world, 81)
    world.failing.clear()
    assert world.cut_off()
    before = world.host.time
    world.start()
    world.go()
    assert world.agent.record.state == "rolled-back" and world.text(CONF) == "port=80\n"
    assert world.host.time - before <= 2 * SECONDS


def test_a_server_that_says_no_was_heard() -> None:
    """Its answer is authentic: what it has against the report is no reason to take the change back."""
    world = risky()
    real = world.link.answer

    def answer(method: str, target: str, body: Any) -> Any:
        if "confirming" in body:
            raise Refused("the records cannot be read or written")
        return real(method, target, body)

    world.link.answer = answer
    world.open_link = lambda: world.link  # type: ignore[method-assign]
    world.start()
    change(world, 82)
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=82\n"


def test_who_waits_for_others_is_not_cut_off() -> None:
    """A permit that is refused is an answer too."""
    world = risky()
    world.failing["configure.d/10-a"] = -1
    with pytest.raises(Killed):
        change(world, 82)
    world.failing.clear()
    world.granted = False
    before = world.host.time

    def grant(seconds: float) -> None:
        world.granted = world.host.time - before > 10 * SECONDS

    world.host.on_sleep = grant
    world.start()
    world.go()
    assert world.agent.record.applied == 2 and world.text(CONF) == "port=82\n"


def test_a_kill_at_any_write_ends_in_the_old_or_the_new() -> None:
    """Of a change that cuts off, and of one that does not: before each write and removal the agent dies once."""
    kills, last = 0, False
    while not last:
        last = True
        for port, left in ((81, "port=80\n"), (82, "port=82\n")):
            world = risky()
            cut_both(world)
            world.offer(2, port)
            world.host.kill_before = kills
            try:
                world.go()
            except Killed:
                last = False
                world.host.kill_before = None
                world.start()
                for _ in range(4):
                    world.go()
                    world.host.time += 60
            assert world.text(CONF) == world.units["web.service"].read == left, f"port {port}, killed before {kills}"
            assert world.text(SECRET) == ("key-1" if port == 81 else "key-2")
            record = world.agent.record
            assert (record.applied, record.refused) == ((1, 2) if port == 81 else (2, 0)), f"killed before {kills}"
            assert not [path for path in world.host.files if path.startswith(places.JOURNAL)]
        kills += 1
    assert kills > 25


def test_a_file_that_cannot_cut_off_needs_no_word() -> None:
    world = controlled(web_service="restart")
    world.offer(2, 81)
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.confirms == [] and world.opened == 0


def test_a_red_probe_still_takes_back_what_was_confirmed() -> None:
    world = risky()
    world.host.programs["probe-node"] = lambda a, e: Finished(0, "down" if "82" in world.text(CONF) else "up")
    change(world, 82)
    assert world.confirms == [2] and world.reports[-1]["state"] == "rolled-back" and world.text(CONF) == "port=80\n"
