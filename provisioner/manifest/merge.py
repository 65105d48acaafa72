"""Layers of values become one, by what the elements say of each key. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from provisioner.manifest.layer import Path
from provisioner.manifest.written import ADD, REMOVE, REPLACE, same
from provisioner.model.values import ANYTHING, Schema, secret_name


class _Gone:
    """No value at all; null is one."""


GONE: Final = _Gone()


def unite(schemas: Iterable[Schema]) -> Schema:
    """What a role's elements say together: maps key by key; of anything else the last one counts."""
    united = Schema(type="object")
    for schema in schemas:
        united = _unite(united, schema.model_copy(update={"type": "object"}))
    return united


def _unite(one: Schema, other: Schema) -> Schema:
    if not (one.is_map and other.is_map):
        return other
    properties = dict(one.properties)
    for key, below in other.properties.items():
        properties[key] = _unite(properties[key], below) if key in properties else below
    update = {
        "properties": properties,
        "required": tuple(dict.fromkeys((*one.required, *other.required))),
        "additional": other.additional or one.additional,
    }
    return other.model_copy(update=update)


def infer(value: Any) -> Schema:
    """What a role's own value, of which no element says anything, may be in other layers: something of its kind."""
    if secret_name(value) is not None:
        return Schema(type="string")
    if isinstance(value, dict):
        inner = {key: infer(below) for key, below in value.items()}
        return Schema(type="object", properties=inner, additional=None if value else ANYTHING)
    if isinstance(value, bool):
        return Schema(type="boolean", default=value)
    kinds: Mapping[type, Any] = {str: "string", int: "integer", float: "number", list: "array"}
    kind = kinds.get(type(value))
    return ANYTHING if kind is None else Schema(type=kind, default=value)


def merge_value(old: Any, new: Any, rule: Schema) -> Any:
    """What becomes of a value when another layer comes over it.

    Keys of which the rule knows nothing are left out: what is said of several roles is no concern of each.

    :param old: :data:`GONE` when no layer said anything yet. :returns: :data:`GONE` when the value is taken away.
    """
    kind = "object" if rule.is_map else rule.type
    if kind is None and not rule.enum:
        return _merge_any(old, new)
    if new is None:
        return GONE
    if kind == "object" and isinstance(new, Mapping):
        merged = dict(old) if isinstance(old, Mapping) and rule.strategy == "merge" else {}
        for key, value in new.items():
            below = rule.under(key)
            if below is None:
                continue
            found = merge_value(merged.get(key, GONE), value, below)
            if found is GONE:
                merged.pop(key, None)
            else:
                merged[key] = found
        return merged
    if kind == "array":
        return _merge_list(old if isinstance(old, list) else [], new, rule.strategy)
    return new


def _merge_any(old: Any, new: Any) -> Any:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return new
    if secret_name(old) is not None or secret_name(new) is not None:
        return new
    merged = dict(old)
    for key, value in new.items():
        merged[key] = _merge_any(merged.get(key, GONE), value)
    return merged


def _merge_list(old: list[Any], new: Any, strategy: str) -> Any:
    if isinstance(new, Mapping):
        if REPLACE in new:
            return list(new[REPLACE])
        old = [item for item in old if not any(same(item, gone) for gone in new.get(REMOVE, ()))]
        new = new.get(ADD, [])
    if strategy == "append":
        return [*old, *new]
    if strategy == "prepend":
        return [*new, *old]
    if strategy == "unique":
        merged = list(old)
        for item in new:
            if not any(same(item, there) for there in merged):
                merged.append(item)
        return merged
    return new


def starts_anew(new: Any, rule: Schema) -> bool:
    """Whether nothing of the layers below is left under what a layer says of a value."""
    if rule.type == "array" and rule.strategy != "replace":
        return new is None or (isinstance(new, Mapping) and REPLACE in new)
    return True


def find_references(value: Any, rule: Schema, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Where a value refers to secrets, and to which."""
    kind = "object" if rule.is_map else rule.type
    name = secret_name(value) if kind in (None, "string") else None
    if name is not None:
        yield path, name
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from find_references(inner, rule.under(key) or ANYTHING, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from find_references(inner, rule.items or ANYTHING, (*path, number))


def find_missing(value: Any, rule: Schema) -> Iterator[Path]:
    """What the elements require, and no layer gives."""
    for path, found, known in _walk(value, rule):
        if known.is_map and isinstance(found, Mapping):
            yield from ((*path, key) for key in known.required if key not in found)


def find_lonely(value: Any, rule: Schema) -> Iterator[tuple[Path, Any]]:
    """What only the one member of a role may have, and the value."""
    return ((path, found) for path, found, known in _walk(value, rule) if any(same(found, one) for one in known.alone))


def find_unpooled(value: Any, rule: Schema) -> Iterator[tuple[Path, str]]:
    """Addresses that no pool may give out, each where it stands."""
    return (
        (path, found) for path, found, known in _walk(value, rule) if known.outside_pools and isinstance(found, str)
    )


def _walk(value: Any, rule: Schema, path: Path = ()) -> Iterator[tuple[Path, Any, Schema]]:
    """A value and all in its maps and lists, each with what may stand there; what is outside comes first."""
    yield path, value, rule
    if rule.is_map and isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _walk(inner, rule.under(key) or ANYTHING, (*path, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _walk(inner, rule.items or ANYTHING, (*path, number))
