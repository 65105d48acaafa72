"""How a cloud stands: its members, and which of its roles are ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from provisioner.conductor.doors import Doors
from provisioner.conductor.recovery import read_recoveries
from provisioner.conductor.told import doing, failed_units, is_off, red_probes, stays
from provisioner.errors import NotFound
from provisioner.model.departure import Departure, DepartureState
from provisioner.model.deployment import DeploymentState, Node
from provisioner.model.hardware import Power
from provisioner.model.role import Desired
from provisioner.model.states import NodeState
from provisioner.model.status import CloudStatus, InstanceReport, MemberStatus
from provisioner.store.clouds import Clouds
from provisioner.store.deployments import Slot
from provisioner.store.store import Store

READY = "ready"


@dataclass(frozen=True)
class Member:
    """What is on record of one member. ``waiting``: why its instance waits. ``departure``: when it is to leave.

    ``heard``: when its instance last spoke, in seconds since the epoch; None for never. ``silent``: so long ago that
    nobody can say how it is.
    """

    node: Node
    slot: Slot
    waiting: str | None
    departure: Departure | None = None
    heard: float | None = None
    silent: bool = False

    @property
    def off(self) -> bool:
        """Whether it is switched off. A sweep's word is not taken against whoever has spoken since: controllers err."""
        drift = self.node.drift
        return self.node.power is Power.OFF and (
            self.node.healthy is not True or (drift is not None and (self.heard or 0.0) <= drift["since"])
        )

    @property
    def healthy(self) -> bool | None:
        """What its instance last said, while that holds."""
        return None if self.silent or self.off else self.node.healthy


def read_members(doors: Doors, cloud: str) -> list[Member]:
    """The members of a cloud by host name, as one consistent view."""
    store = doors.store
    with store.view():
        nodes = {_place(store, node): node for node in store.nodes.all() if node.deployment is not None}
        waiting = store.nodes.all_waiting()
        slots = store.deployments.slots(cloud)
        leaving = {departure.deployment: departure for departure in store.departures.all(cloud)}
        heard = store.clouds.heard()
    silent = _silent(doors, heard)
    return [
        Member(node, slot, waiting.get(node.name), leaving.get(slot.id), heard.get(slot.id), slot.id in silent)
        for slot in slots
        if (node := nodes.get(slot.id)) is not None
    ]


def _silent(doors: Doors, heard: Mapping[str, float]) -> frozenset[str]:
    """Of those deployments the ones from which there should have been a word. :param heard: see :class:`Member`."""
    since = doors.silence
    found = {ident for ident, at in heard.items() if at < since}
    said = doors.store.clouds.reports() if found else {}
    return frozenset(ident for ident in found if stays(said.get(ident, {})))


def _place(store: Store, node: Node) -> str | None:
    """The deployment in whose place a node is, also while it is rescued."""
    if node.deployment is None or node.state not in (NodeState.RESCUE, NodeState.FAILED):
        return node.deployment
    return store.deployments.placement(node.deployment).rescues or node.deployment


def ready_roles(doors: Doors, cloud: str, *, newest: bool = True) -> dict[str, str]:
    """Each role: ``ready``, or what is missing for that. :param newest: whether its members must have their newest
    generation in force."""
    return build_roles(doors.store.clouds.get(cloud), read_members(doors, cloud), doors.store.clouds, newest=newest)


def read_status(doors: Doors, cloud: str) -> CloudStatus:
    """:raises NotFound: no such cloud was ever applied."""
    store, now = doors.store, doors.clock.now()
    desired = store.clouds.get(cloud)
    members = read_members(doors, cloud)
    roles = build_roles(desired, members, store.clouds)
    departures = [member.departure for member in members if member.departure is not None]
    leaving = {one.hostname: one.what for one in departures if one.going}
    return CloudStatus(
        cloud=desired.cloud.cloud,
        ready=all(said == READY for said in roles.values()) and not leaving,
        leaving=leaving,
        failed=any(_failure(member) is not None for member in members),
        members=tuple(build_member(member, now) for member in members),
        roles=roles,
        recoveries=read_recoveries(store, cloud, now),
    )


def build_roles(desired: Desired, members: Sequence[Member], clouds: Clouds, *, newest: bool = True) -> dict[str, str]:
    """As :func:`ready_roles`. What instances said is long: read late, and of one alone where one is enough."""
    read_all = cache(clouds.reports)
    return {
        name: _role(
            [member for member in members if member.slot.placement.role == name], use.count, clouds, read_all, newest
        )
        for name, use in desired.cloud.roles.items()
    }


def _role(
    members: Sequence[Member],
    count: int,
    clouds: Clouds,
    read_all: Callable[[], Mapping[str, Mapping[str, Any]]],
    newest: bool,
) -> str:
    failed = [member.slot.placement.hostname for member in members if _failure(member) is not None]
    if failed:
        return f"failed: {', '.join(failed)}"
    active = [member for member in members if member.node.state is NodeState.ACTIVE]
    if len(active) < count:
        return f"{len(active)} of {count} active"
    for member in active:
        hostname = member.slot.placement.hostname
        if newest and member.node.applied < member.node.generation:
            return f"{hostname} applies {_busy(member, clouds) or f'generation {member.node.generation}'}"
        if member.healthy is not True:
            why = _busy(member, clouds)
            how = "is switched off" if member.off else "is silent" if member.silent else "is not healthy"
            return f"{hostname} {how}" + (f"; it applies {why}" if why else "")
        red = red_probes(read_all().get(member.slot.id, {}), "role")
        if red:
            name = next(iter(red))
            return f"probe {name} is red on {hostname}: {red[name].get('output', '')}"
    return READY


def _busy(member: Member, clouds: Clouds) -> str | None:
    record = clouds.report(member.node.name, member.slot.id)
    return None if record is None else doing(record.body)


def build_member(member: Member, now: float) -> MemberStatus:
    node, slot = member.node, member.slot
    placement, step = slot.placement, slot.step
    ended = now if slot.state is DeploymentState.RUNNING or slot.ended is None else slot.ended
    detail = dict(step.detail) if step is not None else {}
    return MemberStatus(
        node=node.name,
        role=placement.role,
        hostname=placement.hostname,
        state=str(node.state),
        step=str(step.name) if step is not None else None,
        detail=detail,
        seconds=round(ended - slot.created, 1),
        generation=node.generation,
        heard=node.heard,
        applied=node.applied,
        healthy=member.healthy,
        waiting=_drained(member) or member.waiting or detail.get("waiting"),
        failure=_failure(member),
        addresses=tuple(address.address for address in placement.addresses),
    )


def read_instance(store: Store, name: str) -> InstanceReport:
    """What a node's instance last said, whole. :raises NotFound: no such node, or it has said nothing."""
    node = store.nodes.get(name)
    record = None if node.deployment is None else store.clouds.report(name, node.deployment)
    if node.deployment is None or record is None:
        why = "it has no instance" if node.deployment is None else "it is not up yet, or does not reach the service"
        raise NotFound(
            "no instance of this node has reported", where=name, cause=why, hint=f"provisioner node show {name}"
        )
    hostname = store.deployments.placement(node.deployment).hostname
    return _build_report(node, hostname, record.body).model_copy(
        update={"at": record.at, "body": dict(record.body), "detail": dict(record.detail)}
    )


def read_instances(doors: Doors, cloud: str) -> list[InstanceReport]:
    """What is unusual in what the members of a cloud last said; no bodies. :raises NotFound: no such cloud."""
    doors.store.clouds.get(cloud)
    members, reports = read_members(doors, cloud), doors.store.clouds.reports()
    return [
        _build_report(member.node, member.slot.placement.hostname, reports[member.slot.id])
        for member in members
        if member.slot.id in reports
    ]


def _build_report(node: Node, hostname: str, body: Mapping[str, Any]) -> InstanceReport:
    return InstanceReport(
        node=node.name,
        hostname=hostname,
        newest=node.generation,
        skew=body.get("skew"),
        off=is_off(body),
        failed=tuple(failed_units(body)),
    )


def _drained(member: Member) -> str | None:
    one = member.departure
    return None if one is None or one.state is not DepartureState.DRAINING else f"drained before it {one.what}"


def _failure(member: Member) -> Mapping[str, Any] | None:
    return member.node.failure or member.slot.failure
