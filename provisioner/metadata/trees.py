"""The files of many nodes: each image's templates read once, what the nodes share evaluated once. Pure."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from provisioner.metadata.template import Member, Missing, Settled, Walk, finish, read_template, settle
from provisioner_agent.protocol.parts import join_parts, write_part
from provisioner_agent.render.problem import Problem, RenderError
from provisioner_agent.render.references import REFERENCES, put_references
from provisioner_agent.render.tree import (
    RESERVED,
    RenderedFile,
    build_data,
    render_tree,
    split_tree,
    with_own_members,
)

VALUES, MEMBERS = "values", "members"
MIXTURES = 16
"""Different values of nodes that a template is evaluated on beforehand. With more, nodes have values of their own, and
only the members of the cloud are what they share."""


def as_told(document: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata as they reach an instance: maps that are shown whole are in the order of their keys."""
    told: dict[str, Any] = json.loads(write_part(document))
    return told


def name_members(part: Mapping[str, Any]) -> Mapping[str, Any]:
    """A part whose members are such as :class:`Shared` works with; made once of a part that many have in common."""
    told = part.get(MEMBERS)
    if told is None or all(isinstance(member, Member) for members in told.values() for member in members[:1]):
        return part
    return {**part, MEMBERS: {role: [Member(member) for member in members] for role, members in told.items()}}


class Shared:
    """What some nodes have in common, for templates. Made once of their parts, and handed in with each of them.

    :param secrets: those to which values refer, in their place. :raises LookupError: one is not given.
    """

    def __init__(self, parts: Sequence[Mapping[str, Any]], secrets: Mapping[str, str] | None = None) -> None:
        self.parts = tuple(map(name_members, parts))
        joined: dict[str, Any] = {}
        for part in self.parts:
            joined.update(part)
        self._names = tuple(dict.fromkeys(name for _, name in joined.get(REFERENCES) or ()))
        self._filled: dict[tuple[str | None, ...], Shared] = {}
        values = joined.get(VALUES) or {}
        if secrets is not None:
            values = put_references(values, joined, lambda name: secrets[name])
        self.data = values | with_own_members({name: joined[name] for name in RESERVED if name in joined})
        self.whole = any(name in values for name in RESERVED)
        """Whether the nodes can only be rendered one by one."""

    def filled(self, secrets: Mapping[str, str]) -> Shared:
        """With these secrets where values refer to some; made once for all nodes that have the same.

        :raises LookupError: one is not among them.
        """
        if not self._names:
            return self
        key = tuple(secrets.get(name) for name in self._names)
        if key not in self._filled:
            self._filled[key] = Shared(self.parts, secrets)
        return self._filled[key]


class Tree:
    """The template tree of an image.

    :param files: text by relative path, control files too. :param stand_ins: what stands in the place of secrets that
        are not to be shown, and so is of any type that a tag asks for. :param mixtures: see :data:`MIXTURES`.
    """

    def __init__(self, files: Mapping[str, str], stand_ins: Collection[str] = (), mixtures: int = MIXTURES) -> None:
        self._stand_ins = stand_ins
        self._mixtures = mixtures
        self._templates, self._controls = split_tree(files)
        problems: list[Problem] = []
        self._shells: dict[str, RenderedFile] = {}
        try:
            shells = render_tree(dict.fromkeys(self._templates, "something"), self._controls, {})
            self._shells = {path: replace(file, content="") for path, file in shells.items()}
        except RenderError as error:
            problems += error.problems
        self._read = {
            path: read_template(path, text, problems, lax=_says(self._controls, path, lax=True))
            for path, text in self._templates.items()
        }
        self._never_empty = {f"/{path}" for path in self._templates if _says(self._controls, path, allow_empty=False)}
        self._whole = bool(problems)
        self._settled: dict[tuple[Shared, frozenset[str]], dict[str, Settled] | None] = {}
        self._of_members: dict[tuple[int, frozenset[str]], tuple[Any, dict[str, Settled] | None]] = {}

    def shells(self) -> Collection[RenderedFile]:
        """All files that there may be, without their contents: what their control files say of them."""
        return self._shells.values()

    def files(self, shared: Shared, own: Mapping[str, Any]) -> dict[str, RenderedFile]:
        """The files of a node by path. :raises RenderError: with every problem of every template."""
        found = self.contents(shared, own)
        return {path: replace(self._shells[path], content=text) for path, text in found.items()}

    def contents(self, shared: Shared, own: Mapping[str, Any]) -> dict[str, str]:
        """What is in the files of a node, by path.

        :param own: the node's own metadata, :func:`as_told`. :raises RenderError: with every problem of every template.
        """
        data = {name: own[name] for name in RESERVED if name in own}
        settled, walk = None, Walk({}, frozenset())
        with suppress(LookupError):  # the agent's renderer says which secret is not there
            shared = shared.filled(own.get("secrets") or {})
            if not (self._whole or shared.whole or VALUES in own):
                settled, walk = self._settle(shared, data, str(own["node"]["hostname"]))
        if settled is not None:
            try:
                found = {path: finish(text, walk) for path, text in settled.items()}
                return {path: text for path, text in found.items() if text.strip() or path not in self._never_empty}
            except Missing:  # the agent's renderer finds out what else there is, and says it all
                pass
        data = build_data(join_parts(own, shared.parts))
        rendered = render_tree(self._templates, self._controls, data, self._stand_ins)
        return {path: file.content for path, file in rendered.items()}

    def _settle(self, shared: Shared, own: Mapping[str, Any], host: str) -> tuple[dict[str, Settled] | None, Walk]:
        """What is left for a node, and what evaluates it; None when the nodes are to be rendered one by one."""
        late = frozenset(own)
        key = (shared, late)
        if key not in self._settled and len(self._settled) >= self._mixtures:
            return self._settle_members(shared, own, host)
        if key not in self._settled:
            self._settled[key] = self._evaluate(shared.data, late)
        return self._settled[key], Walk(shared.data, late, own, host, self._stand_ins)

    def _settle_members(
        self, shared: Shared, own: Mapping[str, Any], host: str
    ) -> tuple[dict[str, Settled] | None, Walk]:
        """The same with all but the members of the cloud as the node's own."""
        members = shared.data.get(MEMBERS, {})
        own = {name: value for name, value in shared.data.items() if name != MEMBERS} | dict(own)
        late, known = frozenset(own), {MEMBERS: members} if MEMBERS in shared.data else {}
        key = (id(members), late)
        if key not in self._of_members:
            self._of_members[key] = members, self._evaluate(known, late)
        return self._of_members[key][1], Walk(known, late, own, host, self._stand_ins)

    def _evaluate(self, shared: Mapping[str, Any], late: frozenset[str]) -> dict[str, Settled] | None:
        items = {f"/{path}": template for path, template in self._read.items() if template is not None}
        with suppress(Missing):  # on every node, and so said of each
            return {path: settle(found, shared, late, self._stand_ins) for path, found in items.items()}
        return None


def _says(controls: Mapping[str, str], path: str, **words: bool) -> bool:
    """Whether the control file of a template says all of this; what is wrong with it is said elsewhere."""
    with suppress(ValueError):
        said = json.loads(controls.get(path, "{}"))
        return isinstance(said, dict) and all(said.get(word) is value for word, value in words.items())
    return False
