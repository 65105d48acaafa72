"""What the service answers when asked how things stand."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from provisioner.model.departure import Departure
from provisioner.model.deployment import Deployment, Node
from provisioner.model.hardware import NodeSpec, Power
from provisioner.model.value import Value


class EnrollItem(Value):
    """One node to enroll; the password has been read from where the hardware file says it is. Empty: the service's."""

    spec: NodeSpec
    password: str = Field(repr=False)


class EnrollResult(Value):
    """How enrolling one node went. ``changes`` are ``path: old → new`` lines when the file differs from the record."""

    node: str
    result: Literal["enrolled", "updated", "unchanged", "failed"]
    changes: tuple[str, ...] = ()
    seconds: float = 0.0
    error: dict[str, Any] | None = None


class SweepResult(Value):
    """What one node's controller said when all were asked. ``drift``: ``{"expected", "since"}``, as in a node."""

    node: str
    power: Power
    drift: dict[str, Any] | None = None
    error: dict[str, Any] | None = None


class ScanResult(Value):
    """A controller that answers. ``node``: whose it is, if that node is on record."""

    address: str
    drivers: tuple[str, ...]
    node: str | None = None


class AuditFinding(Value):
    """What makes a controller unsafe. ``check`` names it for scripts; ``mend`` is the command that ends it."""

    check: str
    risk: Literal["high", "medium", "low"]
    summary: str
    cause: str
    mend: str


class AuditResult(Value):
    """The findings of one node, the worst first; ``error`` when its controller could not be asked."""

    node: str
    findings: tuple[AuditFinding, ...] = ()
    error: dict[str, Any] | None = None


class NodeView(Value):
    """A node with its current deployment, for ``node show``.

    ``differences``: where the hardware that was seen is not what its hardware file says, a line each.
    ``departure``: what is to become of its instance, when it is to leave.
    """

    node: Node
    deployment: Deployment | None = None
    exits: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()
    departure: Departure | None = None


class StepReport(Value):
    """A step beside the same one of siblings. ``usual``: their median, in seconds; None when there are too few."""

    step: str
    seconds: float | None = None
    usual: float | None = None
    out_of_line: bool = False


class DeploymentReport(Value):
    """Where the time of a deployment went. ``shares``: seconds by whose they were; ``findings``: the worst first."""

    node: str
    role: str
    siblings: int = 0
    steps: tuple[StepReport, ...] = ()
    shares: dict[str, float] = Field(default_factory=dict)
    findings: tuple[str, ...] = ()


class InstanceReport(Value):
    """What an instance last said. ``newest``: the newest generation that there is for it.

    ``at``: when it said it, in seconds since the epoch; None when it was not asked for. ``skew``: by how many seconds
    its clock is ahead of ours. ``failed``: units of its files that have failed. ``body``: the message, as
    :mod:`provisioner_agent.protocol.messages` has it; ``detail``: ``diff`` and ``validators`` of its newest change.
    """

    node: str
    hostname: str
    newest: int = 0
    at: float | None = None
    skew: float | None = None
    off: bool = False
    failed: tuple[str, ...] = ()
    body: dict[str, Any] = Field(default_factory=dict)
    detail: dict[str, Any] = Field(default_factory=dict)


class ConductorStatus(Value):
    """A conductor. ``place``: host and folder that it runs in. ``url``: where guests reach it, or empty.

    ``seen``: seconds since the epoch. ``nodes``: on how many it works now.
    """

    name: str
    place: str
    url: str
    version: str
    seen: float
    alive: bool
    nodes: int


class MemberStatus(Value):
    """One member of a cloud: where its deployment is and what it last said.

    ``generation``: the newest of its metadata; ``heard`` the one that it has, ``applied`` the one in force.
    """

    node: str
    role: str
    hostname: str
    state: str
    step: str | None = None
    detail: dict[str, Any] = Field(default_factory=dict)
    seconds: float = 0.0
    generation: int = 0
    heard: int = 0
    applied: int = 0
    healthy: bool | None = None
    waiting: str | None = None
    failure: dict[str, Any] | None = None
    addresses: tuple[str, ...] = ()


class MemberPosition(Value):
    """How far a member had come when its role went down; ``history`` and ``sequence`` are None until it said so.

    ``lost``: an operator said not to wait for it.
    """

    hostname: str
    node: str
    history: str | None = None
    sequence: int | None = None
    lost: bool = False


class RecoveryStatus(Value):
    """A role whose members were all down. ``leader``: the host name of who begins again, with what ``fence``.

    ``begun``: when the first member said so, in seconds since the epoch. ``why``: what is done, or waited for.
    """

    role: str
    begun: float
    leader: str | None = None
    fence: int = 0
    why: str = ""
    members: tuple[MemberPosition, ...] = ()


class CloudStatus(Value):
    """A cloud: ``ready`` when every member is active at its newest generation, every role probe is green, and nobody is
    to leave.

    ``recoveries``: of roles that were down as a whole and are not up again, by role. ``leaving``: by host name what
    becomes of who is: ``is released``.
    """

    cloud: str
    ready: bool
    failed: bool
    members: tuple[MemberStatus, ...] = ()
    roles: dict[str, str] = Field(default_factory=dict)
    recoveries: dict[str, RecoveryStatus] = Field(default_factory=dict)
    leaving: dict[str, str] = Field(default_factory=dict)
