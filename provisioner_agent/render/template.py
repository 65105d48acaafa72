"""One mustache template with data becomes text; strict where mustache is silent.

The language is mustache as pystache reads it, without HTML escaping, with two differences:

* A key that the data does not have is a problem. A question mark makes it optional: ``{{name?}}`` renders as
  nothing, ``{{#name?}}…{{/name}}`` is left out, ``{{^name?}}…{{/name}}`` is rendered.
* A tag or section that is not closed is a problem, and so is a partial.

pystache forgets where a tag stood, so each tag's key is rewritten to ``key|line|mark`` before pystache reads it, and
the lookup takes that apart again.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from typing import Any

from pystache.context import ContextStack, KeyNotFoundError
from pystache.parsed import ParsedTemplate
from pystache.parser import parse
from pystache.renderengine import RenderEngine

from provisioner_agent.render.problem import Problem

KEY = re.compile(r"^(\.|[\w-]+(\.[\w-]+)*)$")
OPTIONAL = "?"


def render_template(path: str, text: str, data: Mapping[str, Any], problems: list[Problem]) -> str:
    """Render one template; faults are added to ``problems`` and the text is then of no use."""
    parsed = parse_template(path, text, problems)
    if parsed is None:
        return ""
    engine = RenderEngine(
        literal=str,
        escape=str,
        resolve_context=_Lookup(path, problems),
        resolve_partial=str,
        to_str=to_text,
    )
    return str(parsed.render(engine, ContextStack(dict(data))))


def parse_template(path: str, text: str, problems: list[Problem]) -> ParsedTemplate | None:
    """A template as pystache reads it, each key as :func:`split_key` takes it; None when faults were found in it."""
    marked = _Marker(path, text, problems).mark()
    return None if marked is None else parse(marked)


def split_key(marked: str) -> tuple[str, int, bool]:
    """(the name in a tag, the line of the tag, whether the key may be absent)."""
    name, line, mark = marked.rsplit("|", 2)
    return name, int(line), mark == OPTIONAL


def to_text(value: Any) -> str:
    """A JSON value as a template shows it: text as it is, null as nothing, the rest as compact JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


class _Lookup:
    """Finds a marked key in pystache's stack of contexts; a missing one is a problem unless it is optional."""

    def __init__(self, path: str, problems: list[Problem]) -> None:
        self.path = path
        self.problems = problems

    def __call__(self, stack: ContextStack, marked: str) -> Any:
        name, line, optional = split_key(marked)
        try:
            return stack.get(name)
        except KeyNotFoundError:
            if not optional:
                what = f"the key {name} is not in the data{self._near(stack, name)}"
                self.problems.append(Problem(f"{self.path}:{line}", f"{what}; if it may be absent, write {name}?"))
            return ""

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

    def __init__(self, path: str, text: str, problems: list[Problem]) -> None:
        self.path = path
        self.text = text
        self.problems = problems
        self.delimiters = ("{{", "}}")
        self.sections: list[tuple[str, str, int]] = []
        self.found = len(problems)

    def mark(self) -> str | None:
        out: list[str] = []
        position = 0
        while (start := self.text.find(self.delimiters[0], position)) >= 0:
            out.append(self.text[position:start])
            line = self.text.count("\n", 0, start) + 1
            end, replacement = self._tag(start, line)
            if end < 0:
                self._problem(line, f"a tag is not closed; write {self.delimiters[1]}")
                return None
            out.append(replacement)
            position = end
        out.append(self.text[position:])
        for _, name, line in self.sections:
            self._problem(line, f"the section {name} is not closed")
        return "".join(out) if len(self.problems) == self.found else None

    def _tag(self, start: int, line: int) -> tuple[int, str]:
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
                self._problem(line, "new delimiters are two words: {{=<% %>=}}")
        elif sigil == ">":
            self._problem(line, f"partials are not offered ({body})")
        if sigil in ("!", "=", ">"):
            return behind, self.text[start:behind]
        return behind, f"{left}{'&' if sigil == '{' else sigil}{self._key(sigil, body, line)}{right}"

    def _key(self, sigil: str, body: str, line: int) -> str:
        name = body.removesuffix(OPTIONAL).rstrip()
        marked = f"{name}|{line}|{OPTIONAL if body.endswith(OPTIONAL) else ''}"
        if not KEY.match(name):
            self._problem(line, f"{body!r} is not a key")
        elif sigil in ("#", "^"):
            self.sections.append((marked, name, line))
        elif sigil == "/":
            if not self.sections or self.sections[-1][1] != name:
                opened = f"{self.sections[-1][1]} of line {self.sections[-1][2]}" if self.sections else "none"
                self._problem(line, f"section {name} is closed, but the open one is {opened}")
            else:
                marked = self.sections.pop()[0]
        elif name == "." and not self.sections:
            self._problem(line, "{{.}} outside of a section would show all data")
        return marked

    def _problem(self, line: int, what: str) -> None:
        self.problems.append(Problem(f"{self.path}:{line}", what))
