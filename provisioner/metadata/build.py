"""The document from which an instance configures itself. Pure: the same arguments give the same document."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from provisioner.errors import NotFound
from provisioner.manifest.layer import Path
from provisioner.manifest.values import Mixture, Values, build_shared
from provisioner.metadata.certificates import Certify, think_certificates, wanted_names
from provisioner.metadata.firewall import build_firewall
from provisioner.model.deployment import Placement
from provisioner.model.role import Desired
from provisioner.model.values import SECRET
from provisioner_agent.protocol.parts import PARTS, join_parts
from provisioner_agent.render.references import REFERENCES, put_references


def build_metadata(
    desired: Desired,
    placement: Placement,
    members: Sequence[Placement],
    node_uuid: str,
    secrets: Mapping[str, str],
    generation: int,
    zone: str = "",
    certify: Certify = think_certificates,
    authority: str = "",
) -> dict[str, Any]:
    """One generation of an instance's metadata, whole.

    :param placement: of the instance. :param members: of the whole cloud, the instance's own among them.
    :param secrets: those of :func:`needed_secrets`, by name. :param generation: grows with each document that differs.
    :param zone: of the node. :param certify: makes or finds certificates. :param authority: of the cloud, as PEM; empty
        for none.
    :returns: ``cloud role node members values secrets certificates firewall`` are what templates see (``values`` at the
        top level); ``health`` are the probes that the agent runs, ``permit`` says that it asks before it switches.
    """
    mixture = Values(desired).of(placement.role, zone, placement.node)
    certificates = certify(placement, wanted_names(desired, mixture, placement))
    own = build_own(placement, node_uuid, secrets, certificates, generation)
    return join_parts(own, (build_role(desired, mixture, members, authority), build_members(desired, members)))


def needed_secrets(desired: Desired, mixture: Mixture) -> tuple[str, ...]:
    """Names of the secrets that members need: those of the role, and those that their values refer to."""
    return tuple(dict.fromkeys((*desired.roles[mixture.role].secrets, *mixture.secrets)))


def build_own(
    placement: Placement,
    node_uuid: str,
    secrets: Mapping[str, str],
    certificates: Mapping[str, Mapping[str, str]],
    generation: int,
    parts: Sequence[str] = (),
) -> dict[str, Any]:
    """What an instance shares with no other, and the ids of the parts that it shares."""
    return {
        "generation": generation,
        "node": {
            "name": placement.node,
            "uuid": node_uuid,
            "hostname": placement.hostname,
            "index": placement.index,
            "address": placement.addresses[0].bare,
            "addresses": [address.model_dump(mode="json") for address in placement.addresses],
            "interfaces": [interface.model_dump(mode="json") for interface in placement.interfaces],
        },
        "secrets": dict(sorted(secrets.items())),
        **({"certificates": {name: dict(pair) for name, pair in sorted(certificates.items())}} if certificates else {}),
        "permit": True,
        PARTS: list(parts),
    }


class Documents:
    """What the members of a cloud are told, each its own; what they share is kept once.

    :param members: of the whole cloud. :param secrets: of the cloud, by name. :param keep: part → its id.
    :param certify: makes or finds certificates. :param authority: that signs them, as PEM; empty for none.
    """

    def __init__(
        self,
        desired: Desired,
        members: Sequence[Placement],
        secrets: Mapping[str, str],
        keep: Callable[[Mapping[str, Any]], str],
        certify: Certify,
        authority: str,
    ) -> None:
        self._desired = desired
        self._members = members
        self._everybody = keep(build_members(desired, members))
        self._secrets = secrets
        self._keep = keep
        self._certify = certify
        self._authority = authority
        self._values = Values(desired)
        self._known: dict[tuple[str, str, str], tuple[str, dict[str, str]]] = {}

    def own(self, placement: Placement, node_uuid: str, zone: str, generation: int = 0) -> dict[str, Any]:
        """:param zone: of the node. :raises NotFound: a value refers to a secret that there is not."""
        mixture = self._values.of(placement.role, zone, placement.node)
        if mixture.key not in self._known:
            self._known[mixture.key] = (
                self._keep(build_role(self._desired, mixture, self._members, self._authority)),
                self._present(mixture),
            )
        part, secrets = self._known[mixture.key]
        certificates = self._certify(placement, wanted_names(self._desired, mixture, placement))
        return build_own(placement, node_uuid, secrets, certificates, generation, parts=(part, self._everybody))

    def _present(self, mixture: Mixture) -> dict[str, str]:
        needed = needed_secrets(self._desired, mixture)
        for name in needed:
            if name not in self._secrets:
                cloud = self._desired.cloud.cloud
                raise NotFound(
                    f"there is no secret {name}, to which a value of {mixture.role} refers",
                    where=cloud,
                    hint=f"provisioner cloud secret {cloud} {name} --set-file FILE, or correct the name in the files",
                )
        return {name: self._secrets[name] for name in needed}


def build_role(desired: Desired, mixture: Mixture, members: Sequence[Placement], authority: str = "") -> dict[str, Any]:
    """The same for all members of a role that have the same values.

    Where these refer to a secret nothing stands, and the agent puts it there; an agent that cannot misses the value.

    :param members: of the whole cloud. :param authority: of the cloud, as PEM; empty for none.
    """
    shared = build_shared(desired, mixture.role, _without(mixture.values, [path for path, _ in mixture.references]))
    if mixture.references:
        shared[REFERENCES] = [[list(path), name] for path, name in mixture.references]
    firewall = build_firewall(desired, mixture.role, members)
    if firewall is not None:
        shared["firewall"] = firewall
    cloud = {"name": desired.cloud.cloud} | ({"authority": authority} if authority else {})
    return {"cloud": cloud, **shared}


def _without(values: Any, paths: Sequence[Path]) -> Any:
    """A copy without the parts at these paths; in a list null stands there, so that the others keep their places."""
    if not paths:
        return values
    inner: dict[str | int, list[Path]] = {}
    for path in paths:
        inner.setdefault(path[0], []).append(path[1:])
    if isinstance(values, list):
        return [
            value if number not in inner else None if () in inner[number] else _without(value, inner[number])
            for number, value in enumerate(values)
        ]
    return {key: _without(value, inner.get(key, ())) for key, value in values.items() if () not in inner.get(key, ())}


def read_shared(part: Mapping[str, Any]) -> dict[str, Any]:
    """What :func:`~provisioner.manifest.values.build_shared` made, of the part that :func:`build_role` made of it."""
    shared = {name: part.get(name, {}) for name in ("values", "role", "health")}
    return shared | {"values": put_references(shared["values"], part, lambda name: {SECRET: name})}


def build_members(desired: Desired, members: Sequence[Placement]) -> dict[str, Any]:
    """The same for all members of a cloud: each role's by index; also roles without one yet, for templates to ask."""
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in desired.cloud.roles}
    for member in sorted(members, key=lambda member: (member.role, member.index)):
        found.setdefault(member.role, []).append(
            {
                "hostname": member.hostname,
                "node": member.node,
                "index": member.index,
                "address": member.addresses[0].bare,
            }
        )
    return {"members": found}
