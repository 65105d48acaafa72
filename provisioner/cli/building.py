"""A build that is watched: a live line for each part on a terminal, only what matters as plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock
from typing import Any, Protocol

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from provisioner.cli.options import Options, clean
from provisioner.cli.show import build_table, terminal
from provisioner.events import Event
from provisioner.images.build import read_seconds
from provisioner.images.workshop import Workshop
from provisioner.system.clock import Clock

DETAILS = frozenset({"image.phase", "image.packages", "image.timing"})
"""Events that a live line shows and a log does not need."""
ENDS = frozenset({"image.done", "image.failed", "image.layer.done", "image.layer.failed"})
REDRAWS_PER_SECOND = 4


class BuildFace(Protocol):
    def __call__(self, event: Event) -> None: ...

    def close(self) -> None: ...


class PlainBuild:
    """One line for each thing that began, ended or was decided, with the seconds since the beginning."""

    def __init__(self, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._begun = clock.monotonic()

    def __call__(self, event: Event) -> None:
        if event.kind not in DETAILS:
            self._say(clean(f"{self._clock.monotonic() - self._begun:7.1f} s  {event.message}"))

    def close(self) -> None:
        pass


@dataclass
class Part:
    """A layer or image that is being built. ``steps`` of ``of``: package steps done."""

    begun: float
    phase: str = ""
    steps: int = 0
    of: int = 0


def seconds_left(part: Part, now: float, past: float | None) -> float | None:
    """A guess from the last time, or from the packages done; None when nothing is known."""
    elapsed = now - part.begun
    if past is not None and past > elapsed:
        return past - elapsed
    if past is None and part.of and part.steps:
        return elapsed * (part.of - part.steps) / part.steps
    return None


class LiveBuild:
    """A table of the parts that are being built, drawn anew as they go on; what ended scrolls away above it.

    :param past: seconds that each part took the last time.
    """

    def __init__(self, console: Console, clock: Clock, past: Mapping[str, float]) -> None:
        self._plain = PlainBuild(console.print, clock)
        self._clock = clock
        self._past = past
        self._parts: dict[str, Part] = {}
        self._lock = Lock()
        self._live = Live(console=console, get_renderable=self.table, refresh_per_second=REDRAWS_PER_SECOND)
        self._live.start()

    def __call__(self, event: Event) -> None:
        self._plain(event)
        data: Mapping[str, Any] = event.data
        name = str(data.get("image", ""))
        with self._lock:
            if event.kind in ENDS:
                self._parts.pop(name, None)
            elif event.kind in DETAILS and name:
                part = self._parts.setdefault(name, Part(self._clock.monotonic()))
                part.phase = str(data.get("phase", part.phase))
                part.steps, part.of = int(data.get("steps", 0)), int(data.get("of", 0))

    def table(self) -> Table:
        now = self._clock.monotonic()
        with self._lock:
            rows = [
                (
                    name,
                    part.phase,
                    f"{part.steps // 2} of {part.of // 2}" if part.of else "",
                    f"{now - part.begun:.0f} s",
                    "" if (left := seconds_left(part, now, self._past.get(name))) is None else f"{left:.0f} s",
                )
                for name, part in sorted(self._parts.items())
            ]
        return build_table(("building", "phase", "packages", "since", "left about"), rows)

    def close(self) -> None:
        self._live.stop()


def open_face(options: Options, workshop: Workshop) -> BuildFace:
    console = terminal(err=options.json)
    if console.is_terminal:
        return LiveBuild(console, options.clock, read_seconds(workshop))
    return PlainBuild(lambda line: click.echo(line, err=options.json), options.clock)


@contextmanager
def watched(options: Options, workshop: Workshop, name: str = "", phase: str = "") -> Iterator[BuildFace]:
    """A face while the block runs. :param name: :param phase: what is shown until something else is said."""
    face = open_face(options, workshop)
    try:
        if name:
            face(Event("image.phase", f"{name}: {phase}", data={"image": name, "phase": phase}))
        yield face
    finally:
        face.close()
