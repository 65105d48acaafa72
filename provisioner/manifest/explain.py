"""Where each value of a member comes from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from provisioner.errors import NotFound
from provisioner.manifest.check import dotted, suggest
from provisioner.manifest.layer import Path
from provisioner.manifest.merge import GONE, starts_anew
from provisioner.manifest.values import Values
from provisioner.model.role import Desired
from provisioner.model.values import ANYTHING, Explained, Said, Schema, secret_name


def explain_values(desired: Desired, role: str, zone: str, node: str) -> list[Explained]:
    """Every value of a member, by key, with every layer that says something of it."""
    values = Values(desired)
    rule, merged = values.rule(role), values.of(role, zone, node).values
    layers = [(name, part_of(said, rule)) for name, said in values.layers(role, zone, node)]
    paths = dict.fromkeys(path for _, said in layers for path in _parts(said, rule, ()))
    inner = {path[:end] for path in paths for end in range(1, len(path))}
    shown = [path for path in paths if path not in inner or any(_ends(look(said, path)) for _, said in layers)]
    return [_explain(desired, path, rule, layers, merged) for path in sorted(shown, key=_sortable)]


def choose_explained(explained: Sequence[Explained], key: str, where: str) -> list[Explained]:
    """Those of a key, or of all below it.

    :param where: the member, for the error. :raises NotFound: no layer says anything of the key.
    """
    found = [one for one in explained if one.key == key or one.key.startswith(f"{key}.")]
    if not found:
        known = [one.key for one in explained]
        known = [other for other in known if other.startswith(key)] or known
        raise NotFound(f"there is no value {key}", where=where, hint=suggest(key, known))
    return found


def find_place(
    desired: Desired, layers: Iterable[tuple[str, Mapping[str, Any]]], rule: Schema, path: Path
) -> str | None:
    """``file:line`` of the highest layer that says something of a value; None when that was not kept.

    :param layers: the lowest first. :param rule: what may stand where. :param path: one into what a layer replaces as a
        whole, a list say, stands for the whole.
    """
    place = None
    path = _merged_alone(path, rule)
    for name, values in layers:
        if look(values, path) is not GONE:
            place = place_of(desired, name, path) or place
    return place


def _merged_alone(path: Path, rule: Schema) -> Path:
    for end, key in enumerate(path):
        if isinstance(key, int) or rule.strategy != "merge":
            return path[:end]
        rule = rule.under(key) or ANYTHING
    return path


def place_of(desired: Desired, layer: str, path: Path) -> str:
    """Where a layer says something of a value, or of the nearest one above; empty when that was not kept."""
    origin = desired.origins.get(layer)
    if origin is None:
        return ""
    for end in range(len(path), 0, -1):
        line = origin.lines.get(dotted(path[:end]))
        if line:
            return f"{origin.file}:{line}"
    return origin.file


def look(values: Any, path: Path) -> Any:
    """What a layer says of a value: null also where it takes away what the value is in."""
    for key in path:
        if values is None:
            return None
        if not isinstance(values, Mapping) or key not in values:
            return GONE
        values = values[key]
    return values


def part_of(said: Any, rule: Schema) -> Any:
    """A layer without what it says to other roles; what it takes away and adds is left as it is written."""
    if not rule.is_map or not isinstance(said, Mapping):
        return said
    below = {key: rule.under(key) for key in said}
    return {key: part_of(said[key], one) for key, one in below.items() if one is not None}


def _parts(said: Any, rule: Schema, path: Path) -> Iterator[Path]:
    """The keys that are merged as one: a map that is merged key by key is none."""
    is_reference = not rule.is_map and rule.type in (None, "string") and secret_name(said) is not None
    inside = isinstance(said, Mapping) and rule.strategy == "merge" and not is_reference
    if inside and said:
        for key, value in said.items():
            yield from _parts(value, rule.under(key) or ANYTHING, (*path, key))
    elif path:
        yield path


def _ends(said: Any) -> bool:
    """Whether a layer says something where another goes on with a map."""
    return said is not None and said is not GONE and not isinstance(said, Mapping)


def _explain(
    desired: Desired, path: Path, rule: Schema, layers: Sequence[tuple[str, Any]], merged: Mapping[str, Any]
) -> Explained:
    for key in path:
        rule = rule.under(str(key)) or ANYTHING
    said = [(name, value) for name, values in layers if (value := look(values, path)) is not GONE]
    first = max(number for number, (_, value) in enumerate(said) if number == 0 or starts_anew(value, rule))
    value = look(merged, path)
    return Explained(
        key=dotted(path),
        value=None if value is GONE else value,
        known=value is not GONE,
        strategy=rule.strategy,
        description=rule.description,
        said=tuple(
            Said(
                layer=name,
                place=place_of(desired, name, path),
                value=one,
                counts=number >= first and (one is None or value is not GONE),  # a layer above may say no map at all
            )
            for number, (name, one) in enumerate(said)
        ),
    )


def _sortable(path: Path) -> tuple[str, ...]:
    return tuple(map(str, path))
