"""A generation's metadata in parts: what many nodes have in common travels, and is kept, once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

PARTS = "parts"
"""In a node's own metadata: the ids of the parts that belong to it, those that come first give way to later ones."""


def write_part(part: Mapping[str, Any]) -> str:
    """Its one form as text: JSON with sorted keys and without spaces."""
    return json.dumps(part, sort_keys=True, separators=(",", ":"))


def part_id(text: str) -> str:
    """The sha256 of a part's text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def needed_parts(own: Mapping[str, Any]) -> tuple[str, ...]:
    """:raises TypeError: the metadata have another shape."""
    return tuple(str(ident) for ident in own.get(PARTS) or ())


def join_parts(own: Mapping[str, Any], parts: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The whole document. Each of its members is told from the node itself by ``self``.

    :param own: the node's own metadata, which come last. :param parts: in the order of :func:`needed_parts`.
    :raises KeyError: the metadata have another shape. :raises TypeError: as well.
    """
    joined: dict[str, Any] = {}
    for part in parts:
        joined.update(part)
    if "members" in joined:
        hostname = own["node"]["hostname"]
        joined["members"] = {
            role: [{**member, "self": member["hostname"] == hostname} for member in members]
            for role, members in joined["members"].items()
        }
    joined.update({key: value for key, value in own.items() if key != PARTS})
    return joined
