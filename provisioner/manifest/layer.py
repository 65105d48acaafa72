"""YAML text → data that knows where each of its parts stands; layers of it merged.

The scalars are those of the YAML 1.2 core schema (https://yaml.org/spec/1.2.2/, section 10.3): in YAML 1.1, which
PyYAML speaks by itself, the MAC address ``52:54:00:12:34:56`` is a number and the role name ``no`` is false.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from provisioner.errors import ManifestError, Problem

Path = tuple[str | int, ...]
"""Keys and list indexes from the top of a document."""

LARGEST = 100_000
"""Parts of a document; more is not a manifest but a mistake, or aliases that name each other."""
DEEPEST = 100
"""Maps and lists within each other; pydantic reads no more than twice as many."""
SCALARS = frozenset(f"tag:yaml.org,2002:{kind}" for kind in ("str", "int", "float", "bool", "null"))
"""What JSON has too."""


@dataclass(frozen=True)
class Layer:
    """Data with the ``file:line`` of each of its parts."""

    data: Any
    places: Mapping[Path, str] = field(default_factory=dict)

    def where(self, path: Path) -> str:
        """The place of a part, or of the nearest one above that has one."""
        for end in range(len(path), -1, -1):
            if path[:end] in self.places:
                return self.places[path[:end]]
        return "?"

    def under(self, *path: str | int) -> Layer:
        """The part at ``path``, which must be there."""
        data = self.data
        for key in path:
            data = data[key]
        size = len(path)
        return Layer(data, {found[size:]: place for found, place in self.places.items() if found[:size] == path})


class _Loader(yaml.SafeLoader):
    """SafeLoader with the scalars of the core schema; used only to compose nodes and make scalars of them."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML reads it from the class


_Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF"))
_Loader.add_implicit_resolver("tag:yaml.org,2002:null", re.compile(r"^(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
    list("-+.0123456789"),
)


def parse_layer(path: str, text: str) -> Layer:
    """One YAML document.

    :param path: names the file in places and problems.
    :raises ManifestError: it is not YAML, has a key twice, or has another kind of key than text.
    """
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise ManifestError([_yaml_problem(path, error)]) from error
    try:
        node = loader.get_single_node()
        builder = _Builder(path, loader)
        data = builder.build(node, ()) if node is not None else None
    except yaml.YAMLError as error:
        raise ManifestError([_yaml_problem(path, error)]) from error
    except RecursionError:
        raise ManifestError([_too_deep(f"{path}:1")]) from None
    finally:
        loader.dispose()
    if builder.problems:
        raise ManifestError(builder.problems)
    builder.places.setdefault((), f"{path}:1")
    return Layer(data, builder.places)


def _yaml_problem(path: str, error: yaml.YAMLError) -> Problem:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    said = " ".join(part for part in (getattr(error, "problem", None), getattr(error, "context", None)) if part)
    return Problem(f"{path}:{line}", f"not YAML: {said or error}", "compare the indentation with the lines around it")


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def _too_deep(place: str) -> Problem:
    return Problem(place, f"more than {DEEPEST} maps and lists are within each other", "write fewer")


class _Builder:
    def __init__(self, path: str, loader: _Loader) -> None:
        self.places: dict[Path, str] = {}
        self.problems: list[Problem] = []
        self._path = path
        self._loader = loader
        self._open: list[yaml.Node] = []

    def build(self, node: yaml.Node, path: Path) -> Any:
        self.places[path] = place = f"{self._path}:{node.start_mark.line + 1}"
        if node in self._open:
            raise ManifestError([Problem(place, "aliases make this document endless", "write it without aliases")])
        if len(self.places) > LARGEST:
            what = f"the document has more than {LARGEST} parts, those that aliases repeat among them"
            raise ManifestError([Problem(place, what, "write fewer")])
        if len(path) > DEEPEST:
            raise ManifestError([_too_deep(place)])
        self._open.append(node)
        try:
            if isinstance(node, yaml.MappingNode):
                return self._mapping(node, path)
            if isinstance(node, yaml.SequenceNode):
                return [self.build(item, (*path, number)) for number, item in enumerate(node.value)]
            return self._scalar(node, place)
        finally:
            self._open.pop()

    def _scalar(self, node: yaml.Node, place: str) -> Any:
        """Only what JSON has too, since that is how values are kept and reach instances."""
        if node.tag not in SCALARS:
            self.problems.append(Problem(place, f"the tag {node.tag} is not known", "write the value without a tag"))
            return None
        try:
            value = self._loader.construct_object(node)
        except (ValueError, LookupError):  # an explicit tag, or more digits than Python reads
            value = math.inf
        if isinstance(value, float) and not math.isfinite(value):
            kind = node.tag.rpartition(":")[2]
            self.problems.append(
                Problem(place, f"{_short(node.value)!r} cannot be read as {kind}", "write it in quotes")
            )
        elif isinstance(value, str):
            self._check_text(value, place)
        return value

    def _check_text(self, text: str, place: str) -> None:
        if any("\ud800" <= letter <= "\udfff" for letter in text):
            what = f"{_short(ascii(text))} has half of a character"
            self.problems.append(Problem(place, what, "write the character itself"))

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            place = f"{self._path}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                self.problems.append(Problem(place, "a key must be text"))
                continue
            key = key_node.value
            self._check_text(key, place)
            if key in data:
                self.problems.append(Problem(place, f"the key {key!r} stands here a second time", "remove one of them"))
                continue
            data[key] = self.build(value_node, (*path, key))
            self.places[(*path, key)] = place
        return data


def merge_layers(*layers: Layer) -> Layer:
    """Mappings are merged key by key; of anything else the last layer's is taken, with its place."""
    data: Any = None
    places: dict[Path, str] = {}
    for layer in layers:
        data = _merge(data, layer.data, (), places, layer.places)
    return Layer(data, places)


def _merge(old: Any, new: Any, path: Path, places: dict[Path, str], added: Mapping[Path, str]) -> Any:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        if path in added:
            places[path] = added[path]
        merged = dict(old)
        for key, value in new.items():
            merged[key] = _merge(old.get(key), value, (*path, key), places, added)
        return merged
    size = len(path)
    for gone in [found for found in places if found[:size] == path]:
        del places[gone]
    places.update({found: place for found, place in added.items() if found[:size] == path})
    return new
