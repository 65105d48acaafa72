"""A running machine's monitor (QEMU Machine Protocol): a command, its answer."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from provisioner.errors import LabError

ANSWER_SECONDS = 30.0
"""For one command; those that take longer answer at once, and are asked about."""


class Monitor:
    """:param path: the machine's socket. :raises LabError: it does not answer, or says no."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._door = socket.socket(socket.AF_UNIX)
        self._door.settimeout(ANSWER_SECONDS)
        try:
            self._door.connect(str(path))
            self._lines = self._door.makefile("rb")
            self._lines.readline()  # its greeting
        except OSError as error:
            self._door.close()
            raise LabError("the machine's monitor does not answer", where=str(path), cause=str(error)) from error
        self.ask("qmp_capabilities")

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._door.close()

    def ask(self, command: str, **arguments: Any) -> Any:
        """What a command answers; events that come between are passed over."""
        try:
            self._door.sendall(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
            for line in iter(self._lines.readline, b""):
                said = json.loads(line)
                if "error" in said:
                    raise LabError(f"{command} failed", where=str(self._path), cause=str(said["error"].get("desc")))
                if "return" in said:
                    return said["return"]
        except (OSError, ValueError) as error:
            raise LabError(f"{command} was not answered", where=str(self._path), cause=str(error)) from error
        raise LabError(f"{command} was not answered", where=str(self._path), cause="the machine has ended")
