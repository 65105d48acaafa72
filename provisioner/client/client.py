"""Calls of the operator API over its unix socket; one method for each call."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import ValidationError

from provisioner.errors import DeadlinePassed, ProvisionerError, ServerUnreachable, error_from_dict
from provisioner.model.config import ConfigDiff, InstanceFiles
from provisioner.model.deployment import Deployment, EraseLevel, Node
from provisioner.model.duty import Duty
from provisioner.model.hardware import HardwarePart, Power
from provisioner.model.image import Image
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
    RecoveryStatus,
    ScanResult,
    SweepResult,
)
from provisioner.model.value import Value
from provisioner.model.values import MemberValues

PAGE, LARGE_PAGE = 100, 1000
"""Nodes that are fetched at once: to be looked at, and to have them all."""
ANSWER_SECONDS = 120.0
"""Seconds until a call without an answer is given up: longer than any BMC command may take."""
CONNECT_SECONDS = 5.0
CONSOLE_ERROR = b"\0error "
"""Begins the last line of a console that ended by an error."""
START = "start it: provisioner serve"
REMOTE_START = "check the address, PROVISIONER_CA, and [operators] listen in the service's configuration"

Line = TypeVar("Line", bound=Value)


@dataclass(frozen=True)
class Remote:
    """A service on another host: its URL, the token that says who asks, and the authority of its site."""

    url: str
    token: str
    ca: Path


class Client:
    """The service behind a unix socket, or on another host. Every method raises the service's own error, or:

    * ServerUnreachable: nobody answers there.
    * DeadlinePassed: the service took the call and gave no answer in time.
    """

    def __init__(self, place: Path | Remote, *, itself: bool = False) -> None:
        """:param itself: whether also the node is meant that the service itself runs on."""
        self._place = place
        params = {"self": "1"} if itself else None
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        if isinstance(place, Path):
            transport = httpx.HTTPTransport(uds=str(place))
            self._http = httpx.Client(
                transport=transport, base_url="http://provisioner", timeout=timeout, trust_env=False, params=params
            )
            return
        trust = ssl.create_default_context(cafile=str(place.ca))
        headers = {"authorization": f"Bearer {place.token}"}
        self._http = httpx.Client(
            verify=trust, base_url=place.url, headers=headers, timeout=timeout, trust_env=False, params=params
        )

    @property
    def _where(self) -> str:
        return str(self._place) if isinstance(self._place, Path) else self._place.url

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def status(self) -> dict[str, Any]:
        """What the service is and serves: ``version``, ``pid``, ``interface``, ``url``, ``nodes``."""
        return dict(self._get("status"))

    def enroll(self, items: Sequence[EnrollItem]) -> Iterator[EnrollResult]:
        """Enroll nodes; each result comes as soon as it is known."""
        body = {"items": [item.model_dump(mode="json") for item in items]}
        return self._stream(EnrollResult, body, "nodes", "enroll")

    def sweep(self) -> Iterator[SweepResult]:
        """Ask every BMC for its node's power; each answer comes as soon as it is known."""
        return self._stream(SweepResult, {}, "nodes", "sweep")

    def duty(self) -> Duty:
        """Whether this service is the master, and how far a handover came."""
        return Duty.model_validate(self._get("handover"))

    def begin_handover(self, node: str) -> Duty:
        """Offer the duty to a node."""
        return Duty.model_validate(self._post({"node": node}, "handover"))

    def cancel_handover(self) -> Duty:
        """This service stays the master; possible until the epoch has moved."""
        return Duty.model_validate(self._post({"cancel": True}, "handover"))

    def scan(self, network: str) -> Iterator[ScanResult]:
        """Find the BMCs of a network; each as soon as it is known."""
        return self._stream(ScanResult, {"network": network}, "nodes", "scan")

    def audit(self, names: Sequence[str]) -> Iterator[AuditResult]:
        """Find out what makes the BMCs of these nodes, or of all, unsafe; each result as soon as it is known."""
        return self._stream(AuditResult, {"names": list(names)}, "nodes", "audit")

    def _stream(self, kind: type[Line], body: dict[str, Any], *path: str) -> Iterator[Line]:
        with self._translated(), self._http.stream("POST", _path(path), content=json.dumps(body)) as answer:
            if answer.is_error:
                answer.read()
                raise self._error(answer)
            for line in answer.iter_lines():
                data = json.loads(line)
                if "summary" in data:
                    raise error_from_dict(data)
                yield kind.model_validate(data)

    def nodes(self) -> list[Node]:
        """All nodes by name."""
        found, after = self.node_page(limit=LARGE_PAGE)
        while after is not None:
            page, after = self.node_page(after, LARGE_PAGE)
            found += page
        return found

    def node_page(self, after: str = "", limit: int = PAGE) -> tuple[list[Node], str | None]:
        """(at most ``limit`` nodes by name, what ``after`` is for those that follow; None when there are no more)."""
        answer = self._get("nodes", params={"after": after, "limit": limit})
        return [Node.model_validate(node) for node in answer["nodes"]], answer["next"]

    def node(self, name: str) -> NodeView:
        return NodeView.model_validate(self._get("nodes", name))

    def conductors(self) -> list[ConductorStatus]:
        return [ConductorStatus.model_validate(found) for found in self._get("conductors")["conductors"]]

    def operators(self) -> list[Operator]:
        return [Operator.model_validate(found) for found in self._get("operators")["operators"]]

    def add_operator(self, name: str, role: OperatorRole, days: int) -> str:
        """The token of a new operator."""
        return str(self._post({"role": role, "days": days}, "operators", name)["token"])

    def remove_operator(self, name: str) -> None:
        with self._translated():
            self._read(self._http.delete(_path(("operators", name))))

    def report(self, name: str) -> DeploymentReport:
        """Where the time of a node's deployment went, beside others of its role."""
        return DeploymentReport.model_validate(self._get("nodes", name, "report"))

    def instance_report(self, name: str) -> InstanceReport:
        """What a node's instance last said, whole."""
        return InstanceReport.model_validate(self._get("nodes", name, "instance"))

    def set_power(self, name: str, want: str | None) -> Power:
        """Tell a node's BMC ``on``, ``off``, ``soft``, ``reset`` or ``cycle``; None only asks. What it reports then."""
        return Power(self._post({"want": want}, "nodes", name, "power")["power"])

    def set_boot_device(self, name: str, device: str, persistent: bool) -> None:
        """``pxe`` or ``disk``, for the next boot or from now on."""
        self._post({"device": device, "persistent": persistent}, "nodes", name, "boot-device")

    def identify(self, name: str, seconds: int | None) -> None:
        """Light the identify light: for so long, until told otherwise with None, not with 0."""
        self._post({"seconds": seconds}, "nodes", name, "identify")

    def console_lines(self, name: str) -> list[str]:
        """The last lines of a node's console: while it is worked on, or of its last deployment or inspection."""
        return list(self._get("nodes", name, "console")["lines"])

    @contextmanager
    def console(self, name: str) -> Iterator[ConsoleStream]:
        """A node's serial console for as long as the context lasts."""
        forever = httpx.Timeout(None, connect=CONNECT_SECONDS)
        with (
            self._translated(),
            self._http.stream("POST", _path(("nodes", name, "console")), timeout=forever) as answer,
        ):
            if answer.is_error:
                answer.read()
                raise self._error(answer)
            yield ConsoleStream(self._http, answer)

    def rotate(self, name: str) -> None:
        """Give the node's BMC a new password, which only the service knows."""
        self._post({}, "nodes", name, "credentials")

    def read_bmc(self, name: str, what: str) -> Any:
        """``sensors``, ``log`` or ``inventory``, as the node's BMC has them now."""
        return self._get("nodes", name, "bmc", what)[what]

    def verb(self, name: str, verb: str) -> Node:
        """One of the exits of the node's state: ``retry``, ``abort``, ``forget``."""
        return Node.model_validate(self._post({}, "nodes", name, verb))

    def release(self, name: str, erase: EraseLevel | None = None, *, stays: bool = False, drain: bool = True) -> Node:
        """Take an active node out of its cloud. ``erase``: its disks; ``stays``: it is left in the ramdisk.

        ``drain``: its instance is drained before.
        """
        wanted = {"erase": erase, "stays": stays, "drain": drain}
        return Node.model_validate(self._post(wanted, "nodes", name, "release"))

    def erase(self, name: str, level: EraseLevel, *, stays: bool = False) -> Node:
        """Erase all disks of an available node. ``stays``: it is left in the ramdisk."""
        return Node.model_validate(self._post({"level": level, "stays": stays}, "nodes", name, "erase"))

    def rebuild(self, name: str, image: str | None = None, *, drain: bool = True) -> Node:
        """Deploy a node again in the place that it has. ``image``: an id; None for the newest of its role.

        ``drain``: its instance is drained before.
        """
        return Node.model_validate(self._post({"image": image, "drain": drain}, "nodes", name, "rebuild"))

    def rescue(self, name: str, keys: Sequence[str]) -> Node:
        return Node.model_validate(self._post({"keys": list(keys)}, "nodes", name, "rescue"))

    def end_rescue(self, name: str) -> Node:
        return Node.model_validate(self._post({"off": True}, "nodes", name, "rescue"))

    def maintenance(self, name: str, reason: str | None) -> Node:
        """From now on nothing is done to a node by itself; with None that is over."""
        return Node.model_validate(self._post({"reason": reason}, "nodes", name, "maintenance"))

    def inspect(self, name: str, *, stays: bool = False) -> Node:
        """Boot a node into the ramdisk and find out what it is made of. ``stays``: the ramdisk runs on afterwards."""
        return Node.model_validate(self._post({"stays": stays}, "nodes", name, "inspect"))

    def test(self, name: str, parts: Sequence[HardwarePart], burn_seconds: float, *, stays: bool = False) -> Node:
        """Put a node's hardware to the test, all parts if none is named; the processors are loaded for so long."""
        wanted = {"parts": list(parts), "burn_seconds": burn_seconds, "stays": stays}
        return Node.model_validate(self._post(wanted, "nodes", name, "test"))

    def plan(self, desired: Desired) -> Plan:
        return Plan.model_validate(self._post(desired.model_dump(mode="json"), "plan"))

    def node_files(self, name: str) -> InstanceFiles:
        """The files that a node is to have, without what is secret."""
        return InstanceFiles.model_validate(self._get("nodes", name, "config"))

    def node_diff(self, name: str) -> ConfigDiff:
        """What the newest generation changes in the files that a node has in force."""
        return ConfigDiff.model_validate(self._get("nodes", name, "config", "diff"))

    def cloud_diff(self, desired: Desired, member: str | None = None) -> ConfigDiff:
        """What apply would change in the files of members on record. ``member``: by host name or node; None: all."""
        wanted = {"desired": desired.model_dump(mode="json"), "member": member}
        return ConfigDiff.model_validate(self._post(wanted, "config", "diff"))

    def apply(self, plan: Plan) -> CloudStatus:
        return CloudStatus.model_validate(self._post(plan.model_dump(mode="json"), "apply"))

    def clouds(self) -> list[str]:
        return [str(name) for name in self._get("clouds")["clouds"]]

    def cloud_status(self, name: str) -> CloudStatus:
        return CloudStatus.model_validate(self._get("clouds", name))

    def plan_replacement(self, cloud: str, member: str, by: str | None, drain: bool = False) -> Plan:
        """What has to be done for another node, ``by`` or any that matches, to take a member's place."""
        return Plan.model_validate(
            self._post({"member": member, "by": by, "drain": drain}, "clouds", cloud, "replacement")
        )

    def leave_out(self, cloud: str, role: str, nodes: Sequence[str]) -> RecoveryStatus:
        """Do not wait for these nodes in the outage of a role; how the outage stands then."""
        found = self._post({"without": list(nodes)}, "clouds", cloud, "roles", role, "recover")
        return RecoveryStatus.model_validate(found)

    def plan_rebuild(self, cloud: str, role: str, image: str | None = None) -> Plan:
        """What has to be done so that all members of a role run an image; None for the newest. Changes nothing."""
        return Plan.model_validate(self._post({"role": role, "image": image}, "clouds", cloud, "rebuild"))

    def resume(self, cloud: str, without_drain: Sequence[str] = ()) -> CloudStatus:
        """Members that were not drained have their turn again. ``without_drain``: nodes that leave without that."""
        wanted = {"without_drain": list(without_drain)}
        return CloudStatus.model_validate(self._post(wanted, "clouds", cloud, "resume"))

    def abort_departures(self, cloud: str, members: Sequence[str] = ()) -> CloudStatus:
        """Who has not left yet stays. ``members``: host names; none for all."""
        return CloudStatus.model_validate(self._post({"members": list(members)}, "clouds", cloud, "abort"))

    def cloud_reports(self, name: str) -> list[InstanceReport]:
        """What is unusual in what the instances of a cloud last said; without the messages themselves."""
        return [InstanceReport.model_validate(found) for found in self._get("clouds", name, "instances")["instances"]]

    def cloud_deployments(self, name: str) -> list[Deployment]:
        """Those of a cloud's members, by host name."""
        return [Deployment.model_validate(found) for found in self._get("clouds", name, "deployments")["deployments"]]

    def cloud_authority(self, cloud: str) -> str:
        """The certificate, as PEM, by which the services of a cloud are known."""
        return str(self._get("clouds", cloud, "authority")["certificate"])

    def cloud_secret(self, cloud: str, name: str) -> str:
        return str(self._get("clouds", cloud, "secrets", name)["secret"])

    def store_secret(self, cloud: str, name: str, secret: str) -> bool:
        """Keep a secret of a cloud, in place of the one that it had; whether the cloud is on record yet."""
        return bool(self._post({"secret": secret}, "clouds", cloud, "secrets", name)["on_record"])

    def explain(self, name: str) -> MemberValues:
        """The values of a node's place in its cloud, and where each comes from."""
        return MemberValues.model_validate(self._get("nodes", name, "values"))

    def events(self, since: int = 0, *, wait: float = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """Events with an ``id`` above ``since``; when there is none, waits up to ``wait`` seconds for one.

        Each has ``id``, ``time`` (seconds since the epoch), ``kind``, ``node``, ``deployment``, ``message``, ``data``.
        """
        found = self._get("events", params={"since": since, "wait": wait, "limit": limit})
        return list(found["events"])

    def images(self) -> list[Image]:
        return [Image.model_validate(image) for image in self._get("images")["images"]]

    def _get(self, *path: str, params: dict[str, Any] | None = None) -> Any:
        with self._translated():
            return self._read(self._http.get(_path(path), params=params))

    def _post(self, body: dict[str, Any], *path: str) -> Any:
        with self._translated():
            return self._read(self._http.post(_path(path), content=json.dumps(body)))

    def _read(self, answer: httpx.Response) -> Any:
        if answer.is_error:
            raise self._error(answer)
        return answer.json()

    def _error(self, answer: httpx.Response) -> ProvisionerError:
        try:
            return error_from_dict(answer.json())
        except (ValueError, TypeError, AttributeError, KeyError):
            return ProvisionerError("the service gave no readable answer", cause=f"HTTP status {answer.status_code}")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """httpx's errors as ours. Whether somebody listens is tried first: httpx leaks a socket if nobody does."""
        try:
            if isinstance(self._place, Path):
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.settimeout(CONNECT_SECONDS)
                    probe.connect(str(self._place))
            yield
        except httpx.ReadTimeout as error:
            raise DeadlinePassed(
                f"the service gave no answer within {ANSWER_SECONDS:g} s",
                where=self._where,
                hint="read its log; provisioner events shows what it does",
            ) from error
        except (httpx.HTTPError, OSError) as error:
            raise ServerUnreachable(
                "the service does not answer",
                where=self._where,
                cause=str(error) or None,
                hint=START if isinstance(self._place, Path) else REMOTE_START,
            ) from error
        except (ValueError, KeyError, ValidationError) as error:
            # Never the text of the error: a validation error repeats what it read, and that may be a secret.
            raise ProvisionerError(
                "the service's answer cannot be understood",
                where=self._where,
                cause=type(error).__name__,
                hint="service and command are of different versions: start the service again",
            ) from None


class ConsoleStream:
    """An open console. One thread may iterate while another types."""

    def __init__(self, http: httpx.Client, answer: httpx.Response) -> None:
        self._http = http
        self._answer = answer
        self._ident = answer.headers["x-console"]

    def __iter__(self) -> Iterator[bytes]:
        """What the node writes, until the console ends. Raises the service's error when it ends by one."""
        for data in self._answer.iter_raw():
            text, mark, error = data.partition(CONSOLE_ERROR)
            if text:
                yield text
            if mark:
                raise error_from_dict(json.loads(error))

    def type(self, data: bytes) -> bool:
        """False when the console has ended."""
        return self._http.post(_path(("consoles", self._ident)), content=data).is_success


def _path(parts: Sequence[str]) -> str:
    return "/v1/" + "/".join(quote(part, safe="") for part in parts)
