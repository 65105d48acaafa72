"""Instances that are to leave their nodes, and what comes after them."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from provisioner.model.deployment import EraseLevel, Placement
from provisioner.model.value import Value


class DepartureState(StrEnum):
    """``waiting`` for its turn; ``draining``; ``failed``: it was not drained, and stays; ``deploying``: what takes its
    place is deployed, and the role goes on when that is well."""

    WAITING = "waiting"
    DRAINING = "draining"
    FAILED = "failed"
    DEPLOYING = "deploying"


DRAINS = (DepartureState.DRAINING, DepartureState.FAILED)
"""In which a member hears nothing else than of its drain."""


class Departure(Value):
    """An instance that is to leave its node.

    :param deployment: its own; of what took its place while that is deployed.
    :param placement: what takes its place, on the same node or another one; None for nothing.
    :param drain: whether it is drained before. :param rolls: whether it goes with others of its role, in order.
    :param erase: what is done to all disks of its node then, and ``stays``: whether that is left in the ramdisk.
    :param asked: when that was, and ``begun``: when draining began; in seconds since the epoch.
    :param order: what its agent is told, and tells, of its drain; empty when it is told nothing.
    """

    cloud: str
    role: str
    index: int
    hostname: str
    node: str
    deployment: str
    why: str
    asked: float
    state: DepartureState = DepartureState.WAITING
    placement: Placement | None = None
    drain: bool = True
    rolls: bool = False
    erase: EraseLevel | None = None
    stays: bool = False
    begun: float = 0.0
    order: str = ""
    failure: dict[str, Any] | None = None

    @property
    def going(self) -> bool:
        """Whether the instance is still to leave."""
        return self.state is not DepartureState.DEPLOYING

    @property
    def what(self) -> str:
        """In words."""
        if self.placement is None:
            return "is released"
        return "is rebuilt" if self.placement.node == self.node else f"moves to {self.placement.node}"
