"""The service's log on standard error: a line for each event, ``TIME KIND NODE MESSAGE NAME=VALUE...``."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import TextIO

from provisioner.events import Event
from provisioner.system.clock import Clock

QUIET = frozenset({"step.progress"})
"""Kinds that come every second; ``node show`` has them, the log would drown."""


class Log:
    """An observer that writes. Lines of several threads never mix; a message never spans lines."""

    def __init__(self, clock: Clock, stream: TextIO | None = None) -> None:
        self._clock = clock
        self._stream = stream or sys.stderr
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        if event.kind in QUIET:
            return
        data = "".join(f" {name}={json.dumps(value, default=str)}" for name, value in event.data.items())
        line = f"{self._time()} {event.kind} {event.node or '-'} {_one_line(event.message)}{data}\n"
        with self._lock:
            try:
                self._stream.write(line)
                self._stream.flush()
            except (OSError, ValueError):
                pass  # nobody reads the log; the service goes on

    def _time(self) -> str:
        return datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text.replace("\n", " | "))


class LogHandler(logging.Handler):
    """Warnings and errors of libraries as lines of the same log; a traceback keeps its lines, each with a time."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        for line in self.format(record).splitlines():
            self._log(Event(f"log.{record.levelname.lower()}", f"{record.name}: {line}"))
