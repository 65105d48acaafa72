"""What a lab file says: the machines of a virtual rack and the network they share."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Literal
from uuid import NAMESPACE_DNS, UUID, uuid5

from pydantic import Field, field_validator

from provisioner.errors import ManifestError, Problem
from provisioner.manifest.check import parse_value
from provisioner.manifest.layer import parse_layer
from provisioner.model.hardware import NAME, Firmware, parse_mac
from provisioner.model.value import Value


class Bus(StrEnum):
    """What a further disk hangs on."""

    VIRTIO = "virtio"
    SATA = "sata"
    NVME = "nvme"
    SCSI = "scsi"


class LabDisk(Value):
    """A disk beside the machine's first. ``sector``: bytes of its logical and physical sectors.

    ``before``: the machine finds it before its first one. ``bad_mib``: what lies there cannot be written.
    """

    serial: str = Field(pattern=r"^[a-z0-9-]{1,20}$")
    gib: int = Field(default=8, ge=1)
    bus: Bus = Bus.VIRTIO
    sector: Literal[512, 4096] = 512
    before: bool = False
    bad_mib: int | None = Field(default=None, ge=0)


class Machine(Value):
    """One virtual server: its controller's address, and the sizes of what it is made of.

    ``more_macs``: of further ports, all on the rack's network. ``sector``: bytes of a sector of its first disk,
    ``bad_mib``: where it cannot be written. ``log_writes``: all that is written to it is logged, so that
    :mod:`provisioner.lab.powercut` can say what of it a power cut would have left.
    """

    name: str
    bmc: str
    mac: str
    memory_mib: int = Field(default=2048, ge=256)
    cpus: int = Field(default=1, ge=1)
    disk_gib: int = Field(default=8, ge=1)
    sector: Literal[512, 4096] = 512
    bad_mib: int | None = Field(default=None, ge=0)
    log_writes: bool = False
    more_macs: tuple[str, ...] = Field(default=(), max_length=7)
    disks: tuple[LabDisk, ...] = Field(default=(), max_length=8)
    firmware: Firmware = Firmware.UEFI

    @property
    def macs(self) -> tuple[str, ...]:
        return (self.mac, *self.more_macs)

    @property
    def uuid(self) -> UUID:
        """The number that both the machine and its controller tell, by which one is known to belong to the other."""
        return uuid5(NAMESPACE_DNS, f"{self.name}.{self.mac}")

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("not a host name; write lower-case letters, digits and dashes")
        return value

    @field_validator("bmc")
    @classmethod
    def _bmc(cls, value: str) -> str:
        try:
            return str(IPv4Address(value))
        except ValueError:
            raise ValueError("not an IPv4 address; write it without port and prefix length") from None

    @field_validator("mac")
    @classmethod
    def _mac(cls, value: str) -> str:
        return parse_mac(value)

    @field_validator("more_macs")
    @classmethod
    def _more_macs(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(parse_mac, value))


class Rack(Value):
    """A lab file.

    ``address``: the seed's own on the rack's network; ``bmc_address``: this host's on the controllers'.
    """

    namespace: str = Field(default="provisioner-lab", pattern=r"^[a-z][a-z0-9-]{0,30}$")
    address: str
    bmc_address: str
    username: str = Field(default="admin", pattern=r"^[A-Za-z0-9._-]{1,16}$")  # 16 bytes: IPMI 2.0, 22.28
    nodes: tuple[Machine, ...] = Field(min_length=1, max_length=64)

    @field_validator("address", "bmc_address")
    @classmethod
    def _interface(cls, value: str) -> str:
        try:
            interface = IPv4Interface(value)
        except ValueError:
            interface = None
        if interface is None or "/" not in value:
            raise ValueError("not an IPv4 address with its prefix length; write it such as 10.77.0.1/24")
        return str(interface)


def parse_rack(path: str, text: str) -> Rack:
    """A lab file's text as a value.

    :raises ManifestError: with every problem in it.
    """
    layer = parse_layer(path, text)
    problems: list[Problem] = []
    rack = parse_value(Rack, layer, problems)
    seen: dict[str, str] = {rack.bmc_address.partition("/")[0]: layer.where(("bmc_address",))} if rack else {}
    for number, machine in enumerate(rack.nodes if rack else ()):
        macs = [("more_macs", mac) for mac in machine.more_macs]
        for key, value in (("name", machine.name), ("bmc", machine.bmc), ("mac", machine.mac), *macs):
            where = layer.where(("nodes", number, key))
            if value in seen:
                problems.append(Problem(where, f"nodes[{number}].{key} {value} is taken", f"see {seen[value]}"))
            seen.setdefault(value, where)
    if problems or rack is None:
        raise ManifestError(problems)
    return rack


def read_rack(path: Path) -> Rack:
    """:raises ManifestError: the file is not there, or is not a lab file."""
    try:
        return parse_rack(str(path), path.read_text())
    except OSError as error:
        raise ManifestError([Problem(str(path), f"cannot be read: {error.strerror}")]) from error
