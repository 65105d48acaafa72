"""A plan as a person reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from provisioner.model.plan import Configure, Deploy, Plan, Release
from provisioner.model.values import secret_name


def render_plan(plan: Plan) -> str:
    """One line for each action and each changed value; the last line counts them, or says that there is nothing."""
    lines = [f"cloud {plan.cloud}", *_actions(plan), *(f"  note: {note}" for note in plan.notes)]
    if plan.empty:
        return "\n".join([*lines[1:], "Nothing to change."])
    counts = {kind: sum(1 for action in plan.actions if action.kind == kind) for kind in ("deploy", "configure")}
    released = len(plan.actions) - sum(counts.values())
    last = f"{counts['deploy']} to deploy, {counts['configure']} to configure, {released} to release."
    return "\n".join([*lines, last])


def _actions(plan: Plan) -> Iterator[str]:
    for action in plan.actions:
        if isinstance(action, Deploy):
            placement = action.placement
            addresses = ", ".join(address.address for address in placement.addresses)
            wipe = "; its disk may be overwritten" if placement.wipe else ""
            yield f"  + deploy     {placement.hostname} on {placement.node}: {placement.image}, {addresses}{wipe}"
        elif isinstance(action, Configure):
            yield f"  ~ configure  {action.hostname} on {action.node}"
            for change in action.changes:
                place = f" ({change.place})" if change.place else ""
                yield f"      {change.path}: {_show(change.old)} → {_show(change.new)}{place}"
        elif isinstance(action, Release):
            yield f"  - release    {action.hostname} from {action.node}: {action.why}"


def _show(value: Any) -> str:
    if (secret := secret_name(value)) is not None:
        return f"(secret {secret})"
    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
