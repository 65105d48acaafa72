"""``provisioner-agent refresh``, or ``os-refresh-config``: the scripts of the four phases, one after another.

``BASE/PHASE.d/NAME``: executable files whose names are letters, digits, dashes and underscores, by the number with
which they begin. The first that fails ends the run; then those of ``error.d`` are run, and how they end changes
nothing. ``BASE/environment.d/*`` are read by bash before each phase, and their exported variables are the scripts'.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from provisioner_agent.classic.problem import ClassicError
from provisioner_agent.classic.programs import run, run_script

BASE_VARIABLE = "OS_REFRESH_CONFIG_BASE_DIR"
BASE, OLD_BASE = "/usr/libexec/os-refresh-config", "/opt/stack/os-config-refresh"
LOCK = "/var/run/os-refresh-config.lock"
PHASES = ("pre-configure", "configure", "post-configure", "migration")
AFTER_FAILURE = "error"
SCRIPT, SOURCED = re.compile(r"^[0-9A-Za-z_-]+$"), re.compile(r"^[0-9A-Za-z_.-]+$")
NUMBER = re.compile(r"^-?[0-9]+(?:\.[0-9]+)?")
SOURCE = 'exec 3>&1 >&2; set -ue; for file; do source "$file"; done; env -0 >&3'
LEVELS = ("DEBUG", "INFO", "WARN", "ERROR", "CRITICAL")
FAILED = 1


@dataclass(frozen=True)
class Result:
    """How one script ended. ``code`` None: it was killed, since the time was over."""

    phase: str
    script: str
    seconds: float
    code: int | None

    def __str__(self) -> str:
        how = "" if self.code == 0 else "  killed" if self.code is None else f"  code {self.code}"
        return f"{self.phase + '/' + self.script:<48} {self.seconds:8.3f} s{how}"


class Refresh:
    """:param seconds: for all scripts together, but for those of ``error.d``; None: no limit."""

    def __init__(self, base: Path, environment: Mapping[str, str], seconds: float | None, level: str = "INFO") -> None:
        self._base, self._environment = base, environment
        self._end = None if seconds is None else time.monotonic() + seconds
        self._level = LEVELS.index(level)
        self.results: list[Result] = []

    def run(self) -> bool:
        """Whether all ended well; what each took is said in any case."""
        try:
            fine = all(self._phase(phase) for phase in PHASES)
        except ClassicError as error:
            self._say("ERROR", str(error))
            fine = False
        if not fine:
            self._end = None
            self._after_failure()
        for result in self.results:
            self._say("INFO", str(result))
        return fine

    def _phase(self, phase: str) -> bool:
        """:raises ClassicError: its environment cannot be read."""
        folder = self._base / f"{phase}.d"
        if not folder.exists():
            return True
        self._say("INFO", f"{phase} begins")
        environment = self._read_environment()
        for script in find_scripts(folder):
            self._say("DEBUG", f"{phase}/{script} begins")
            begun = time.monotonic()
            left = None if self._end is None else max(0.0, self._end - begun)
            ended = run_script([str(folder / script)], environment, left)
            self.results.append(Result(phase, script, time.monotonic() - begun, ended.code if ended else None))
            if ended is None:
                self._say("ERROR", f"{phase}/{script} was killed: the time of the run is over")
                return False
            if ended.code != 0:
                self._say("ERROR", f"{phase}/{script} ended with code {ended.code} {ended.said}".rstrip())
                return False
        return True

    def _after_failure(self) -> None:
        if not (self._base / f"{AFTER_FAILURE}.d").exists():
            return
        try:
            self._phase(AFTER_FAILURE)
        except ClassicError as error:
            self._say("ERROR", str(error))

    def _read_environment(self) -> dict[str, str]:
        """:raises ClassicError: a file of it failed."""
        folder = self._base / "environment.d"
        files = sort_numbered(p.name for p in folder.iterdir() if p.is_file()) if folder.is_dir() else []
        paths = [str(folder / name) for name in files if SOURCED.match(name)]
        if not paths:
            return dict(self._environment)
        ended = run(["bash", "-c", SOURCE, "bash", *paths], environment=self._environment)
        if ended.code != 0:
            raise ClassicError(f"{folder} ended with code {ended.code}: {ended.said.strip()}")
        pairs = (entry.partition("=") for entry in os.fsdecode(ended.output).split("\0") if entry)
        return {name: value for name, _, value in pairs}

    def _say(self, level: str, text: str) -> None:
        if LEVELS.index(level) >= self._level:
            sys.stdout.flush()
            print(f"provisioner-agent refresh: {text}", file=sys.stderr, flush=True)


def find_scripts(folder: Path) -> list[str]:
    return sort_numbered(
        path.name
        for path in folder.iterdir()
        if path.is_file() and os.access(path, os.X_OK) and SCRIPT.match(path.name)
    )


def sort_numbered(names: Iterable[str]) -> list[str]:
    """By the number at the beginning, which counts as 0 where there is none, then by bytes: as ``sort -n`` does."""

    def key(name: str) -> tuple[float, bytes]:
        number = NUMBER.match(name)
        return (float(number[0]) if number else 0.0), os.fsencode(name)

    return sorted(names, key=key)


def default_base(environment: Mapping[str, str]) -> str:
    if BASE_VARIABLE in environment:
        return environment[BASE_VARIABLE]
    return OLD_BASE if Path(OLD_BASE).is_dir() and not Path(BASE).is_dir() else BASE


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of os-refresh-config."""
    parser.add_argument("--print-base", action="store_true", help=f"say where the phases are; set by {BASE_VARIABLE}")
    parser.add_argument("--print-phases", action="store_true", help="say their names, with tabs between them")
    parser.add_argument("--log-level", default="INFO", choices=LEVELS, help="what is said (default: %(default)s)")
    parser.add_argument("--lockfile", metavar="FILE", default=LOCK, help="one run at a time (default: %(default)s)")
    parser.add_argument("--timeout", metavar="SECONDS", type=int, help="kill the script after so long, and fail")


def run_refresh(options: argparse.Namespace, environment: Mapping[str, str] = os.environ) -> int:
    """:returns: the exit code: 0 done, 1 a script failed, 11 (EAGAIN) another run is at it."""
    base = default_base(environment)
    if options.print_base:
        print(base)
        return 0
    if options.print_phases:
        print("\t".join(PHASES))
        return 0
    with Path(options.lockfile).open("a", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            print(f"provisioner-agent refresh: another run has {options.lockfile}: {error.strerror}", file=sys.stderr)
            return error.errno or FAILED
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        fine = Refresh(Path(base), environment, options.timeout, options.log_level).run()
        lock.truncate(0)
    return 0 if fine else FAILED


def main(argv: Sequence[str] | None = None, prog: str = "os-refresh-config") -> None:
    """:param prog: the name that it was called by."""
    parser = argparse.ArgumentParser(prog=prog, description="Run the scripts of all phases.")
    add_options(parser)
    sys.exit(run_refresh(parser.parse_args(argv)))
