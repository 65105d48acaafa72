"""What the certificates of a member are for. Pure: others make them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from provisioner.manifest.certificates import said_names
from provisioner.manifest.values import Mixture
from provisioner.model.deployment import Placement
from provisioner.model.role import Desired

Certify = Callable[[Placement, Mapping[str, tuple[str, ...]]], Mapping[str, Mapping[str, str]]]
"""(member, names by certificate) → ``{certificate: {"certificate": PEM, "key": PEM}}``."""


def wanted_names(desired: Desired, mixture: Mixture, placement: Placement) -> dict[str, tuple[str, ...]]:
    """The host names and addresses of each certificate of a member, by the name of the certificate."""
    own = [placement.hostname, *(address.bare for address in placement.addresses)]
    return {
        name: tuple(dict.fromkeys([*own, *(found for path in spec.also for found in said_names(mixture.values, path))]))
        for name, spec in desired.roles[placement.role].certificates.items()
    }


def needs_authority(desired: Desired) -> bool:
    """Whether any role of a cloud has certificates."""
    return any(role.certificates for role in desired.roles.values())


def certificate_stand_in(name: str) -> dict[str, str]:
    """In the place of a certificate that is made when a plan is applied, or that is not to be shown."""
    return {"certificate": f"(certificate {name})", "key": f"(key of certificate {name})"}


def think_certificates(_: Placement, wanted: Mapping[str, tuple[str, ...]]) -> dict[str, dict[str, str]]:
    """A :data:`Certify` that makes none."""
    return {name: certificate_stand_in(name) for name in wanted}
