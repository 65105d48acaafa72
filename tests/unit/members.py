"""Members of a cloud that run already, on real records: a test speaks for their agents, in any order.

Unlike :mod:`conductor_rack` nothing is deployed step by step, so a test may have many of them and be quick.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conductor_rack import AUTHORITY, PASSWORD, SIGNER, Controllers, Images, Rot, Server, cloud
from records import records_url

from provisioner.conductor.clouds import end_deployment, renew_metadata
from provisioner.conductor.doors import Doors
from provisioner.conductor.guests import Guests
from provisioner.conductor.status import read_status
from provisioner.model.deployment import Address, DeploymentState, Node, Placement, StepName, StepState
from provisioner.model.hardware import Power
from provisioner.model.role import Desired, Role
from provisioner.model.states import NodeState
from provisioner.store.store import Store
from provisioner.system.clock import FakeClock
from provisioner.system.settings import Settings
from provisioner.trust.keys import new_token


@dataclass
class Member:
    """An instance. ``holds``: it has a permit and changes; ``well``: it says that it is healthy."""

    node: str
    role: str
    deployment: str
    token: str
    holds: bool = False
    well: bool = True

    @property
    def ident(self) -> str:
        return self.token.partition(".")[0]


class Members:
    """``roles`` with so many members each, active at generation 1 unless a test says otherwise.

    Members are called as their hosts are, ``web-0``; the node of ``web-0`` is ``n-web-0``.
    """

    def __init__(self, folder: Path, roles: tuple[Role, ...], count: int = 3, *, active: bool = True) -> None:
        self.clock = FakeClock()
        self.desired = cloud(count, roles)
        self.store = Store(records_url(folder, "members"), Rot())
        controllers = Controllers({})
        settings = Settings()
        self.doors = Doors(self.store, controllers, Images(self.desired.roles), settings, self.clock, AUTHORITY, SIGNER)
        self.guests = Guests(self.doors)
        self.members: dict[str, Member] = {}
        self.store.clouds.put(self.desired, self.clock.now())
        for role in roles:
            for index in range(count):
                self._place(role.role, index)
        renew_metadata(self.doors, "lab")
        if active:
            for name in self.members:
                self.activate(name)

    def _place(self, role: str, index: int, rebuilds: str | None = None) -> None:
        number, name = len(self.members) + 1, f"{role}-{index}"
        node, ident = f"n-{name}", f"d{number}-{name}"
        now, nodes = self.clock.now(), self.store.nodes
        spec = Server(node, number).spec
        if nodes.find(node) is None:
            nodes.add(f"uuid-{node}", spec, PASSWORD, power=Power.ON, facts={}, pool=(), now=now)
        address = Address(network="main", address=f"10.77.0.{20 + number}/24", mac=spec.ports[0].mac)
        place = {"cloud": "lab", "role": role, "index": index, "hostname": name, "node": node, "image": f"{role}-0"}
        placement = Placement.model_validate({**place, "addresses": (address,), "rebuilds": rebuilds})
        self.store.deployments.add(ident, placement, now)
        nodes.move(nodes.get(node), NodeState.DEPLOYING, now=now, deployment=ident)
        nodes.set_health(node, 0, None, now)
        token = new_token()
        self.store.tokens.replace(token, "instance", node, ident, None)
        self.members[name] = Member(node, role, ident, token)

    def activate(self, name: str) -> None:
        """Its first generation comes into force, whatever others do."""
        member = self.members[name]
        self.report(name)
        self.store.deployments.end_step(member.deployment, StepName.SEED_INSTANCE, StepState.DONE, {}, self.clock.now())
        self.store.deployments.set_state(
            member.deployment, (DeploymentState.RUNNING,), DeploymentState.ACTIVE, now=self.clock.now()
        )
        node = self.node(name)
        self.store.nodes.move(node, NodeState.ACTIVE, now=self.clock.now(), deployment=member.deployment)

    def rebuild(self, name: str) -> None:
        """It is deployed again in its place, and has not come far."""
        member, index = self.members[name], int(name.rpartition("-")[2])
        end_deployment(self.doors, self.node(name), NodeState.CLEANING, "a test")
        cleaned = self.store.nodes.move(self.node(name), NodeState.AVAILABLE, now=self.clock.now(), deployment=None)
        assert cleaned.deployment is None
        self._place(member.role, index, rebuilds=member.deployment)
        renew_metadata(self.doors, "lab")

    def release(self, name: str) -> None:
        end_deployment(self.doors, self.node(name), NodeState.CLEANING, "a test")
        del self.members[name]

    def node(self, name: str) -> Node:
        return self.store.nodes.get(self.members[name].node)

    def behind(self, name: str) -> bool:
        node = self.node(name)
        return node.applied < node.generation

    def change(self, word: str) -> None:
        """Another value for all members of all roles."""
        uses = {
            name: use.model_copy(update={"values": {"web": {"word": word}}})
            for name, use in self.desired.cloud.roles.items()
        }
        self.set_desired(
            self.desired.model_copy(update={"cloud": self.desired.cloud.model_copy(update={"roles": uses})})
        )

    def set_desired(self, desired: Desired) -> None:
        self.desired = desired
        self.store.clouds.put(desired, self.clock.now())
        renew_metadata(self.doors, "lab")

    def ask(self, name: str) -> str:
        """Ask for a permit for the newest generation; why it is refused, or nothing."""
        member = self.members[name]
        body = {"action": "acquire", "generation": self.node(name).generation, "wait": 0}
        answer = self.guests.permit(member.ident, body)
        assert answer["granted"] is (answer["why"] == "")
        member.holds = member.holds or answer["granted"]
        return str(answer["why"])

    def report(self, name: str, state: str = "applied", *, generation: int | None = None) -> None:
        """What its agent says of the newest generation, or of another one."""
        member, node = self.members[name], self.node(name)
        about = node.generation if generation is None else generation
        message: dict[str, Any] = {
            "generation": about,
            "state": state,
            "healthy": member.well,
            "probes": {},
            "services": {},
        }
        if state != "applied":
            message |= {"applied": node.applied, "error": {"summary": "it did not start"}}
        self.guests.report(member.ident, message)

    def beat(self) -> None:
        """Each member that is at nothing says that it is there, as agents do every minute."""
        for name, member in self.members.items():
            if not member.holds and self.node(name).applied:
                self.report(name, generation=self.node(name).applied)

    def sleep(self, seconds: float) -> None:
        """Let time go by in which the agents speak as ever."""
        while seconds > 0:
            self.clock.sleep(min(seconds, 60.0))
            seconds -= 60.0
            self.beat()

    def finish(self, name: str) -> None:
        """Its change is in force, it is well, and gives its permit back."""
        self.members[name].well = True
        self.report(name)
        self.give_back(name)

    def fail(self, name: str, state: str = "rolled-back") -> None:
        """Its change did not come into force."""
        self.members[name].well = state == "rolled-back"
        self.report(name, state)
        if state != "broken":
            self.give_back(name)

    def give_back(self, name: str) -> None:
        member = self.members[name]
        self.guests.permit(member.ident, {"action": "release", "generation": self.node(name).generation})
        member.holds = False

    def sicken(self, name: str, *, well: bool = False) -> None:
        """Its probe turns red, or green again, without a change."""
        self.members[name].well = well
        self.report(name, generation=self.node(name).applied)

    def waiting(self) -> dict[str, str | None]:
        return {member.hostname: member.waiting for member in read_status(self.doors, "lab").members}

    def events(self, kind: str) -> list[str]:
        found = self.store.events.since(0, 10_000)
        return [f"{record.event.node}: {record.event.message}" for record in found if record.event.kind == kind]
