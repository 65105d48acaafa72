"""Whether a member may change now, by the policy of its role and how the others are. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from provisioner.model.hardware import Power
from provisioner.model.policy import Policy
from provisioner.model.states import NodeState
from provisioner.store.permits import FAILED, FREE, HELD, Standing

SILENT = 180.0
"""Seconds after which an instance that was not heard is taken for dead; it speaks each minute, or asks for a permit."""


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


@dataclass(frozen=True)
class View:
    """What is looked at. ``members``: of the role and of the roles that it changes after, by host name.

    :param width: how many of the role may be away at once. :param now: seconds since the epoch.
    """

    policy: Policy
    width: int
    members: Sequence[Standing]
    now: float

    def of(self, role: str) -> list[Standing]:
        return [member for member in self.members if member.role == role]


def refuse(mine: Standing, view: View) -> Refusal | None:
    """Why a member that runs may not leave now, though a permit is free; None if it may.

    What a member that is not healthy does takes nothing away from anybody: it may always be mended first.
    """
    if is_away(mine, view.now) is not None:
        return None
    return next((found for found in _reasons(mine, view) if found is not None), None)


def _reasons(mine: Standing, view: View) -> Iterator[Refusal | None]:
    yield _unavailable(mine, view)
    yield _canary(mine, view)
    for role in view.policy.after:
        yield from (_behind(f"{role} comes first: ", member, view.now) for member in view.of(role))


def _unavailable(mine: Standing, view: View) -> Refusal | None:
    others = [member for member in view.of(mine.role) if member.deployment != mine.deployment]
    changing = sum(member.permit == HELD for member in others)
    # What is down by a change of its own is a failure, which has a limit of its own; what joins was never there.
    lost = [(member, why) for member in others if member.permit == FREE and (why := is_away(member, view.now))]
    lost = [(member, why) for member, why in lost if member.deployed or member.rebuilds]
    if not lost or changing + len(lost) < view.width:
        return None
    said = ", ".join(f"{_name(member)} {why}" for member, why in lost)
    limit = f"at most {view.width} of {mine.role} may be away at once"
    first = lost[0][0]
    return Refusal(f"{said}, and {limit}; {_next_command(first)}", halted=all(_is_stuck(m) for m, _ in lost))


def _canary(mine: Standing, view: View) -> Refusal | None:
    """The canaries are the first members that are there, by number; one that is let alone is left out."""
    there = [m for m in view.of(mine.role) if m.deployed and m.maintenance is None and m.state is not NodeState.RESCUE]
    canaries = there[: view.policy.canary]
    if mine.deployment in [canary.deployment for canary in canaries]:
        return None
    for canary in canaries:
        behind = _behind("canary ", canary, view.now)
        if behind is not None:
            return behind
        green = max(0.0, view.now - canary.since)
        if green < view.policy.settle:
            why = f"canary {_name(canary)} is not green for {view.policy.settle:g} s yet"
            return Refusal(why, so_far=int(green))
    return None


def _behind(before: str, member: Standing, now: float) -> Refusal | None:
    """Why others wait on for a member that comes before them."""
    name, then = f"{before}{_name(member)}", _next_command(member)
    if member.failure is not None or member.permit == FAILED:
        return Refusal(f"{name} failed; {then}", halted=True)
    if member.permit == HELD:
        return Refusal(f"{name} changes now")
    away = is_away(member, now)
    if away is None and member.applied >= member.generation:
        return None
    if member.maintenance is not None:
        return Refusal(f"{name} is in maintenance: {member.maintenance}; {then}")
    if away is not None:
        return Refusal(f"{name} {away}; {then}", halted=_is_stuck(member))
    return Refusal(f"{name} has not generation {member.generation} in force yet")


def is_away(member: Standing, now: float) -> str | None:
    """Why a member does not serve; None while it does."""
    if member.state is NodeState.DEPLOYING:
        return "is being deployed"
    if member.state is NodeState.RESCUE:
        return "is in rescue"
    if member.power is Power.OFF:
        return "is switched off"
    if member.heard is not None and now - member.heard > SILENT:
        return "is silent"
    return None if member.healthy else "is not healthy"


def _is_stuck(member: Standing) -> bool:
    """Whether nobody is at it: no deployment, no operator."""
    return member.state not in (NodeState.DEPLOYING, NodeState.RESCUE) and member.maintenance is None


def _next_command(member: Standing) -> str:
    if member.maintenance is not None:
        return f"provisioner node maintenance {member.node} --off"
    return f"provisioner node show {member.node}"


def _name(member: Standing) -> str:
    return f"{member.hostname} on {member.node}"
