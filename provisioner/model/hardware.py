"""What hardware files say: nodes, their ports and management controllers."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from provisioner.model.value import Value

MAC = re.compile(r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")
NAME = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")


def parse_mac(text: str) -> str:
    """A MAC address in lower case with colons.

    :raises ValueError: it is none.
    """
    mac = text.lower().replace("-", ":")
    if not MAC.match(mac):
        raise ValueError("not a MAC address; write six hexadecimal pairs such as 52:54:00:12:34:56")
    return mac


class Firmware(StrEnum):
    UEFI = "uefi"
    BIOS = "bios"


class Power(StrEnum):
    ON = "on"
    OFF = "off"
    UNKNOWN = "unknown"


class PowerPolicy(StrEnum):
    """What happens when a sweep finds a node's power other than it was left: only told, or also put back."""

    REPORT = "report"
    RESTORE = "restore"


class BootDevice(StrEnum):
    """Words of the IPMI boot option parameter 5 that the product uses (IPMI 2.0, table 28-14)."""

    PXE = "pxe"
    DISK = "disk"


PORTS = {"ipmi": 623, "redfish": 443}
"""The port of each driver's protocol (IPMI 2.0, table 13-1; DSP0266, HTTPS)."""


class SecretRef(Value):
    """Where a secret is kept; the secret itself never stands in a manifest. Exactly one field is set.

    ``stored``: in the service's own records, which made it.
    """

    file: str | None = None
    env: str | None = None
    stored: bool = False


class BmcAddress(Value):
    """How to reach a management controller. ``password`` is a reference, never the password.

    ``port``: by itself that of the driver's protocol. ``system``: for Redfish, the system's id or path when the
    controller has more than one. ``certificate``: for Redfish, the SHA-256 of the certificate that the controller must
    show; without it the one that it showed when it was enrolled.
    """

    driver: Literal["ipmi", "redfish"] = "ipmi"
    address: str
    port: int = Field(default=0, ge=1, le=65535, validate_default=False)
    username: str
    password: SecretRef
    system: str = ""
    certificate: str = Field(default="", pattern=r"^([0-9a-f]{64})?$")

    @model_validator(mode="before")
    @classmethod
    def _port(cls, data: Any) -> Any:
        if isinstance(data, dict) and "port" not in data:
            return data | {"port": PORTS.get(data.get("driver", "ipmi"), 623)}
        return data


class SwitchPort(Value):
    """Where a port is plugged in, as LLDP names it."""

    switch: str = ""
    port: str = ""


class Port(Value):
    """One network interface of a node, known by its MAC address (lower case, colons).

    ``network``: the physical network it is on. ``plugged``: where its cable should end.
    """

    mac: str
    network: str = ""
    plugged: SwitchPort | None = None

    @field_validator("mac")
    @classmethod
    def _mac(cls, value: str) -> str:
        return parse_mac(value)


class Location(Value):
    """Where a node stands. ``unit``: its lowest rack unit, counted from 1 at the bottom."""

    zone: str = ""
    rack: str = ""
    unit: int | None = Field(default=None, ge=1, le=100)


class NodeSpec(Value):
    """One node as its hardware file describes it. Without ``ports`` they are found out by an inspection.

    ``root_disk`` holds ironic-lib root device hints (``size`` in GiB, ``model``, ``serial``, ...).
    ``properties`` are facts a role may match on, for example ``memory_mib``, ``cpus``, ``disk_gib``.
    """

    name: str
    bmc: BmcAddress
    ports: tuple[Port, ...] = ()
    firmware: Firmware = Firmware.UEFI
    tags: tuple[str, ...] = ()
    properties: dict[str, int | str | bool] = Field(default_factory=dict)
    root_disk: dict[str, Any] = Field(default_factory=dict)
    power_policy: PowerPolicy = PowerPolicy.REPORT
    location: Location = Location()

    @field_validator("name")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("not a host name; write lower-case letters, digits and dashes, at most 63")
        return value


class Disk(Value):
    """A disk as the ramdisk agent saw it.

    :param size: bytes. :param signatures: file systems, partition tables and RAID members found on it, by blkid's
        names, for example ``gpt`` or ``ext4``. :param gpt_uuid: the GPT disk GUID, lower case, if there is one.
        :param mbr_id: the number of an MBR, 8 hex digits, lower case, if there is one.
    """

    name: str
    size: int
    sector: int = 512
    model: str = ""
    serial: str = ""
    wwn: str = ""
    vendor: str = ""
    rotational: bool = False
    by_path: str = ""
    signatures: tuple[str, ...] = ()
    gpt_uuid: str | None = None
    mbr_id: str | None = None

    @property
    def table(self) -> str | None:
        """What its partition table calls itself."""
        return self.gpt_uuid or self.mbr_id


class Nic(Value):
    """``speed``: Mbit/s, 0 without a link. ``neighbour``: the switch port at the other end, as LLDP names it."""

    name: str
    mac: str
    link: bool = True
    driver: str = ""
    speed: int = 0
    pci: str = ""
    neighbour: SwitchPort | None = None


class MemoryModule(Value):
    """One that is plugged in. ``speed``: MT/s (SMBIOS 3.x, 7.18)."""

    place: str
    size_mib: int
    speed: int = 0
    manufacturer: str = ""
    part: str = ""
    serial: str = ""


class HardwarePart(StrEnum):
    """What of a node the ramdisk can put to the test."""

    NETWORK = "network"
    DISK = "disk"
    MEMORY = "memory"
    CPU = "cpu"


class Verdict(StrEnum):
    """``degraded``: it works, and not as it should. ``skipped``: there was nothing to test."""

    PASSED = "passed"
    DEGRADED = "degraded"
    FAILED = "failed"
    SKIPPED = "skipped"


class HardwareTest(Value):
    """The result of a hardware test. ``at``: seconds since the epoch."""

    verdict: Verdict
    summary: str
    at: float

    @property
    def bad(self) -> bool:
        """Whether it keeps the node from being deployed, unless the cloud file accepts it."""
        return self.verdict in (Verdict.DEGRADED, Verdict.FAILED)


class HardwareReport(Value):
    """What the ramdisk agent found on a node. Memory in MiB, disk sizes in bytes.

    ``virtualisation``: the processors have the extension. ``kvm``: it really works, a virtual machine came into being;
    None when nobody tried. ``bios``: the firmware's vendor, version and date. ``boot_mac``: of the port that booted.
    ``bmc_address``: of the node's controller, as it says inside; empty when it says none.
    """

    cpus: int
    memory_mib: int
    firmware: Firmware
    disks: tuple[Disk, ...] = ()
    nics: tuple[Nic, ...] = ()
    virtualisation: bool = False
    product: str = ""
    serial: str = ""
    uuid: str = ""
    arch: str = "x86_64"
    processor: str = ""
    sockets: int = 0
    cores: int = 0
    kvm: bool | None = None
    bios: str = ""
    memory: tuple[MemoryModule, ...] = ()
    boot_mac: str = ""
    bmc_address: str = ""
