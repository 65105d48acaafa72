"""A value as one layer writes it, against what may stand there. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from provisioner.manifest.check import suggest
from provisioner.manifest.layer import Path
from provisioner.model.values import Schema, secret_name

ADD, REMOVE, REPLACE = "add", "remove", "replace"
EDITS = (ADD, REMOVE, REPLACE)
"""What a map may say where a list is due whose items are added to those of the layers below."""
END = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\$", re.DOTALL)
"""``$`` in a regular expression, or what may hold one that is only a letter."""
KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "a list",
    "object": "a map",
}


@dataclass(frozen=True)
class Fault:
    """``path``: from where the check began. ``what`` follows on its name. ``wants``: what may stand there, in words.

    ``unknown``: nothing may.
    """

    path: Path
    what: str
    instead: str | None = None
    wants: str | None = None
    unknown: bool = False


def check_written(value: Any, rule: Schema, path: Path = (), *, whole: bool = False) -> Iterator[Fault]:
    """Every fault of a value.

    :param whole: no other layer adds to it, so all that is required must be there, and nothing is to be taken away.
    """
    kind = "object" if rule.is_map else rule.type
    if kind is None and not rule.enum:
        return
    if value is None and not whole:
        if _has_default(rule):
            yield Fault(path, "is null, which takes a value away, and this one has a default", wants=describe(rule))
        return
    if kind == "string" and secret_name(value) is not None:
        if rule.enum or rule.pattern:
            yield Fault(path, "is a secret, whose text nobody could check here", wants=describe(rule))
    elif kind is not None and not _is_kind(value, kind, rule, whole=whole):
        wants = describe(rule)
        yield Fault(path, f"is {_show(value)}, not {KINDS[kind]}", wants=None if wants == KINDS[kind] else wants)
    elif kind == "object":
        yield from _check_map(value, rule, path, whole=whole)
    elif kind == "array":
        yield from _check_list(value, rule, path)
    else:
        yield from _check_one(value, rule, path)


def _check_map(value: dict[str, Any], rule: Schema, path: Path, *, whole: bool) -> Iterator[Fault]:
    for key, inner in value.items():
        below = rule.under(key)
        if below is None:
            yield Fault((*path, key), "is not known", suggest(key, rule.properties), unknown=True)
        else:
            yield from check_written(inner, below, (*path, key), whole=whole)
    for key in rule.required if whole else ():
        if key not in value:
            yield Fault(path, f"has no {key}", f"write {key}: ...")


def _check_list(value: Any, rule: Schema, path: Path) -> Iterator[Fault]:
    parts: list[tuple[Path, Any]] = [(path, value)]
    if isinstance(value, dict):
        parts = [((*path, key), value[key]) for key in value]
        for at, items in parts:
            if at[-1] not in EDITS:
                yield Fault(at, "is not known", f"a list, or a map of {', '.join(EDITS)}")
            elif not isinstance(items, list):
                yield Fault(at, f"is {_show(items)}, not a list")
        if REPLACE in value and len(value) > 1:
            yield Fault(path, "says replace and more", "replace stands alone: nothing of the layers below is left")
    for at, items in parts:
        if rule.items is not None and isinstance(items, list):
            for number, item in enumerate(items):
                yield from check_written(item, rule.items, (*at, number), whole=True)


def _check_one(value: Any, rule: Schema, path: Path) -> Iterator[Fault]:
    if rule.enum and not any(same(value, one) for one in rule.enum):
        yield Fault(path, f"is {_show(value)}", wants=describe(rule))
    if isinstance(value, int | float) and not isinstance(value, bool):
        if rule.minimum is not None and value < rule.minimum:
            yield Fault(path, f"is {value}, less than {rule.minimum}", wants=describe(rule))
        if rule.maximum is not None and value > rule.maximum:
            yield Fault(path, f"is {value}, more than {rule.maximum}", wants=describe(rule))
    if rule.pattern is not None and isinstance(value, str) and not re.search(python_pattern(rule.pattern), value):
        yield Fault(path, f"is {_show(value)}, not of the form {rule.pattern}", wants=describe(rule))


def python_pattern(pattern: str) -> str:
    """``$`` as JSON Schema has it, the very end: to Python it is before a line break there as well."""
    return END.sub(lambda found: r"\Z" if found[0] == "$" else found[0], pattern)


def same(one: Any, other: Any) -> bool:
    """As JSON has it: true is not 1."""
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def describe(rule: Schema) -> str | None:
    """What may stand there, in words."""
    kind = "object" if rule.is_map else rule.type
    if rule.enum:
        text = f"one of: {', '.join(map(_show, rule.enum))}"
    elif kind is None:
        return None
    else:
        text = KINDS[kind]
        if rule.minimum is not None:
            text += f" of at least {rule.minimum}"
        if rule.maximum is not None:
            text += f"{' and' if rule.minimum is not None else ' of'} at most {rule.maximum}"
        if rule.pattern is not None:
            text += f" of the form {rule.pattern}"
    return text if rule.default is None else f"{text}; by default {_show(rule.default)}"


def _has_default(rule: Schema) -> bool:
    return rule.default is not None or any(map(_has_default, rule.properties.values()))


def _is_kind(value: Any, kind: str, rule: Schema, *, whole: bool) -> bool:
    if kind == "array":
        adds = rule.strategy != "replace" and not whole
        return isinstance(value, list) or (adds and isinstance(value, dict) and bool(value))
    if kind == "boolean" or isinstance(value, bool):
        return kind == "boolean" and isinstance(value, bool)
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "object": dict,
    }
    return isinstance(value, kinds[kind])


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
