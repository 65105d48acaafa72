"""What a lab file says: the machines of a virtual rack and the network they share."""

from __future__ import annotations

from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from provisioner.errors import ManifestError, Problem
from provisioner.model.hardware import Firmware, Port
from provisioner.model.value import Value


class Machine(Value):
    """One virtual server: its controller's address, and the sizes of what it is made of."""

    name: str
    bmc: str
    mac: str
    memory_mib: int = Field(default=2048, ge=256)
    cpus: int = Field(default=1, ge=1)
    disk_gib: int = Field(default=8, ge=1)
    firmware: Firmware = Firmware.UEFI


class Rack(Value):
    """A lab file. ``address``: the seed's own on the rack's network; ``bmc_address``: this host's on the controllers'."""

    namespace: str = Field(default="provisioner-lab", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    address: str
    bmc_address: str
    username: str = "admin"
    nodes: tuple[Machine, ...] = Field(min_length=1, max_length=64)


def parse_rack(path: str, text: str) -> Rack:
    """A lab file's text as a value.

    :raises ManifestError: it is not one.
    """
    try:
        rack = Rack.model_validate(yaml.safe_load(text))
        for machine in rack.nodes:
            Port(mac=machine.mac)
    except yaml.YAMLError as error:
        raise ManifestError([Problem(path, f"not YAML: {error}")]) from error
    except ValidationError as error:
        raise ManifestError(
            [
                Problem(f"{path}: {'.'.join(str(part) for part in found['loc'])}", found["msg"])
                for found in error.errors()
            ]
        ) from error
    return rack


def read_rack(path: Path) -> Rack:
    """:raises ManifestError: the file is not there, or is not a lab file."""
    try:
        return parse_rack(str(path), path.read_text())
    except OSError as error:
        raise ManifestError([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
