"""``elements/NAME/values.yaml``: which values an element has, with their defaults and what they may be."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.check import dotted, parse_value
from provisioner.manifest.layer import Layer, Path, parse_layer
from provisioner.manifest.written import check_written, python_pattern
from provisioner.model.values import ANYTHING, Schema

RESERVED = frozenset({"cloud", "role", "node", "members", "secrets", "certificates", "firewall"})
"""Names that the metadata gives to templates itself."""
STRATEGIES: Mapping[str | None, tuple[str, ...]] = {
    "object": ("merge", "replace"),
    "array": ("replace", "append", "prepend", "unique"),
}
"""What ``x-merge`` may say, by type; of all others nothing."""


@dataclass(frozen=True)
class ElementText:
    """An element as its folder has it. ``text``: of its ``values.yaml``, which is at ``path``; None without one.

    ``needs``: the elements that it depends on.
    """

    path: str
    text: str | None = None
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Element:
    """What an element says of its values. ``lines``: of each default, by its dotted path."""

    schema: Schema
    file: str
    lines: Mapping[str, int]


def parse_elements(texts: Mapping[str, ElementText], problems: list[Problem]) -> dict[str, Element]:
    """The elements that say which values they have, by name; what is wrong is added to ``problems``."""
    found = {}
    for name, element in texts.items():
        if element.text is None:
            continue
        try:
            layer = parse_layer(element.path, element.text)
        except ManifestError as error:
            problems += error.problems
            continue
        if layer.data is None:
            layer = Layer({}, layer.places)
        schema = parse_value(Schema, layer, problems)
        if schema is not None:
            problems += [*_check_top(schema, layer), *_check_schema(schema, layer, ())]
            found[name] = Element(schema, element.path, _default_lines(schema, layer, (), ()))
    return found


def chain_elements(names: Iterable[str], texts: Mapping[str, ElementText]) -> tuple[str, ...]:
    """The elements and all that they depend on, these first; without those that nobody has here."""
    found: dict[str, None] = {}
    seen: set[str] = set()

    def visit(name: str) -> None:
        if name in texts and name not in seen:
            seen.add(name)
            for needed in texts[name].needs:
                visit(needed)
            found[name] = None

    for name in names:
        visit(name)
    return tuple(found)


def default_values(schema: Schema) -> dict[str, Any]:
    """The values that an element gives by itself; what has no default is not there."""
    found = _default(schema, top=True)
    return found if isinstance(found, dict) else {}


def _default(schema: Schema, *, top: bool = False) -> Any:
    if schema.default is not None:
        return schema.default
    if not schema.properties and not top:
        return None
    inner = {key: _default(below) for key, below in schema.properties.items()}
    return {key: value for key, value in inner.items() if value is not None}


def _default_lines(schema: Schema, layer: Layer, at: Path, path: Path) -> dict[str, int]:
    lines: dict[str, int] = {}
    if schema.default is not None:
        lines[dotted(path)] = line_of(layer.where((*at, "default")))
    for key, below in schema.properties.items():
        lines |= _default_lines(below, layer, (*at, "properties", key), (*path, key))
    return lines


def line_of(place: str) -> int:
    """Of a place as ``file:line``; 0 when it has none."""
    line = place.rpartition(":")[2]
    return int(line) if line.isdigit() else 0


def _check_top(schema: Schema, layer: Layer) -> Iterator[Problem]:
    for key in [key for key in layer.data if key not in ("properties", "type", "description")]:
        yield Problem(layer.where((key,)), f"{key} says nothing at the top", "write the values under properties")
    for key in sorted(RESERVED & schema.properties.keys()):
        place = layer.where(("properties", key))
        yield Problem(place, f"{key!r} is a name of the metadata itself", "give the value another name")


def _check_schema(schema: Schema, layer: Layer, at: Path) -> Iterator[Problem]:
    """What the shape alone does not say."""

    def wrong(key: str, what: str, instead: str | None = None) -> Problem:
        return Problem(layer.where((*at, key)), what, instead)

    kind = "object" if schema.is_map else schema.type
    if at and kind is None and not schema.enum:
        yield Problem(layer.where(at), f"{dotted(at)} says no type", "write type: string, integer, number, ...")
    if schema.merge is not None and schema.merge not in STRATEGIES.get(kind, ()):
        allowed = ", ".join(STRATEGIES.get(kind, ())) or "nothing: such a value is replaced"
        yield wrong("x-merge", f"x-merge is {schema.merge!r}", f"of this type it may be {allowed}")
    if schema.alone and kind in ("object", "array"):
        yield wrong("x-alone", "x-alone stands at a map or a list", "write it at a single value")
    if schema.outside_pools and kind != "string":
        yield wrong("x-outside-pools", "x-outside-pools stands at what is no string", "write it at an address")
    if schema.pattern is not None:
        try:
            re.compile(python_pattern(schema.pattern))
        except re.error as error:
            yield wrong("pattern", f"pattern is {schema.pattern!r}: {error}", "write a regular expression")
    if schema.minimum is not None and schema.maximum is not None and schema.minimum > schema.maximum:
        yield wrong("maximum", f"maximum is {schema.maximum}, less than minimum {schema.minimum}")
    for key in schema.required:
        if schema.under(key) is None:
            yield wrong("required", f"required names {key!r}, which properties does not have")
    if schema.default is not None:
        for fault in check_written(schema.default, schema, whole=True):
            path = dotted((*at, "default", *fault.path))
            instead = fault.wants or fault.instead
            yield Problem(layer.where((*at, "default", *fault.path)), f"{path} {fault.what}", instead)
    for key, below in schema.properties.items():
        yield from _check_schema(below, layer, (*at, "properties", key))
    if schema.items is not None:
        yield from _check_schema(schema.items, layer, (*at, "items"))
    if schema.additional is not None and schema.additional != ANYTHING:
        yield from _check_schema(schema.additional, layer, (*at, "additionalProperties"))
