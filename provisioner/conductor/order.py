"""Whether a member may change now, by the policy of its role and how the others are. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from provisioner.model.hardware import Power
from provisioner.model.states import NodeState
from provisioner.store.permits import FAILED, FREE, HELD, Standing

SILENT = 780.0
"""Seconds after which an instance that was not heard is taken for dead; it reports each ten minutes at least."""


@dataclass(frozen=True)
class Refusal:
    """Why a permit is not given. ``so_far``: seconds that have passed of those that ``why`` speaks of.

    ``halted``: what is waited for does not come by itself, so the deadline of who waits goes on.
    """

    why: str
    halted: bool = False
    so_far: int | None = None

    def __str__(self) -> str:
        return self.why if self.so_far is None else f"{self.why} ({self.so_far} s so far)"


def refuse_leave(role: str, width: int, others: Sequence[Standing], since: float) -> Refusal | None:
    """Whether a member that serves may leave, so that no more than ``width`` of its role are away at once.

    :param others: those of the role that change or do not serve. What is down by a change of its own is a failure,
        which has a limit of its own; what joins was never there.
    :param since: see :func:`is_silent`, here and below.
    """
    changing = sum(other.permit == HELD for other in others)
    gone = [other for other in others if other.permit == FREE and (other.deployed or other.rebuilds or other.replaces)]
    lost = [(other, why) for other in gone if (why := is_away(other, since)) is not None]
    if not lost or changing + len(lost) < width:
        return None
    said = ", ".join(f"{_name(other)} {why}" for other, why in lost)
    limit = f"at most {width} of {role} may be away at once"
    halted = all(_is_stuck(other) for other, _ in lost)
    return Refusal(f"{said}, and {limit}; {_next_command(lost[0][0])}", halted)


def find_joining(others: Sequence[Standing]) -> Refusal | None:
    """Whether a member is on its way that was never there: those that run may have to serve it before they leave.

    :param others: those of the role that change or do not serve.
    """
    for other in others:
        if other.state is NodeState.DEPLOYING and not (other.deployed or other.rebuilds or other.replaces):
            return Refusal(f"{_name(other)} is being deployed, and joins first")
    return None


def refuse_before(canaries: Sequence[Standing], settle: float, now: float, since: float) -> Refusal | None:
    """Whether all canaries have changed, and have been green for ``settle`` seconds since."""
    for canary in canaries:
        behind = refuse_behind("canary ", canary, since)
        if behind is not None:
            return behind
        green = max(0.0, now - canary.since)
        if green < settle:
            return Refusal(f"canary {_name(canary)} is not green for {settle:g} s yet", so_far=int(green))
    return None


def refuse_behind(what: str, member: Standing, since: float) -> Refusal | None:
    """Whether a member that comes before others has its newest generation in force, and serves."""
    name, then = f"{what}{_name(member)}", _next_command(member)
    if member.failure is not None or member.permit == FAILED:
        return Refusal(f"{name} failed; {then}", halted=True)
    if member.permit == HELD:
        return Refusal(f"{name} changes now")
    away = is_away(member, since)
    if away is None and member.applied >= member.generation:
        return None
    if member.maintenance is not None:
        return Refusal(f"{name} is in maintenance: {member.maintenance}; {then}")
    if away is not None:
        return Refusal(f"{name} {away}; {then}", halted=_is_stuck(member))
    return Refusal(f"{name} has not generation {member.generation} in force yet")


def is_away(member: Standing, since: float) -> str | None:
    """Why a member does not serve; None while it does."""
    if member.state is NodeState.DEPLOYING:
        return "is being deployed"
    if member.state is NodeState.RESCUE:
        return "is in rescue"
    if member.power is Power.OFF:
        return "is switched off"
    if is_silent(member, since):
        return "is silent"
    return None if member.healthy else "is not healthy"


def is_silent(member: Standing, since: float) -> bool:
    """:param since: seconds since the epoch; whoever was last heard before is taken for dead."""
    return member.heard is not None and member.heard < since


def _is_stuck(member: Standing) -> bool:
    """Whether nobody is at it: no deployment, no operator."""
    return member.state not in (NodeState.DEPLOYING, NodeState.RESCUE) and member.maintenance is None


def _next_command(member: Standing) -> str:
    if member.maintenance is not None:
        return f"provisioner node maintenance {member.node} --off"
    return f"provisioner node show {member.node}"


def _name(member: Standing) -> str:
    return f"{member.hostname} on {member.node}"
