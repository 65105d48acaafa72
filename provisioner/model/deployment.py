"""Nodes on record, deployments and their steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

from pydantic import Field

from provisioner.model.hardware import BmcAddress, HardwarePart, HardwareReport, HardwareTest, NodeSpec, Power
from provisioner.model.role import Route
from provisioner.model.states import NodeState
from provisioner.model.value import Value


class StepName(StrEnum):
    """The steps of a deployment, in order, and those that only an inspection, hardware tests or an erasing have."""

    RESERVE = "reserve"
    BOOT_FILES = "boot-files"
    BOOT_DEVICE = "boot-device"
    POWER = "power"
    HELLO = "hello"
    CHOOSE_DISK = "choose-disk"
    STORAGE = "storage"
    WRITE_IMAGE = "write-image"
    SEED_INSTANCE = "seed-instance"
    BOOT_LOADER = "boot-loader"
    BOOT_DISK = "boot-disk"
    RESTART = "restart"
    CONFIGURE = "configure"
    PROBE = "probe"
    INSPECT = "inspect"
    TEST_NETWORK = "test-network"
    TEST_DISK = "test-disk"
    TEST_MEMORY = "test-memory"
    TEST_CPU = "test-cpu"
    ERASE = "erase"
    RESCUE = "rescue"


TESTS: Mapping[StepName, HardwarePart] = {
    StepName.TEST_NETWORK: HardwarePart.NETWORK,
    StepName.TEST_DISK: HardwarePart.DISK,
    StepName.TEST_MEMORY: HardwarePart.MEMORY,
    StepName.TEST_CPU: HardwarePart.CPU,
}
"""The hardware tests in the order in which they are done: what is quick to find out comes first."""
STEPS: tuple[StepName, ...] = tuple(StepName)[: list(StepName).index(StepName.PROBE) + 1]
RAMDISK_BOOT: tuple[StepName, ...] = STEPS[: STEPS.index(StepName.HELLO) + 1]
INSPECTION_STEPS: tuple[StepName, ...] = (*RAMDISK_BOOT, StepName.INSPECT)
"""An inspection is a run of steps like a deployment, journaled and resumed alike, that puts nothing on the node."""


RESCUE_STEPS: tuple[StepName, ...] = (*RAMDISK_BOOT, StepName.RESCUE)


class StepState(StrEnum):
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class Step(Value):
    """One journaled step. Times are seconds since the epoch; ``detail`` is what the step says of itself:
    for ``write-image`` ``bytes``, ``total``, ``rate`` (bytes per second) and ``remaining`` (seconds)."""

    name: StepName
    state: StepState = StepState.WAITING
    started: float | None = None
    ended: float | None = None
    attempts: int = 0
    detail: dict[str, Any] = Field(default_factory=dict)


class InterfaceKind(StrEnum):
    """By the names that Linux gives to kinds of interface; a port is the node's own."""

    PORT = "port"
    BOND = "bond"
    BRIDGE = "bridge"
    VLAN = "vlan"


class Interface(Value):
    """A network interface of an instance. A port is found by its MAC address; ``name`` is then only ours.

    ``over``: names of what it lies on. ``mode``: of a bond. ``vlan``: the tag. ``mac``: that of the first port below.
    """

    name: str
    kind: InterfaceKind
    mac: str
    over: tuple[str, ...] = ()
    mode: str = ""
    vlan: int = 0
    mtu: int = 1500


class Address(Value):
    """An instance's address on a network of the cloud. ``address`` with prefix length, ``10.0.0.5/24``.

    ``interface``: the name of the one that has it. ``mac``: of that interface.
    """

    network: str
    address: str
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    mtu: int = 1500
    mac: str
    interface: str = "port0"

    @property
    def bare(self) -> str:
        """Without the prefix length."""
        return self.address.partition("/")[0]


class Placement(Value):
    """One slot of a role: which node takes it, under which host name, with which image, interfaces and addresses.

    ``burn_seconds``: for how long a hardware test loads the processors. ``stays``: the ramdisk runs on afterwards.
    ``erase``: what is done to the disks when this stands in the place of a slot; None for nothing.
    ``rebuilds``: the deployment whose place this one takes on the same node: what that wrote may be overwritten.
    ``replaces``: the deployment whose place this one takes from another node.
    ``rescues``: the deployment whose instance is left alone meanwhile. ``keys``: of SSH, that are let in then.
    """

    cloud: str
    role: str
    index: int
    hostname: str
    node: str
    image: str
    addresses: tuple[Address, ...]
    interfaces: tuple[Interface, ...] = ()
    wipe: bool = False
    burn_seconds: float = 0.0
    stays: bool = False
    erase: EraseLevel | None = None
    rebuilds: str | None = None
    replaces: str | None = None
    rescues: str | None = None
    keys: tuple[str, ...] = ()

    @property
    def inspects(self) -> bool:
        """Whether this is no slot of a cloud, but an inspection of the node, tests of its hardware, or a cleaning."""
        return not self.cloud


class EraseLevel(StrEnum):
    """How thoroughly all disks of a node are erased; the next one does what the one before does, and more.

    ``metadata``: partition tables and signatures; who has the disk can still read much of the rest. ``quick``: every
    block is discarded, by disks that can. ``secure``: NVMe disks erase themselves (NVM Express Base Specification 2.0,
    Format NVM, secure erase of user data), the others are overwritten with zeros and read at 64 places.
    """

    METADATA = "metadata"
    QUICK = "quick"
    SECURE = "secure"


class DeploymentState(StrEnum):
    RUNNING = "running"
    ACTIVE = "active"
    FAILED = "failed"
    ENDED = "ended"


class Deployment(Value):
    """One role put on one node."""

    id: str
    placement: Placement
    state: DeploymentState = DeploymentState.RUNNING
    created: float
    steps: tuple[Step, ...] = ()
    failure: dict[str, Any] | None = None


def build_inspection(node: str, stays: bool) -> Placement:
    """What stands in the place of a slot while a node is inspected."""
    place = {"cloud": "", "role": "inspection", "index": 0, "hostname": node, "node": node, "image": ""}
    return Placement.model_validate(place | {"addresses": (), "stays": stays})


TEST = "test"
"""What stands in the place of a role then."""


def build_test(node: str, burn_seconds: float, stays: bool) -> Placement:
    """What stands in the place of a slot while a node's hardware is tested."""
    return build_inspection(node, stays).model_copy(update={"role": TEST, "burn_seconds": burn_seconds})


CLEANING = "cleaning"
"""What stands in the place of a role then."""


def build_cleaning(node: str, erase: EraseLevel | None, stays: bool) -> Placement:
    """What stands in the place of a slot while a node that was released runs the ramdisk."""
    return build_inspection(node, stays).model_copy(update={"role": CLEANING, "erase": erase})


RESCUE = "rescue"
"""What stands in the place of a role then."""


def build_rescue(node: str, rescues: str, keys: Sequence[str]) -> Placement:
    """What stands in the place of a slot while somebody looks at a node from the ramdisk. The slot stays taken.

    :param rescues: the deployment whose instance does not run meanwhile. :param keys: of SSH, that are let in.
    """
    place = build_inspection(node, stays=False)
    return place.model_copy(update={"role": RESCUE, "rescues": rescues, "keys": tuple(keys)})


class Node(Value):
    """A node on record. ``failure`` and ``bmc_error`` are errors as :meth:`ProvisionerError.to_dict` gives them.

    ``tests``: the newest result of each hardware test that was made.
    ``drift``: ``{"expected": "on", "since": epoch}`` while the power is not what we left it at; with ``"soft": true``
    while an operating system that was asked to end has not yet.
    ``maintenance``: ``{"reason": text, "since": epoch}`` while nothing is done to the node by itself.
    ``bmc_error``: why the controller could not be asked; None when it answered last.
    ``generation``: the newest of its metadata; ``heard`` the one that its instance has, ``applied`` the one in force.
    """

    uuid: str
    spec: NodeSpec
    state: NodeState
    power: Power = Power.UNKNOWN
    deployment: str | None = None
    hardware: HardwareReport | None = None
    bmc_facts: dict[str, Any] = Field(default_factory=dict)
    generation: int = 0
    applied: int = 0
    healthy: bool | None = None
    failure: dict[str, Any] | None = None
    updated: float = 0.0
    drift: dict[str, Any] | None = None
    bmc_error: dict[str, Any] | None = None
    tests: dict[HardwarePart, HardwareTest] = Field(default_factory=dict)
    maintenance: dict[str, Any] | None = None
    heard: int = 0

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def bmc(self) -> BmcAddress:
        """How to reach its controller, which must show the certificate that it showed when it was enrolled."""
        seen = str(self.bmc_facts.get("certificate") or "")
        bmc = self.spec.bmc
        return bmc if bmc.certificate or not seen else bmc.model_copy(update={"certificate": seen})
