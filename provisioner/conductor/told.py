"""What an instance tells: how much of it is kept, and what of it is news. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from provisioner.errors import DeployError, UsageError
from provisioner.store.clouds import ReportRecord

SKEW_SECONDS = 2.0
"""A clock that is off by more is told."""
LATEST = 1e12
"""Seconds since the epoch that a clock may show."""
DIFF_CHARACTERS, MOST_VALIDATORS = 16_000, 100
"""What is kept of a change; an agent of ours sends less."""

SKEW = ("skew", "skew_seen")
OURS = frozenset({"diff", "validators", "clock", "confirming", *SKEW})
"""Parts of a message that are kept elsewhere, or not, or that we put into it ourselves."""

LARGEST = (1 << 31) - 1
"""Generation that a column holds."""

BAD_STATES = frozenset({"failed", "rolled-back", "broken"})
"""States of a report that say: the generation is not in force."""

Body = Mapping[str, Any]


def check_report(message: Body, node: str) -> None:
    """Of what the service reads itself; the rest is kept as it is.

    :raises UsageError: the message has another shape.
    """
    if not _is_generation(message.get("generation")) or not isinstance(message.get("state"), str):
        raise UsageError("the report has no generation or no state", where=node)
    if not _is_generation(message.get("applied") or 0):
        raise UsageError("the report does not say which generation is in force", where=node)
    if not isinstance(message.get("error") or {}, Mapping):
        raise UsageError("the report's error is not a map", where=node)
    probes = message.get("probes") or {}
    if not isinstance(probes, Mapping) or not all(isinstance(probe, Mapping) for probe in probes.values()):
        raise UsageError("the report's probes are not a map of maps", where=node)


def _is_generation(found: object) -> bool:
    return isinstance(found, int) and not isinstance(found, bool) and 0 <= found <= LARGEST


def split_report(
    message: Body, before: ReportRecord | None, heard: float
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """(what is kept of a message, what it told of its change; None when what was told of that before still holds).

    :param heard: when the message came, in seconds since the epoch.
    """
    body = {key: value for key, value in message.items() if key not in OURS}
    known = {} if before is None else {key: before.body[key] for key in SKEW if key in before.body}
    clock = message.get("clock")
    if isinstance(clock, int | float) and not isinstance(clock, bool) and abs(clock) < LATEST:
        # A message that was long on its way makes the clock look slow, so the better of two counts.
        seen = round(clock - heard, 2)
        known = {"skew": min(seen, known.get("skew_seen", seen), key=abs), "skew_seen": seen}
    body |= known
    diff, validators = message.get("diff"), message.get("validators")
    if isinstance(diff, str) or isinstance(validators, list):
        kept = validators[:MOST_VALIDATORS] if isinstance(validators, list) else []
        said = {"diff": str(diff or "")[:DIFF_CHARACTERS], "validators": kept}
        return body, {"generation": message.get("generation"), **said}
    same = before is not None and before.detail.get("generation") == message.get("generation")
    return body, None if same else {}


def find_news(body: Body, before: Body) -> Iterator[tuple[str, str]]:
    """(kind of event, message) of what has begun, changed or ended since the report before."""
    paths, known = _names(body.get("drift")), _names(before.get("drift"))
    if paths and paths != known:
        yield "instance.drift", f"changed by hand: {', '.join(paths)}"
    elif known and not paths:
        yield "instance.drift-over", "all files are as the agent wrote them"
    units, known = failed_units(body), failed_units(before)
    if units and units != known:
        yield "instance.units", f"failed: {', '.join(units)}"
    elif known and not units:
        yield "instance.units-over", "no unit of its files has failed any more"
    off, was_off = is_off(body), is_off(before)
    if off and not was_off:
        yield "instance.clock", f"its clock is off by {body['skew']:+.1f} s"
    elif was_off and not off:
        yield "instance.clock-over", "its clock is right"


def doing(body: Body) -> str | None:
    """What takes its instance long at the moment."""
    return f"generation {body['generation']}: {body['doing']}" if body.get("doing") else None


def failed_units(body: Body) -> list[str]:
    """Units of managed files that have failed or that there are not, by name."""
    units = body.get("services")
    found = units.items() if isinstance(units, Mapping) else ()
    return sorted(str(unit) for unit, state in found if str(state).startswith(("failed", "not found")))


def stays(body: Body) -> bool:
    """Whether its agent goes on after the first boot, and is heard again: in whole disks, that of a release before did
    not. Those that do say how the units of their files are."""
    return "services" in body


def is_off(body: Body) -> bool:
    """Whether its clock differs too much from ours."""
    skew = body.get("skew")
    return isinstance(skew, int | float) and abs(skew) > SKEW_SECONDS


def _names(found: object) -> list[str]:
    return sorted(str(name) for name in found) if isinstance(found, Mapping) else []


def report_error(node: str, report: Body) -> DeployError:
    error = report.get("error") or {}
    return DeployError(
        f"generation {report.get('generation')} {report.get('state')}: {error.get('summary') or 'no reason was given'}",
        where=node,
        cause=error.get("cause"),
        hint=error.get("hint"),
    )


def red_probes(report: Body, scope: str) -> dict[str, Body]:
    probes: Mapping[str, Body] = report.get("probes") or {}
    return {
        name: probe for name, probe in probes.items() if probe.get("scope") == scope and probe.get("ok") is not True
    }
