"""A change after which the agent does not come back is taken back by somebody else; one of the two acts, never both."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agent_world import CONF, SECRET, World, applied_world

from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.host import FileState, Killed, LinuxHost
from provisioner_agent.instance.services import OWN, WATCH
from provisioner_agent.instance.watch import GRACE, run_command, watch

SECONDS = 120.0
DROP_IN = "/etc/systemd/system/provisioner-agent.service.d/own.conf"
OLD, NEW = ("port=80\n", "key-1", "[Service]\n# 80\n"), ("port=81\n", "key-2", "[Service]\n# 81\n")
UNIT = Path(journals.__file__).parent / WATCH
TOP = str(UNIT.parents[2])


def own(**more: object) -> World:
    """Generation 1 is in force; with port 81 the agent restarts itself, and systemd cannot start it again."""
    world = World()
    world.put(f"{places.TEMPLATES}{DROP_IN}", "[Service]\n# {{port}}\n")
    world.control(DROP_IN, json.dumps({"confirm": True, "services": {OWN: "restart"}}))
    world.control(CONF, json.dumps({"services": {"web.service": "restart"}}))
    world.unit("web.service")
    world.unit(OWN, DROP_IN)
    world.offer(1, **more)
    world.start()
    with pytest.raises(Killed):
        world.go()
    start(world)
    world.go()
    assert world.agent.record.applied == 1 and tree(world) == OLD
    world.forget()
    world.watched.clear()
    world.confirms.clear()
    return world


def start(world: World) -> None:
    """Systemd starts the agent, with what its unit says now."""
    world.units[OWN].active, world.units[OWN].result = "active", "success"
    world.start()


def tree(world: World) -> tuple[str, str, str]:
    return world.text(CONF), world.text(SECRET), world.text(DROP_IN)


def cut_off(world: World) -> None:
    """The agent ends in its own restart, and does not come back."""
    world.offer(2, 81)
    with pytest.raises(Killed):
        world.go()
    assert tree(world) == NEW
    world.units[OWN].active, world.units[OWN].result = "activating", "exit-code"
    world.systemctl.clear()


def watched(world: World) -> tuple[str, list[str]]:
    """How the watch ended, and what it told on its way."""
    told: list[str] = []
    return watch(world.host, told.append), told


def test_it_watches_before_the_first_file_is_touched() -> None:
    world = own()
    cut_off(world)
    assert world.watched == [(2, OLD[0])]


def test_a_change_after_which_the_agent_does_not_start_is_taken_back() -> None:
    world = own()
    cut_off(world)
    before = world.host.time
    ended, told = watched(world)
    assert ended == "generation 2 is taken back, and the agent started" and len(told) == 1
    assert tree(world) == OLD and SECONDS <= world.host.time - before <= SECONDS + 5
    assert world.systemctl == ["daemon-reload", "--no-block restart web.service", f"--no-block restart {OWN}"]
    start(world)
    world.go()
    assert world.restarted == 1 and world.systemctl.count(f"restart --no-block {OWN}") == 0, "it does so once"
    assert world.scripts[-1][1]["PROVISIONER_ROLLBACK"] == "1"
    report = world.reports[-1]
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("rolled-back", 2, 1, True)
    assert report["error"]["summary"] == f"the agent did not go on with the change for 120 s, so {WATCH} took it back"
    assert report["error"]["cause"] == f"{OWN} was activating (exit-code)\n{OWN}: no such port"
    world.offer(3, 82)
    with pytest.raises(Killed):
        world.go()
    start(world)
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.text(CONF) == "port=82\n"


def test_of_a_first_generation_the_files_of_the_image_come_back() -> None:
    world = World()
    world.put(f"{places.TEMPLATES}{DROP_IN}", "[Service]\n# {{port}}\n")
    world.control(DROP_IN, json.dumps({"confirm": True, "services": {OWN: "restart"}}))
    world.put(CONF, "of the image\n")
    world.unit(OWN, DROP_IN)
    world.offer(1, 81)
    start(world)
    with pytest.raises(Killed):
        world.go()
    watched(world)
    assert tree(world) == ("of the image\n", "", "")
    start(world)
    world.go()
    report = world.reports[-1]
    assert (report["state"], report["applied"]) == ("broken", 0) and WATCH in report["error"]["summary"]


def test_an_agent_that_lives_takes_its_change_back_itself() -> None:
    """As long as it waits for the server's word, the watch does not even look at the journal."""
    world = own()
    world.cut_off = lambda: "81" in world.text(CONF)
    cut_off(world)
    looked = []

    def give_up(seconds: float) -> None:
        if world.host.time > looked[-1] + 10 * SECONDS:
            raise Killed

    def look(seconds: float) -> None:
        looked.append(world.host.time)
        world.host.on_sleep = give_up
        told: list[str] = []
        with pytest.raises(Killed):
            watch(world.host, told.append)
        assert told == [] and tree(world) == NEW
        world.host.time, world.host.on_sleep = looked[-1], look

    world.host.on_sleep = look
    start(world)
    with pytest.raises(Killed):
        world.go()  # its own restart, on the way back
    assert looked and tree(world) == OLD and world.restarted == 0
    world.host.on_sleep = None
    start(world)
    world.go()
    assert world.reports[-1]["state"] == "rolled-back"
    assert "not heard over a new connection" in world.reports[-1]["error"]["summary"], "its restart has not lost why"


def test_an_agent_that_comes_back_in_time_may_still_be_confirmed() -> None:
    world = own()
    cut_off(world)

    def come_back(seconds: float) -> None:
        world.host.on_sleep = None
        start(world)
        world.go()

    world.host.on_sleep = come_back
    ended, told = watched(world)
    assert ended == "the change is over" and len(told) == 1
    assert tree(world) == NEW and world.confirms == [2] and world.reports[-1]["state"] == "applied"


def test_an_agent_that_starts_and_dies_again_and_again_is_not_waited_for() -> None:
    world = own()
    cut_off(world)
    before = world.host.time
    world.failing["post-configure.d/10-start"] = -1
    starts = []

    def start_and_die(seconds: float) -> None:
        start(world)
        with pytest.raises(Killed):
            world.agent.turn()
        starts.append(world.host.time)

    world.host.on_sleep = start_and_die
    assert watched(world)[0].startswith("generation 2 is taken back")
    assert tree(world) == OLD and len(starts) > 10 and world.host.time - before <= SECONDS + 5


def unconfirmed(world: World) -> None:
    """The agent came back after its restart, and died as it waited for the server's word."""
    world.cut_off = lambda: "81" in world.text(CONF)
    cut_off(world)

    def die(seconds: float) -> None:
        raise Killed

    world.host.on_sleep = die
    start(world)
    with pytest.raises(Killed):
        world.go()
    world.host.on_sleep = None
    journal = journals.read_journal(world.host)
    assert journal is not None and journal.state == journals.UNCONFIRMED


@pytest.mark.parametrize(
    ("past", "seconds"), [(0.0, SECONDS), (SECONDS - 1, GRACE), (10 * SECONDS, GRACE), (-1_000_000.0, SECONDS)]
)
def test_what_is_left_of_the_time_counts(past: float, seconds: float) -> None:
    """But an agent that ended has a moment to start again, and a clock that was set back gives no more time."""
    world = own()
    unconfirmed(world)
    world.host.time += past
    before = world.host.time
    assert watched(world)[0].startswith("generation 2 is taken back")
    assert tree(world) == OLD and seconds - 5 <= world.host.time - before <= seconds + 5


def test_after_a_power_cut_it_goes_on() -> None:
    world = own()
    cut_off(world)
    world.forget()
    world.reboot()
    assert watched(world)[0].startswith("generation 2 is taken back")
    start(world)
    world.go()
    assert tree(world) == OLD and world.reports[-1]["state"] == "rolled-back"
    assert world.scripts[0][1]["PROVISIONER_BOOT"] == "1" and world.units["web.service"].active == "active"


def test_an_agent_that_dies_at_any_write_and_does_not_start_leaves_no_change_that_nobody_confirmed() -> None:
    kills, taken_back = 0, 0
    while True:
        world = own()
        world.offer(2, 81)
        world.host.kill_before = kills
        with pytest.raises(Killed):
            world.go()
        if world.host.kill_before > 0:
            break  # it came to its own restart
        world.host.kill_before = None
        before = journals.read_journal(world.host)
        ended, _ = watched(world)
        now = journals.read_journal(world.host)
        assert tree(world) == OLD, f"killed before write {kills}: {ended}"
        if before is not None:
            assert now is not None and now.state == journals.RETURNING and world.restarted == 1
            taken_back += 1
            start(world)
            world.go()
            assert (world.agent.record.applied, world.agent.record.refused) == (1, 2), f"killed before write {kills}"
            assert journals.read_journal(world.host) is None and world.reports[-1]["state"] == "rolled-back"
        kills += 1
    assert kills > 12 and taken_back > 4


def test_a_watch_that_dies_at_any_write_or_call_is_started_again() -> None:
    writes, calls = 0, 0
    for kind in ("write", "call"):
        kills = 0
        while True:
            world = own()
            cut_off(world)
            if kind == "write":
                world.host.kill_before = kills
            else:
                world.kill_in_systemctl = kills
            try:
                watched(world)
            except Killed:
                world.host.kill_before = world.kill_in_systemctl = None
                assert watched(world)[0].startswith("generation 2 is taken back")
            else:
                break
            finally:
                world.host.kill_before = world.kill_in_systemctl = None
            kills += 1
            assert tree(world) == OLD and world.systemctl[-1] == f"--no-block restart {OWN}", f"killed: {kind} {kills}"
            start(world)
            world.go()
            assert world.agent.record.refused == 2 and WATCH in world.reports[-1]["error"]["summary"]
        writes, calls = (kills, calls) if kind == "write" else (writes, kills)
    assert writes >= 5 and calls == 3


def test_a_journal_that_is_confirmed_or_no_danger_is_the_agents() -> None:
    world = own()
    cut_off(world)
    journal = journals.read_journal(world.host)
    assert journal is not None
    journals.confirm(world.host, journal)
    assert watched(world) == ("generation 2 need not be taken back by anybody but the agent", [])
    assert tree(world) == NEW
    world = applied_world()
    world.offer(2, 81)
    world.failing["configure.d/10-a"] = -1
    with pytest.raises(Killed):
        world.go()
    assert world.watched == [] and watched(world)[1] == []
    assert world.text(CONF) == "port=81\n"


def test_where_there_is_no_systemd_nothing_is_started() -> None:
    world = own()
    world.host.has_units = False
    world.offer(2, 81)
    world.go()
    assert world.watched == [] and world.agent.record.applied == 2 and world.systemctl == []


def test_without_its_watch_a_change_is_not_begun() -> None:
    world = own()
    world.watch_code = 1
    world.offer(2, 81)
    world.go()
    report = world.reports[-1]
    assert tree(world) == OLD and world.ran() == [] and world.systemctl == []
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("failed", 2, 1, True)
    assert WATCH in report["error"]["summary"] and "Job for the watch failed." in report["error"]["cause"]
    assert journals.read_journal(world.host) is None and world.permits[-1] == ("release", 2)


def test_the_lock_is_free_when_who_holds_it_is_killed(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    program = (
        "import pathlib, sys, time; from provisioner_agent.instance.host import LinuxHost\n"
        "with LinuxHost(pathlib.Path(sys.argv[1])).hold(sys.argv[2]) as held:\n"
        "    print(held, flush=True); time.sleep(60)"
    )
    words = [sys.executable, "-c", program, str(tmp_path), places.LOCK]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=TOP) as other:
        try:
            assert other.stdout is not None and other.stdout.readline() == "True\n"
            with host.hold(places.LOCK, wait=False) as held:
                assert not held
        finally:
            other.kill()
    with host.hold(places.LOCK, wait=True) as held:
        assert held
        with LinuxHost(tmp_path).hold(places.LOCK, wait=False) as again:
            assert not again
    with host.hold(places.LOCK, wait=False) as held:
        assert held


def test_the_command_ends_with_the_journal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = "from provisioner_agent.command import main; main()"
    words = [sys.executable, "-c", program, "watch", "--root", str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd=TOP)
    assert (done.returncode, done.stdout) == (0, "provisioner-agent watch: the change is over\n")
    assert run_command(["--rot"], "watch") == 64
    LinuxHost(tmp_path).write(journals.RECORD, FileState(b"{"))
    assert run_command(["--root", str(tmp_path)], "watch") == 1
    assert journals.RECORD in capsys.readouterr().err


def test_the_unit_is_started_with_the_journal_and_again_when_it_fails() -> None:
    lines = UNIT.read_text().splitlines()
    assert UNIT.name == WATCH and f"ConditionPathExists={journals.RECORD}" in lines
    assert {"Type=notify", "Restart=on-failure", "WantedBy=multi-user.target", "StartLimitIntervalSec=0"} <= set(lines)
    assert not [line for line in lines if OWN in line], "nothing of the agent's own unit may hold it up"
