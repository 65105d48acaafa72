"""The door to programs: templates that are programs, phase scripts, and the shell that reads their environment."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """``code``: negative for a signal. ``said``: standard error, or what the system said why it could not start."""

    code: int
    output: bytes = b""
    said: str = ""


def run(argv: Sequence[str], stdin: bytes = b"", environment: Mapping[str, str] | None = None) -> Ended:
    """Until it ends by itself; what it prints is kept."""
    try:
        done = subprocess.run(argv, input=stdin, env=environment, capture_output=True, check=False)
    except OSError as error:
        return Ended(127, said=f"it cannot be started: {error.strerror}")
    return Ended(done.returncode, done.stdout, done.stderr.decode("utf-8", "replace"))


def run_script(argv: Sequence[str], environment: Mapping[str, str], seconds: float | None) -> Ended | None:
    """It prints where this process prints. :param seconds: None: as long as it likes.

    :returns: None when it did not end in time: it and all that it started were killed.
    """
    try:
        process = subprocess.Popen(argv, env=environment, cwd=environment.get("PWD"))
    except OSError as error:
        return Ended(126, said=f"it cannot be started: {error.strerror}")
    try:
        return Ended(process.wait(seconds))
    except subprocess.TimeoutExpired:
        for pid in [*find_descendants(process.pid), process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        return None


def find_descendants(pid: int) -> list[int]:
    """Of a process, also when they have left its group (proc(5))."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                words = (entry / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(words[1]), []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found
