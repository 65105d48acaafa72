"""Ranges in hardware files: one entry that stands for many nodes.

``name: a[01-16]`` with ``address: 10.0.4.[11-26]`` are sixteen nodes. A range is a list of numbers and spans,
``[1-3,7]``; leading zeros are kept. In a MAC address the numbers are hexadecimal. All ranges of an entry move together,
so they must have the same length; what has no range is the same for all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from provisioner.errors import Problem
from provisioner.manifest.layer import Layer, Path

RANGE = re.compile(r"\[([^\[\]]*)\]")
ITEM = re.compile(r"^([0-9a-fA-F]+)(?:-([0-9a-fA-F]+))?$")
MOST = 4096
"""Nodes of one entry; more is a slip of the pen."""
FREE_TEXT = frozenset({"root_disk", "properties"})
"""Keys whose texts mean something of their own by brackets."""


def expand_ranges(layer: Layer, problems: list[Problem]) -> list[Layer]:
    """The entries that one stands for; itself alone when it has no range, none when a range is wrong."""
    found = dict(_ranges(layer, problems))
    if not found:
        return [layer]
    if None in found.values():
        return []
    counts = {path: len(texts or ()) for path, texts in found.items()}
    longest = max(counts, key=lambda path: counts[path])
    for path, count in counts.items():
        if count != counts[longest]:
            other = f"the one at {layer.where(longest)} has {counts[longest]}"
            what = f"{layer.data.get('name', 'the entry')}: a range of {count}, but {other}"
            problems.append(Problem(layer.where(path), what, "write ranges of the same length"))
            return []
    return [
        Layer(_replace(layer.data, (), {path: (texts or [])[number] for path, texts in found.items()}), layer.places)
        for number in range(counts[longest])
    ]


def _ranges(layer: Layer, problems: list[Problem]) -> Iterator[tuple[Path, list[Any] | None]]:
    for path, text in _texts(layer.data, ()):
        spans = RANGE.findall(text)
        if not spans:
            continue
        values = None
        if len(spans) == 1:
            values = _numbers(spans[0], 16 if path[-1] == "mac" else 10)
        if values is None or len(values) > MOST:
            hint = "write one range such as [1-16] or [01-04,7]" + (", in hexadecimal" if path[-1] == "mac" else "")
            problems.append(Problem(layer.where(path), f"{text!r} is not a range", hint))
            yield path, None
            continue
        head, tail = RANGE.split(text)[0], RANGE.split(text)[2]
        alone = not head and not tail
        yield path, [int(value) if alone else f"{head}{value}{tail}" for value in values]


def _texts(data: Any, path: Path) -> Iterator[tuple[Path, str]]:
    if isinstance(data, dict):
        for key, value in data.items():
            if path or key not in FREE_TEXT:
                yield from _texts(value, (*path, key))
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _texts(value, (*path, number))
    elif isinstance(data, str):
        yield path, data


def _numbers(span: str, base: int) -> list[str] | None:
    numbers: list[str] = []
    for item in span.split(","):
        match = ITEM.match(item.strip())
        if match is None:
            return None
        try:
            first, last = int(match[1], base), int(match[2] or match[1], base)
        except ValueError:
            return None
        if last < first or last - first >= MOST:
            return None
        width = len(match[1]) if match[1].startswith("0") else 0
        form = "x" if base == 16 else "d"
        numbers += [f"{number:0{width}{form}}" for number in range(first, last + 1)]
    return numbers


def _replace(data: Any, path: Path, values: dict[Path, Any]) -> Any:
    if path in values:
        return values[path]
    if isinstance(data, dict):
        return {key: _replace(value, (*path, key), values) for key, value in data.items()}
    if isinstance(data, list):
        return [_replace(value, (*path, number), values) for number, value in enumerate(data)]
    return data
