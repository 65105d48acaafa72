"""Keeps the last lines that nodes write to their serial consoles while they are worked on, for who looks later."""

from __future__ import annotations

import re
import threading
from collections import deque

from provisioner.bmc.contract import Console
from provisioner.conductor.doors import Doors
from provisioner.errors import ProvisionerError
from provisioner.model.deployment import Node

LINES, LONGEST = 200, 400
AT_ONCE = 16
"""Each is a process of its own; nodes beyond these are worked on without."""
END_SECONDS = 6.0
TOKEN = re.compile(r"(provisioner\.token=)\S+")
STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|[^\x20-\x7e\t]")
"""What firmware writes to paint a screen, and what is no text."""


def clean_line(line: str) -> str:
    """Without what steers a terminal, and without the token of the ramdisk, which the kernel repeats."""
    return TOKEN.sub(r"\1***", STEERING.sub("", line)).rstrip()[:LONGEST]


class _Tape:
    """Reads one console until it ends. It may end at any time: an operator who opens the console takes it over."""

    def __init__(self, deployment: str, console: Console) -> None:
        self.deployment = deployment
        self._console = console
        self._lines: deque[str] = deque(maxlen=LINES)
        self._rest = ""
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._read, name="tape", daemon=True)
        self._thread.start()

    def lines(self) -> list[str]:
        with self._lock:
            return [*self._lines, *filter(None, (clean_line(self._rest),))]

    def end(self) -> None:
        self._console.close()
        self._thread.join(END_SECONDS)

    def _read(self) -> None:
        try:
            while data := self._console.read():
                self._keep(data.decode("utf-8", "replace"))
        except ProvisionerError as error:
            self._keep(f"\n(the console ended: {error.summary})\n")

    def _keep(self, text: str) -> None:
        with self._lock:
            *whole, self._rest = re.split(r"\r?\n|\r", (self._rest + text)[-LINES * LONGEST :])
            self._lines.extend(line for line in map(clean_line, whole) if line)


class Tapes:
    """One for each node that is worked on. Nothing here fails the work."""

    def __init__(self, doors: Doors) -> None:
        self._doors = doors
        self._tapes: dict[str, _Tape] = {}
        self._lock = threading.Lock()

    def ensure(self, node: Node) -> None:
        """Record from now on, unless that was begun for this deployment already."""
        ident = node.deployment
        if not self._doors.settings.record_consoles or ident is None or node.spec.bmc.driver != "ipmi":
            return
        with self._lock:
            known = self._tapes.get(node.name)
            if (known is not None and known.deployment == ident) or len(self._tapes) >= AT_ONCE:
                return
            try:
                password = self._doors.store.nodes.password(node.name)
                console = self._doors.bmcs.console(node.bmc, password, force=False)
            except ProvisionerError:
                return  # the work goes on without
            self._tapes[node.name] = _Tape(ident, console)

    def end(self, name: str) -> list[str]:
        """Stop, and put on record what was heard; the lines."""
        with self._lock:
            tape = self._tapes.pop(name, None)
        if tape is None:
            return []
        tape.end()
        lines = tape.lines()
        if lines:
            self._doors.store.deployments.set_console(tape.deployment, "\n".join(lines))
        return lines

    def lines(self, name: str) -> list[str]:
        """What is heard now, or was in the last deployment or inspection."""
        with self._lock:
            tape = self._tapes.get(name)
        if tape is not None:
            return tape.lines()
        ident = self._doors.store.deployments.last_of(name)
        text = None if ident is None else self._doors.store.deployments.console(ident)
        return text.split("\n") if text else []

    def close(self) -> None:
        for name in list(self._tapes):
            self.end(name)
