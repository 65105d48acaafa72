"""What the server asks of the conductor, and the threads in which it asks: no call of it stops the listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, Protocol, TypeVar

from provisioner.bmc.contract import Console
from provisioner.conductor.metadata import Answer, Ask
from provisioner.errors import TrustError
from provisioner.events import Event
from provisioner.model.config import ConfigDiff, InstanceFiles
from provisioner.model.deployment import Deployment, EraseLevel, Node
from provisioner.model.hardware import HardwarePart, Power
from provisioner.model.operator import Operator, OperatorRole
from provisioner.model.plan import Plan
from provisioner.model.role import Desired
from provisioner.model.status import (
    AuditResult,
    CloudStatus,
    ConductorStatus,
    DeploymentReport,
    EnrollItem,
    EnrollResult,
    InstanceReport,
    NodeView,
    ScanResult,
    SweepResult,
)
from provisioner.model.values import MemberValues

P = ParamSpec("P")
T = TypeVar("T")

Known = tuple[str, frozenset[str]]
"""(the secret of a guest, the topics that concern it)."""
OPERATOR_THREADS = 8
GUEST_THREADS = 8


class Subscribed(Protocol):
    def subscribe(self, callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        """Call ``callback``, from any thread, after each change of a record, with its topics; the answer ends that."""


class ForOperators(Subscribed, Protocol):
    """The conductor as operators see it. Each method may block, and raises errors of ours."""

    def enroll(self, items: Sequence[EnrollItem]) -> Iterable[EnrollResult]: ...

    def scan(self, network: str) -> Iterable[ScanResult]: ...

    def audit(self, names: Sequence[str]) -> Iterable[AuditResult]: ...

    def sweep(self) -> Iterable[SweepResult]: ...

    def nodes(self, after: str = "", limit: int | None = None) -> Sequence[Node]: ...

    def node(self, name: str) -> NodeView: ...

    def observe(self, event: Event) -> None: ...

    def conductors(self) -> Sequence[ConductorStatus]: ...

    def operators(self) -> Sequence[Operator]: ...

    def add_operator(self, name: str, role: OperatorRole, days: int) -> str: ...

    def remove_operator(self, name: str) -> None: ...

    def recognise(self, token: str) -> Operator | None: ...

    def deployment_report(self, name: str) -> DeploymentReport: ...

    def instance_report(self, name: str) -> InstanceReport: ...

    def cloud_reports(self, name: str) -> Sequence[InstanceReport]: ...

    def set_power(self, name: str, want: str | None) -> Power: ...

    def set_boot_device(self, name: str, device: str, persistent: bool) -> None: ...

    def identify(self, name: str, seconds: int | None) -> None: ...

    def console(self, name: str) -> Console: ...

    def console_lines(self, name: str) -> Sequence[str]: ...

    def rotate(self, name: str) -> None: ...

    def read_bmc(self, name: str, what: str) -> Any: ...

    def verb(self, name: str, verb: str) -> Node: ...

    def release(self, name: str, erase: EraseLevel | None, *, stays: bool) -> Node: ...

    def rebuild(self, name: str, image: str | None) -> Node: ...

    def rescue(self, name: str, keys: Sequence[str]) -> Node: ...

    def end_rescue(self, name: str) -> Node: ...

    def maintenance(self, name: str, reason: str | None) -> Node: ...

    def erase(self, name: str, level: EraseLevel, *, stays: bool) -> Node: ...

    def inspect(self, name: str, *, stays: bool) -> Node: ...

    def test(self, name: str, parts: Sequence[HardwarePart], burn_seconds: float, *, stays: bool) -> Node: ...

    def plan(self, desired: Desired) -> Plan: ...

    def node_files(self, name: str) -> InstanceFiles: ...

    def node_diff(self, name: str) -> ConfigDiff: ...

    def cloud_diff(self, desired: Desired, member: str | None) -> ConfigDiff: ...

    def apply(self, plan: Plan) -> CloudStatus: ...

    def clouds(self) -> Sequence[str]: ...

    def cloud_status(self, name: str) -> CloudStatus: ...

    def cloud_deployments(self, name: str) -> Sequence[Deployment]: ...

    def cloud_authority(self, cloud: str) -> str: ...

    def cloud_secret(self, cloud: str, name: str) -> str: ...

    def store_secret(self, cloud: str, name: str, value: str) -> bool: ...

    def explain(self, name: str) -> MemberValues: ...

    def events(self, since: int, limit: int) -> Sequence[Mapping[str, Any]]:
        """Events with an ``id`` above ``since``, oldest first; the maps that the API answers."""


class ForGuests(Subscribed, Protocol):
    """The conductor as guests see it: by the id of a token whose message has been authenticated."""

    def guests(self, asks: Sequence[tuple[str, str]]) -> Sequence[Known | TrustError]:
        """Of each (token id, ``hello``, ``boot`` or ``instance``). An error: there is no such token, or it is over."""

    def boot_script(self, mac: str, peer: str) -> str | None:
        """None for a MAC that is not on record."""

    def seen_on_wire(self, address: str, kind: str, message: str) -> None:
        """How far the network boot of whoever has this address came."""

    def hello(self, token_id: str, message: dict[str, Any], peer: str) -> dict[str, Any]: ...

    def order(self, token_id: str) -> dict[str, Any] | None: ...

    def progress(self, token_id: str, message: dict[str, Any]) -> object: ...

    def result(self, token_id: str, message: dict[str, Any]) -> object: ...

    def metadata(self, asks: Sequence[Ask]) -> Sequence[Answer]: ...

    def reports(self, asks: Sequence[tuple[str, dict[str, Any]]]) -> Sequence[dict[str, Any] | Exception]: ...

    def permit(self, token_id: str, message: dict[str, Any]) -> dict[str, Any]: ...


class Desk:
    """Threads for blocking calls. Operators and guests have their own: a silent BMC delays no guest."""

    def __init__(self) -> None:
        self._operators = ThreadPoolExecutor(OPERATOR_THREADS, thread_name_prefix="operator")
        self._guests = ThreadPoolExecutor(GUEST_THREADS, thread_name_prefix="guest")

    async def for_operator(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._operators, lambda: call(*args, **kwargs))

    async def for_guest(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._guests, lambda: call(*args, **kwargs))

    def close(self) -> None:
        """Take no more calls. One that waits for a BMC right now is left to its own deadline."""
        for pool in (self._operators, self._guests):
            pool.shutdown(wait=False, cancel_futures=True)


END = object()


def take(iterator: Iterator[T]) -> T | object:
    """The next item, or :data:`END`: a StopIteration cannot pass through a future."""
    return next(iterator, END)
