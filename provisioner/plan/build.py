"""From the actual to the desired: which slots are empty, which instances hold other values, which nodes are over.

Pure: nothing is looked at but the two arguments, and the same arguments give the same plan.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from provisioner.errors import ImageError, ManifestError, Problem
from provisioner.manifest.check import suggest
from provisioner.manifest.explain import find_place
from provisioner.manifest.values import CLOUD_CONFIG, Mixture, Values, build_shared
from provisioner.model.departure import Departure
from provisioner.model.deployment import Deployment, DeploymentState, Node, Placement
from provisioner.model.plan import Action, Change, Configure, Deploy, Guard, Move, Observed, Plan, Rebuild, Release
from provisioner.model.role import Desired, Role, RoleUse
from provisioner.model.states import NodeState
from provisioner.plan.compare import compare_ports
from provisioner.plan.guard import build_guard
from provisioner.plan.members import Fate, find_fate, find_rebuilds, find_retries, free_indices, name_who_goes
from provisioner.plan.order import describe_order, describe_rolling
from provisioner.plan.pick import Addresses, natural, wasted, why_not
from provisioner.plan.values import check_values, diff_shared
from provisioner.plan.wire import ports_of, wire

RAMDISK = "ramdisk"
"""The image that every deployment boots first."""


Slot = tuple[str, int]
"""A member's place: its role, its number."""


def build_plan(desired: Desired, observed: Observed, takes: Mapping[Slot, str] | None = None) -> Plan:
    """What has to be done, in order: releases, deployments, new values.

    :param takes: which node an empty place, or a member that gets another node, must have.
    :raises ManifestError: names every role for which too few nodes match, with the reason of each node.
    :raises ImageError: an image that is needed was never built, or is not trusted.
    """
    return _Planner(desired, observed, takes or {}).plan()


class _Planner:
    def __init__(self, desired: Desired, observed: Observed, takes: Mapping[Slot, str]) -> None:
        self.desired = desired
        self.observed = observed
        self.takes = takes
        self.nodes = {node.name: node for node in sorted(observed.nodes, key=lambda node: natural(node.name))}
        self.free = dict(self.nodes)
        self.own: dict[Slot, Deployment] = {}
        self.moving: dict[Slot, tuple[Deployment, Fate]] = {}
        self.leaving: set[Slot] = set()
        taken = []
        for departure in observed.departures.values():
            if departure.placement is not None and not self._moves_anew(departure):  # that node is kept for it
                self.free.pop(departure.placement.node, None)
                taken += [address.address for address in departure.placement.addresses]
        for deployment in observed.deployments.values():
            placement = deployment.placement
            self.free.pop(placement.node, None)
            taken += [address.address for address in placement.addresses]
            if placement.cloud == desired.cloud.cloud:
                self.own[placement.role, placement.index] = deployment
        self.addresses = Addresses(desired.cloud, taken)
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.values = Values(desired)
        self.mixtures: dict[tuple[str, str, str], Mixture] = {}
        self.strays: dict[str, list[str]] = {}
        self.compared: dict[tuple[str, str, str], tuple[dict[str, Any], tuple[Change, ...]]] = {}

    def _moves_anew(self, departure: Departure) -> bool:
        """Whether it has stopped, and this plan gives it another node once more."""
        cloud, deployment = self.desired.cloud, self.observed.deployments.get(departure.deployment)
        if deployment is None or departure.cloud != cloud.cloud or not departure.going or departure.failure is None:
            return False
        fate = find_fate(deployment.placement, cloud.roles.get(departure.role))
        return fate is not None and fate.moves

    def plan(self) -> Plan:
        self._check_names()
        releases = [action for slot in sorted(self.own) if (action := self._release(slot)) is not None]
        deploys: list[Action] = []
        configures: list[Action] = []
        rebuilds: list[Action] = []
        retries: list[Action] = []
        # Roles that name their nodes choose first, so that the others leave these alone.
        for name, use in sorted(self.desired.cloud.roles.items(), key=lambda item: not item[1].nodes):
            deploys += self._deploy(name, use)
            changed = self._configure(name, use)
            configures += changed
            own = [self.own[slot] for slot in sorted(self.own) if slot[0] == name]
            rebuilt, notes = find_rebuilds(self.desired, self.observed, name, own, self.nodes)
            rebuilds += rebuilt
            # What is broken takes no generation before it is tried again.
            mended = {one.node for one in changed if self.nodes[one.node].state is NodeState.ACTIVE}
            mended |= {one.node for one in rebuilt}
            again, failed = find_retries(self.observed, own, self.nodes, mended, use.wipe)
            retries += again
            self.notes += [*notes, *failed]
            if rebuilt and (order := describe_rolling(self.desired, name, rebuilt)) is not None:
                self.notes.append(order)
            if changed and (order := describe_order(self.desired, name, self._running(name))) is not None:
                self.notes.append(order)
        mixed = list(self.mixtures.values())
        self.problems += check_values(self.desired, self.values, mixed, self.strays, self.observed.secrets)
        if self.problems:
            raise ManifestError(self.problems)
        self._check_images([*deploys, *rebuilds])
        actions: tuple[Any, ...] = (*releases, *deploys, *configures, *rebuilds, *retries)
        return Plan(cloud=self.desired.cloud.cloud, desired=self.desired, actions=actions, notes=tuple(self.notes))

    def _check_names(self) -> None:
        for name in self.desired.cloud.nodes:
            if name not in self.nodes:
                instead = suggest(name, self.nodes) or "enroll it: provisioner node enroll FILE.yaml"
                where = self.desired.place(f"nodes.{name}")
                self.problems.append(Problem(where, f"there is no node {name!r} on record", instead))
        for role, use in self.desired.cloud.roles.items():
            for name in use.lost:
                if name not in self.nodes:
                    self.notes.append(f"{name}, which {role} has lost, is not on record any more")
            for key, names in (("nodes", use.nodes), ("wipe", use.wipe), ("accept", use.accept)):
                for number, name in enumerate(names):
                    if name not in self.nodes:
                        item = f".{name}" if key == "accept" else f"[{number}]"
                        where = self.desired.place(f"roles.{role}.{key}{item}")
                        instead = suggest(name, self.nodes) or "enroll it: provisioner node enroll FILE.yaml"
                        self.problems.append(Problem(where, f"there is no node {name!r} on record", instead))

    def _mix(self, role: str, node: Node) -> Mixture:
        """The values of a member, which are then looked at by :func:`~provisioner.plan.values.check_values`."""
        zone = node.spec.location.zone
        if zone and self.desired.zones and zone not in self.desired.zones:
            self.strays.setdefault(zone, []).append(node.name)
        mixture = self.values.of(role, zone, node.name)
        self.mixtures[mixture.key] = mixture
        return mixture

    def _release(self, slot: Slot) -> Action | None:
        """Of a member that does not stay where it is; who gets another node is noted for :meth:`_deploy`."""
        role, _ = slot
        deployment, use = self.own[slot], self.desired.cloud.roles.get(role)
        placement = deployment.placement
        departure = self.observed.departures.get(deployment.id)
        if departure is not None and departure.going and departure.failure is None:
            said = f"{placement.hostname} on {placement.node} is to leave: it {departure.what} ({departure.why})"
            self.notes.append(f"{said}; provisioner cloud abort {placement.cloud} {placement.hostname} keeps it")
            if departure.placement is None:
                del self.own[slot]
                self.leaving.add(slot)
            return None
        if departure is not None and departure.going:
            cloud, what = placement.cloud, f"{placement.hostname} on {placement.node} was to leave, and has stopped"
            resume, abort = f"provisioner cloud resume {cloud}", f"provisioner cloud abort {cloud} {placement.hostname}"
            self.notes.append(f"{what}: it {departure.what} ({departure.why}); {resume}, or {abort}")
        fate = find_fate(placement, use)
        if fate is None:
            return None
        node = self.nodes[placement.node]
        if node.maintenance is not None or node.state is NodeState.RESCUE:
            what = "rescue" if node.maintenance is None else "maintenance"
            self.notes.append(f"{placement.hostname} on {node.name} is left, though {fate.why}: it is in {what}")
            if not fate.moves:
                del self.own[slot]
                self.leaving.add(slot)
            return None
        del self.own[slot]
        if fate.moves:
            self.moving[slot] = (deployment, fate)
            return None
        self.leaving.add(slot)
        return Release(
            node=placement.node,
            hostname=placement.hostname,
            guard=build_guard(node),
            why=fate.why,
            drain=deployment.state is DeploymentState.ACTIVE,
        )

    def _deploy(self, name: str, use: RoleUse) -> list[Action]:
        """For places that nobody has, and for members that get another node."""
        role = self.desired.roles[name]
        moving = sorted(slot for slot in self.moving if slot[0] == name)
        here = [slot for slot in self.own if slot[0] == name]
        if len(here) + len(moving) > use.count:
            staying = [self.own[slot].placement for slot in sorted(here)]
            gone = [self.moving[slot][0].placement for slot in moving]
            self.problems.append(name_who_goes(self.desired, name, staying, gone))
            return []
        used = {index for owner, index in (*self.own, *self.moving, *self.leaving) if owner == name}
        empty = free_indices(name, use, used, use.count - len(here) - len(moving))
        slots = [*(index for _, index in moving), *empty]
        reasons = {
            node.name: why for node in self.free.values() if (why := why_not(node, role, use, self.desired.cloud))
        }
        fit = [node for node in self.free.values() if node.name not in reasons]
        for at, index in enumerate(slots):
            wanted = self.takes.get((name, index))
            if wanted is None:
                continue
            by = next((node for node in fit if node.name == wanted), None)
            if by is None:
                why = reasons.get(wanted, "it has a place already")
                self.problems.append(Problem(f"node {wanted}", f"it cannot take {name}-{index}: {why}"))
                return []
            fit.remove(by)
            fit.insert(at, by)
        if len(fit) < len(slots):
            self._too_few(name, use, len(fit), reasons)
            return []
        deploys: list[Action] = []
        for index, node in zip(slots, fit, strict=False):
            placement = self._place(name, role, index, node, wipe=node.name in use.wipe)
            if placement is None:
                return []
            del self.free[node.name]
            self._mix(name, node)
            self._note_disk(node, wipe=placement.wipe or role.storage.wipe)
            self._note_ports(node, ports_of(placement.interfaces))
            if (name, index) in self.moving:
                deploys.append(self._move(placement, build_guard(node), *self.moving[name, index]))
            else:
                deploys.append(Deploy(placement=placement, guard=build_guard(node), why="no node has this place yet"))
        return deploys

    def _move(self, placement: Placement, target: Guard, deployment: Deployment, fate: Fate) -> Move:
        return Move(
            node=deployment.placement.node,
            placement=placement.model_copy(update={"replaces": deployment.id}),
            guard=build_guard(self.nodes[deployment.placement.node]),
            target=target,
            why=fate.why,
            drain=not fate.lost and deployment.state is DeploymentState.ACTIVE,
            lost=fate.lost,
        )

    def _too_few(self, name: str, use: RoleUse, fit: int, reasons: dict[str, str]) -> None:
        have = sum(1 for role, _ in self.own if role == name)
        total = have + fit
        what = f"the role {name} needs {use.count} nodes, {total} match" + (f" ({have} run it)" if have else "")
        if reasons:
            what += f"; {wasted(reasons)}"
        instead = f"write a count of at most {total}" if total else "enroll nodes that match"
        if total:
            instead += ", or enroll more nodes: provisioner node enroll FILE.yaml"
        self.problems.append(Problem(self.desired.place(f"roles.{name}.count"), what, instead))

    def _place(self, name: str, role: Role, index: int, node: Node, *, wipe: bool) -> Placement | None:
        carries, interfaces = wire(role, node, self.desired.cloud)
        addresses = self.addresses.pick(carries)
        if isinstance(addresses, str):
            where = self.desired.place(f"networks.{addresses}.pool")
            self.problems.append(Problem(where, f"the pool has no free address for {node.name}", "make it larger"))
            return None
        return Placement(
            cloud=self.desired.cloud.cloud,
            role=name,
            index=index,
            hostname=f"{name}-{index}",
            node=node.name,
            image=self.observed.images.get(name, ""),
            addresses=addresses,
            interfaces=interfaces,
            wipe=wipe,
        )

    def _configure(self, name: str, use: RoleUse) -> list[Configure]:
        configures: list[Configure] = []
        for slot in sorted(slot for slot in self.own if slot[0] == name):
            deployment = self.own[slot]
            if (departure := self.observed.departures.get(deployment.id)) is not None and departure.going:
                continue  # it hears nothing else before that is over
            node, hostname = self.nodes[deployment.placement.node], deployment.placement.hostname
            self._note(deployment)
            changes = self._compare(self._mix(name, node), self.observed.metadata.get(node.name, {}))
            if self.desired.roles[name].image.disk:
                changes = self._note_read_once(deployment, node, changes)
            if changes:
                guard = build_guard(node)
                why = "what it was told differs from the files"
                configures.append(
                    Configure(node=node.name, hostname=hostname, role=name, changes=changes, guard=guard, why=why)
                )
        return configures

    def _note_read_once(self, deployment: Deployment, node: Node, changes: tuple[Change, ...]) -> tuple[Change, ...]:
        """Note what only another deployment brings into an instance of a whole disk; the changes that are not that."""
        if deployment.state is not DeploymentState.ACTIVE:
            return changes
        silent = node.name in self.observed.silent
        once = [change.path for change in changes if silent or change.path.split(".")[0] == CLOUD_CONFIG]
        if once:
            what = "a release before deployed it, whose agent does not stay" if silent else "cloud-init has run"
            self.notes.append(
                f"{deployment.placement.hostname} on {node.name}: {what}, and now differ: {', '.join(once)}; "
                f"next: provisioner apply, then provisioner node rebuild {node.name}"
            )
        return tuple(change for change in changes if change.path not in once)

    def _compare(self, mixture: Mixture, told: dict[str, Any]) -> tuple[Change, ...]:
        """Members that have the same values were mostly told the same too, so few comparisons are made."""
        known = self.compared.get(mixture.key)
        if known is None or known[0] != told:
            layers, rule = self.values.layers(*mixture.key), self.values.rule(mixture.role)
            shared = build_shared(self.desired, mixture.role, mixture.values)
            changes = diff_shared(told, shared, lambda path: find_place(self.desired, layers, rule, path))
            known = self.compared[mixture.key] = (told, changes)
        return known[1]

    def _running(self, name: str) -> list[str]:
        """Host names of a role's members that run and are not let alone, by number."""
        mine = [self.own[slot] for slot in sorted(self.own) if slot[0] == name]
        return [
            found.placement.hostname
            for found in mine
            if found.state is DeploymentState.ACTIVE and self.nodes[found.placement.node].maintenance is None
        ]

    def _note_disk(self, node: Node, *, wipe: bool) -> None:
        """Said before the node boots, where the ramdisk has seen its only disk before; with more, hints decide."""
        disks = node.hardware.disks if node.hardware else ()
        if len(disks) == 1 and disks[0].signatures and not wipe:
            self.notes.append(
                f"{node.name}: its disk {disks[0].name} held {', '.join(disks[0].signatures)} when it was last seen; "
                "the deployment will refuse it unless the cloud file names the node under wipe"
            )

    def _note_ports(self, node: Node, used: Collection[str]) -> None:
        """What an inspection saw at the ports that the role uses: no link, or another switch than the file says."""
        if node.hardware is not None:
            lines = compare_ports([port for port in node.spec.ports if port.mac in used], node.hardware)
            self.notes += [f"{node.name}: {line}" for line in lines]

    def _note(self, deployment: Deployment) -> None:
        placement = deployment.placement
        newest = self.observed.images.get(placement.role, placement.image)
        if newest != placement.image and not self.desired.cloud.roles[placement.role].image:
            self.notes.append(f"{placement.hostname} runs {placement.image}; {newest} is newer")

    def _check_images(self, deploys: list[Action]) -> None:
        if not deploys:
            return
        kinds = (Deploy, Move, Rebuild)
        wanted = [RAMDISK, *(action.placement.role for action in deploys if isinstance(action, kinds))]
        missing = [name for name in dict.fromkeys(wanted) if name not in self.observed.images]
        if missing:
            known = {name: self.desired.roles[name] for name in missing if name in self.desired.roles}
            disks = {name: role.image.disk for name, role in known.items() if not role.image.is_built}
            brought = list(disks.values())
            build = [name for name in missing if not disks.get(name)]
            hints = [f"provisioner image build {' '.join(build)}"] if build else []
            hints += [f"provisioner image import FILE --name {disk}" for disk in brought]
            raise ImageError(
                f"there is no image {', '.join([*build, *brought])} whose signature holds",
                where=self.desired.cloud.cloud,
                hint="; ".join(hints),
            )
