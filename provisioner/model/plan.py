"""Plans: ordered actions from the actual to the desired, each with the guard that must still hold."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from provisioner.model.departure import Departure
from provisioner.model.deployment import Deployment, Node, Placement
from provisioner.model.hardware import HardwarePart
from provisioner.model.role import Desired
from provisioner.model.states import NodeState
from provisioner.model.value import Value


class Change(Value):
    """One value that differs. ``path`` is dotted, ``galera.max_connections``; ``None`` stands for absent.

    ``place``: ``file:line`` of what makes it so, where that is known.
    """

    path: str
    old: Any = None
    new: Any = None
    place: str | None = None


class FileChange(Value):
    """A file that changes in an instance. ``services``: the units that it is for, each with ``restart``, ``reload`` or
    ``phase`` (a phase script sees to it). ``confirm``: the agent takes it back unless the server is heard again.
    """

    path: str
    what: Literal["written", "removed"] = "written"
    services: dict[str, str] = Field(default_factory=dict)
    confirm: bool = False


class Effect(Value):
    """Files that change in an instance of which no value does, but what its templates say of the members of the cloud,
    or of a secret that is new."""

    node: str
    hostname: str
    role: str
    files: tuple[FileChange, ...]


class Guard(Value):
    """What must still be true of the node when the action runs. ``bad_tests``: parts whose hardware test is bad."""

    state: NodeState
    deployment: str | None = None
    generation: int = 0
    bad_tests: tuple[HardwarePart, ...] = ()


class Deploy(Value):
    """Put a role on a node."""

    kind: Literal["deploy"] = "deploy"
    placement: Placement
    guard: Guard
    why: str


class Configure(Value):
    """Give a running instance a new generation of its metadata.

    :param files: those that change by it; None when that is not known, since its image keeps no templates.
    """

    kind: Literal["configure"] = "configure"
    node: str
    hostname: str
    role: str
    changes: tuple[Change, ...]
    files: tuple[FileChange, ...] | None = None
    guard: Guard
    why: str


class Release(Value):
    """Take a node that the cloud no longer uses out of it. ``drain``: its instance is drained before."""

    kind: Literal["release"] = "release"
    node: str
    hostname: str
    guard: Guard
    why: str
    drain: bool = True


class Rebuild(Value):
    """Deploy a member again where it is, with another image, when its turn has come.

    ``before``: the image that it runs. ``kept``: where the volumes are mounted that stay.
    """

    kind: Literal["rebuild"] = "rebuild"
    placement: Placement
    before: str
    kept: tuple[str, ...] = ()
    guard: Guard
    why: str
    drain: bool = True

    @property
    def node(self) -> str:
        return self.placement.node

    @property
    def hostname(self) -> str:
        return self.placement.hostname


class Move(Value):
    """Give a member another node, under the name that it has. ``node``: where it is now.

    ``target``: the guard of the other node. ``lost``: the first one does not come back, so nothing of it is waited for.
    """

    kind: Literal["move"] = "move"
    node: str
    placement: Placement
    guard: Guard
    target: Guard
    why: str
    drain: bool = True
    lost: bool = False

    @property
    def hostname(self) -> str:
        return self.placement.hostname


class Retry(Value):
    """Begin again with what has failed: a deployment from its first step, or the newest generation of an instance."""

    kind: Literal["retry"] = "retry"
    node: str
    hostname: str
    guard: Guard
    why: str


Action = Annotated[Deploy | Configure | Release | Rebuild | Move | Retry, Field(discriminator="kind")]


class Observed(Value):
    """The actual: what ``plan`` compares the desired with.

    :param images: newest image id by name, only images whose signature holds.
    :param deployments: by id, those that hold a slot: running, active, or failed and neither aborted nor forgotten;
        without their steps.
    :param metadata: by node name, ``values``, ``role`` and ``health`` of the newest generation.
    :param secrets: names of those that the cloud has; None when nobody looked.
    :param silent: names of nodes whose instance hears of no change: whole disks that a release before deployed, whose
        agent ended when its probes were green.
    :param departures: of the instances that are to leave their nodes already, by their deployments.
    """

    nodes: tuple[Node, ...] = ()
    deployments: dict[str, Deployment] = Field(default_factory=dict)
    images: dict[str, str] = Field(default_factory=dict)
    metadata: dict[str, dict[str, Any]] = Field(default_factory=dict)
    secrets: frozenset[str] | None = None
    silent: frozenset[str] = frozenset()
    departures: dict[str, Departure] = Field(default_factory=dict)


class Plan(Value):
    """What ``provisioner plan`` shows and ``provisioner apply`` does, no more and no less.

    ``notes`` are facts worth a line that change nothing, for example that a newer image exists. ``effects``: on others
    than the actions are about.
    """

    cloud: str
    desired: Desired
    actions: tuple[Action, ...] = ()
    notes: tuple[str, ...] = ()
    effects: tuple[Effect, ...] = ()

    @property
    def empty(self) -> bool:
        return not self.actions and not self.effects
