"""A plan as a person reads it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from provisioner.model.plan import Change, Configure, Deploy, Effect, Move, Plan, Rebuild, Release, Retry
from provisioner.model.values import secret_name
from provisioner.plan.effects import describe_files
from provisioner.plan.pick import natural

FEW = 3
"""Instances that are named each with its node; of more only the host names are."""
NUMBERED = re.compile(r"^(.*?)(\d+)$")


def render_plan(plan: Plan) -> str:
    """One line for each action and each changed value; the last line counts them, or says that there is nothing.

    Instances of which all is the same are said together: a thousand of them have one list of files.
    """
    lines = [f"cloud {plan.cloud}", *_actions(plan), *_effects(plan), *(f"  note: {note}" for note in plan.notes)]
    if plan.empty:
        return "\n".join([*lines[1:], "Nothing to change."])
    always, kinds = ("deploy", "configure", "release"), ("deploy", "configure", "release", "rebuild", "move", "retry")
    counts = {kind: sum(1 for action in plan.actions if action.kind == kind) for kind in kinds}
    said = [f"{count} to {kind}" for kind, count in counts.items() if count or kind in always]
    return "\n".join([*lines, f"{', '.join(said)}."])


def _actions(plan: Plan) -> Iterator[str]:
    told: dict[tuple[str, ...], list[Configure]] = {}
    for action in plan.actions:
        if isinstance(action, Deploy):
            placement = action.placement
            addresses = ", ".join(address.address for address in placement.addresses)
            wipe = "; its disk may be overwritten" if placement.wipe else ""
            yield f"  + deploy     {placement.hostname} on {placement.node}: {placement.image}, {addresses}{wipe}"
        elif isinstance(action, Configure):
            told.setdefault((*map(_change, action.changes), *describe_files(action.files)), []).append(action)
        elif isinstance(action, Release):
            yield f"  - release    {action.hostname} from {action.node}: {action.why}{_drained(action)}"
            yield "      switched off; its disks stay as they are"
        elif isinstance(action, Rebuild):
            keeps = f"; keeps {', '.join(action.kept)}" if action.kept else ""
            yield f"  ~ rebuild    {action.hostname} on {action.node}: {action.before} → {action.placement.image}"
            yield f"      {_drained(action, 'drained first; ')}it starts anew, and its disk is written anew{keeps}"
        elif isinstance(action, Move):
            placement = action.placement
            addresses = ", ".join(address.address for address in placement.addresses)
            wipe = "; its disk may be overwritten" if placement.wipe else ""
            why = f"{action.why}{_drained(action)}"
            yield f"  > move       {action.hostname} from {action.node} to {placement.node}: {why}"
            yield f"      {placement.image}, {addresses}{wipe}"
            if action.lost:
                yield f"      {action.node} is not waited for; it is switched off if its controller answers"
        elif isinstance(action, Retry):
            yield f"  ~ retry      {action.hostname} on {action.node}: {action.why}"
    for lines, actions in told.items():
        yield f"  ~ configure  {_names(actions)}"
        yield from (f"      {line}" for line in lines)


def _drained(action: Release | Rebuild | Move, said: str = "; drained first") -> str:
    return said if action.drain else ""


def _change(change: Change) -> str:
    place = f" ({change.place})" if change.place else ""
    return f"{change.path}: {_show(change.old)} → {_show(change.new)}{place}"


def _effects(plan: Plan) -> Iterator[str]:
    told: dict[tuple[str, ...], list[Effect]] = {}
    for effect in plan.effects:
        told.setdefault(tuple(describe_files(effect.files)), []).append(effect)
    for lines, effects in told.items():
        yield f"  ~ also       {_names(effects)}"
        yield from (f"      {line}" for line in lines)


def _names(all_of: Sequence[Configure | Effect]) -> str:
    if len(all_of) <= FEW:
        return ", ".join(f"{one.hostname} on {one.node}" for one in all_of)
    return f"{shorten([one.hostname for one in all_of])} ({len(all_of)})"


def shorten(names: Sequence[str]) -> str:
    """``web-0 … web-9, web-11``: what follows each other is named by its ends."""
    runs: list[list[str]] = []
    for name in sorted(names, key=natural):
        if runs and _follows(runs[-1][-1], name):
            runs[-1].append(name)
        else:
            runs.append([name])
    said = [[f"{run[0]} … {run[-1]}"] if len(run) > 2 else run for run in runs]
    return ", ".join(word for words in said for word in words)


def _follows(before: str, name: str) -> bool:
    one, two = NUMBERED.match(before), NUMBERED.match(name)
    return one is not None and two is not None and one[1] == two[1] and int(one[2]) + 1 == int(two[2])


def _show(value: Any) -> str:
    if (secret := secret_name(value)) is not None:
        return f"(secret {secret})"
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
