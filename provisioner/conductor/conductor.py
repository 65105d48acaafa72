"""The conductor: what operators and guests ask of it, and the loop that walks the nodes on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from provisioner.bmc.contract import Bmcs, Console
from provisioner.conductor import bmcs
from provisioner.conductor.apply import apply_plan, plan_rebuild
from provisioner.conductor.audit import audit
from provisioner.conductor.certificates import Renewal
from provisioner.conductor.clouds import plan_cloud, renew_metadata
from provisioner.conductor.doors import CatalogueDoor, Doors, Signer
from provisioner.conductor.enroll import enroll
from provisioner.conductor.guests import Guests
from provisioner.conductor.instance_steps import CONFIGURE_SECONDS
from provisioner.conductor.loop import Loop
from provisioner.conductor.presence import Presence
from provisioner.conductor.recovery import leave_out
from provisioner.conductor.replace import plan_replacement
from provisioner.conductor.report import build_report
from provisioner.conductor.rotate import rotate
from provisioner.conductor.status import read_instance, read_instances, read_status
from provisioner.conductor.stay import abort, resume
from provisioner.conductor.sweep import Sweep, sweep_nodes
from provisioner.conductor.tapes import Tapes
from provisioner.conductor.texts import diff_cloud, diff_node, render_node
from provisioner.conductor.values import explain_node, store_secret
from provisioner.conductor.verbs import (
    begin_inspection,
    begin_rescue,
    begin_tests,
    do_verb,
    end_rescue,
    erase_disks,
    rebuild,
    release,
    set_maintenance,
)
from provisioner.conductor.walk import Walker
from provisioner.errors import NotFound, UsageError
from provisioner.events import Event
from provisioner.model.config import ConfigDiff, InstanceFiles
from provisioner.model.deployment import Deployment, DeploymentState, EraseLevel, Node
from provisioner.model.hardware import NAME, HardwarePart, Power
from provisioner.model.operator import Operator, OperatorRole
from provisioner.model.plan import Plan
from provisioner.model.role import Desired
from provisioner.model.states import exits_of
from provisioner.model.status import (
    AuditResult,
    CloudStatus,
    ConductorStatus,
    DeploymentReport,
    EnrollItem,
    EnrollResult,
    InstanceReport,
    NodeView,
    RecoveryStatus,
    ScanResult,
    SweepResult,
)
from provisioner.model.values import MemberValues
from provisioner.plan.compare import compare_hardware
from provisioner.store.nodes import PortRecord
from provisioner.store.operators import DAY
from provisioner.store.store import Store
from provisioner.system.clock import Clock, HostClock
from provisioner.system.settings import Settings
from provisioner.trust.keys import new_token


class Conductor(Guests):
    """Moves nodes through their states. Every method may be called from any thread, and may block.

    :param store: the records; only conductors change them. :param authority: the certificate, as PEM, by which guests
        know the service. :param signer: of their metadata.
    """

    def __init__(
        self,
        store: Store,
        controllers: Bmcs,
        catalogue: CatalogueDoor,
        settings: Settings,
        authority: str,
        signer: Signer,
        *,
        clock: Clock | None = None,
    ) -> None:
        clock = clock or HostClock()
        doors = Doors(store, controllers, catalogue, settings, clock, authority, signer, opened=clock.now())
        super().__init__(doors)
        self._sweep = Sweep(doors, settings.sweep_seconds)
        self._renewal = Renewal(doors, renew_metadata)
        self._tapes = Tapes(doors)
        self._presence = Presence(doors)
        self._loop = Loop(store, lambda name: self._walker.walk(name), self.at_work)
        self._walker = Walker(doors, lambda: self._loop.stopping, self._tapes)

    # What operators ask.

    def enroll(self, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
        """Verify the BMCs in parallel, each within 8 s, and record what holds; the results as they come."""
        return enroll(self._doors, items)

    def sweep(self) -> Iterator[SweepResult]:
        """Ask all BMCs for their power at once; the results as they come."""
        return sweep_nodes(self._doors)

    def scan(self, network: str) -> Iterator[ScanResult]:
        """The BMCs that answer in a network, and whose they are."""
        known = {node.spec.bmc.address: node.name for node in self._store.nodes.all()}
        for address, drivers in self._doors.bmcs.scan(network):
            yield ScanResult(address=address, drivers=drivers, node=known.get(address))

    def audit(self, names: Sequence[str]) -> Iterator[AuditResult]:
        """What makes the BMCs of these nodes, or of all, unsafe; the results as they come."""
        return audit(self._doors, names)

    def nodes(self, after: str = "", limit: int | None = None) -> list[Node]:
        """The nodes by name, from the one after ``after``, at most ``limit``; without it all."""
        return self._store.nodes.all() if limit is None else self._store.nodes.page(after, limit)

    def node(self, name: str) -> NodeView:
        """A node with its deployment, or the last that it had. :raises NotFound: there is none of that name."""
        node = self._store.nodes.get(name)
        ident = node.deployment or self._store.deployments.last_of(name)
        deployment = None if ident is None else self._store.deployments.get(ident)
        departure = None if node.deployment is None else self._store.departures.of(node.deployment)
        differences = () if node.hardware is None else compare_hardware(node.spec, node.hardware)
        exits = exits_of(node.state, node.maintenance)
        return NodeView(
            node=node, deployment=deployment, exits=exits, differences=tuple(differences), departure=departure
        )

    def deployment_report(self, name: str) -> DeploymentReport:
        """A node's deployment, or its last, beside those of its role. :raises NotFound: there is none."""
        deployment = self.node(name).deployment
        if deployment is None:
            raise NotFound("the node was never deployed", where=name, hint=f"provisioner node show {name}")
        role = deployment.placement.role
        same = [other for other in self._store.deployments.live() if other.placement.role == role]
        siblings = [o for o in same if o.id != deployment.id and o.state is DeploymentState.ACTIVE]
        return build_report(deployment, siblings)

    def operators(self) -> list[Operator]:
        return self._store.operators.all()

    def add_operator(self, name: str, role: OperatorRole, days: int) -> str:
        """A token for a new operator, which is on no record. :raises Conflict: there is one of that name."""
        if not NAME.match(name):
            raise UsageError("not a name", where=name, hint="lower-case letters, digits and dashes")
        token, now = new_token(), self._doors.clock.now()
        operator = Operator(name=name, role=role, created=now, expires=now + days * DAY)
        self._store.operators.add(operator, token)
        return token

    def remove_operator(self, name: str) -> None:
        self._store.operators.remove(name)

    def recognise(self, token: str) -> Operator | None:
        """Whose token it is, if it is one."""
        return self._store.operators.recognise(token, self._doors.clock.now())

    def conductors(self) -> list[ConductorStatus]:
        """Those that share the records, this one too."""
        return self._presence.all()

    def ports(self) -> Sequence[PortRecord]:
        """Every port on record with the address it gets while its node runs the ramdisk; for DHCP."""
        return self._store.nodes.ports()

    def set_power(self, name: str, want: str | None) -> Power:
        return bmcs.set_power(self._doors, name, want)

    def set_boot_device(self, name: str, device: str, persistent: bool) -> None:
        bmcs.set_boot_device(self._doors, name, device, persistent)

    def identify(self, name: str, seconds: int | None) -> None:
        bmcs.identify(self._doors, name, seconds)

    def console_lines(self, name: str) -> list[str]:
        """The last lines of a node's console: while it is worked on, or of its last deployment or inspection."""
        return self._tapes.lines(self._store.nodes.get(name).name)

    def console(self, name: str) -> Console:
        return bmcs.open_console(self._doors, name)

    def rotate(self, name: str) -> None:
        rotate(self._doors, name)

    def read_bmc(self, name: str, what: str) -> Any:
        return bmcs.read_bmc(self._doors, name, what)

    def verb(self, name: str, verb: str) -> Node:
        """:raises Conflict: the node's state does not offer the verb."""
        return do_verb(self._doors, name, verb)

    def release(self, name: str, erase: EraseLevel | None = None, *, stays: bool = False, drain: bool = True) -> Node:
        """:raises Conflict: the node's state does not offer it, or it cannot be drained."""
        return release(self._doors, name, erase, stays=stays, drain=drain)

    def erase(self, name: str, level: EraseLevel, *, stays: bool = False) -> Node:
        """:raises Conflict: the node's state does not offer it."""
        return erase_disks(self._doors, name, level, stays=stays)

    def rebuild(self, name: str, image: str | None = None, *, drain: bool = True) -> Node:
        """:raises Conflict: the node's state does not offer it, or it cannot be drained.
        :raises NotFound: there is no such image."""
        return rebuild(self._doors, name, image, drain=drain)

    def rescue(self, name: str, keys: Sequence[str]) -> Node:
        """:raises Conflict: the node's state does not offer it. :raises UsageError: a key is none."""
        return begin_rescue(self._doors, name, keys)

    def end_rescue(self, name: str) -> Node:
        """:raises Conflict: the node is in no rescue."""
        return end_rescue(self._doors, name)

    def maintenance(self, name: str, reason: str | None) -> Node:
        return set_maintenance(self._doors, name, reason)

    def inspect(self, name: str, *, stays: bool = False) -> Node:
        """:raises Conflict: the node's state does not offer it."""
        return begin_inspection(self._doors, name, stays=stays)

    def test(self, name: str, parts: Sequence[HardwarePart], burn_seconds: float, *, stays: bool = False) -> Node:
        """:raises Conflict: the node's state does not offer it."""
        return begin_tests(self._doors, name, parts, burn_seconds, stays=stays)

    def plan(self, desired: Desired) -> Plan:
        return plan_cloud(self._doors, desired)

    def plan_rebuild(self, cloud: str, role: str, image: str | None = None) -> Plan:
        """What has to be done so that all members of a role run an image, or the newest. Changes nothing.

        :raises NotFound: no such cloud, role or image. :raises Conflict: the cloud file says another one.
        """
        return plan_rebuild(self._doors, cloud, role, image)

    def resume(self, cloud: str, without_drain: Sequence[str] = ()) -> CloudStatus:
        """Members that were not drained have their turn again. :param without_drain: nodes that leave without that.

        :raises Conflict: nothing of the cloud waits for it. :raises NotFound: no such cloud or node.
        """
        resume(self._doors, cloud, without_drain)
        return self.cloud_status(cloud)

    def abort_departures(self, cloud: str, members: Sequence[str] = ()) -> CloudStatus:
        """Who has not left yet stays. :param members: host names; none for all.

        :raises Conflict: nobody is to leave. :raises NotFound: no such cloud or member.
        """
        abort(self._doors, cloud, members)
        return self.cloud_status(cloud)

    def node_files(self, name: str) -> InstanceFiles:
        """The files that a node is to have. :raises NotFound: it is in no cloud, or its image keeps no templates."""
        return render_node(self._doors, name)

    def node_diff(self, name: str) -> ConfigDiff:
        """What its newest generation changes in them. :raises NotFound: what it has in force is not kept any more."""
        return diff_node(self._doors, name)

    def cloud_diff(self, desired: Desired, member: str | None) -> ConfigDiff:
        """What apply would change in the files of members on record, of all or of one."""
        return diff_cloud(self._doors, desired, member)

    def apply(self, plan: Plan) -> CloudStatus:
        """:raises GuardFailed: what the plan relied on no longer holds; nothing was changed."""
        apply_plan(self._doors, plan)
        return self.cloud_status(plan.desired.cloud.cloud)

    def clouds(self) -> list[str]:
        return self._store.clouds.names()

    def cloud_status(self, name: str) -> CloudStatus:
        """:raises NotFound: no such cloud was ever applied."""
        return read_status(self._doors, name)

    def plan_replacement(self, cloud: str, member: str, by: str | None, drain: bool = False) -> Plan:
        """What has to be done for another node to take a member's place; see :mod:`.replace`."""
        return plan_replacement(self._doors, cloud, member, by, drain=drain)

    def leave_out(self, cloud: str, role: str, nodes: Sequence[str]) -> RecoveryStatus:
        """Do not wait for these nodes in the outage of a role; how the outage stands then.

        :raises NotFound: no such cloud, or a node is not a member. :raises Conflict: there is no outage, or a node may
            still be at work.
        """
        return leave_out(self._doors, cloud, role, tuple(nodes))

    def cloud_reports(self, name: str) -> list[InstanceReport]:
        """What is unusual in what its instances last said. :raises NotFound: no such cloud was ever applied."""
        return read_instances(self._doors, name)

    def instance_report(self, name: str) -> InstanceReport:
        """What a node's instance last said. :raises NotFound: there is none, or it said nothing."""
        return read_instance(self._store, name)

    def cloud_deployments(self, name: str) -> list[Deployment]:
        """Those of a cloud's members, by host name. :raises NotFound: no such cloud was ever applied."""
        self._store.clouds.get(name)
        return self._store.deployments.live(name)

    def cloud_secret(self, cloud: str, name: str) -> str:
        """:raises NotFound: there is no such cloud, or it has no such secret."""
        return self._store.clouds.secret(cloud, name)

    def cloud_authority(self, cloud: str) -> str:
        """The certificate, as PEM, by which the services of a cloud are known.

        :raises NotFound: there is no such cloud, or no role of it has certificates.
        """
        self._store.clouds.get(cloud)
        found = self._store.certificates.authority(cloud)
        if found is None:
            what, hint = "the cloud has no authority", "a role that has certificates makes one: provisioner apply"
            raise NotFound(what, where=cloud, hint=hint)
        return found

    def store_secret(self, cloud: str, name: str, value: str) -> bool:
        """Keep a secret that somebody brings; whether the cloud is on record yet."""
        return store_secret(self._doors, cloud, name, value)

    def explain(self, name: str) -> MemberValues:
        """The values of a node's place in its cloud, and where each comes from.

        :raises NotFound: there is no such node. :raises Conflict: it has no place in a cloud.
        """
        return explain_node(self._doors, name)

    def events(self, since: int, limit: int) -> list[Mapping[str, Any]]:
        """``{"id", "time", "kind", "node", "deployment", "message", "data"}``, oldest first."""
        return [
            {
                "id": record.id,
                "time": record.at,
                "kind": record.event.kind,
                "node": record.event.node,
                "deployment": record.event.deployment,
                "message": record.event.message,
                "data": dict(record.event.data),
            }
            for record in self._store.events.since(since, limit)
        ]

    def observe(self, event: Event) -> None:
        """Record what another room saw, for example a DHCP request; an :data:`~provisioner.events.Observer`."""
        self._store.events.add(event, self._doors.clock.now())

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """Call ``callback``, in the thread that wrote, after each change of a record, with its topics (see the store).

        The answer ends that.
        """
        return self._store.listen(callback)

    # The loop.

    def tick(self) -> None:
        """Look at every node once and take it as far as it goes; in this thread, without waiting."""
        for name in self.at_work():
            self._walker.walk(name)

    def at_work(self, names: Collection[str] | None = None) -> list[str]:
        """The nodes, of all or of ``names``, that there is something to do with and that are free or ours."""
        return self._store.nodes.at_work(self._doors.holder, self._doors.clock.now(), CONFIGURE_SECONDS, names)

    def start(self) -> None:
        """Walk the nodes on, each in a thread of its own, until :meth:`stop`.

        :raises Conflict: another conductor of the same name works on the same records. :raises TrustError: or one of
            another site.
        """
        self._presence.start()
        self._loop.start()
        self._sweep.start()
        self._renewal.start()

    def stop(self) -> None:
        """Begin nothing new and wait for what is begun; a BMC is waited for until its own deadline."""
        self._renewal.stop()
        self._sweep.stop()
        self._loop.stop()
        self._tapes.close()
        self._presence.stop()
