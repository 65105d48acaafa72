"""A service whose conductor is a fake, for the tests of server, client and command line."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp

from provisioner.bmc.fake import FakeConsole
from provisioner.errors import BmcRefused, NotFound
from provisioner.events import Event
from provisioner.model.config import ConfigDiff, InstanceFiles
from provisioner.model.deployment import STEPS, Address, Deployment, EraseLevel, Node, Placement, Step, StepState
from provisioner.model.hardware import BmcAddress, HardwarePart, NodeSpec, Port, Power, SecretRef
from provisioner.model.image import Image
from provisioner.model.operator import Operator, OperatorRole
from provisioner.model.plan import Deploy, Guard, Plan
from provisioner.model.role import Desired
from provisioner.model.states import EXITS, NodeState, check_verb
from provisioner.model.status import (
    AuditResult,
    CloudStatus,
    ConductorStatus,
    DeploymentReport,
    EnrollItem,
    EnrollResult,
    InstanceReport,
    MemberStatus,
    NodeView,
    ScanResult,
    StepReport,
    SweepResult,
)
from provisioner.model.values import Explained, MemberValues, Said
from provisioner.server.access import Note, OperatorGuard, Recognise
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk
from provisioner.server.listener import open_listener, open_operator_socket
from provisioner.server.operators import operator_app
from provisioner.server.running import Served, answer
from provisioner.trust.ca import ensure_server

BEGUN = 1_700_000_000.0


def make_spec(name: str = "node1") -> NodeSpec:
    bmc = BmcAddress(address="10.77.1.11", username="admin", password=SecretRef(env="BMC_PASSWORD"))
    return NodeSpec(name=name, bmc=bmc, ports=(Port(mac="52:54:00:77:00:01"),))


def make_node(name: str = "node1", state: NodeState = NodeState.AVAILABLE, **more: Any) -> Node:
    return Node(uuid=f"uuid-{name}", spec=make_spec(name), state=state, **more)


def make_placement(node: str = "node1") -> Placement:
    address = Address(network="main", address="10.77.0.20/24", mac="52:54:00:77:00:01")
    return Placement(
        cloud="lab", role="galera", index=0, hostname="galera-0", node=node, image="galera-0123456789ab",
        addresses=(address,),
    )  # fmt: skip


def make_deployment(node: str = "node1") -> Deployment:
    """Every step done, 2 s each."""
    steps = tuple(
        Step(name=name, state=StepState.DONE, started=BEGUN + 2 * i, ended=BEGUN + 2 * i + 2, attempts=1)
        for i, name in enumerate(STEPS)
    )
    return Deployment(id="d1", placement=make_placement(node), created=BEGUN, steps=steps)


def make_status(ready: bool = False, failed: bool = False, **member: Any) -> CloudStatus:
    one = {"node": "node1", "role": "galera", "hostname": "galera-0", "state": "deploying"} | member
    return CloudStatus(cloud="lab", ready=ready, failed=failed, members=(MemberStatus(**one),))


class DeadConsole(FakeConsole):
    def read(self) -> bytes:
        raise BmcRefused("the console is in use", where="10.77.1.11")


class FakeConductor:
    """Answers from what the test put into it, and announces changes when told."""

    def __init__(self) -> None:
        self.node_list = [make_node()]
        self.deployments: dict[str, Deployment] = {}
        self.statuses: list[CloudStatus] = [make_status(ready=True)]
        self.actions: tuple[Deploy, ...] = ()
        self.applied: list[Plan] = []
        self.event_list: list[dict[str, Any]] = []
        self.enrolled: list[EnrollItem] = []
        self.wrong_passwords: set[str] = set()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.stayed: list[tuple[str, bool]] = []
        self.observed: list[Event] = []
        self.known_operators: dict[str, tuple[Operator, str]] = {}
        self.rebuilt: list[tuple[str, str | None]] = []
        self.rescued: list[tuple[str, tuple[str, ...] | None]] = []
        self.maintained: list[tuple[str, str | None]] = []
        self.erased: list[tuple[str, EraseLevel | None, bool]] = []
        self.tested: list[tuple[str, tuple[HardwarePart, ...], float]] = []
        self.powers: list[tuple[str, str | None]] = []
        self.scans: list[ScanResult] = []
        self.audits: list[AuditResult] = []
        self.seen: list[SweepResult] = []
        self.instances: list[InstanceReport] = []
        self.readings: dict[str, Any] = {}
        self.files = InstanceFiles(node="node1", hostname="galera-0", image="galera-1", generation=4, files=())
        self.diff = ConfigDiff(before="generation 3, in force", after="generation 4")
        self.diffed: list[tuple[str, str | None]] = []
        self.secrets: dict[tuple[str, str], str] = {}
        self.callbacks: list[Callable[[frozenset[str]], None]] = []

    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        self.callbacks.append(callback)
        return lambda: self.callbacks.remove(callback)

    def announce(self) -> None:
        for callback in list(self.callbacks):
            callback(frozenset({"node1"}))

    def enroll(self, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
        for number, item in enumerate(items):
            if number:
                assert self.may_go_on.wait(10)
            self.enrolled.append(item)
            if item.spec.name in self.wrong_passwords:
                refused = BmcRefused("it refuses the password", where=item.spec.bmc.address, hint="correct it")
                yield EnrollResult(node=item.spec.name, result="failed", seconds=0.5, error=refused.to_dict())
            else:
                yield EnrollResult(node=item.spec.name, result="enrolled", seconds=0.5)

    def set_boot_device(self, name: str, device: str, persistent: bool) -> None:
        self.powers.append((name, f"boot {device} {persistent}"))

    def identify(self, name: str, seconds: int | None) -> None:
        self.powers.append((name, f"light {seconds}"))

    def console_lines(self, name: str) -> list[str]:
        return ["one", "two"]

    def console(self, name: str) -> FakeConsole:
        if name == "dead":
            return DeadConsole()
        return FakeConsole()

    def rotate(self, name: str) -> None:
        if name not in {node.name for node in self.node_list}:
            raise NotFound("there is no such node", where=name)
        self.powers.append((name, "rotate"))

    def read_bmc(self, name: str, what: str) -> Any:
        return self.readings[what]

    def scan(self, network: str) -> Iterable[ScanResult]:
        yield from self.scans

    def audit(self, names: Sequence[str]) -> Iterable[AuditResult]:
        yield from [result for result in self.audits if not names or result.node in names]

    def sweep(self) -> Iterable[SweepResult]:
        yield from self.seen

    def nodes(self, after: str = "", limit: int | None = None) -> Sequence[Node]:
        return [node for node in self.node_list if node.name > after][:limit]

    def _find(self, name: str) -> Node:
        for node in self.node_list:
            if node.name == name:
                return node
        raise NotFound("there is no such node", where=name, hint="provisioner node list")

    def node(self, name: str) -> NodeView:
        node = self._find(name)
        return NodeView(node=node, deployment=self.deployments.get(name), exits=EXITS[node.state])

    def observe(self, event: Event) -> None:
        self.observed.append(event)

    def conductors(self) -> list[ConductorStatus]:
        here = {"name": "seed-1", "place": "seed-1:/run", "url": "https://10.0.0.1:8081", "version": "1", "seen": BEGUN}
        return [ConductorStatus(**here, alive=True, nodes=3)]  # type: ignore[arg-type]

    def operators(self) -> list[Operator]:
        return [operator for operator, _ in self.known_operators.values()]

    def add_operator(self, name: str, role: OperatorRole, days: int) -> str:
        token = f"{name}.secret"
        self.known_operators[name] = (Operator(name=name, role=role, created=BEGUN), token)
        return token

    def remove_operator(self, name: str) -> None:
        del self.known_operators[name]

    def recognise(self, token: str) -> Operator | None:
        return next((operator for operator, known in self.known_operators.values() if known == token), None)

    def deployment_report(self, name: str) -> DeploymentReport:
        self._find(name)
        step = StepReport(step="write-image", seconds=60.0, usual=20.0, out_of_line=True)
        return DeploymentReport(
            node=name, role="galera", siblings=3, steps=(step,), shares={"bytes": 60.0}, findings=("it is slow\x1b",)
        )

    def instance_report(self, name: str) -> InstanceReport:
        found = next((one for one in self.instances if one.node == name), None)
        if found is None:
            raise NotFound("no instance of this node has reported", where=name)
        return found

    def cloud_reports(self, name: str) -> list[InstanceReport]:
        return [one.model_copy(update={"body": {}, "detail": {}}) for one in self.instances]

    def set_power(self, name: str, want: str | None) -> Power:
        self._find(name)
        self.powers.append((name, want))
        return Power.ON if want == "on" else Power.OFF

    def verb(self, name: str, verb: str) -> Node:
        node = self._find(name)
        check_verb(name, node.state, verb)
        return node

    def release(self, name: str, erase: EraseLevel | None, *, stays: bool) -> Node:
        self.erased.append((name, erase, stays))
        return self.verb(name, "release")

    def rebuild(self, name: str, image: str | None) -> Node:
        self.rebuilt.append((name, image))
        return self.verb(name, "rebuild")

    def rescue(self, name: str, keys: Sequence[str]) -> Node:
        self.rescued.append((name, tuple(keys)))
        return self.verb(name, "rescue")

    def end_rescue(self, name: str) -> Node:
        self.rescued.append((name, None))
        return self._find(name)

    def maintenance(self, name: str, reason: str | None) -> Node:
        self.maintained.append((name, reason))
        maintenance = None if reason is None else {"reason": reason, "since": BEGUN}
        return self._find(name).model_copy(update={"maintenance": maintenance})

    def erase(self, name: str, level: EraseLevel, *, stays: bool) -> Node:
        self.erased.append((name, level, stays))
        return self.verb(name, "erase")

    def inspect(self, name: str, *, stays: bool) -> Node:
        node = self._find(name)
        check_verb(name, node.state, "inspect")
        self.stayed.append((name, stays))
        return node

    def test(self, name: str, parts: Sequence[HardwarePart], burn_seconds: float, *, stays: bool) -> Node:
        node = self._find(name)
        check_verb(name, node.state, "test")
        self.stayed.append((name, stays))
        self.tested.append((name, tuple(parts), burn_seconds))
        return node

    def plan(self, desired: Desired) -> Plan:
        return Plan(cloud=desired.cloud.cloud, desired=desired, actions=self.actions)

    def node_files(self, name: str) -> InstanceFiles:
        self._find(name)
        return self.files

    def node_diff(self, name: str) -> ConfigDiff:
        self._find(name)
        return self.diff

    def cloud_diff(self, desired: Desired, member: str | None) -> ConfigDiff:
        self.diffed.append((desired.cloud.cloud, member))
        return self.diff

    def apply(self, plan: Plan) -> CloudStatus:
        self.applied.append(plan)
        return self.cloud_status(plan.cloud)

    def clouds(self) -> Sequence[str]:
        return ["lab"]

    def cloud_status(self, name: str) -> CloudStatus:
        """The next of ``statuses``; the last one stays."""
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def cloud_deployments(self, name: str) -> Sequence[Deployment]:
        return [self.deployments[member.node] for member in self.statuses[0].members if member.node in self.deployments]

    def cloud_authority(self, cloud: str) -> str:
        if cloud != "lab":
            raise NotFound("there is no such cloud", where=cloud)
        return "-----BEGIN CERTIFICATE-----\n"

    def cloud_secret(self, cloud: str, name: str) -> str:
        if (cloud, name) != ("lab", "galera_app_password"):
            raise NotFound("there is no such secret", where=f"{cloud}/{name}")
        return "s3cret"

    def store_secret(self, cloud: str, name: str, value: str) -> bool:
        self.secrets[cloud, name] = value
        return cloud == "lab"

    def explain(self, name: str) -> MemberValues:
        self._find(name)
        said = (
            Said(layer="element galera", place="values.yaml:3", value=100),
            Said(layer="node node1", place="cloud.yaml:9", value=300, counts=True),
        )
        value = Explained(key="galera.max_connections", value=300, description="client connections", said=said)
        place = {"cloud": "lab", "role": "galera", "hostname": "galera-0", "node": name, "zone": "east"}
        return MemberValues(**place, values=(value,))

    def events(self, since: int, limit: int) -> Sequence[dict[str, Any]]:
        return [event for event in self.event_list if event["id"] > since][:limit]


def make_event(number: int, message: str, node: str | None = None) -> dict[str, Any]:
    event = {"id": number, "time": 5.0, "kind": "node.enrolled", "message": message, "node": node}
    return event | {"deployment": None, "data": {}}


def make_deploy() -> Deploy:
    return Deploy(placement=make_placement(), guard=Guard(state=NodeState.AVAILABLE), why="galera has 0 of 1 members")


@contextmanager
def served(conductor: FakeConductor, socket: Path, images: Iterable[Image] = ()) -> Iterator[None]:
    """The operator API on a real unix socket, in a thread of its own."""

    def build(app: ASGIApp, note: Note, recognise: Recognise) -> Served:
        return Served(OperatorGuard(app, None, note), open_operator_socket(socket))

    with _serving(conductor, images, build):
        yield


@contextmanager
def served_elsewhere(conductor: FakeConductor, keys: Path) -> Iterator[str]:
    """The same by TLS, for operators with a token; its URL. ``keys``: the site's folder."""
    listener = open_listener("127.0.0.1", 0, "operators'")

    def build(app: ASGIApp, note: Note, recognise: Recognise) -> Served:
        return Served(
            OperatorGuard(app, recognise, note), listener, lambda: ensure_server(keys, keys, ["127.0.0.1"], time.time())
        )

    with _serving(conductor, (), build):
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _serving(
    conductor: FakeConductor, images: Iterable[Image], build: Callable[[ASGIApp, Note, Recognise], Served]
) -> Iterator[None]:
    begun = threading.Event()
    handles: dict[str, Any] = {}

    async def run() -> None:
        stop = asyncio.Event()
        handles.update(loop=asyncio.get_running_loop(), stop=stop)
        desk, changes = Desk(), Changes(conductor)
        about = {"version": "0", "interface": ""}
        app = operator_app(conductor, lambda: list(images), about, desk, changes)

        async def note(event: Event) -> None:
            await desk.for_operator(conductor.observe, event)

        async def recognise(token: str) -> Operator | None:
            return await desk.for_operator(conductor.recognise, token)

        try:
            await answer([build(app, note, recognise)], stop, ready=begun.set, ending=changes.close)
        finally:
            desk.close()

    thread = threading.Thread(target=lambda: asyncio.run(run()))
    thread.start()
    try:
        assert begun.wait(10)
        yield
    finally:
        handles["loop"].call_soon_threadsafe(handles["stop"].set)
        thread.join(10)
        assert not thread.is_alive()
