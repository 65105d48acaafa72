"""Who may ask the service for what."""

from __future__ import annotations

from enum import StrEnum

from provisioner.model.value import Value


class OperatorRole(StrEnum):
    """``view``: look. ``operate``: also everything that is done to nodes and clouds. ``admin``: also secrets, and who
    is an operator. Each includes the one before."""

    VIEW = "view"
    OPERATE = "operate"
    ADMIN = "admin"

    def includes(self, other: OperatorRole) -> bool:
        order = list(OperatorRole)
        return order.index(self) >= order.index(other)


class Operator(Value):
    """Times are seconds since the epoch. ``expires``: None for never. ``used``: when the token was taken, by day."""

    name: str
    role: OperatorRole
    created: float
    expires: float | None = None
    used: float | None = None
