"""A step at hand, and how far it came."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.errors import DeployError, LeaseLost
from provisioner.model.deployment import Deployment, Node, Step, StepName
from provisioner.model.role import Role

BMC_SECONDS = 30.0
SOON, LATER = 1.0, 10.0
"""Seconds until a step that waits is looked at again."""
GUEST_SECONDS = 20.0
"""The same when what it waits for is recorded, and so noticed at once; only deadlines need a look meanwhile."""
DARK = "dark"
"""In a step's detail: when a sweep saw the node off."""
TOKEN_SECONDS = 4 * 3600.0
"""How long a ramdisk is heard."""


def check_lease(doors: Doors, node: str, ours: int) -> None:
    """:raises LeaseLost: the lease with the fence number ``ours`` has run out, or another conductor has taken it."""
    holder, purpose, expiry, fence = doors.store.leases.get(node)
    if (holder, fence) != (doors.holder, ours) or expiry < doors.clock.now():
        raise LeaseLost(
            "the lease on the node is over; nothing more is done under it",
            where=node,
            cause=f"fence {ours} was ours; {holder or 'nobody'} has {fence} for {purpose or 'nothing'}",
            hint="whoever has it goes on",
        )


@dataclass(frozen=True)
class Work:
    """A step at hand, with everything on record that it needs. ``now``: when this pass began.

    ``fence``: the number of the lease under which the node is worked on.
    """

    doors: Doors
    node: Node
    deployment: Deployment
    role: Role
    step: Step
    now: float
    fence: int

    def check_lease(self) -> None:
        """Asked right before anything is done to the node or its guests.

        :raises LeaseLost: the lease has run out, or another conductor works on the node by now.
        """
        check_lease(self.doors, self.node.name, self.fence)

    def detail(self, name: StepName) -> Mapping[str, Any]:
        return next(step.detail for step in self.deployment.steps if step.name is name)

    def check_deadline(self, seconds: float, since: float, what: str, cause: str | None = None) -> None:
        """Raise :class:`DeployError` when ``seconds`` have passed ``since``."""
        if self.now - since > seconds:
            raise DeployError(f"{what} within {seconds:.0f} s", where=self.node.name, cause=cause)


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
    return Outcome(False, {}, reason, GUEST_SECONDS)
