"""``provisioner-agent collect``, or ``os-collect-config``: ask all sources, and run a command when something changed.

A source that is away is asked again; until then what it said last holds, marked as stale in ``.sources.json``. A
command that fails is run again, each time after twice as long, and given up until something changes; both are told in
``.status.json``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner_agent.classic import settings as options_of
from provisioner_agent.classic.cache import Cache, write
from provisioner_agent.classic.problem import ClassicError
from provisioner_agent.classic.programs import run_script
from provisioner_agent.classic.settings import Settings, read_settings
from provisioner_agent.classic.sources import SOURCES, Away, NotSetUp

STATUS = ".status"
TRIES = 8
"""How often a command that fails is run for the same metadata."""
LONGEST_PAUSE = 900.0


@dataclass
class Gathered:
    """``names`` in order; ``changed``: those whose content is not in force."""

    names: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    stale: dict[str, str] = field(default_factory=dict)


def gather(settings: Settings, cache: Cache, now: float) -> Gathered:
    """Ask every source and keep what it says. :raises ClassicError: a source is none."""
    found, known = Gathered(), cache.known()
    for source in _check(settings):
        before = known.get(source, {})
        try:
            items = SOURCES[source](settings, cache)
        except NotSetUp:
            continue
        except Away as error:
            names = [str(name) for name in before.get("names", ())]
            if names:
                known[source] = {"names": names, "stale": before.get("stale") or now}
                found.stale[source] = str(error)
            say(f"{source} is away: {error}" + (f"; what it said before holds: {', '.join(names)}" if names else ""))
            found.names += names
            found.changed += [name for name in names if cache.is_news(name)]
            continue
        known[source] = {"names": [name for name, _ in items], "stale": None}
        for name, content in items:
            if cache.store(name, content):
                found.changed.append(name)
            found.names.append(name)
    cache.note(known)
    if found.changed:
        cache.list_files(found.names)
    return found


def _check(settings: Settings) -> Sequence[str]:
    unknown = [name for name in settings.collectors if name not in SOURCES]
    if unknown:
        raise ClassicError(f"there is no source {', '.join(unknown)}; there are: {', '.join(SOURCES)}")
    return settings.collectors


def print_all(settings: Settings, cache: Cache) -> None:
    """What the sources say just now, by name; nothing is kept."""
    found: dict[str, Any] = {}
    for source in _check(settings):
        try:
            found.update(SOURCES[source](settings, cache))
        except (Away, NotSetUp) as error:
            say(f"{source}: {error}")
    print(json.dumps(found, indent=1))


class Collector:
    """Looks again and again.

    :param read: the settings, anew before each look. :param wait: for so many seconds, or until it is woken.
    """

    def __init__(self, read: Callable[[], Settings], wait: Callable[[float], None]) -> None:
        self._read, self._wait = read, wait
        self._failures = 0
        self._tried: object = None

    def run(self) -> int:
        """Until it has looked once, if that is enough; the exit code of the command."""
        settings = self._read()
        if settings.splay > 0 and not (settings.one_time or settings.force):
            self._wait(random.uniform(0, settings.splay))  # noqa: S311  only so that not all begin at once
        pause = settings.min_polling_interval
        while True:
            settings = self._read()
            cache = Cache(Path(settings.cachedir), Path(settings.backup_cachedir))
            found = gather(settings, cache, time.time())
            code = 0
            if (found.changed and self._is_due(cache, found)) or settings.force:
                code = self._bring_into_force(settings, cache, found)
                pause = settings.min_polling_interval
            if settings.one_time or settings.force:
                return code
            self._wait(min(self._pause_after(pause), LONGEST_PAUSE))
            pause = min(2 * pause, settings.polling_interval)

    def _is_due(self, cache: Cache, found: Gathered) -> bool:
        """Whether the command has not failed too often with the same."""
        content = [(name, cache.read(name)) for name in found.names]
        if content != self._tried:
            self._tried, self._failures = content, 0
        return self._failures < TRIES

    def _pause_after(self, pause: float) -> float:
        return pause * 2.0**self._failures if self._failures < TRIES else pause

    def _bring_into_force(self, settings: Settings, cache: Cache, found: Gathered) -> int:
        files = ":".join(str(cache.path(name)) for name in found.names)
        environment = {**os.environ, "OS_CONFIG_FILES": files}
        ended = run_script(["/bin/sh", "-c", settings.command or ""], environment, None)
        code = 0 if ended is None else ended.code
        if code == 0:
            self._failures = 0
            for name in found.changed:
                cache.commit(name)
        else:
            self._failures += 1
            left = TRIES - self._failures
            again = f"it is tried {left} times more" if left > 0 else "it is not tried again until something changes"
            say(f"the command ended with code {code}; {again}")
        status: dict[str, Any] = {
            "command": settings.command,
            "code": code,
            "failures": self._failures,
            "at": time.time(),
        }
        status |= {"changed": found.changed, "stale": found.stale}
        write(cache.path(STATUS), json.dumps(status, indent=1))
        return code


def say(text: str) -> None:
    print(f"provisioner-agent collect: {text}", file=sys.stderr, flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    options_of.add_options(parser)


def run_collect(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """:returns: the exit code: the command's, or 1 when the options are wrong. A hang-up lets it look at once."""
    woken = threading.Event()

    def wait(seconds: float) -> None:
        woken.wait(seconds)
        woken.clear()

    try:
        settings = read_settings(options)
        if settings.print_cachedir:
            print(settings.cachedir)
            return 0
        if settings.command is None or settings.print:
            print_all(settings, Cache(Path(settings.cachedir), Path(settings.backup_cachedir)))
            return 0
        signal.signal(signal.SIGHUP, lambda number, frame: woken.set())
        return Collector(lambda: read_settings(options), wait).run()
    except ClassicError as error:
        say(str(error))
        return 1


def main(argv: Sequence[str] | None = None, prog: str = "os-collect-config") -> None:
    """:param prog: the name that it was called by."""
    parser = argparse.ArgumentParser(prog=prog, description="Ask all sources of metadata.")
    add_options(parser)
    sys.exit(run_collect(parser.parse_args(argv)))
