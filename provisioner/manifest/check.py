"""Layers against the shapes of ``model``: every fault at once, each with its place and what to write instead."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Sequence
from types import UnionType
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from provisioner.errors import Problem
from provisioner.manifest.layer import Layer, Path

M = TypeVar("M", bound=BaseModel)

KINDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a map of keys and values",
    "model_type": "a map of keys and values",
    "model_attributes_type": "a map of keys and values",
}
"""What pydantic's kinds of errors ask for."""


def parse_value(model: type[M], layer: Layer, problems: list[Problem], path: Path = ()) -> M | None:
    """The value, or None with its problems added to ``problems``.

    :param path: what stands above the layer, for the words of the problems.
    """
    try:
        # As JSON, because only there a strict model takes lists for tuples and words for enumerations.
        return model.model_validate_json(json.dumps(layer.data), strict=True)
    except ValidationError as error:
        for found in error.errors(include_url=False):
            if found["type"] == "too_short" and found["input"]:
                continue  # it has items, but wrong ones, and each of these is reported
            problems.append(_problem(model, layer, found, path))
        return None


def _problem(model: type[BaseModel], layer: Layer, found: Any, above: Path) -> Problem:
    path = _real_path(layer.data, tuple(found["loc"]))
    where, name = layer.where(path), dotted((*above, *path))
    kind, given = found["type"], found.get("input")
    if kind == "extra_forbidden":
        known = field_names(model, path[:-1])
        return Problem(where, f"unknown key {name!r}", suggest(str(path[-1]), known))
    if kind == "missing":
        return Problem(where, f"{name} is missing")
    if kind in KINDS:
        return Problem(where, f"{name} is {_show(given)}, not {KINDS[kind]}")
    if kind == "value_error":
        what, _, instead = str(found["msg"]).removeprefix("Value error, ").partition("; ")
        return Problem(where, f"{name} is {_show(given)}: {what}", instead or None)
    if kind in ("literal_error", "enum"):
        return Problem(where, f"{name} is {_show(given)}", f"write {found['ctx']['expected']}")
    return Problem(where, f"{name} is {_show(given)}", _lower(str(found["msg"])))


def _real_path(data: Any, path: Path) -> Path:
    """Without the names of union members that pydantic puts into its paths."""
    real: list[str | int] = []
    for key in path:
        if isinstance(data, dict) and key in data:
            data = data[key]
        elif isinstance(data, list) and isinstance(key, int):
            data = data[key] if key < len(data) else None
        elif path[-1] is not key:
            continue
        real.append(key)
    return tuple(real)


def field_names(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that a model knows at a path; empty where any may stand."""
    kind: Any = model
    for key in path:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            named = {info.alias or name: info for name, info in kind.model_fields.items()}
            kind = named[str(key)].annotation if str(key) in named else None
            chosen = [argument for argument in get_args(kind) if argument is not type(None)]
            kind = chosen[0] if isinstance(kind, UnionType) and len(chosen) == 1 else kind
        else:
            inner = [argument for argument in get_args(kind) if argument not in (str, type(None), ...)]
            kind = inner[0] if inner else None
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [info.alias or name for name, info in kind.model_fields.items()]


def suggest(wrong: str, known: Iterable[str]) -> str | None:
    """``did you mean …?``, or what there is to choose from; None when there is nothing."""
    names = sorted(set(known))
    near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"write one of: {', '.join(names)}" if names else None


def dotted(path: Sequence[str | int]) -> str:
    """``("nodes", 2, "ports")`` → ``nodes[2].ports``."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "the document"


def _show(given: Any) -> str:
    text = json.dumps(given, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]
