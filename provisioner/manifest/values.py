"""What the members of a role have in common: the values that templates see, the probes, the order of changes.

Values come in layers, each over those before: the defaults of the role's elements, the role, the zone of the node, the
cloud (for all of its roles, then for this one), the node.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner.manifest.elements import default_values
from provisioner.manifest.firewall import describe_rules
from provisioner.manifest.layer import Path
from provisioner.manifest.merge import find_missing, find_references, infer, merge_value, unite
from provisioner.model.policy import Policy
from provisioner.model.role import Desired, Role
from provisioner.model.values import ANYTHING, Schema


@dataclass(frozen=True)
class Mixture:
    """The values of all members to which the same layers apply.

    ``references``: where they refer to secrets, and to which. ``missing``: what is required and not given.
    """

    role: str
    zone: str
    node: str
    values: Mapping[str, Any]
    references: tuple[tuple[Path, str], ...] = ()
    missing: tuple[Path, ...] = ()

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by; an empty name stands for a layer that does not apply."""
        return self.role, self.zone, self.node

    @property
    def secrets(self) -> tuple[str, ...]:
        """Names of the secrets that the values refer to."""
        return tuple(dict.fromkeys(name for _, name in self.references))


class Values:
    """The values of a cloud's members. Each mixture of layers is merged once: a thousand nodes have a few of them."""

    def __init__(self, desired: Desired) -> None:
        self._desired = desired
        self._rules: dict[str, Schema] = {}
        self._defaults = {name: default_values(schema) for name, schema in desired.schemas.items()}
        self._mixtures: dict[tuple[str, str, str], Mixture] = {}

    def rule(self, role: str) -> Schema:
        """What may stand where among the values of a role."""
        if role not in self._rules:
            schemas = [self._desired.schemas[name] for name in self._desired.elements.get(role, ())]
            self._rules[role] = build_rule(self._desired.roles[role], unite(schemas))
        return self._rules[role]

    def of(self, role: str, zone: str = "", node: str = "") -> Mixture:
        """:param zone: of the node; one that has no file has no values. :param node: its name."""
        key = (role, zone if zone in self._desired.zones else "", node if node in self._desired.cloud.nodes else "")
        if key not in self._mixtures:
            rule, refers = self.rule(role), self.refers(role)
            merged: Any = {}
            for _, values in self.layers(*key):
                merged = merge_value(merged, values, rule, refers=refers)
            references = tuple(find_references(merged, rule)) if refers else ()
            self._mixtures[key] = Mixture(*key, merged, references, tuple(find_missing(merged, rule)))
        return self._mixtures[key]

    def layers(self, role: str, zone: str = "", node: str = "") -> list[tuple[str, Mapping[str, Any]]]:
        """Those that apply to a member, the lowest first: the name of each, and what it says."""
        desired, cloud, rule = self._desired, self._desired.cloud, self.rule(role)
        found: list[tuple[str, Mapping[str, Any]]]
        found = [(layer_name("element", name), self._defaults[name]) for name in desired.elements.get(role, ())]
        found.append((layer_name("role", role), desired.roles[role].config.values))
        if zone in desired.zones:
            found.append((layer_name("zone", zone), named(desired.zones[zone].values, rule)))
        found.append((CLOUD, named(cloud.values, rule)))
        found.append((layer_name("cloud, role", role), cloud.roles[role].values))
        if node in cloud.nodes:
            found.append((layer_name("node", node), named(cloud.nodes[node].values, rule)))
        return found

    def refers(self, role: str) -> bool:
        """Whether ``{secret: NAME}`` stands for a secret; to the cloud-init of a whole disk it is a map like others."""
        return not self._desired.roles[role].image.disk


CLOUD = "cloud"
"""The layer of what a cloud file says to all of its roles."""


def layer_name(kind: str, name: str) -> str:
    return f"{kind} {name}"


def build_rule(role: Role, elements: Schema) -> Schema:
    """What may stand where among a role's values: anything when neither it nor its elements name one.

    :param elements: what these say.
    """
    refers = not role.image.disk
    own = {
        key: infer(value, refers=refers) for key, value in role.config.values.items() if key not in elements.properties
    }
    properties = own | elements.properties
    return elements.model_copy(update={"properties": properties, "additional": None if properties else ANYTHING})


def named(values: Mapping[str, Any], rule: Schema) -> dict[str, Any]:
    """What of values that are said to many roles concerns one: the keys that it names, not all that it would take."""
    return {key: value for key, value in values.items() if key in rule.properties}


def build_shared(desired: Desired, role: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of the metadata that many members have in common: ``values``, ``role``, ``health``.

    :param values: as :class:`Values` mixes them for these members.
    """
    spec, rules = desired.roles[role], describe_rules(desired, role)
    return {
        "values": values,
        "role": {
            "name": role,
            "count": desired.cloud.roles[role].count,
            "once": list(spec.once),
            "at_a_time": spec.policy.at_a_time,
            "drift": spec.config.drift,
            "confirm": spec.config.confirm_seconds,
            **_order(spec.policy),
            **({} if rules is None else {"firewall": rules}),
            **_certificates(spec),
        },
        "health": spec.health.model_dump(mode="json"),
    }


def with_defaults(role: Role, schemas: Mapping[str, Schema]) -> Role:
    """A role whose values hold what its elements give by themselves. :param schemas: of its elements, by name."""
    rule = build_rule(role, unite(schemas.values()))
    merged: Any = {}
    for values in (*map(default_values, schemas.values()), role.config.values):
        merged = merge_value(merged, values, rule, refers=not role.image.disk)
    return role.model_copy(update={"config": role.config.model_copy(update={"values": merged})})


def _certificates(role: Role) -> dict[str, Any]:
    """Nothing of a role without any: as before there were certificates."""
    found = {name: list(spec.also) for name, spec in role.certificates.items()}
    return {"certificates": found} if found else {}


def _order(policy: Policy) -> dict[str, Any]:
    """What else a role says of changes; nothing where it says nothing, so that older metadata stay as they are."""
    said = policy.model_dump(mode="json", exclude_defaults=True, exclude={"at_a_time"})
    return {"change": said} if said else {}


def whole_roles(desired: Desired) -> dict[str, Role]:
    """The roles that a cloud uses, by name, as :func:`with_defaults` has them."""
    schemas, elements = desired.schemas, desired.elements
    return {
        name: with_defaults(role, {own: schemas[own] for own in elements.get(name, ())})
        for name, role in desired.roles.items()
    }
