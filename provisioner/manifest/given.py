"""The values that role, zone and cloud files give, against what the elements of the roles say of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from provisioner.errors import Problem
from provisioner.manifest.check import dotted, suggest
from provisioner.manifest.elements import RESERVED, Element, ElementText, chain_elements
from provisioner.manifest.layer import Layer, Path
from provisioner.manifest.merge import unite
from provisioner.manifest.values import CLOUD_CONFIG, build_rule, named
from provisioner.manifest.written import Fault, check_written
from provisioner.model.role import Role
from provisioner.model.values import Schema


@dataclass(frozen=True)
class Known:
    """What is known of a role's values. ``elements``: of it that have a schema, by name, those first that others need.

    ``rule``: what may stand where, its own values among it.
    """

    elements: Mapping[str, Element]
    rule: Schema

    def check(self, values: Mapping[str, Any]) -> Iterator[Fault]:
        """Every fault of what a layer says to the role."""
        return check_written(values, self.rule)

    def check_common(self, values: Mapping[str, Any]) -> Iterator[Fault]:
        """Every fault of what a layer says to many roles."""
        for key in values:
            if key not in self.rule.properties:
                yield Fault((key,), "is not known", suggest(key, self.rule.properties), unknown=True)
        yield from self.check(named(values, self.rule))

    def owner(self, path: Path) -> str | None:
        """The element that says what may stand at a path; None where only the role itself does."""
        found = [name for name, element in self.elements.items() if knows(element.schema, path[:1])]
        exact = [name for name in found if knows(self.elements[name].schema, path)]
        return next(reversed(exact or found), None)


def knows(schema: Schema, path: Path) -> bool:
    for key in path:
        if isinstance(key, int):
            return True
        below = schema.under(key)
        if below is None:
            return False
        schema = below
    return True


def find_known(role: Role, elements: Mapping[str, Element], texts: Mapping[str, ElementText]) -> Known:
    own = {name: elements[name] for name in chain_elements(role.image.elements, texts) if name in elements}
    return Known(own, build_rule(role, unite(element.schema for element in own.values())))


def check_role_values(role: Role, known: Known, layer: Layer) -> Iterator[Problem]:
    """A role gives values to its elements, and has others of its own where its templates may want some."""
    top: Path = ("config", "values")
    every = [name for element in known.elements.values() for name in element.schema.properties]
    every += [CLOUD_CONFIG] if role.image.disk else []
    own = not role.image.templates or not {*role.image.templates, *role.image.elements} <= known.elements.keys()
    yield from _check_reserved(role.config.values, known, top, layer)
    for key in role.config.values:
        if not own and key not in every and key not in RESERVED:
            what = f"no element of the role has a value {key!r}"
            yield Problem(layer.where((*top, key)), what, suggest(key, every))
    for fault in known.check(role.config.values):
        yield _problem(fault, known, top, layer)
    yield from _check_twice(known)


def _check_reserved(values: Mapping[str, Any], known: Known, top: Path, layer: Layer) -> Iterator[Problem]:
    for key in values:
        if key in RESERVED and known.rule.under(key) is not None:
            what = f"{key!r} is a name of the metadata itself"
            yield Problem(layer.where((*top, key)), what, "give the value another name")


def _check_twice(known: Known) -> Iterator[Problem]:
    """Two elements of a role that say what one value may be."""
    seen: dict[Path, str] = {}
    for name, element in known.elements.items():
        for path in _leaves(element.schema, ()):
            other = next((who for there, who in seen.items() if who != name and _touch(there, path)), None)
            if other is not None:
                line = element.lines.get(dotted(path))
                what = f"the element {other} has a value {dotted(path)!r} too"
                yield Problem(f"{element.file}:{line}" if line else element.file, what, "one role cannot have both")
            seen.setdefault(path, name)


def _touch(one: Path, other: Path) -> bool:
    """Whether they are the same, or one is below the other."""
    return all(key == there for key, there in zip(one, other, strict=False))


def _leaves(schema: Schema, path: Path) -> Iterator[Path]:
    if schema.properties:
        for key, below in schema.properties.items():
            yield from _leaves(below, (*path, key))
    elif path:
        yield path


def check_use_values(values: Mapping[str, Any], known: Known, top: Path, layer: Layer) -> Iterator[Problem]:
    """What a cloud says to one role. :param top: where that stands in the file."""
    yield from _check_reserved(values, known, top, layer)
    for fault in known.check(values):
        if fault.unknown:
            what = f"the role has no value {dotted(fault.path)!r}"
            yield Problem(layer.where((*top, *fault.path)), what, fault.instead)
        else:
            yield _problem(fault, known, top, layer)


def check_common_values(
    values: Mapping[str, Any], roles: Sequence[Known], top: Path, layer: Layer
) -> Iterator[Problem]:
    """What is said to many roles: each value must be known to one of them, and good for all that know it."""
    faults = [(known, list(known.check_common(values))) for known in roles]
    strangers = [{fault.path: fault for fault in found if fault.unknown} for _, found in faults]
    for path in dict.fromkeys(path for unknown in strangers for path in unknown):
        if all(any(path[: len(other)] == other for other in unknown) for unknown in strangers):
            fault = next(unknown[path] for unknown in strangers if path in unknown)
            choice = [key for known in roles for key in known.rule.properties] if len(path) == 1 else None
            instead = suggest(str(path[-1]), choice) if choice else fault.instead
            yield Problem(layer.where((*top, *path)), f"no role has a value {dotted(path)!r}", instead)
    for known, found in faults:
        for fault in found:
            if not fault.unknown:
                yield _problem(fault, known, top, layer)


def _problem(fault: Fault, known: Known, top: Path, layer: Layer) -> Problem:
    """With whose rule it is."""
    path = (*top, *fault.path)
    if fault.unknown:
        owner = known.owner(fault.path)
        whose = f"the element {owner}" if owner else "the role"
        return Problem(layer.where(path), f"{whose} has no value {dotted(fault.path)!r}", fault.instead)
    owner, instead = known.owner(fault.path), fault.instead
    if owner and fault.wants:
        instead = f"the element {owner} wants {fault.wants}"
    elif fault.wants:
        kind, _, default = fault.wants.partition("; by default ")
        instead = f"the role's own value is {default or kind}"
    return Problem(layer.where(path), f"{dotted(path)} {fault.what}", instead)
