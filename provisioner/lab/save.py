"""A rack as it is at one moment, put aside and put back: disks, memory and processors of all its machines."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.errors import Conflict, LabError, NotFound
from provisioner.events import Event
from provisioner.lab import chassis
from provisioner.lab.lab import PASSWORD, Bench, lab_up
from provisioner.lab.machine import disk_files
from provisioner.lab.monitor import Monitor
from provisioner.lab.rack import Machine, Rack
from provisioner.system.files import write_file

SAVES = "lab-saves"
"""Beside the folder of the rack, which ``lab down`` removes."""
MEMORY, STATE = "memory.zst", "save.json"
MOVE_SECONDS = 900.0
"""For the memory of one machine."""
LOOK_SECONDS = 0.2
UNLIMITED = 1 << 40
"""Bytes a second at which QEMU writes memory; it keeps to 128 MiB otherwise."""
VARS, BOOT = "vars.fd", "boot"
"""The firmware's variables, and the boot order for the next start."""


@dataclass(frozen=True)
class Save:
    """``running``: the machines whose memory is kept as well. ``size``: bytes on the disk."""

    name: str
    time: float
    running: tuple[str, ...]
    size: int


def save_rack(rack: Rack, bench: Bench, name: str) -> Save:
    """Keep the rack under a name. Its machines stand still meanwhile, and then go on.

    :raises Conflict: there is a save of that name. :raises LabError: a machine cannot be kept; nothing is left behind.
    """
    target = _folder(bench) / name
    if target.exists():
        hint = f"provisioner lab forget {name}, or give another name"
        raise Conflict("there is a save of that name", where=str(target), hint=hint)
    if not bench.folder.exists():
        raise NotFound("there is no rack to keep", where=str(bench.folder), hint="provisioner lab up")
    part = target.with_name(f".{name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True, mode=0o700)
    try:
        with ExitStack() as stack:
            monitors: dict[str, Monitor] = {}
            for machine in rack.nodes:
                folder = bench.folder / machine.name
                stack.enter_context(_held(folder))
                if chassis.running(folder) is not None:
                    monitors[machine.name] = stack.enter_context(Monitor(folder / "qmp.sock"))
                    monitors[machine.name].ask("stop")
                    stack.callback(monitors[machine.name].ask, "cont")
            for machine in rack.nodes:
                (part / machine.name).mkdir()
                if machine.name in monitors:
                    _keep_memory(monitors[machine.name], machine, part / machine.name / MEMORY, bench)
                _copy(machine, bench.folder / machine.name, part / machine.name, bench)
        shutil.copy2(bench.folder / PASSWORD, part / PASSWORD)  # whoever knows the rack goes on with it
        state = {"rack": _told(rack), "time": bench.clock.now(), "running": sorted(monitors)}
        write_file(part / STATE, json.dumps(state), mode=0o600)
        part.rename(target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _read(target)[0]


def restore_rack(rack: Rack, bench: Bench, name: str) -> Save:
    """Put a rack back to where it was, whatever it does now; machines that ran go on where they were.

    :raises NotFound: there is no such save. :raises Conflict: it is of another rack. :raises LabError: a machine does
        not come back; the others are as they were kept.
    """
    source = _folder(bench) / name
    found, told = _read(source)
    if told != _told(rack):
        hint = "give the lab file with which it was kept"
        raise Conflict("the save is of a rack that was another one", where=str(source), hint=hint)
    password = source / PASSWORD
    lab_up(rack, bench, password=password.read_text() if password.exists() else None)  # a save of before has none
    with ExitStack() as stack:
        for machine in rack.nodes:
            folder = bench.folder / machine.name
            stack.enter_context(_held(folder))
            chassis.power_off(folder)
            for file in (VARS, BOOT):
                (folder / file).unlink(missing_ok=True)
            _copy(machine, source / machine.name, folder, bench)
        for machine in rack.nodes:  # all are there before the first goes on
            if machine.name in found.running:
                _begin(rack, machine, source / machine.name / MEMORY, bench)
        for machine in rack.nodes:
            if machine.name in found.running:
                stack.enter_context(Monitor(bench.folder / machine.name / "qmp.sock")).ask("cont")
                bench.observer(Event("lab.restored", f"{machine.name}: goes on", node=machine.name))
    return found


def list_saves(bench: Bench) -> list[Save]:
    """The oldest first."""
    found = (_read(place)[0] for place in sorted(_folder(bench).glob("[!.]*/")))
    return sorted(found, key=lambda save: save.time)


def forget_save(bench: Bench, name: str) -> None:
    """:raises NotFound: there is no such save."""
    place = _folder(bench) / name
    _read(place)
    shutil.rmtree(place)


def _folder(bench: Bench) -> Path:
    return bench.folder.with_name(SAVES)


def _told(rack: Rack) -> Any:
    return rack.model_dump(mode="json")


def _read(place: Path) -> tuple[Save, Any]:
    """(the save, the rack that it is of)."""
    try:
        state = json.loads((place / STATE).read_text())
    except FileNotFoundError:
        raise NotFound("there is no such save", where=str(place), hint="provisioner lab saves") from None
    size = sum(file.stat().st_blocks * 512 for file in place.rglob("*"))
    return Save(place.name, state["time"], tuple(state["running"]), size), state["rack"]


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """The controller's commands to the machine wait meanwhile."""
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _copy(machine: Machine, source: Path, target: Path, bench: Bench) -> None:
    names = [name for name in (*disk_files(machine), VARS, BOOT) if (source / name).exists()]
    for name in names:
        bench.runner.run(
            ["cp", "--sparse=always", "--reflink=auto", source / name, target / name], deadline=MOVE_SECONDS
        )


def _keep_memory(monitor: Monitor, machine: Machine, file: Path, bench: Bench) -> None:
    bench.observer(Event("lab.memory", f"{machine.name}: keeps its memory", node=machine.name))
    monitor.ask("migrate-set-parameters", **{"max-bandwidth": UNLIMITED})
    monitor.ask("migrate", uri=f"exec:zstd -q -1 -T0 >{shlex.quote(str(file))}")
    _wait(monitor, machine, bench, "its memory could not be kept")


def _begin(rack: Rack, machine: Machine, file: Path, bench: Bench) -> None:
    """QEMU has read the memory, and stands still."""
    folder = bench.folder / machine.name
    words = json.loads((folder / "machine.json").read_text())["disk"]
    come = ["-incoming", f"exec:zstd -q -dc {shlex.quote(str(file))}", "-S"]
    bench.observer(Event("lab.memory", f"{machine.name}: gets its memory back", node=machine.name))
    bench.runner.run(["ip", "netns", "exec", rack.namespace, *words, *come], deadline=MOVE_SECONDS)
    with Monitor(folder / "qmp.sock") as monitor:
        _wait(monitor, machine, bench, "its memory could not be put back")


def _wait(monitor: Monitor, machine: Machine, bench: Bench, what: str) -> None:
    end = bench.clock.monotonic() + MOVE_SECONDS
    said: dict[str, Any] = {}
    while bench.clock.monotonic() < end:
        said = monitor.ask("query-migrate")
        if said.get("status") == "completed":
            return
        if said.get("status") in ("failed", "cancelled"):
            break
        bench.clock.sleep(LOOK_SECONDS)
    cause = said.get("error-desc") or f"it was {said.get('status', 'not begun')} after {MOVE_SECONDS:g} s"
    hint = "switch it off first: what is off has no memory to keep"
    raise LabError(what, where=machine.name, cause=str(cause), hint=hint)
