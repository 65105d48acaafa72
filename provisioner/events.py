"""Events: what happened, when and to whom. Rooms report them; faces and the store observe them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    :param kind: dotted word, the noun first: ``step.started``, ``image.layer.reused``, ``power.drift``.
    :param message: one sentence for a person; never a secret.
    :param data: numbers and names for programs (bytes, seconds, ids).
    """

    kind: str
    message: str
    node: str | None = None
    deployment: str | None = None
    data: Mapping[str, Any] = field(default_factory=dict)


Observer = Callable[[Event], None]


def null_observer(event: Event) -> None:
    """Forget the event."""


class RecordingObserver:
    """Keeps every event, for tests."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def kinds(self) -> list[str]:
        return [event.kind for event in self.events]
