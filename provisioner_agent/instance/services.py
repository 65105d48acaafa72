"""Units of systemd whose files changed: each is restarted or reloaded once, and all are watched until they run.

A unit of which several files changed is restarted if one of them asks for that; if one leaves it to a phase script, it
is left to that script, which is told all the paths. Units are touched in the order in which systemd would start them,
as many at once as there are processors; one that a phase script has started just before runs with the new files
already. What starts anew at the end of its own restart, this agent, comes last: the journal says before it that it was
done, so that the agent that starts does not do it again.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from provisioner_agent.instance.host import Finished, Host
from provisioner_agent.instance.parallel import do_each
from provisioner_agent.instance.phases import LAST_LINES, PhaseResult, Tell, failure_of, silent
from provisioner_agent.instance.probes import ProbeResult
from provisioner_agent.render.tree import PHASE, RELOAD, RESTART

SERVICES = "services"
"""Stands for a phase in what is told of the work on units."""
UNIT_FILES = "/etc/systemd/system/"
OWN = "provisioner-agent.service"
WATCH = "provisioner-agent-watch.service"
"""It takes a change back when this agent is not there to do it: see :mod:`.watch`."""
LIMIT = 900.0
"""Seconds until systemd counts as silent: a unit has its own, shorter limits."""
LOOK_LIMIT = 20.0
WATCH_LIMIT = 100.0
"""Longer than systemd itself gives a unit to start."""
END_SECONDS = 30.0
"""Within which this agent must have been ended by a restart of its own unit."""
STRENGTH = (RELOAD, RESTART, PHASE)
RUNNING = ("active", "reloading", "refreshing")
STARTING, FAILED = "activating", "failed"
STOP = "stop"
"""What becomes of a unit that has no unit file any more."""
VERBS = {RESTART: "restart", RELOAD: "reload-or-restart", STOP: "stop"}
PROPERTIES = "LoadState,ActiveState,Result,Type"
BEGUN = ("InactiveExitTimestampMonotonic", "ExecMainStartTimestampMonotonic")
"""When systemd began to start a unit, and when its main process began (org.freedesktop.systemd1(5)): microseconds of
the clock that never goes back; 0 for never."""

LOG = logging.getLogger("provisioner-agent")

Units = Mapping[str, Mapping[str, str]]
"""What becomes of each unit, by the path of the file that it belongs to."""


@dataclass(frozen=True)
class UnitState:
    """What systemd says of a unit (systemctl(1), show). ``found``: whether it has a unit file."""

    active: str
    result: str = "success"
    kind: str = ""
    found: bool = True

    @property
    def runs(self) -> bool:
        """A unit that runs once and ends has run when it ended well."""
        return self.active in RUNNING or (self.active, self.kind, self.result) == ("inactive", "oneshot", "success")

    @property
    def is_lost(self) -> bool:
        """Whether nothing will start it again by itself."""
        return self.active == FAILED or (not self.found and not self.runs)

    def __str__(self) -> str:
        if not self.found:
            return "not found"
        return self.active if self.result == "success" else f"{self.active} ({self.result})"


def units_of(paths: Iterable[str], *maps: Units) -> dict[str, str]:
    """What is to be done with the units of these files, by unit, in the order of their names but this agent's last."""
    found: dict[str, str] = {}
    for path in paths:
        for units in maps:
            for unit, how in units.get(path, {}).items():
                found[unit] = max(found.get(unit, how), how, key=STRENGTH.index)
    return {unit: found[unit] for unit in sorted(found, key=lambda unit: (unit == OWN, unit))}


def split_gone(host: Host, units: Mapping[str, str], kept: Units) -> dict[str, str]:
    """The same, but units that no file names any more and that have no unit file: those that run are to be stopped."""
    named = {unit for of_file in kept.values() for unit in of_file}
    states = read_states(host, [unit for unit in units if unit not in named])
    gone = {unit: state for unit, state in states.items() if not state.found}
    return {unit: STOP if unit in gone else how for unit, how in units.items() if unit not in gone or gone[unit].runs}


def read_units(host: Host, changed: Collection[str]) -> list[PhaseResult]:
    """Let systemd read its unit files again when one of them has changed."""
    if not host.has_units or not any(path.startswith(UNIT_FILES) for path in changed):
        return []
    return [_run(host, "daemon-reload")]


def touch_units(
    host: Host,
    units: Mapping[str, str],
    done: Collection[str],
    since: float,
    note: Callable[[str], None],
    tell: Tell = silent,
) -> list[PhaseResult]:
    """Restart or reload units until one fails.

    :param units: what is to be done with each. :param done: those with which it was done before. :param since: when the
        files were as they are now, by the clock that never goes back: who was started later runs with them.
    :param note: told of each with which it was done now. :param tell: of each that takes long.
    :returns: one result for each, as of a phase script; only the last can have another code than 0.
    """
    if not host.has_units:
        for unit in units:
            LOG.warning("%s is left alone: this is no instance whose units systemd keeps", unit)
        return []
    due = {unit: VERBS[how] for unit, how in units.items() if how != PHASE and unit not in done}
    own = due.pop(OWN, None)
    for unit in _begun_since(host, due, since):
        LOG.info("%s/%s: it was started after its files had changed", SERVICES, unit)
        del due[unit]
    gone = {unit: verb for unit, verb in due.items() if units[unit] == STOP}  # they may hold what others are to have
    results = _run_all(host, gone, note, tell)
    if failure_of(results) is None:
        results += _run_all(host, {unit: verb for unit, verb in due.items() if unit not in gone}, note, tell)
    if own is not None and failure_of(results) is None:
        note(OWN)
        results.append(_restart_self(host))
    return results


def start_units(host: Host, units: Mapping[str, str], tell: Tell = silent) -> list[PhaseResult]:
    """Start those that do not run, until one fails; those that a phase script sees to are left to it."""
    wanted = [unit for unit, how in units.items() if how != PHASE and unit != OWN]
    states = read_states(host, wanted)
    return _run_all(host, {unit: "start" for unit, state in states.items() if not state.runs}, lambda unit: None, tell)


def _run_all(host: Host, verbs: Mapping[str, str], note: Callable[[str], None], tell: Tell) -> list[PhaseResult]:
    """One result for each that was begun, in their order, those that failed behind the others."""
    one_at_a_time, waited = threading.Lock(), dict[str, str]()

    def say(unit: str, what: str) -> None:
        with one_at_a_time:
            waited[unit] = what
            tell(what)

    def work(unit: str) -> PhaseResult:
        host.run(["systemctl", "reset-failed", unit], limit=LOOK_LIMIT)  # it may have been started too often
        result = _run(host, verbs[unit], unit, partial(say, unit))
        with one_at_a_time:
            if waited.pop(unit, None) is not None and waited:
                tell(next(reversed(waited.values())))
        return result

    order, found = in_order(host, verbs), dict[str, PhaseResult]()
    for unit, result in do_each(order, work, host.processors):
        found[unit] = result
        if result.code == 0:
            note(unit)
    return sorted((found[unit] for unit in order if unit in found), key=lambda result: result.code != 0)


def _begun_since(host: Host, units: Collection[str], when: float) -> list[str]:
    """Those that run, and were started by somebody after that time."""
    found = read_properties(host, units, ",".join(("ActiveState", *BEGUN)))
    return [
        unit
        for unit, block in found.items()
        if block.get("ActiveState") in RUNNING and min(int(block.get(word) or 0) for word in BEGUN) > when * 1_000_000
    ]


def start_watch(host: Host) -> str | None:
    """Start the watch, which ends by itself when the journal is closed; None when it watches, else why it does not.

    One of an earlier change may be about to end, and would count as started.
    """
    if not host.has_units:
        return None
    host.run(["systemctl", "reset-failed", WATCH], limit=LOOK_LIMIT)
    done = host.run(["systemctl", "restart", WATCH], limit=WATCH_LIMIT)
    if done.code == 0 and not done.timed_out:
        return None
    said = "\n".join(text for text in (last_lines(host, WATCH), done.output.strip()) if text)
    return said or f"systemctl restart {WATCH} did not end within {WATCH_LIMIT:g} s"


def read_states(host: Host, units: Collection[str]) -> dict[str, UnitState]:
    """How units are, by their names; none when systemd does not say."""
    return {unit: _state(block) for unit, block in read_properties(host, units, PROPERTIES).items()}


def read_properties(host: Host, units: Collection[str], properties: str) -> dict[str, dict[str, str]]:
    """What systemd says of units (systemctl(1), show), by their names; none when it does not say.

    :param properties: their names, separated by commas.
    """
    if not units or not host.has_units:
        return {}
    done = host.run(["systemctl", "show", f"--property={properties}", "--", *units], limit=LOOK_LIMIT)
    blocks = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in done.output.split("\n\n")]
    if done.code != 0 or len(blocks) != len(units):
        return {}
    return dict(zip(units, blocks))  # noqa: B905 - Python 3.9


def in_order(host: Host, units: Collection[str]) -> dict[str, set[str]]:
    """Each, behind those of them that systemd would start before it (systemd.unit(5), After=), with these."""
    known = read_properties(host, units, "After") if len(units) > 1 else {}  # mostly a change is about one
    left = {unit: set(known.get(unit, {}).get("After", "").split()) for unit in units}
    found: dict[str, set[str]] = {}
    while left:
        free = next((unit for unit, before in left.items() if not before & left.keys()), None)
        unit = free or next(iter(left))  # systemd, too, breaks a ring somewhere
        found[unit] = left.pop(unit) & found.keys()
    return found


def watch_units(host: Host, units: Collection[str]) -> dict[str, ProbeResult]:
    """The units of a change as probes of the node, by their names."""
    return {
        unit: ProbeResult(state.runs, str(state), "node", final=state.is_lost)
        for unit, state in read_states(host, units).items()
    }


def last_lines(host: Host, unit: str) -> str:
    """What a unit last said, as its journal has it."""
    argv = ["journalctl", "--no-pager", "--quiet", f"--lines={LAST_LINES}", "--output=cat", f"--unit={unit}"]
    done = host.run(argv, limit=LOOK_LIMIT)
    return done.output.rstrip() if done.code == 0 else ""


def _state(block: Mapping[str, str]) -> UnitState:
    found = block.get("LoadState") != "not-found"
    return UnitState(
        block.get("ActiveState", "unknown"), block.get("Result") or "success", block.get("Type", ""), found
    )


def _run(host: Host, verb: str, unit: str = "", tell: Tell = silent) -> PhaseResult:
    words = [verb, unit] if unit else [verb]
    started, name = host.monotonic(), " ".join(words)

    def run(*words: str) -> Finished:
        return host.run(["systemctl", *words], limit=LIMIT, slow=lambda: tell(f"waits for systemctl {' '.join(words)}"))

    done = run(*words)
    if unit and done.code != 0 and not done.timed_out and _is_started_again(host, unit):
        # Its own file says Restart=: what it needs may have been away just then.
        LOG.warning("%s/%s %s: code %s, and systemd starts it again", SERVICES, verb, unit, done.code)
        done = run("start", unit)
    seconds = host.monotonic() - started
    code = done.code if not done.timed_out else done.code or -9
    LOG.info("%s/%s: code %s after %.1f s", SERVICES, name, code, seconds)
    said = ""
    if code != 0:
        said = "\n".join(text for text in (last_lines(host, unit) if unit else "", done.output.strip()) if text)
    return PhaseResult(SERVICES, name, seconds, code, said, done.timed_out)


def _is_started_again(host: Host, unit: str) -> bool:
    return any(state.active == STARTING for state in read_states(host, [unit]).values())


def _restart_self(host: Host) -> PhaseResult:
    """Does not return when it succeeds."""
    started = host.monotonic()
    done = host.run(["systemctl", "restart", "--no-block", OWN], limit=LOOK_LIMIT)
    if done.code == 0:
        host.sleep(END_SECONDS)
    why = done.output.strip() or f"it still ran after {END_SECONDS:g} s"
    return PhaseResult(SERVICES, f"restart {OWN}", host.monotonic() - started, done.code or 1, why)
