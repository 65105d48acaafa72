"""A template, evaluated once for all nodes that have the same in common; what is left differs by node.

The config agent hands a template and all data to pystache (:mod:`provisioner_agent.render.template`). For a thousand
nodes that would read each template a thousand times, and go a thousand times through a thousand members. Here it is
read once, by pystache as well, and evaluated once on what the nodes share (partial evaluation). That leaves a few
pieces: text that is the same everywhere, places at which a member stands out on the node that it is, and tags of the
node's own data. What comes out is what the agent writes, byte for byte; a test compares the two on made-up templates.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from pystache.parsed import ParsedTemplate
from pystache.parser import _ChangeNode, _CommentNode, _EscapeNode, _InvertedNode, _LiteralNode, _SectionNode

from provisioner_agent.render.kinds import is_of_type
from provisioner_agent.render.problem import Problem
from provisioner_agent.render.template import parse_template, split_key, to_text

SELF = "self"
ITEM = (".",)


class Member(dict[str, Any]):
    """A member of the cloud without ``self``, by which templates tell it from the others: that differs by node."""

    @property
    def host(self) -> str:
        return str(self["hostname"])


class Missing(Exception):
    """A key that must be there is not, or all data at once are asked for: the agent's own renderer sees to that."""


@dataclass(frozen=True)
class Tag:
    """``{{name}}``; ``parts``: the name, taken apart at its dots. ``kind``: what its value must be, or nothing."""

    parts: tuple[str, ...]
    kind: str
    optional: bool


@dataclass(frozen=True)
class Section:
    """``{{#name}}…{{/name}}``, or with ``inverted`` ``{{^name}}…{{/name}}``."""

    parts: tuple[str, ...]
    kind: str
    optional: bool
    inverted: bool
    body: tuple[Item, ...]


Item = str | Tag | Section


class Found(Enum):
    """What a lookup may end with instead of a value. ``LATE``: it is the node's own, and not known yet."""

    MISSING = "missing"
    LATE = "late"


@dataclass(frozen=True)
class Stands:
    """Whether a member is the node itself, asked before it is known which node that is."""

    host: str


@dataclass(frozen=True)
class Choice:
    """Text on the node that is called ``host``, and on all others."""

    host: str
    there: str
    elsewhere: str


@dataclass(frozen=True)
class Rest:
    """What can be evaluated only when the node is known. ``stack``: the items of the sections around it, where they
    can still matter."""

    item: Tag | Section
    stack: tuple[Any, ...]


@dataclass(frozen=True)
class Run:
    """Text of all nodes, and by host what stands in its place there: (begin, end, text), in order."""

    text: str
    places: Mapping[str, tuple[tuple[int, int, str], ...]]

    def on(self, host: str) -> str:
        if host not in self.places:
            return self.text
        parts, at = [], 0
        for begin, end, text in self.places[host]:
            parts += [self.text[at:begin], text]
            at = end
        return "".join([*parts, self.text[at:]])


Piece = str | Choice | Rest
Settled = tuple[str | Run | Rest, ...]
"""A template, evaluated on what nodes share."""


def read_template(path: str, text: str, problems: list[Problem], *, lax: bool) -> tuple[Item, ...] | None:
    """None when faults were found, which are added to ``problems``. :param lax: as its control file says."""
    parsed = parse_template(path, text, problems, lax=lax)
    return None if parsed is None else tuple(_read(parsed))


def _read(parsed: ParsedTemplate) -> Iterator[Item]:
    for node in parsed._parse_tree:
        if isinstance(node, str):
            yield node
        elif isinstance(node, _CommentNode | _ChangeNode):
            continue
        else:
            name, _, kind, optional = split_key(node.key)
            parts = ITEM if name == "." else tuple(name.split("."))
            if isinstance(node, _EscapeNode | _LiteralNode):
                yield Tag(parts, kind, optional)
            elif isinstance(node, _SectionNode):
                yield Section(parts, kind, optional, inverted=False, body=tuple(_read(node.parsed)))
            else:
                assert isinstance(node, _InvertedNode), node
                yield Section(parts, kind, optional, inverted=True, body=tuple(_read(node.parsed_section)))


def settle(
    template: Sequence[Item], shared: Mapping[str, Any], late: frozenset[str], stand_ins: Collection[str] = ()
) -> Settled:
    """:param late: names at the top of the data that are each node's own. :param stand_ins: as the agent's renderer
    takes them. :raises Missing: on every node."""
    pieces: list[Piece] = []
    Walk(shared, late, stand_ins=stand_ins).walk(template, [], pieces)
    return tuple(_join(pieces))


def _join(pieces: Sequence[Piece]) -> Iterator[str | Run | Rest]:
    """Runs of text and choices as one piece each."""
    text: list[str] = []
    places: dict[str, list[tuple[int, int, str]]] = {}
    at = 0
    for piece in [*pieces, None]:
        if isinstance(piece, str | Choice):
            part = piece if isinstance(piece, str) else piece.elsewhere
            if isinstance(piece, Choice):
                places.setdefault(piece.host, []).append((at, at + len(part), piece.there))
            text.append(part)
            at += len(part)
            continue
        whole = "".join(text)
        if places:
            yield Run(whole, {host: tuple(found) for host, found in places.items()})
        elif whole:
            yield whole
        text, places, at = [], {}, 0
        if piece is not None:
            yield piece


def finish(settled: Settled, walk: Walk) -> str:
    """The text on one node. :param walk: with the node's own data. :raises Missing: a key of these is not there."""
    if len(settled) == 1 and isinstance(settled[0], str):
        return settled[0]
    out: list[str] = []
    known: dict[int, str] = {}  # a tag in a section over a thousand members is the same for each of them
    for piece in settled:
        if isinstance(piece, str):
            out.append(piece)
        elif isinstance(piece, Run):
            out.append(piece.on(walk.host))
        elif piece.stack:
            out.append(_evaluate(piece, walk))
        else:
            item = id(piece.item)
            if item not in known:
                known[item] = _evaluate(piece, walk)
            out.append(known[item])
    return "".join(out)


def _evaluate(rest: Rest, walk: Walk) -> str:
    inner: list[Piece] = []
    walk.walk((rest.item,), list(rest.stack), inner)
    return "".join(map(str, inner))


class Walk:
    """Evaluates templates: on what nodes share, or with ``own`` on the data of the node ``host``.

    How a name is looked up and what counts as true are pystache's rules (``context.py``, ``renderengine.py``), for data
    that came as JSON.
    """

    def __init__(
        self,
        shared: Mapping[str, Any],
        late: frozenset[str],
        own: Mapping[str, Any] | None = None,
        host: str = "",
        stand_ins: Collection[str] = (),
    ) -> None:
        self.shared = shared
        self.late = late
        self.own = own
        self.host = host
        self.stand_ins = stand_ins

    def walk(self, items: Sequence[Item], stack: list[Any], out: list[Piece]) -> None:
        """:param stack: items of the sections around, the innermost last. :raises Missing: a key is not there."""
        for item in items:
            if isinstance(item, str):
                out.append(item)
                continue
            found = self._find(item.parts, stack)
            if found is Found.MISSING:
                if not item.optional:
                    raise Missing(".".join(item.parts))
                found = ""
            elif item.kind and found is not Found.LATE:
                self._check_kind(item, found)
            if found is Found.LATE:  # none of the sections around has the name
                out.append(Rest(item, () if isinstance(item, Tag) else tuple(stack)))
            elif isinstance(item, Section):
                self._section(item, found, stack, out)
            elif isinstance(found, Stands):
                out.append(Choice(found.host, to_text(True), to_text(False)))
            elif isinstance(found, str):
                out.append(found)
            elif self.own is None and _has_member(found):
                out.append(Rest(item, tuple(stack)))
            else:
                out.append(to_text(self._told(found)))

    def _check_kind(self, item: Tag | Section, found: Any) -> None:
        """:raises Missing: the value is not of its type, as the agent's renderer will say."""
        if isinstance(found, str) and found in self.stand_ins:
            return
        stands = isinstance(found, Stands)
        if stands or not ((found is None and item.optional) or is_of_type(item.kind, found)):
            raise Missing(f"{'.'.join(item.parts)} of the type {item.kind}")

    def _section(self, item: Section, found: Any, stack: list[Any], out: list[Piece]) -> None:
        if isinstance(found, Stands):
            out.append(self._choose(item, found.host, stack))
        elif item.inverted:
            if not found:
                self.walk(item.body, stack, out)
        elif found:
            for value in found if isinstance(found, list) else (found,):
                stack.append(value)
                self.walk(item.body, stack, out)
                stack.pop()

    def _choose(self, item: Section, host: str, stack: list[Any]) -> Piece:
        inner: list[Piece] = []
        try:
            self.walk(item.body, [*stack] if item.inverted else [*stack, True], inner)
        except Missing:  # only where it is rendered
            return Rest(item, tuple(stack))
        if not all(isinstance(piece, str) for piece in inner):
            return Rest(item, tuple(stack))
        text = "".join(map(str, inner))
        return Choice(host, "", text) if item.inverted else Choice(host, text, "")

    def _find(self, parts: tuple[str, ...], stack: list[Any]) -> Any:
        if parts == ITEM:
            if not stack:
                raise Missing("all data")
            return stack[-1]
        first, *rest = parts
        for context in reversed(stack):
            if isinstance(context, dict):
                if first in context:
                    found = context[first]
                    break
                if first == SELF and isinstance(context, Member):
                    found = self._stands(context)
                    break
        else:
            if first in self.late:
                if self.own is None:
                    return Found.LATE
                found = self.own[first]
            elif first in self.shared:
                found = self.shared[first]
            else:
                return Found.MISSING
        for part in rest:
            if not isinstance(found, dict) or part not in found:
                return Found.MISSING
            found = found[part]
        return found

    def _stands(self, member: Member) -> Stands | bool:
        return Stands(member.host) if self.own is None else member.host == self.host

    def _told(self, value: Any) -> Any:
        """A value as the node is told it."""
        if isinstance(value, Member):
            return {**value, SELF: value.host == self.host}
        if isinstance(value, dict):
            return {key: self._told(part) for key, part in value.items()}
        return [self._told(part) for part in value] if isinstance(value, list) else value


def _has_member(value: Any) -> bool:
    if isinstance(value, Member):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(map(_has_member, parts))
