"""Which files a plan changes in which instances: their trees as they are and as they would be, without the nodes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.certificates import Certified
from provisioner.conductor.trees import Common, Trees
from provisioner.errors import ManifestError, Problem
from provisioner.metadata.build import Documents
from provisioner.metadata.trees import Tree, as_told
from provisioner.model.departure import DRAINS
from provisioner.model.deployment import Deployment, DeploymentState, Node, Placement
from provisioner.model.plan import Deploy, Effect, FileChange, Move, Observed, Plan, Rebuild, Release
from provisioner.model.role import Desired
from provisioner.plan.effects import compare_contents
from provisioner.store.clouds import Generation, content_hash
from provisioner_agent.protocol.parts import needed_parts
from provisioner_agent.render.problem import RenderError

FAULTY = 5
"""Instances of an image whose faults are found out one by one; others have the same, as a rule."""


def unmade(name: str) -> str:
    """In the place of a secret that is made when a plan is applied."""
    return f"(secret {name})"


@dataclass(frozen=True)
class Outlook:
    """What an instance would be told by a plan. ``newest``: what it was told last; None for one that is to come."""

    placement: Placement
    own: dict[str, Any]
    newest: Generation | None


def build_outlooks(
    plan: Plan,
    observed: Observed,
    newest: Mapping[str, Generation],
    known: Mapping[str, str],
    certificates: Certified,
    common: Common,
) -> list[Outlook]:
    """Of each instance that would be told something else than now, and of those that are to come. Who is drained hears
    of nothing else.

    :param newest: by node. :param known: the secrets that the cloud has by now. :param certificates: too.
    """
    desired = plan.desired
    live = list(staying(plan, observed.deployments.values()))
    fresh = [action.placement for action in plan.actions if isinstance(action, Deploy | Move | Rebuild)]
    documents = Documents(
        desired,
        [*(deployment.placement for deployment in live), *fresh],
        _secrets(desired, known),
        common.keep,
        certificates.find,
        certificates.authority,
    )
    nodes: dict[str, Node] = {node.name: node for node in observed.nodes}
    outlooks = []
    for placement, ident in [
        *((deployment.placement, deployment.id) for deployment in live),
        *((p, "") for p in fresh),
    ]:
        departure = observed.departures.get(ident)
        if departure is not None and departure.state in DRAINS:
            continue
        node = nodes[placement.node]
        before = newest.get(placement.node) if ident else None
        seeded = None
        if ident and desired.roles[placement.role].image.disk:
            if node.name in observed.silent:
                continue
            if observed.deployments[ident].state is DeploymentState.ACTIVE:
                seeded = observed.metadata.get(placement.node, {}).get("values")
        own = documents.own(placement, node.uuid, node.spec.location.zone, seeded=seeded)
        if before is None or (before.deployment, before.hash) != (ident, content_hash(own)):
            outlooks.append(Outlook(placement, own, before))
    return outlooks


def staying(plan: Plan, deployments: Iterable[Deployment]) -> Iterator[Deployment]:
    """Those of the plan's cloud that stay as they are."""
    released = {action.node for action in plan.actions if isinstance(action, Release | Move | Rebuild)}
    for deployment in deployments:
        placement = deployment.placement
        mine = placement.cloud == plan.desired.cloud.cloud and placement.role in plan.desired.cloud.roles
        if mine and placement.node not in released:
            yield deployment


def _secrets(desired: Desired, known: Mapping[str, str]) -> dict[str, str]:
    return {secret: unmade(secret) for role in desired.roles.values() for secret in role.secrets} | dict(known)


def find_effects(
    outlooks: Sequence[Outlook], before: Mapping[str, str], common: Common, trees: Trees
) -> tuple[list[Effect], list[str]]:
    """(the files that change by instance, a note for each image of which that cannot be said).

    :param before: by node, the own metadata of :attr:`Outlook.newest` as JSON.
    :raises ManifestError: templates cannot be rendered with what they would be told, each with path and line.
    """
    found = _Effects(common, trees)
    for outlook in outlooks:
        found.look(outlook, before.get(outlook.placement.node))
    if found.faults:
        raise ManifestError(list(_problems(found.faults)))
    return found.effects, [no_tree(image, count, trees.why[image]) for image, count in found.unknown.items()]


def no_tree(image: str, count: int, why: str) -> str:
    """A note."""
    return f"which files change in {count} {'instance' if count == 1 else 'instances'} of {image} cannot be said: {why}"


Fault = tuple[str, str, str]
"""(image, where, what)."""


class _Effects:
    def __init__(self, common: Common, trees: Trees) -> None:
        self.common = common
        self.trees = trees
        self.effects: list[Effect] = []
        self.unknown: dict[str, int] = {}
        self.faults: dict[Fault, list[str]] = {}
        self.faulty: dict[str, int] = {}
        self.broken: dict[tuple[str, tuple[str, ...]], int] = {}
        self.shells: dict[str, dict[str, FileChange]] = {}

    def look(self, outlook: Outlook, before: str | None) -> None:
        placement = outlook.placement
        tree = self.trees.find(placement.image)
        if tree is None:
            if outlook.newest is not None:
                self.unknown[placement.image] = self.unknown.get(placement.image, 0) + 1
            return
        if self.faulty.get(placement.image, 0) >= FAULTY:
            return
        shared = self.common.find(needed_parts(outlook.own))
        assert shared is not None, "they were kept when it was built"
        try:
            new = tree.contents(shared, as_told(outlook.own))
        except RenderError as error:
            self.faulty[placement.image] = self.faulty.get(placement.image, 0) + 1
            for problem in error.problems:
                self.faults.setdefault((placement.image, problem.where, problem.what), []).append(placement.hostname)
            return
        if outlook.newest is not None:
            old = self._old(placement.image, tree, outlook.newest, before)
            files = compare_contents(old, new, self._shells(placement.image, tree))
            effect = Effect(node=placement.node, hostname=placement.hostname, role=placement.role, files=files)
            self.effects.append(effect)

    def _old(self, image: str, tree: Tree, newest: Generation, text: str | None) -> dict[str, str]:
        """The files as they are; none when what they were rendered from is not kept, or cannot be rendered."""
        shared, key = self.common.find(newest.parts), (image, newest.parts)
        if shared is None or text is None or self.broken.get(key, 0) >= FAULTY:
            return {}
        try:
            return tree.contents(shared, as_told(json.loads(text)))
        except RenderError:
            self.broken[key] = self.broken.get(key, 0) + 1
            return {}

    def _shells(self, image: str, tree: Tree) -> dict[str, FileChange]:
        if image not in self.shells:
            self.shells[image] = {
                file.path: FileChange(path=file.path, services=dict(file.services), confirm=file.confirm)
                for file in tree.shells()
            }
        return self.shells[image]


def _problems(faults: Mapping[Fault, Sequence[str]]) -> Iterator[Problem]:
    for fault, hosts in faults.items():
        yield not_rendered(*fault, hosts)


def not_rendered(image: str, where: str, what: str, hosts: Sequence[str]) -> Problem:
    """:param hosts: instances in which the fault was found."""
    more = " and maybe others" if len(hosts) >= FAULTY else ""
    instead = "give it a value in the role's file, or correct the template and build the image"
    return Problem(f"{image}: {where}", f"{what}; on {', '.join(hosts)}{more}", instead)
