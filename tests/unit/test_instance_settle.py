"""Early boot after a power cut: the files are the old or the new ones before any service starts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from agent_world import CONF, SECRET, World, applied_world

from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.files import compare_files
from provisioner_agent.instance.host import UNFINISHED, FileState, Finished, Killed, LinuxHost
from provisioner_agent.instance.journal import Change, Journal
from provisioner_agent.instance.settle import run_command, settle_host
from provisioner_agent.render.tree import RenderedFile

AGENT = Path(journals.__file__).parent
UNIT = AGENT / "provisioner-agent-settle.service"
INSTALL = AGENT.parents[1] / "elements/provisioner-agent/install.d/60-provisioner-agent"
OLD, NEW = ("port=80\n", "key-1"), ("port=81\n", "key-2")
ANSWERS = {"the probes are green": True, "the probes stay red": False}


def tree(world: World) -> tuple[str, str]:
    return world.text(CONF), world.text(SECRET)


def reboot(world: World, kill: int | None = None) -> None:
    """The power comes back: early boot, and only then the agent."""
    world.host.kill_before = kill
    settle_host(world.host, booting=True)
    world.host.kill_before = None


def changing(*, green: bool) -> World:
    """Generation 1 is in force, and 2 is on offer; the probes judge it."""
    world = applied_world()
    world.offer(2, port=81)
    if not green:
        world.host.programs["probe-node"] = lambda a, e: Finished(0, "down" if "81" in world.text(CONF) else "up")
    return world


@pytest.mark.parametrize("green", ANSWERS.values(), ids=ANSWERS)
def test_a_power_cut_at_any_write_leaves_no_mixture_to_the_services(green: bool) -> None:
    kills = 0
    while True:
        world = changing(green=green)
        world.host.kill_before = kills
        try:
            world.go()
        except Killed:
            reboot(world)
        else:
            break
        kills += 1
        assert tree(world) in (OLD, NEW), f"killed before write {kills}"
        world.reboot()
        for _ in range(3):
            world.go()
        assert tree(world) == (NEW if green else OLD), f"killed before write {kills}"
        assert (world.agent.record.applied, world.agent.record.refused) == ((2, 0) if green else (1, 2))
        assert journals.read_journal(world.host) is None
    assert kills > 12


def interrupted() -> World:
    """Killed when one of the two files was new."""
    world = changing(green=True)
    mixed = 0
    while world.text(CONF) == OLD[0]:
        world = changing(green=True)
        world.host.kill_before = (mixed := mixed + 1)
        with pytest.raises(Killed):
            world.go()
    assert tree(world) not in (OLD, NEW)
    return world


def test_early_boot_may_be_cut_off_again_and_again() -> None:
    kills = 0
    while True:
        world = interrupted()
        try:
            reboot(world, kill=kills)
        except Killed:
            kills += 1
            reboot(world)
            assert tree(world) == OLD
            world.reboot()
            world.go()
            assert world.agent.record.applied == 2 and world.agent.record.refused == 0, f"killed before write {kills}"
        else:
            break
    assert kills >= 3


def test_a_generation_whose_taking_back_was_cut_off_is_tried_again() -> None:
    """As one whose switch was: neither says anything against it."""
    kills = 0
    while True:
        world = interrupted()
        world.host.kill_before = kills
        world.start()
        try:
            world.agent.turn()
        except Killed:
            world.host.kill_before = None
            world.start()
            world.go()
        else:
            break
        kills += 1
        assert (world.agent.record.applied, world.agent.record.refused) == (2, 0), f"killed before write {kills}"
    assert kills > 12


def test_the_agent_still_runs_the_phases_of_the_way_back_and_reports_it() -> None:
    world = changing(green=False)
    world.script("configure.d/10-a")
    record = journals.RECORD
    kills = 0
    while journals.RETURNING not in world.text(record):
        world = changing(green=False)
        world.host.kill_before = (kills := kills + 1)
        with pytest.raises(Killed):
            world.go()
    reboot(world)
    assert tree(world) == OLD and journals.RETURNING in world.text(record)
    world.forget()
    world.reboot()
    world.go()
    assert world.scripts[0][1]["PROVISIONER_ROLLBACK"] == world.scripts[0][1]["PROVISIONER_BOOT"] == "1"
    assert (world.reports[-1]["state"], world.reports[-1]["generation"]) == ("rolled-back", 2)


def test_systemd_reads_its_units_again_only_when_one_was_taken_back() -> None:
    for path, times in (("/etc/systemd/system/x.service", 1), ("/etc/systemd/network/x.network", 0)):
        world = World()
        change = Change(path, None, FileState(b"new"))
        opened = journals.open_journal(world.host, Journal(Document(2, {}), (change,), (path,), {}))
        assert opened.state == journals.SWITCHING
        world.host.files[path] = FileState(b"new")
        settle_host(world.host, booting=True)
        assert path not in world.host.files
        assert [argv for argv, _ in world.host.runs] == [("systemctl", "daemon-reload")] * times


@pytest.fixture
def cut(tmp_path: Path) -> LinuxHost:
    """A real folder that stands for the root; the switch of two files to generation 2 was cut off after the first."""
    host = LinuxHost(tmp_path)
    changes = tuple(
        Change(path, FileState(b"old", mode), FileState(b"new", 0o644))
        for path, mode in ((CONF, 0o640), (SECRET, 0o600))
    )
    for change in changes:
        assert change.old is not None
        host.write(change.path, change.old)
    journals.open_journal(host, Journal(Document(2, {"node": {}}), changes, (CONF, SECRET), {}))
    assert changes[0].new is not None
    host.write(CONF, changes[0].new)
    return host


def settled(host: LinuxHost) -> subprocess.CompletedProcess[str]:
    program = "from provisioner_agent.command import main; main()"
    words = [sys.executable, "-c", program, "settle", "--root", str(host.root)]
    return subprocess.run(words, capture_output=True, text=True, timeout=60)


def test_the_command_takes_back_what_was_cut_off(cut: LinuxHost) -> None:
    beside = cut.root / f"etc/.service.secret.x7{UNFINISHED}"
    other = cut.root / "etc/.service.secret.mine"
    beside.write_text("half")
    other.write_text("not the agent's")
    assert run_command(["--root", str(cut.root)], "settle") == 0
    assert cut.read(CONF) == FileState(b"old", 0o640) and cut.read(SECRET) == FileState(b"old", 0o600)
    assert not beside.exists() and other.exists()
    assert not (cut.root / places.JOURNAL.lstrip("/")).exists()
    done = settled(cut)
    assert (done.returncode, done.stdout) == (0, "provisioner-agent settle: no switch was cut off\n")


def test_all_new_is_left_alone(cut: LinuxHost) -> None:
    raw = json.loads((cut.root / journals.RECORD.lstrip("/")).read_text())
    for state in (journals.SWITCHED, "a state of a newer agent"):
        cut.write(journals.RECORD, FileState(json.dumps(raw | {"state": state}).encode(), 0o600))
        done = settled(cut)
        assert (done.returncode, done.stdout.count("generation 2, all of them")) == (0, 1)
        assert cut.read(CONF) == FileState(b"new", 0o644), "nothing is touched"


def test_what_cannot_be_taken_back_is_said_and_fails(cut: LinuxHost) -> None:
    """A folder that is not empty stands in a file's place, as a full disk would."""
    cut.remove(CONF)
    cut.write(f"{CONF}/x", FileState(b""))
    done = settled(cut)
    assert done.returncode == 1
    assert "no service is to start" in done.stderr and CONF in done.stderr and "next: " in done.stderr
    assert journals.read_journal(cut) is not None, "a restart tries again"
    cut.remove(CONF)
    assert settled(cut).returncode == 0 and cut.read(CONF) == FileState(b"old", 0o640)


@pytest.mark.parametrize("broken", [journals.RECORD, journals.DOCUMENT, f"{places.JOURNAL}/old/0"])
def test_a_journal_that_cannot_be_read_fails(cut: LinuxHost, broken: str) -> None:
    cut.write(broken, FileState(b"{"))
    if broken.endswith("0"):
        cut.remove(broken)
    assert run_command(["--root", str(cut.root)], "settle") == 1


def test_bad_words_are_usage() -> None:
    assert run_command(["--rot"], "settle") == 64


def test_the_boot_waits_for_few_modules() -> None:
    program = f"import sys; sys.path.insert(0, {str(AGENT.parents[1])!r}); import provisioner_agent.instance.settle"
    words = [sys.executable, "-S", "-c", f"{program}; print(*sys.modules)"]
    said = subprocess.run(words, capture_output=True, text=True, check=True)
    loaded = set(said.stdout.split())
    assert not loaded & {"pystache", "ssl", "socket", "http.client", "urllib.request", "logging", "difflib", "uuid"}
    rooms = {name for name in loaded if name.startswith("provisioner_agent.") and name.count(".") == 2}
    assert rooms <= {
        f"provisioner_agent.{name}"
        for name in (
            "instance.settle", "instance.journal", "instance.host", "instance.document", "instance.places",
            "instance.probes", "instance.record", "protocol.parts",
        )
    }  # fmt: skip


def test_the_unit_asks_for_the_journal_and_every_unit_is_enabled() -> None:
    lines = UNIT.read_text().splitlines()
    assert f"ConditionPathExists={journals.RECORD}" in lines
    names = {line.partition("=")[0]: line for line in lines}
    assert "sysinit.target" in next(line for line in lines if line.startswith("Before="))
    assert "sysinit.target" in next(line for line in lines if line.startswith("RequiredBy="))
    assert names["DefaultDependencies"].endswith("no") and names["OnFailure"].endswith("emergency.target")
    enabled = next(line for line in INSTALL.read_text().splitlines() if line.startswith("systemctl enable")).split()
    assert {path.name for path in AGENT.glob("*.service")} <= set(enabled)


class Mortal(LinuxHost):
    """Dies before a write or removal."""

    left = 1000

    def write(self, path: str, state: FileState) -> None:
        self._step()
        super().write(path, state)

    def remove(self, path: str) -> None:
        self._step()
        super().remove(path)

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


FILE, INNER = "/etc/thing", "/etc/thing/more"
KINDS = {"a file becomes a folder": (FILE, INNER), "a folder becomes a file": (INNER, FILE)}


@pytest.mark.parametrize(("before", "after"), KINDS.values(), ids=KINDS)
def test_a_file_and_a_folder_of_one_name_follow_each_other_and_come_back(
    tmp_path: Path, before: str, after: str
) -> None:
    kills = 0
    while True:
        host = Mortal(tmp_path / str(kills))
        host.write(before, FileState(b"old"))
        changes = compare_files(host, {after: RenderedFile(after, "new")}, (before,))
        host.left = kills
        try:
            journal = journals.open_journal(host, Journal(Document(2, {"node": {}}), changes, (after,), {}))
            journal = journals.switch(host, journal)
            break
        except Killed:
            host.left = 1000
        if journals.read_journal(host) is not None:
            settle_host(host, booting=False)
        assert host.read(before) == FileState(b"old") and host.read(after) is None, f"killed before {kills}"
        kills += 1
    assert kills > 4
    host.left = 1000
    assert host.read(after) == FileState(b"new") and host.read(before) is None
    journals.take_back(host, journal, {})
    assert host.read(before) == FileState(b"old") and host.read(after) is None


def test_a_folder_that_somebody_filled_is_not_removed_for_a_file(tmp_path: Path) -> None:
    host = LinuxHost(tmp_path)
    host.write(INNER, FileState(b"somebody's"))
    changes = compare_files(host, {FILE: RenderedFile(FILE, "new")}, ())
    journal = Journal(Document(2, {"node": {}}), changes, (FILE,), {})
    with pytest.raises(OSError, match="not empty"):
        journals.switch(host, journals.open_journal(host, journal))
    journals.take_back(host, journal, {})
    assert host.read(INNER) == FileState(b"somebody's")
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["thing"]
