"""Long-lived programs: start one apart from us, find it again after a crash, end it and nothing else.

A process id alone may by now belong to a stranger; with its start time (proc(5), ``/proc/PID/stat`` field 22) it names
one process for as long as the host is up.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from provisioner.errors import ProgramMissing
from provisioner.system.files import write_file
from provisioner.system.run import base_environment


@dataclass(frozen=True)
class Daemon:
    """One process: its id and its start time in clock ticks since the host's boot."""

    pid: int
    started: int


class Daemons(Protocol):
    def start(self, argv: Sequence[str | Path], *, log: Path) -> Daemon:
        """Start a program in a session of its own; both outputs go to ``log``.

        :raises ProgramMissing: it is not installed.
        """

    def alive(self, daemon: Daemon) -> bool: ...

    def reload(self, daemon: Daemon) -> None:
        """Send SIGHUP."""

    def end(self, daemon: Daemon, *, deadline: float = 10.0) -> None:
        """SIGTERM, and SIGKILL when it is still there after ``deadline`` seconds."""


def process_start(pid: int) -> int | None:
    """When a process started; None when there is none, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def find_daemon(pidfile: Path) -> Daemon | None:
    """The process that a pid file of the program's own making names."""
    try:
        pid = int(pidfile.read_text())
    except (FileNotFoundError, ValueError):
        return None
    started = process_start(pid)
    return None if started is None else Daemon(pid, started)


class HostDaemons:
    def __init__(self) -> None:
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, argv: Sequence[str | Path], *, log: Path) -> Daemon:
        words = [os.fspath(word) for word in argv]
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            try:
                child = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=base_environment(),
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise ProgramMissing(
                    f"{words[0]} is not installed", cause=str(error), hint="run seed/bootstrap, which installs it"
                ) from error
        self._children[child.pid] = child
        return Daemon(child.pid, process_start(child.pid) or 0)

    def alive(self, daemon: Daemon) -> bool:
        if daemon.pid in self._children and self._children[daemon.pid].poll() is not None:
            del self._children[daemon.pid]
        return process_start(daemon.pid) == daemon.started

    def reload(self, daemon: Daemon) -> None:
        self._signal(daemon, signal.SIGHUP)

    def end(self, daemon: Daemon, *, deadline: float = 10.0) -> None:
        self._signal(daemon, signal.SIGTERM)
        end = time.monotonic() + deadline
        while self.alive(daemon) and time.monotonic() < end:
            time.sleep(0.05)
        self._signal(daemon, signal.SIGKILL)
        end = time.monotonic() + deadline
        while self.alive(daemon) and time.monotonic() < end:
            time.sleep(0.05)

    def _signal(self, daemon: Daemon, number: int) -> None:
        if self.alive(daemon):
            try:
                os.kill(daemon.pid, number)
            except ProcessLookupError:
                pass  # it ended by itself in between


class FakeDaemons:
    """Starts nothing; remembers what it was told."""

    def __init__(self) -> None:
        self.started: list[tuple[str, ...]] = []
        self.running: dict[Daemon, tuple[str, ...]] = {}
        self.reloaded: list[Daemon] = []

    def start(self, argv: Sequence[str | Path], *, log: Path) -> Daemon:
        words = tuple(os.fspath(word) for word in argv)
        self.started.append(words)
        daemon = Daemon(1000 + len(self.started), len(self.started))
        self.running[daemon] = words
        return daemon

    def alive(self, daemon: Daemon) -> bool:
        return daemon in self.running

    def reload(self, daemon: Daemon) -> None:
        self.reloaded.append(daemon)

    def end(self, daemon: Daemon, *, deadline: float = 10.0) -> None:
        self.running.pop(daemon, None)


def save_daemon(path: Path, daemon: Daemon) -> None:
    write_file(path, json.dumps({"pid": daemon.pid, "started": daemon.started}))


def load_daemon(path: Path) -> Daemon | None:
    """The process on record, whether or not it still runs."""
    try:
        data = json.loads(path.read_text())
        return Daemon(int(data["pid"]), int(data["started"]))
    except (FileNotFoundError, ValueError, KeyError):
        return None
