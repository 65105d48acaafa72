"""Which members of a role stay, which go, which get another node, and which are tried again. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from provisioner.errors import Problem, error_from_dict
from provisioner.model.deployment import Deployment, DeploymentState, Node, Placement
from provisioner.model.plan import Observed, Rebuild, Retry
from provisioner.model.role import Desired, RoleUse
from provisioner.model.states import NodeState
from provisioner.plan.guard import build_guard


@dataclass(frozen=True)
class Fate:
    """Why a member does not stay where it is. ``moves``: it gets another node; ``lost``: its own does not come back."""

    why: str
    moves: bool = False
    lost: bool = False


def find_fate(placement: Placement, use: RoleUse | None) -> Fate | None:
    """:param use: of the member's role; None when the cloud does not use it any more. :returns: None: it stays."""
    if use is None:
        return Fate(f"the cloud does not use the role {placement.role} any more")
    if placement.hostname in use.remove:
        return Fate("the cloud file removes it")
    if placement.node in use.lost:
        return Fate(f"{placement.node} is lost", moves=True, lost=True)
    if use.nodes and placement.node not in use.nodes:
        return Fate(f"the cloud file does not name {placement.node} for {placement.role} any more", moves=True)
    return None


def free_indices(role: str, use: RoleUse, used: Collection[int], wanted: int) -> list[int]:
    """The lowest numbers that nobody has, without those that the cloud file removes."""
    found: list[int] = []
    index = 0
    while len(found) < wanted:
        if index not in used and f"{role}-{index}" not in use.remove:
            found.append(index)
        index += 1
    return found


def name_who_goes(desired: Desired, role: str, staying: Sequence[Placement], moving: Sequence[Placement]) -> Problem:
    """The count has fallen, and nobody says who goes: that is never guessed.

    :param moving: members that do not stay on their nodes; the example names them first.
    """
    count = desired.cloud.roles[role].count
    members = [*staying, *moving]
    names = ", ".join(f"{placement.hostname} on {placement.node}" for placement in members)
    over = len(members) - count
    removed = desired.cloud.roles[role].remove
    have = f"{role} has {len(members)} members{' left' if removed else ''}"
    what = f"{have}, the count is {count}, and nothing says who goes"
    example = ", ".join((*removed, *(placement.hostname for placement in members[-over:])))
    instead = f"name {over} of {names}; for example: remove: [{example}]"
    return Problem(desired.place(f"roles.{role}.count"), what, instead)


def find_rebuilds(
    desired: Desired, observed: Observed, name: str, members: Sequence[Deployment], nodes: Mapping[str, Node]
) -> tuple[list[Rebuild], list[str]]:
    """(those that run another image than the cloud file says, notes on those that keep theirs for now).

    :param members: of the role, those that stay, by number. :param nodes: all, by name.
    """
    wanted, rebuilds, notes = observed.images.get(name), list[Rebuild](), list[str]()
    if not desired.cloud.roles[name].image or wanted is None:
        return rebuilds, notes
    kept = tuple(volume.mount or volume.name for volume in desired.roles[name].storage.layout if volume.keep)
    for member in members:
        placement, node = member.placement, nodes[member.placement.node]
        departure = observed.departures.get(member.id)
        if placement.image == wanted or (departure is not None and departure.going and departure.failure is None):
            continue
        if member.state is not DeploymentState.ACTIVE:
            continue  # whether it comes up is seen before another image is tried
        if node.maintenance is not None or node.state is NodeState.RESCUE:
            what = "rescue" if node.maintenance is None else "maintenance"
            notes.append(f"{placement.hostname} on {node.name} keeps {placement.image}: it is in {what}")
            continue
        place = placement.model_copy(update={"image": wanted, "rebuilds": member.id})
        why = f"it runs {placement.image}"
        rebuilds.append(Rebuild(placement=place, before=placement.image, kept=kept, guard=build_guard(node), why=why))
    return rebuilds, notes


def find_retries(
    observed: Observed,
    members: Sequence[Deployment],
    nodes: Mapping[str, Node],
    mended: Collection[str],
    wipe: Collection[str],
) -> tuple[list[Retry], list[str]]:
    """Of those that have failed: a deployment begins again, an instance gets its newest generation once more.

    :param members: of the role, those that stay, by number. :param nodes: all, by name.
    :param mended: nodes whose instance gets another generation, or another image, anyway.
    :param wipe: nodes whose disk may be overwritten although it holds something.
    :returns: and notes on those that are let alone, with what to do.
    """
    retries, notes = list[Retry](), list[str]()
    for member in members:
        placement, node = member.placement, nodes[member.placement.node]
        departure = observed.departures.get(member.id)
        refused = node.state is NodeState.ACTIVE and node.failure is not None
        if (departure is not None and departure.going) or (not refused and node.state is not NodeState.FAILED):
            continue
        who = f"{placement.hostname} on {node.name}"
        if node.maintenance is not None:
            command = f"provisioner node maintenance {node.name} --off"
            notes.append(f"{who} has failed and is in maintenance; next: {command}")
            continue
        if node.deployment != member.id:
            notes.append(f"the rescue of {who} has failed; next: provisioner node show {node.name}")
            continue
        if member.state is DeploymentState.ACTIVE and node.name in mended:
            continue
        said = "" if node.failure is None else f": {error_from_dict(node.failure).summary}"
        wiped = member.state is not DeploymentState.ACTIVE and node.name in wipe
        why = f"{'a change' if refused else 'it'} failed{said}{'; its disk may be overwritten' if wiped else ''}"
        retries.append(Retry(node=node.name, hostname=placement.hostname, guard=build_guard(node), why=why))
    return retries, notes
