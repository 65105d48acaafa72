"""What the members of a role have in common: the values that templates see, the probes, the order of changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from provisioner.manifest.firewall import describe_rules
from provisioner.model.policy import Policy
from provisioner.model.role import Desired

RESERVED = frozenset({"cloud", "role", "node", "members", "secrets", "firewall"})
"""Names that the metadata gives to templates itself."""


def build_shared(desired: Desired, role: str) -> dict[str, Any]:
    """The parts of the metadata that are the same for every member: ``values``, ``role``, ``health``."""
    spec, rules = desired.roles[role], describe_rules(desired, role)
    return {
        "values": merge_values(desired, role),
        "role": {
            "name": role,
            "count": desired.cloud.roles[role].count,
            "once": list(spec.once),
            "at_a_time": spec.policy.at_a_time,
            "drift": spec.config.drift,
            **_order(spec.policy),
            **({} if rules is None else {"firewall": rules}),
        },
        "health": spec.health.model_dump(mode="json"),
    }


def _order(policy: Policy) -> dict[str, Any]:
    """What else a role says of changes; nothing where it says nothing, so that older metadata stay as they are."""
    said = policy.model_dump(mode="json", exclude_defaults=True, exclude={"at_a_time"})
    return {"change": said} if said else {}


def merge_values(desired: Desired, role: str) -> dict[str, Any]:
    """The role's defaults under the cloud's: maps are merged key by key, anything else is replaced."""
    return _merge(desired.roles[role].config.values, desired.cloud.roles[role].values)


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = old.get(key)
        merged[key] = _merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged
