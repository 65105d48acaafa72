"""The files of instances for operators: rendered and compared without the nodes, and without what is secret."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.conductor.clouds import deployments_of, look_ahead
from provisioner.conductor.doors import Doors
from provisioner.conductor.effects import no_tree, not_rendered, unmade
from provisioner.conductor.masker import Masker
from provisioner.conductor.trees import Common, Trees
from provisioner.errors import ManifestError, NotFound
from provisioner.metadata.certificates import certificate_stand_in
from provisioner.metadata.trees import Tree, as_told
from provisioner.model.config import (
    ConfigDiff,
    FileDiff,
    InstanceFile,
    InstanceFiles,
    MemberName,
    MembersDiff,
)
from provisioner.model.deployment import Placement
from provisioner.model.plan import FileChange
from provisioner.model.role import Desired
from provisioner.plan.effects import compare_contents
from provisioner.store.clouds import Generation
from provisioner_agent.protocol.parts import needed_parts
from provisioner_agent.render.problem import RenderError
from provisioner_agent.render.tree import RenderedFile

CERTIFICATES = "certificates"
"""In a node's own metadata."""
SHOWN = 50
"""Different diffs of one file in an answer, unless one instance is asked for: nobody reads a thousand."""


def mask_secrets(own: Mapping[str, Any]) -> dict[str, Any]:
    """A node's own metadata with the names of its secrets in place of their values."""
    masked = {**own, "secrets": {name: unmade(name) for name in own.get("secrets") or {}}}
    if CERTIFICATES in own:
        masked[CERTIFICATES] = {name: certificate_stand_in(name) for name in own[CERTIFICATES]}
    return masked


def stand_ins(owns: Iterable[Mapping[str, Any]], known: Iterable[str]) -> set[str]:
    """What :func:`mask_secrets` puts into nodes' own metadata. :param known: names of secrets of their cloud."""
    owns = list(owns)
    certificates = {name for own in owns for name in own.get(CERTIFICATES) or ()}
    words = {word for name in certificates for word in certificate_stand_in(name).values()}
    return words | {unmade(name) for names in [*(own.get("secrets") or () for own in owns), known] for name in names}


@dataclass(frozen=True)
class Files:
    """The files of an instance. ``shown``: without what is secret. ``contents``: with it, to be compared only."""

    shown: Mapping[str, RenderedFile]
    contents: Mapping[str, str]


NO_FILES = Files({}, {})


def render_node(doors: Doors, name: str) -> InstanceFiles:
    """The files that a node is to have: its image's templates with the newest generation of its metadata.

    :raises NotFound: there is no such node, it is in no cloud, or its image keeps no templates.
    :raises ManifestError: the templates cannot be rendered.
    """
    desk = _Node(doors, name)
    files = desk.files(desk.newest)
    return InstanceFiles(
        node=name,
        hostname=desk.placement.hostname,
        image=desk.placement.image,
        generation=desk.newest.generation,
        files=tuple(_told(files.shown[path]) for path in sorted(files.shown)),
    )


def diff_node(doors: Doors, name: str) -> ConfigDiff:
    """What the newest generation changes in the files that a node has in force.

    :raises NotFound: as :func:`render_node`; or what it has in force is not on record any more.
    """
    desk = _Node(doors, name)
    applied = doors.store.nodes.get(name).applied
    old = NO_FILES
    if applied:
        generation = doors.store.clouds.applied(name)
        if generation is None or desk.common.find(generation.parts) is None:
            raise NotFound(
                f"what generation {applied} was made of is not kept any more",
                where=name,
                cause="it is of before generations in force were kept, or of a backup",
                hint="in the instance, provisioner-agent why /etc/FILE compares with what is on its disk",
            )
        old = desk.files(generation)
    found = Diffs(limit=None)
    found.add(desk.placement, old, desk.files(desk.newest))
    before = f"generation {applied}, in force" if applied else "nothing is in force"
    return ConfigDiff(before=before, after=f"generation {desk.newest.generation}", changes=found.changes())


def diff_cloud(doors: Doors, desired: Desired, member: str | None) -> ConfigDiff:
    """What ``apply`` would change in the files of members on record.

    :param member: the host name or node of the one that is asked for; None for all.
    :raises NotFound: there is no such member on record. :raises ManifestError: as ``plan``.
    """
    ahead = look_ahead(doors, desired)
    live = [outlook.placement for outlook in ahead.outlooks if outlook.newest is not None]
    if member is not None:
        known = [deployment.placement for deployment in ahead.observed.deployments.values()]
        mine = [placement for placement in known if placement.cloud == desired.cloud.cloud]
        if not any(member in (placement.hostname, placement.node) for placement in mine):
            names = ", ".join(sorted(placement.hostname for placement in mine)) or "none"
            raise NotFound("no such member is on record", where=member, hint=f"on record are: {names}")
        live = [placement for placement in live if member in (placement.hostname, placement.node)]
    wanted = {placement.node for placement in live}
    words = stand_ins([outlook.own for outlook in ahead.outlooks], ahead.secrets)
    trees, masker = Trees(doors.catalogue, words), Masker(ahead.secrets)
    found = Diffs(limit=SHOWN if member is None else None)
    unknown: dict[str, int] = {}
    for outlook in ahead.outlooks:
        placement = outlook.placement
        if outlook.newest is None or placement.node not in wanted:
            continue
        tree = trees.find(placement.image)
        if tree is None:
            unknown[placement.image] = unknown.get(placement.image, 0) + 1
            continue
        new = _render(ahead.common, tree, placement, outlook.own, needed_parts(outlook.own), masker)
        text = ahead.before.get(placement.node)
        old = NO_FILES
        if text is not None and ahead.common.find(outlook.newest.parts) is not None:
            try:
                old = _render(ahead.common, tree, placement, json.loads(text), outlook.newest.parts, masker)
            except ManifestError:  # it never came into force
                old = NO_FILES
        found.add(placement, old, new)
    notes = tuple(no_tree(image, count, trees.why[image]) for image, count in unknown.items())
    return ConfigDiff(before="what is on record", after="the cloud file", changes=found.changes(), notes=notes)


def _render(
    common: Common,
    tree: Tree,
    placement: Placement,
    own: Mapping[str, Any],
    parts: tuple[str, ...],
    masker: Masker,
) -> Files:
    shared = common.find(parts)
    assert shared is not None
    try:
        files = tree.files(shared, as_told(mask_secrets(own)))
        contents = tree.contents(shared, as_told(own))
    except RenderError as error:
        problems = [not_rendered(placement.image, p.where, p.what, [placement.hostname]) for p in error.problems]
        raise ManifestError(problems) from error
    return Files({path: _masked(file, masker) for path, file in files.items()}, contents)


def _masked(file: RenderedFile, masker: Masker) -> RenderedFile:
    text = masker.mask(file.content)
    return file if text is file.content else RenderedFile(**{**vars(file), "content": text})


class _Node:
    """A node on record with its tree and what it was told."""

    def __init__(self, doors: Doors, name: str) -> None:
        store = doors.store
        with store.view():
            node = store.nodes.get(name)
            newest = store.clouds.newest(name)
            if newest is None or newest.deployment not in deployments_of(doors, node):
                hint = "provisioner config render CLOUD.yaml MEMBER renders what it would be told"
                raise NotFound("the node is in no cloud, and was told nothing", where=name, hint=hint)
            self.newest = newest
            self.placement = store.deployments.placement(newest.deployment)
            applied = store.clouds.applied(name)
            self._own = {g.generation: store.clouds.own_text(g) for g in (newest, applied) if g is not None}
            self.common = Common(store.clouds.parts_of([newest, *([applied] if applied else [])]))
            secrets = store.clouds.secrets(self.placement.cloud)
        self._masker = Masker(secrets)
        trees = Trees(doors.catalogue, stand_ins(map(json.loads, self._own.values()), secrets))
        tree = trees.find(self.placement.image)
        if tree is None:
            raise NotFound(
                "the files of this node cannot be rendered",
                where=f"{name}: {self.placement.image}",
                cause=trees.why[self.placement.image],
                hint=f"provisioner node rebuild {name} takes the newest image of its role",
            )
        self._tree = tree

    def files(self, generation: Generation) -> Files:
        own = json.loads(self._own[generation.generation])
        return _render(self.common, self._tree, self.placement, own, generation.parts, self._masker)


def _told(file: RenderedFile) -> InstanceFile:
    return InstanceFile(
        path=file.path,
        mode=f"{file.mode:04o}",
        owner=file.owner,
        group=file.group,
        validator=file.validate,
        services=dict(file.services),
        confirm=file.confirm,
        content=None if file.sensitive else file.content,
    )


class Diffs:
    """Gathers what differs; instances of which the same does stand together. ``limit``: see :data:`SHOWN`."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._known: dict[str, dict[tuple[str, str], tuple[str, ...]]] = {}
        self._found: dict[str, tuple[tuple[FileDiff, ...], list[MemberName]]] = {}

    def add(self, placement: Placement, old: Files, new: Files) -> None:
        shells = {
            path: FileChange(path=path, services=dict(file.services), confirm=file.confirm)
            for path, file in new.shown.items()
        }
        files = tuple(
            self._diff(change, old.shown.get(change.path), new.shown.get(change.path))
            for change in compare_contents(old.contents, new.contents, shells)
        )
        if files:
            key = json.dumps([file.model_dump(mode="json") for file in files])
            name = MemberName(node=placement.node, hostname=placement.hostname)
            self._found.setdefault(key, (files, []))[1].append(name)

    def _diff(self, change: FileChange, old: RenderedFile | None, new: RenderedFile | None) -> FileDiff:
        if any(file is not None and file.sensitive for file in (old, new)):
            return FileDiff(change=change, sensitive=True)
        pair = (old.content if old else "", new.content if new else "")
        known = self._known.setdefault(change.path, {})
        if pair not in known:
            if self._limit is not None and len(known) >= self._limit:
                return FileDiff(change=change, left_out=True)
            known[pair] = tuple(unify(change.path, *pair))
        return FileDiff(change=change, lines=known[pair])

    def changes(self) -> tuple[MembersDiff, ...]:
        return tuple(MembersDiff(members=tuple(names), files=files) for files, names in self._found.values())


def unify(path: str, old: str, new: str) -> Sequence[str]:
    """A unified diff, without ends of lines."""
    return list(difflib.unified_diff(old.splitlines(), new.splitlines(), path, path, lineterm=""))
