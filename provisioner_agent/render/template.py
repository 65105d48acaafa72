"""One mustache template with data becomes text; strict where mustache is silent.

The language is mustache as pystache reads it, without HTML escaping, with three differences:

* A key that the data does not have is a problem. A question mark makes it optional: ``{{name?}}`` renders as
  nothing, ``{{#name?}}…{{/name}}`` is left out, ``{{^name?}}…{{/name}}`` is rendered.
* A tag or section that is not closed is a problem, and so is a partial.
* ``{{name:int}}`` asks for a type (:mod:`.kinds`); another value is a problem. ``{{name:int?}}`` may be absent or null.

In a lax template each key is optional, as in those of os-apply-config.

pystache forgets where a tag stood, so each tag's key is rewritten to ``key|line:column|type|mark`` before pystache
reads it, and the lookup takes that apart again.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from pystache.context import ContextStack, KeyNotFoundError
from pystache.parsed import ParsedTemplate
from pystache.parser import parse
from pystache.renderengine import RenderEngine

from provisioner_agent.render.kinds import TYPES, is_of_type
from provisioner_agent.render.problem import Problem

KEY = re.compile(r"^(\.|[\w-]+(\.[\w-]+)*)$")
OPTIONAL = "?"
NEWLINE = "\n"


def render_template(
    path: str,
    text: str,
    data: Mapping[str, Any],
    problems: list[Problem],
    *,
    lax: bool = False,
    stand_ins: Collection[str] = (),
) -> str:
    """Render one template; faults are added to ``problems`` and the text is then of no use.

    :param lax: a key that the data does not have renders as nothing. :param stand_ins: what stands in the place of
        secrets that are not to be shown, and so is of any type.
    """
    parsed = parse_template(path, text, problems, lax=lax)
    if parsed is None:
        return ""
    engine = RenderEngine(
        literal=str,
        escape=str,
        resolve_context=_Lookup(path, problems, stand_ins),
        resolve_partial=str,
        to_str=to_text,
    )
    return str(parsed.render(engine, ContextStack(dict(data))))


def parse_template(path: str, text: str, problems: list[Problem], *, lax: bool = False) -> ParsedTemplate | None:
    """A template as pystache reads it, each key as :func:`split_key` takes it; None when faults were found in it."""
    marked = _Marker(path, text, problems, lax=lax).mark()
    return None if marked is None else parse(marked)


def split_key(marked: str) -> tuple[str, str, str, bool]:
    """(the name in a tag, its ``line:column``, the type it asks for or nothing, whether the key may be absent)."""
    name, place, kind, mark = marked.rsplit("|", 3)
    return name, place, kind, mark == OPTIONAL


def to_text(value: Any) -> str:
    """A JSON value as a template shows it: text as it is, null as nothing, the rest as compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Lookup:
    """Finds a marked key in pystache's stack of contexts; a missing one is a problem unless it is optional."""

    def __init__(self, path: str, problems: list[Problem], stand_ins: Collection[str]) -> None:
        self.path = path
        self.problems = problems
        self.stand_ins = stand_ins

    def __call__(self, stack: ContextStack, marked: str) -> Any:
        name, place, kind, optional = split_key(marked)
        try:
            value = stack.get(name)
        except KeyNotFoundError:
            if not optional:
                what = f"the key {name} is not in the data{self._near(stack, name)}"
                self._problem(place, f"{what}; if it may be absent, write {name}?")
            return ""
        excused = (value is None and optional) or (isinstance(value, str) and value in self.stand_ins)
        if kind and not excused and not is_of_type(kind, value):
            # The value itself may be a secret.
            self._problem(place, f"the value of {name} is not of the type {kind}: {TYPES[kind].what}")
        return value

    def _problem(self, place: str, what: str) -> None:
        self.problems.append(Problem(f"{self.path}:{place}", what))

    @staticmethod
    def _near(stack: ContextStack, name: str) -> str:
        parent, _, last = name.rpartition(".")
        try:
            there = stack.get(parent) if parent else stack.top()
        except KeyNotFoundError:
            return f" ({parent} is not either)"
        near = difflib.get_close_matches(last, list(there), n=1) if isinstance(there, dict) else []
        return f" (did you mean {f'{parent}.' if parent else ''}{near[0]}?)" if near else ""


class _Marker:
    """Walks the tags of a template, checks their form, and writes each key's line and mark into it."""

    def __init__(self, path: str, text: str, problems: list[Problem], *, lax: bool = False) -> None:
        self.path = path
        self.text = text
        self.problems = problems
        self.lax = lax
        self.delimiters = ("{{", "}}")
        self.sections: list[tuple[str, str, str]] = []
        self.found = len(problems)

    def mark(self) -> str | None:
        out: list[str] = []
        position = 0
        while (start := self.text.find(self.delimiters[0], position)) >= 0:
            out.append(self.text[position:start])
            place = f"{self.text.count(NEWLINE, 0, start) + 1}:{start - self.text.rfind(NEWLINE, 0, start)}"
            end, replacement = self._tag(start, place)
            if end < 0:
                self._problem(place, f"a tag is not closed; write {self.delimiters[1]}")
                return None
            out.append(replacement)
            position = end
        out.append(self.text[position:])
        for _, name, place in self.sections:
            self._problem(place, f"the section {name} is not closed")
        return "".join(out) if len(self.problems) == self.found else None

    def _tag(self, start: int, place: str) -> tuple[int, str]:
        """(position behind the tag that starts at ``start``, the tag with its key marked)."""
        left, right = self.delimiters
        inner = start + len(left)
        while self.text[inner : inner + 1].isspace():
            inner += 1
        sigil = self.text[inner] if self.text[inner : inner + 1] in tuple("!>&/#^={") else ""
        closing = {"=": "=", "{": "}"}.get(sigil, "") + right
        end = self.text.find(closing, inner + len(sigil))
        if end < 0:
            return -1, ""
        behind = end + len(closing)
        body = self.text[inner + len(sigil) : end].strip()
        if sigil == "=":
            words = body.split()
            if len(words) == 2:
                self.delimiters = (words[0], words[1])
            else:
                self._problem(place, "new delimiters are two words: {{=<% %>=}}")
        elif sigil == ">":
            self._problem(place, f"partials are not offered ({body})")
        if sigil in ("!", "=", ">"):
            return behind, self.text[start:behind]
        return behind, f"{left}{'&' if sigil == '{' else sigil}{self._key(sigil, body, place)}{right}"

    def _key(self, sigil: str, body: str, place: str) -> str:
        name, typed, kind = (word.strip() for word in body.removesuffix(OPTIONAL).partition(":"))
        marked = f"{name}|{place}|{kind}|{OPTIONAL if self.lax or body.endswith(OPTIONAL) else ''}"
        if typed and sigil in ("#", "^", "/"):
            self._problem(place, f"a section has no type ({body})")
        if not KEY.match(name):
            self._problem(place, f"{body!r} is not a key")
        elif typed and kind not in TYPES:
            self._problem(place, f"{kind or 'nothing'} is no type; it is one of {', '.join(TYPES)}")
        elif sigil in ("#", "^"):
            self.sections.append((marked, name, place))
        elif sigil == "/":
            if not self.sections or self.sections[-1][1] != name:
                opened = f"{self.sections[-1][1]} of {self.sections[-1][2]}" if self.sections else "none"
                self._problem(place, f"section {name} is closed, but the open one is {opened}")
            else:
                marked = self.sections.pop()[0]
        elif name == "." and not self.sections:
            self._problem(place, "{{.}} outside of a section would show all data")
        return marked

    def _problem(self, place: str, what: str) -> None:
        self.problems.append(Problem(f"{self.path}:{place}", what))
