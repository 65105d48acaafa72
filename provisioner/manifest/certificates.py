"""Names that certificates are for, as values say them. Pure."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any

from provisioner.manifest.layer import Path
from provisioner.manifest.values import Mixture
from provisioner.model.role import Role

LABEL = "[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
HOST = re.compile(rf"^(?=.{{1,253}}$)(\*\.)?({LABEL}\.)*{LABEL}$")
"""A host name (RFC 1123, section 2.1), or one for all hosts of a domain (RFC 6125, section 6.4.3)."""


def said_names(values: Mapping[str, Any], path: str) -> list[str]:
    """What a value says of names, without what is none. :param path: its dotted name."""
    found = [bare_name(name) for name in _listed(values, path)]
    return [name for name in found if name is not None]


def wrong_names(values: Mapping[str, Any], path: str) -> list[Any]:
    """What a value says that is neither a host name nor an address."""
    return [name for name in _listed(values, path) if bare_name(name) is None]


def bare_name(name: Any) -> str | None:
    """A host name or an address, without its prefix length; None for what is neither."""
    if not isinstance(name, str):
        return None
    try:
        return str(ipaddress.ip_interface(name).ip)
    except ValueError:
        return name if HOST.match(name) else None


def check_names(role: Role, mixture: Mixture) -> Iterator[tuple[Path, str]]:
    """(where among the values, what is wrong) of each that a certificate is to be for, and that is no name."""
    for name, spec in role.certificates.items():
        for path in spec.also:
            for wrong in wrong_names(mixture.values, path):
                what = f"{wrong!r} is no host name or address"
                yield tuple(path.split(".")), f"the certificate {name} cannot be for {path}: {what}"


def _listed(values: Any, path: str) -> list[Any]:
    for key in path.split("."):
        values = values.get(key) if isinstance(values, Mapping) else None
    return [] if values is None else list(values) if isinstance(values, list) else [values]
