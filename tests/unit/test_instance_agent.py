"""The config agent's transaction, seen from outside: files, scripts, permits, reports."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

import pytest
from agent_world import CONF, SECRET, World, applied_world

from provisioner_agent.instance import places
from provisioner_agent.instance.document import read_document
from provisioner_agent.instance.host import FileState, Finished, Killed
from provisioner_agent.instance.permits import back_off
from provisioner_agent.protocol.link import ForgedAnswer

FORWARD = ["pre-configure.d/10-stop", "configure.d/10-a", "configure.d/20-b", "post-configure.d/10-start"]


def test_first_generation() -> None:
    world = World()
    world.offer(1, port=8080)
    world.start()
    world.go()
    assert world.text(CONF) == "port=8080\n"
    assert world.host.files[SECRET] == FileState(b"key-1", 0o600)
    assert world.ran() == FORWARD
    env = world.scripts[0][1]
    assert env["PROVISIONER_FIRST"] == env["PROVISIONER_BOOT"] == "1"
    assert env["PROVISIONER_CHANGED"].splitlines() == [CONF, SECRET]
    assert env["PROVISIONER_PHASE"] == "pre-configure"
    assert json.loads(world.text(env["PROVISIONER_PERMIT"])) == {"once": {"first": {"do": True, "fence": 7}}}
    assert json.loads(world.text(env["PROVISIONER_METADATA"]))["generation"] == 1
    assert world.host.files[env["PROVISIONER_METADATA"]].mode == 0o600
    assert [(r["state"], r["generation"], r["applied"], r["healthy"]) for r in world.reports] == [
        ("applied", 1, 1, False),
        ("applied", 1, 1, False),
        ("applied", 1, 1, True),
    ]
    assert world.reports[-1]["probes"]["size"] == {"ok": True, "output": "3", "scope": "role"}
    first = world.reports[-1]["phases"][0]
    assert (first["phase"], first["script"], first["code"]) == ("pre-configure", "10-stop", 0)
    assert world.permits == [("acquire", 1), ("release", 1)]
    assert not [path for path in world.host.files if path.startswith((places.JOURNAL, places.CANDIDATE))]


def test_a_script_name_with_a_dot_or_without_the_bit_is_no_script() -> None:
    world = World()
    world.script("configure.d/15-x.orig")
    world.put(f"{places.PHASES}/configure.d/16-plain", "")
    world.offer(1)
    world.start()
    world.go()
    assert world.ran() == FORWARD


def test_nothing_new_runs_nothing() -> None:
    world = applied_world()
    world.go()
    world.start()
    world.go()
    assert world.ran() == [] and world.permits == []


def test_a_generation_that_changes_no_file_asks_for_no_permit() -> None:
    world = applied_world()
    world.offer(2, secrets={"key": "key-1"})
    world.go()
    assert world.ran() == [] and world.permits == []
    assert (world.reports[-1]["applied"], world.reports[-1]["healthy"]) == (2, True)


def test_what_takes_long_is_told_while_it_runs() -> None:
    world = World()
    world.control(CONF, '{"services": {"web.service": "restart"}}')
    script, restart = f"{places.PHASES}/configure.d/20-b", ("systemctl", "restart", "web.service")
    world.host.slow = {(script,), restart}
    world.offer(1)
    world.unit("web.service")
    world.start()
    world.go()
    told = [(r["state"], r["generation"], r["applied"], r["healthy"], r["doing"]) for r in world.reports]
    assert told[:2] == [
        ("applying", 1, 0, False, "runs configure.d/20-b"),
        ("applying", 1, 0, False, "waits for systemctl restart web.service"),
    ]
    assert told[-1] == ("applied", 1, 1, True, None)
    world.forget()
    world.host.slow = {(script,)}
    world.units["web.service"].bad = "81"
    world.offer(2, port=81)
    world.go()
    assert [r["doing"] for r in world.reports[:2]] == ["runs configure.d/20-b", "goes back: runs configure.d/20-b"]
    assert (world.reports[-1]["state"], world.reports[-1]["doing"]) == ("rolled-back", None)


def test_a_change_tells_which_files() -> None:
    world = applied_world()
    world.offer(2, port=81, secrets={"key": "key-1"})
    world.go()
    assert world.scripts[0][1]["PROVISIONER_CHANGED"] == CONF
    assert "PROVISIONER_FIRST" not in world.scripts[0][1] and "PROVISIONER_BOOT" not in world.scripts[0][1]
    assert world.reports[-1]["applied"] == 2


def test_files_that_are_rendered_no_longer_are_removed_and_come_back() -> None:
    world = applied_world()
    del world.host.files[f"{places.TEMPLATES}{SECRET}"], world.host.files[f"{places.TEMPLATES}{SECRET}.control"]
    world.offer(2)
    world.failing["configure.d/10-a"] = 1
    world.go()
    assert world.text(SECRET) == "key-1", "taken back"
    world.failing.clear()
    world.offer(3)
    world.go()
    assert SECRET not in world.host.files
    assert world.scripts[-1][1]["PROVISIONER_CHANGED"] == SECRET


def test_a_missing_key_changes_nothing() -> None:
    world = applied_world()
    world.offer(2, values={"prot": 1})
    world.go()
    report = world.reports[-1]
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("failed", 2, 1, True)
    assert "etc/service.conf:1:6: the key port is not in the data (did you mean prot?)" in report["error"]["cause"]
    assert world.ran() == [] and world.permits == [] and world.text(CONF) == "port=80\n"
    world.go()
    assert world.ran() == [], "it is not tried again"
    world.offer(3, port=82)
    world.go()
    assert world.text(CONF) == "port=82\n" and world.reports[-1]["state"] == "applied"


def test_a_validator_says_no() -> None:
    world = applied_world()
    world.offer(2, port="bad")
    world.go()
    report = world.reports[-1]
    assert report["state"] == "failed" and world.text(CONF) == "port=80\n" and world.permits == []
    assert "/etc/service.conf: check '{path}' ended with code 1: port is wrong" in report["error"]["cause"]


def test_a_validator_finds_all_files_of_its_generation() -> None:
    """Those that sort behind its own, and those that have no validator, too."""
    world = World()
    seen: list[str] = []
    real = world.host.programs["check"]

    def check(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        seen.extend(path for path in world.host.files if path.startswith(places.CANDIDATE))
        return real(argv, env)

    world.host.programs["check"] = check
    world.offer(1)
    world.start()
    world.go()
    assert {f"{places.CANDIDATE}{path}" for path in (CONF, SECRET)} <= set(seen)
    assert not any(path.startswith(places.CANDIDATE) for path in world.host.files)


def test_a_failing_script_takes_the_files_back() -> None:
    world = applied_world()
    world.script("error.d/10-tell")
    world.failing["configure.d/10-a"] = 3
    world.offer(2, port=81)
    real = world.host.programs[f"{places.PHASES}/error.d/10-tell"]
    world.host.programs[f"{places.PHASES}/error.d/10-tell"] = lambda a, e: (world.failing.clear(), real(a, e))[1]
    world.go()
    assert world.ran() == [*FORWARD[:2], "error.d/10-tell", *FORWARD]
    assert [conf for _, _, conf in world.scripts] == ["port=81\n"] * 3 + ["port=80\n"] * 4
    back = world.scripts[-1][1]
    assert back["PROVISIONER_ROLLBACK"] == "1" and back["PROVISIONER_GENERATION"] == "1"
    assert json.loads(world.text(places.RUN_METADATA))["generation"] == 1
    report = world.reports[-1]
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("rolled-back", 2, 1, True)
    error = report["error"]
    assert (error["script"], error["code"], error["cause"]) == ("10-a", 3, "first word\nlast word")
    assert [(phase["script"], phase["code"]) for phase in report["phases"]] == [("10-stop", 0), ("10-a", 3)]
    assert world.permits == [("acquire", 2), ("release", 2)]
    world.forget()
    world.start()
    world.go()
    assert world.ran() == [] and world.reports[0]["state"] == "rolled-back", "remembered, and not tried again"


def test_a_probe_that_stays_red_takes_the_files_back() -> None:
    world = applied_world()
    real = world.host.programs["probe-node"]
    world.host.programs["probe-node"] = lambda a, e: Finished(0, "down") if "81" in world.text(CONF) else real(a, e)
    before = world.host.time
    world.offer(2, port=81)
    world.go()
    report = world.reports[-1]
    assert report["state"] == "rolled-back" and world.text(CONF) == "port=80\n"
    assert report["error"]["summary"] == "the node is not healthy after 60 s"
    assert report["error"]["cause"] == "up said 'down'"
    assert 60 <= world.host.time - before < 70


def test_the_role_probe_is_not_waited_for() -> None:
    world = World(role="1")
    world.offer(1)
    world.start()
    world.go()
    assert world.reports[-1]["healthy"] and not world.reports[-1]["probes"]["size"]["ok"]
    assert world.permits[-1] == ("release", 1)


def test_broken_keeps_its_permit() -> None:
    world = applied_world()
    world.failing["configure.d/10-a"] = 1
    world.offer(2, port=81)
    world.go()
    assert world.reports[-1]["state"] == "broken" and not world.reports[-1]["healthy"]
    assert "with the previous files" in world.reports[-1]["error"]["cause"]
    assert world.permits == [("acquire", 2)]
    world.failing.clear()
    world.offer(3, port=82)
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.permits[-1] == ("release", 3)


def test_past_a_migration_there_is_no_way_back() -> None:
    world = applied_world()
    world.script("migration.d/10-schema")
    world.failing["migration.d/10-schema"] = 1
    world.offer(2, port=81)
    world.go()
    assert world.reports[-1]["state"] == "broken" and world.text(CONF) == "port=81\n"
    assert world.permits == [("acquire", 2)]


def test_a_broken_first_generation_is_tried_again_by_a_new_start() -> None:
    world = World(failing={"configure.d/10-a": 1})
    world.offer(1)
    world.start()
    world.go()
    assert (world.reports[-1]["state"], world.reports[-1]["applied"]) == ("broken", 0)
    ran = len(world.scripts)
    world.go()
    assert len(world.scripts) == ran
    world.failing.clear()
    world.start()
    world.go()
    assert world.scripts[-1][1]["PROVISIONER_FIRST"] == "1"
    assert world.reports[-1]["state"] == "applied" and world.permits[-1] == ("release", 1)


def test_waiting_for_a_permit_says_why() -> None:
    world = applied_world()
    world.granted = False
    world.offer(2, port=81)
    seen = []

    def pass_time(seconds: float) -> None:
        seen.append(json.loads(world.text(places.RUN_STATUS))["waiting"])
        assert world.text(CONF) == "port=80\n"
        world.granted = len(seen) > 2

    world.host.on_sleep = pass_time
    world.go()
    assert seen == ["permit: web-1 changes"] * 3
    assert world.text(CONF) == "port=81\n"
    assert json.loads(world.text(places.RUN_STATUS))["waiting"] is None


def test_a_newer_generation_overtakes_one_that_waits() -> None:
    world = applied_world()
    world.granted = False
    world.offer(2, port=81)

    def newer(seconds: float) -> None:
        world.offer(3, port=82)
        world.collector.step()

    world.host.on_sleep = newer
    world.go()
    assert world.ran() == []
    world.granted = True
    world.go()
    assert world.text(CONF) == "port=82\n" and "port=81\n" not in [conf for _, _, conf in world.scripts]


def test_a_lost_server_changes_nothing() -> None:
    world = applied_world()
    world.away = True
    pauses = [world.collector.step() for _ in range(12)]
    assert pauses[0] <= 1 and min(pauses[7:]) >= 30 and max(pauses) <= 60
    world.agent.turn()
    assert world.text(CONF) == "port=80\n" and world.ran() == []
    status = json.loads(world.text(places.RUN_STATUS))
    assert "connection refused" in status["warnings"][0] and status["healthy"]
    world.away = False
    world.host.time += 60
    world.go()
    assert world.reports[-1]["healthy"] and world.reports[-1]["warnings"] == []


def test_agents_do_not_ask_again_all_at_once() -> None:
    """Each waits twice as long each time, up to a minute, of which it takes a part by chance."""
    for failures in range(1, 12):
        longest = min(60.0, 2.0 ** (failures - 1))
        pauses = {back_off(failures, random.Random(agent)) for agent in range(20)}
        assert longest / 2 <= min(pauses) < max(pauses) <= longest
        assert len(pauses) == 20 and max(pauses) - min(pauses) > longest / 4


def test_a_permit_that_could_not_be_given_back_is_given_back_later() -> None:
    world = applied_world()
    world.offer(2, port=81)
    world.collector.step()
    gone = world.host.programs["probe-node"]
    world.host.programs["probe-node"] = lambda a, e: (setattr(world, "away", True), gone(a, e))[1]
    world.agent.turn()
    assert world.permits == [("acquire", 2)]
    world.away = False
    world.host.programs["probe-node"] = gone
    world.start()
    world.go()
    assert world.permits[-1] == ("release", 2)


def test_an_older_generation_is_never_taken() -> None:
    world = applied_world()
    world.offer(5, port=85)
    world.go()
    world.forget()
    world.offer(4, port=84)
    assert world.collector.step() > 0
    world.host.time += 60
    world.agent.turn()
    assert world.text(CONF) == "port=85\n" and world.ran() == []
    assert "generation 4, older than 5" in world.reports[-1]["warnings"][0]
    world.start()
    world.go()
    assert world.text(CONF) == "port=85\n"


@pytest.mark.parametrize("answer", [[1], {"generation": 9}, {"generation": 9, "metadata": {"health": {"node": [{}]}}}])
def test_metadata_of_an_unknown_shape_is_ignored(answer: object) -> None:
    world = applied_world()
    world.link.answer = lambda method, target, body: answer if method == "GET" else {}
    world.go()
    assert world.agent.record.applied == 1 and "unknown shape" in (world.box.problem or "")


def test_a_forged_answer_is_ignored_and_reported() -> None:
    world = applied_world()
    before = world.link.answer

    def forged(method: str, target: str, body: object) -> object:
        if method == "GET":
            raise ForgedAnswer("an answer was not from the server")
        return before(method, target, body)  # type: ignore[arg-type]

    world.link.answer = forged
    world.host.time += 60
    world.go()
    assert world.reports[-1]["warnings"] == ["an answer was not from the server"]


def test_a_boot_brings_the_services_up_without_a_server() -> None:
    world = applied_world()
    world.away = True
    world.reboot()
    world.go()
    assert world.ran() == FORWARD and world.permits == []
    env = world.scripts[0][1]
    assert env["PROVISIONER_BOOT"] == "1" and "PROVISIONER_FIRST" not in env and env["PROVISIONER_CHANGED"] == ""
    assert json.loads(world.text(places.RUN_PERMIT)) == {"once": {}}
    world.agent.turn()
    assert len(world.scripts) == 4


def test_after_a_boot_it_is_told_at_once_that_the_services_are_not_up_yet() -> None:
    world = applied_world()
    world.reboot()
    world.go()
    first, last = world.reports[0], world.reports[-1]
    assert (first["state"], first["applied"], first["healthy"]) == ("applying", 1, False)
    assert first["doing"] == "comes up after a boot"
    assert (last["state"], last["applied"], last["healthy"], last["doing"]) == ("applied", 1, True, None)


def test_a_boot_that_fails_is_tried_until_it_succeeds() -> None:
    world = applied_world()
    world.failing["configure.d/20-b"] = 1
    world.reboot()
    world.go()
    assert (world.reports[-1]["state"], world.reports[-1]["generation"]) == ("broken", 1)
    world.go()
    assert len(world.scripts) == 3, "not before its pause is over"
    world.host.time += 61
    world.failing.clear()
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.reports[-1]["healthy"]


def test_a_boot_does_not_forget_that_a_generation_was_rolled_back() -> None:
    world = applied_world()
    world.host.programs["probe-node"] = lambda a, e: Finished(0, "down" if "81" in world.text(CONF) else "up")
    world.offer(2, port=81)
    world.go()
    world.reboot()
    world.go()
    assert (world.reports[-1]["state"], world.reports[-1]["generation"]) == ("rolled-back", 2)
    assert world.text(CONF) == "port=80\n"


def test_a_hand_made_change_is_undone_at_boot() -> None:
    world = applied_world()
    world.put(CONF, "port=99\n")
    world.reboot()
    world.go()
    assert world.text(CONF) == "port=80\n" and world.scripts[0][1]["PROVISIONER_CHANGED"] == CONF


@pytest.mark.parametrize(("takes", "pause"), [(0.1, 15), (2, 40), (3, 60), (500, 300)])
def test_probes_that_take_long_run_less_often_while_they_are_green(takes: float, pause: float) -> None:
    world = applied_world()
    real = world.host.programs["probe-node"]

    def slow(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        world.host.time += takes
        return real(argv, env)

    world.host.programs["probe-node"] = slow
    world.host.time += 16
    world.agent.turn()
    assert world.agent.probe_due - world.host.monotonic() == pytest.approx(pause)
    world.node = "down"
    world.host.time += pause
    world.agent.turn()
    assert world.agent.probe_due - world.host.monotonic() == pytest.approx(5)


def test_probes_run_again_and_are_reported_when_they_change() -> None:
    world = applied_world()
    world.host.time += 16
    world.agent.turn()
    assert world.reports == [], "green as before"
    world.node = "down"
    world.host.time += 16
    world.agent.turn()
    assert not world.reports[-1]["healthy"]
    world.node = "up"
    world.host.time += 6
    world.agent.turn()
    assert world.reports[-1]["healthy"] and len(world.reports) == 2
    world.host.time += 601
    world.agent.turn()
    assert len(world.reports) == 3, "each ten minutes"


def test_a_script_asks_for_its_time() -> None:
    world = World()
    limits = {}
    real = world.host.run

    def run(argv: list[str], *, limit: float, **more: Any) -> Finished:
        limits[argv[0].rpartition("/")[2]] = limit
        return real(argv, limit=limit, **more)

    world.host.run = run  # type: ignore[method-assign,assignment]
    world.script("configure.d/30-slow", "#!/bin/sh\n# time-limit: 1000\n")
    world.offer(1)
    world.start()
    world.go()
    assert limits["30-slow"] == 1000 and limits["10-a"] == 600


def test_secrets_are_in_no_report_and_no_status() -> None:
    world = applied_world()
    world.offer(2, secrets={"key": "hush"})
    world.go()
    assert world.text(SECRET) == "hush"
    assert "hush" not in json.dumps(world.reports) + world.text(places.RUN_STATUS)


def test_a_full_disk_ends_no_collector() -> None:
    world = applied_world()
    real = world.host.write

    def write(path: str, state: FileState) -> None:
        if path == places.METADATA:
            raise OSError(28, "No space left on device")
        real(path, state)

    world.host.write = write  # type: ignore[method-assign]
    world.offer(2, 81)
    assert world.collector.step() > 0
    assert "No space left" in str(world.box.problem) and world.box.generation == 1
    world.host.write = real  # type: ignore[method-assign]
    world.go()
    assert world.agent.record.applied == 2 and world.box.problem is None


@pytest.mark.parametrize("boots", [False, True], ids=["the agent starts again", "the node boots"])
def test_a_generation_that_gets_red_after_a_kill_is_in_force_whole_or_not_at_all(boots: bool) -> None:
    kills = 0
    while True:
        world = applied_world()
        world.offer(2, 81)
        world.host.kill_before = kills
        try:
            world.go()
            break
        except Killed:
            world.host.kill_before = None
        world.host.programs["probe-node"] = lambda a, e, w=world: Finished(0, "down" if "81" in w.text(CONF) else "up")
        (world.reboot if boots else world.start)()
        for _ in range(3):
            world.go()
        document = read_document(world.host, places.APPLIED)
        assert document is not None and document.generation == world.agent.record.applied, f"killed before {kills}"
        assert world.text(CONF) == f"port={79 + document.generation}\n", f"killed before {kills}"
        kills += 1
    assert kills > 12


def test_a_kill_at_any_write_leaves_the_old_or_the_new() -> None:
    """Before each single write and removal of an application: the process dies, starts again, and gets through."""
    kills = 0
    while True:
        world = applied_world()
        world.offer(2, port=81)
        world.host.kill_before = kills
        try:
            world.go()
        except Killed:
            world.host.kill_before = None
            world.scripts.clear()
            world.start()
            for _ in range(3):
                world.go()
        else:
            break
        kills += 1
        assert (world.text(CONF), world.text(SECRET)) == ("port=81\n", "key-2"), f"killed before write {kills}"
        assert world.agent.record.applied == 2
        assert all(conf == "port=81\n" for _, _, conf in world.scripts), "no script saw a mixture"
        assert world.permits.count(("release", 2)) >= 1
        assert not [path for path in world.host.files if path.startswith(places.JOURNAL)]
    assert kills > 12


def test_a_kill_at_any_write_of_the_way_back_goes_on_back() -> None:
    kills = 0
    while True:
        world = applied_world()
        world.host.programs["probe-node"] = lambda a, e, w=world: Finished(0, "down" if "81" in w.text(CONF) else "up")
        world.offer(2, port=81)
        world.host.kill_before = kills
        try:
            world.go()
        except Killed:
            world.host.kill_before = None
            world.start()
            for _ in range(3):
                world.go()
        else:
            break
        kills += 1
        assert (world.text(CONF), world.text(SECRET)) == ("port=80\n", "key-1"), f"killed before write {kills}"
        assert (world.agent.record.applied, world.agent.record.refused) == (1, 2)
    assert kills > 16


@pytest.mark.parametrize("script", FORWARD)
def test_a_kill_in_a_phase_runs_the_phases_again(script: str) -> None:
    world = applied_world()
    world.offer(2, port=81)
    world.failing[script] = -1
    with pytest.raises(Killed):
        world.go()
    assert world.text(CONF) == "port=81\n"
    world.forget()
    world.failing.clear()
    world.reboot()
    world.go()
    assert world.ran() == FORWARD
    assert world.scripts[0][1]["PROVISIONER_CHANGED"].splitlines() == [CONF, SECRET]
    assert world.scripts[0][1]["PROVISIONER_BOOT"] == "1"
    assert world.permits == [("acquire", 2), ("release", 2)] and world.reports[-1]["applied"] == 2
