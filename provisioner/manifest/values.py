"""The values that templates see: the role's defaults, overridden by the cloud's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner.model.role import Desired

RESERVED = frozenset({"cloud", "role", "node", "members", "secrets"})
"""Names that the metadata gives to templates itself."""


def merge_values(desired: Desired, role: str) -> dict[str, Any]:
    """Maps are merged key by key, anything else is replaced."""
    return _merge(desired.roles[role].config.values, desired.cloud.roles[role].values)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = old.get(key)
        merged[key] = _merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
