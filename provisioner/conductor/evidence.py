"""Why a node failed: the error, what was last seen of the node, and the next command."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.errors import ProvisionerError

EVENTS = 3
"""Of a node, the last that are told with its failure."""


def build_failure(
    doors: Doors, name: str, error: ProvisionerError, now: float, console: Sequence[str] = ()
) -> dict[str, Any]:
    """:param name: of the node. :param console: what it last wrote there, by lines."""
    seen = "; ".join(
        f"{record.event.kind} {now - record.at:.0f} s ago ({record.event.message})"
        for record in doors.store.events.last_of(name, EVENTS)
    )
    causes = (
        error.cause,
        f"Last seen: {seen}" if seen else None,
        f"Last on its console: {console[-1]}" if console else None,
    )
    return error.to_dict() | {
        "where": error.where or name,
        "cause": ". ".join(cause for cause in causes if cause),
        "hint": error.hint or f"provisioner node retry {name}",
    }
