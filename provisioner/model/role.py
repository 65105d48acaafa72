"""Roles and clouds: what the operator wants."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator

from provisioner.model.firewall import Firewall, Rule
from provisioner.model.hardware import NAME, HardwarePart
from provisioner.model.policy import Policy
from provisioner.model.storage import Storage
from provisioner.model.value import Value
from provisioner.model.values import NodeUse, Origin, Schema, Zone

PORT = re.compile(r"^port\d+$")
"""How a role calls a node's port by its place in the hardware file."""
INTERFACE = re.compile(r"^[a-z][a-z0-9-]{0,14}$")
"""Names of interfaces that a role may give; at most 15 characters (Linux, IFNAMSIZ)."""


class Probe(Value):
    """A health check that runs inside the instance.

    Green when ``command`` exits with 0 and, if ``expect`` is given, prints exactly that (white space stripped).
    ``{count}`` in ``expect`` stands for the number of members of the role.
    """

    name: str
    command: tuple[str, ...] = Field(min_length=1)
    expect: str | None = None
    timeout: float = Field(default=20.0, gt=0, le=600)


class ImageSpec(Value):
    """What a role's image is built from: diskimage-builder elements and a template tree under ``templates/``.

    ``checks`` are run in the booted image before it is published, beside the role's own health probes. ``squashfs``
    adds the image as kernel, initramfs and squashfs, for those who boot it by other means.
    ``alone``: whether an instance is healthy without other roles; if not, the boot test renders its files, lets their
    validators judge them and runs ``checks``, no more.
    ``disk``: the name of a whole disk that was imported, and is not built. Its own cloud-init makes it an instance; of
    elements it gets the values and the phase scripts.
    """

    elements: tuple[str, ...] = ()
    disk: str = ""
    templates: tuple[str, ...] = ()
    checks: tuple[Probe, ...] = ()
    squashfs: bool = False
    alone: bool = True

    @property
    def is_built(self) -> bool:
        """Whether the role has an image of its own; else it takes a whole disk as that was imported."""
        return not self.disk or bool(self.elements or self.templates)


class Match(Value):
    """Which nodes may take a role: all tags present, every property at least (numbers) or equal to (text) this."""

    tags: tuple[str, ...] = ()
    properties: dict[str, int | str | bool] = Field(default_factory=dict)


class Health(Value):
    """``node``: each node's own probe, it makes the node active. ``role``: makes the role, and so the cloud, ready."""

    node: tuple[Probe, ...] = ()
    role: tuple[Probe, ...] = ()
    wait: float = Field(default=600.0, gt=0, description="seconds until a probe that is not green is a failure")


class Config(Value):
    """``values``: of the role's templates, over the defaults of its elements; zones and clouds may override both.

    ``drift``: what becomes of files that somebody changes by hand in an instance.
    ``confirm_seconds``: within which the service must hear a node again after a change that may cut it off.
    """

    values: dict[str, Any] = Field(default_factory=dict)
    drift: Literal["report", "repair"] = "report"
    confirm_seconds: int = Field(default=120, ge=10, le=3600)


class Link(Value):
    """A bond or a bridge; exactly one of them is given, with what it is made of.

    That is other links, ``port0``, ``port1`` ... in the order of the hardware file, or all of a node's ports on a
    physical network, by its name. ``mode``: of a bond (Linux, networking/bonding).
    """

    bond: tuple[str, ...] = ()
    bridge: tuple[str, ...] = ()
    mode: Literal[
        "active-backup", "802.3ad", "balance-rr", "balance-xor", "broadcast", "balance-tlb", "balance-alb"
    ] = "active-backup"

    @property
    def over(self) -> tuple[str, ...]:
        return self.bond or self.bridge


class Cabling(Value):
    """How the networks of a role lie on a node's ports. ``links``: bonds and bridges by name.

    ``on``: what carries a network, by its name: a link, ``port0`` ..., or the one port on a physical network. A network
    that is not named has a port of its own: the first network ``port0``, the second ``port1``, and so on.
    """

    links: dict[str, Link] = Field(default_factory=dict)
    on: dict[str, str] = Field(default_factory=dict)


class CertificateSpec(Value):
    """A certificate that each member of a role has for its host name, its addresses, and ``also`` what some values say.

    ``also``: values by their dotted names (``frontend.address``), each a host name, an address or a list of such; one
    that there is not is left out.
    """

    also: tuple[str, ...] = ()


class Role(Value):
    """One ``roles/NAME.yaml``.

    ``once``: things done once in the life of a cluster, for example ``galera-bootstrap``; the server grants each to
    one member, with a fencing number. ``secrets``: names of secrets that are generated once for each cloud.
    ``certificates``: by name, what each member has with a key of its own, signed by the authority of its cloud.
    ``start``: how an instance is started when its disk is written: by switching the node off and on (``power``), or by
    the ramdisk's own kernel (``kexec``), which saves a second start of the firmware.
    ``recover``: the members hold one state together. When all of them are down at once, the one that had come furthest
    begins again, and is named by the server when all have said how far that was.
    ``after``: roles that must be ready before instances of this one start; disks are written before that.
    ``change``: in which order members change and join (permits). ``at_a_time``: that of ``change``, as older role files
    say it. ``firewall``: who may reach the members; without it nobody is kept out.
    """

    role: str
    description: str = ""
    image: ImageSpec
    match: Match = Match()
    storage: Storage = Storage()
    networks: tuple[str, ...] = Field(min_length=1)
    network: Cabling = Cabling()
    config: Config = Config()
    secrets: tuple[str, ...] = ()
    certificates: dict[str, CertificateSpec] = Field(default_factory=dict)
    once: tuple[str, ...] = ()
    recover: bool = False
    start: Literal["power", "kexec"] = "power"
    after: tuple[str, ...] = ()
    at_a_time: int | None = Field(default=None, ge=1)
    change: Policy = Policy()
    firewall: Firewall | None = None
    health: Health = Health()

    @property
    def image_name(self) -> str:
        """The name of the images that it is made of."""
        return self.role if self.image.is_built else self.image.disk

    @property
    def policy(self) -> Policy:
        """``change``, also of an older role file."""
        return self.change if self.at_a_time is None else self.change.model_copy(update={"at_a_time": self.at_a_time})

    @field_validator("role")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("not a role name; write lower-case letters, digits and dashes")
        return value

    @field_validator("certificates")
    @classmethod
    def _certificates(cls, value: dict[str, CertificateSpec]) -> dict[str, CertificateSpec]:
        for name in value:
            if not NAME.match(name):
                raise ValueError(f"{name!r} is no name of a certificate; write lower-case letters, digits and dashes")
        return value


class Route(Value):
    """A way to the network ``to`` (with prefix length) over the address ``via``."""

    to: str
    via: str


class Network(Value):
    """A network of the cloud, IPv4 or IPv6. ``pool``: ``FIRST-LAST`` addresses that instances may get.

    ``vlan``: the tag of its frames on whatever carries it (IEEE 802.1Q); 0 for none.
    """

    cidr: str
    pool: str
    gateway: str | None = None
    dns: tuple[str, ...] = ()
    ntp: tuple[str, ...] = ()
    routes: tuple[Route, ...] = ()
    vlan: int = Field(default=0, ge=0, le=4094)
    mtu: int = Field(default=1500, ge=576, le=9216)


class RoleUse(Value):
    """How a cloud uses a role. ``nodes`` names the nodes; without it any that match are taken, in name order.

    ``remove``: host names of members that go, or are not to be; the others keep theirs. ``lost``: nodes that do not
    come back: who was there gets another node. ``image``: the id of the image that all members have to run, or
    ``newest``; without it new members get the newest, and the others keep theirs.

    ``wipe`` names nodes whose root disk may be overwritten although it holds something. ``accept`` names nodes whose
    hardware tests may be bad, and which of them: ``a01: [disk]``. ``firewall`` names groups of rules that are let in as
    well.
    """

    count: int = Field(ge=1)
    remove: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    image: str = ""
    nodes: tuple[str, ...] = ()
    wipe: tuple[str, ...] = ()
    accept: dict[str, tuple[HardwarePart, ...]] = Field(default_factory=dict)
    values: dict[str, Any] = Field(default_factory=dict)
    firewall: tuple[str, ...] = ()


class Cloud(Value):
    """One cloud file, the top manifest. ``values``: of all roles that know them. ``nodes``: of one node, by name.

    ``firewall``: groups of rules by name, for roles to use.
    """

    cloud: str
    networks: dict[str, Network] = Field(min_length=1)
    roles: dict[str, RoleUse] = Field(min_length=1)
    values: dict[str, Any] = Field(default_factory=dict)
    nodes: dict[str, NodeUse] = Field(default_factory=dict)
    firewall: dict[str, tuple[Rule, ...]] = Field(default_factory=dict)

    @field_validator("cloud")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("not a cloud name; write lower-case letters, digits and dashes")
        return value


class Desired(Value):
    """A cloud file with the roles it uses, checked against each other: what ``manifest`` gives to ``plan``.

    ``places``: ``file:line`` by dotted path (``roles.galera.count``), for errors that only the records can show.
    ``schemas``: of the elements that have one, and ``elements``: which of them each role has, those first that others
    need. ``zones``: by name. ``origins``: where the values of each layer stand, by the layer's name.
    """

    cloud: Cloud
    roles: dict[str, Role]
    places: dict[str, str] = Field(default_factory=dict)
    schemas: dict[str, Schema] = Field(default_factory=dict)
    elements: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    zones: dict[str, Zone] = Field(default_factory=dict)
    origins: dict[str, Origin] = Field(default_factory=dict)

    def with_use(self, role: str, **changes: Any) -> Desired:
        """The same with another use of a role. :param changes: fields of :class:`RoleUse`."""
        uses = {**self.cloud.roles, role: self.cloud.roles[role].model_copy(update=changes)}
        return self.model_copy(update={"cloud": self.cloud.model_copy(update={"roles": uses})})

    def place(self, path: str) -> str:
        """Where a path of the cloud file stands; the path itself when that was not kept."""
        return self.places.get(path, path)
