"""A step at hand, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.errors import DeployError
from provisioner.model.deployment import Deployment, Node, Step, StepName
from provisioner.model.role import Role

BMC_SECONDS = 30.0
SOON, LATER = 1.0, 10.0
"""Seconds until a step that waits is looked at again."""
TOKEN_SECONDS = 4 * 3600.0
"""How long a ramdisk is heard."""


@dataclass(frozen=True)
class Work:
    """A step at hand, with everything on record that it needs. ``now``: when this pass began."""

    doors: Doors
    node: Node
    deployment: Deployment
    role: Role
    step: Step
    now: float

    def detail(self, name: StepName) -> Mapping[str, Any]:
        return next(step.detail for step in self.deployment.steps if step.name is name)

    def check_deadline(self, seconds: float, since: float, what: str) -> None:
        """Raise :class:`DeployError` when ``seconds`` have passed ``since``."""
        if self.now - since > seconds:
            raise DeployError(f"{what} within {seconds:.0f} s", where=self.node.name)


@dataclass(frozen=True)
class Outcome:
    """``done``, or what the step waits for. ``detail`` is merged into the journal.

    ``again``: seconds after which the step is looked at again although nothing was recorded.
    """

    done: bool
    detail: dict[str, Any] = field(default_factory=dict)
    waiting: str | None = None
    again: float = SOON


def done(**detail: Any) -> Outcome:
    return Outcome(True, detail)


def wait(reason: str, **detail: Any) -> Outcome:
    return Outcome(False, detail, reason)


def wait_for_guest(reason: str) -> Outcome:
    """What a guest says is recorded, and so noticed at once; only deadlines need a look meanwhile."""
    return Outcome(False, {}, reason, LATER)
