"""The operator API. It listens on the unix socket alone: who may open that may do all of this."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from provisioner.errors import ProvisionerError
from provisioner.model.deployment import EraseLevel
from provisioner.model.hardware import HardwarePart
from provisioner.model.image import Image
from provisioner.model.operator import OperatorRole
from provisioner.model.plan import Plan
from provisioner.model.role import Desired
from provisioner.model.status import EnrollItem
from provisioner.model.value import Value
from provisioner.server.answers import build_app, read_number, read_value
from provisioner.server.changes import Changes
from provisioner.server.consoles import Consoles
from provisioner.server.desk import END, Desk, ForOperators, take

EVENTS = 1000
"""Events in one answer at most."""


PAGE, MOST_IN_PAGE = 100, 1000
"""Nodes in an answer."""


class EnrollRequest(Value):
    items: tuple[EnrollItem, ...]


class PowerRequest(Value):
    """``want`` null only asks the BMC."""

    want: Literal["on", "off", "soft", "reset", "cycle"] | None = None


class ScanRequest(Value):
    network: str


class AuditRequest(Value):
    """No names: all nodes."""

    names: tuple[str, ...] = ()


class InspectRequest(Value):
    """``stays``: the ramdisk runs on afterwards."""

    stays: bool = False


class ReleaseRequest(InspectRequest):
    """``erase``: what is done to all disks of the node afterwards; null for nothing."""

    erase: EraseLevel | None = None


class EraseRequest(InspectRequest):
    level: EraseLevel = EraseLevel.METADATA


class RebuildRequest(Value):
    """``image``: an id; null for the newest of the node's role."""

    image: str | None = None


class MaintenanceRequest(Value):
    """``reason`` null: it is over."""

    reason: str | None = Field(default=None, min_length=1, max_length=500)


class RescueRequest(Value):
    """``keys``: of SSH, that are let in. ``off``: the rescue is over."""

    keys: tuple[str, ...] = Field(default=(), max_length=20)
    off: bool = False


class SecretRequest(Value):
    secret: str = Field(min_length=1, max_length=65536)


class OperatorRequest(Value):
    role: OperatorRole
    days: int = Field(default=365, ge=1, le=3650)


class HardwareTestRequest(InspectRequest):
    """``parts``: which hardware tests, none for all. ``burn_seconds``: for how long the processors are loaded."""

    parts: tuple[HardwarePart, ...] = ()
    burn_seconds: float = Field(default=60.0, gt=0, le=7200)


class DiffRequest(Value):
    """``member``: the host name or node of the one that is asked for; null for all."""

    desired: Desired
    member: str | None = None


class BootDeviceRequest(Value):
    device: str
    persistent: bool = False


class IdentifyRequest(Value):
    """``seconds`` null: until told otherwise; 0: off."""

    seconds: int | None = Field(default=None, ge=0, le=255)


def operator_app(
    conductor: ForOperators,
    images: Callable[[], Sequence[Image]],
    about: dict[str, Any],
    desk: Desk,
    changes: Changes,
) -> Starlette:
    """:param about: facts of the service for ``GET /v1/status``."""
    api = _Api(conductor, images, about, desk, changes)
    return build_app(
        [
            Route("/v1/status", api.status, methods=["GET"]),
            Route("/v1/nodes/enroll", api.enroll, methods=["POST"]),
            Route("/v1/nodes/sweep", api.sweep, methods=["POST"]),
            Route("/v1/nodes/scan", api.scan, methods=["POST"]),
            Route("/v1/nodes/audit", api.audit, methods=["POST"]),
            Route("/v1/nodes", api.nodes, methods=["GET"]),
            Route("/v1/nodes/{name}", api.node, methods=["GET"]),
            Route("/v1/nodes/{name}/report", api.report, methods=["GET"]),
            Route("/v1/nodes/{name}/config", api.node_files, methods=["GET"]),
            Route("/v1/nodes/{name}/config/diff", api.node_diff, methods=["GET"]),
            Route("/v1/config/diff", api.cloud_diff, methods=["POST"]),
            Route("/v1/nodes/{name}/values", api.values, methods=["GET"]),
            Route("/v1/nodes/{name}/instance", api.instance, methods=["GET"]),
            Route("/v1/nodes/{name}/power", api.power, methods=["POST"]),
            Route("/v1/nodes/{name}/boot-device", api.boot_device, methods=["POST"]),
            Route("/v1/nodes/{name}/identify", api.identify, methods=["POST"]),
            Route("/v1/nodes/{name}/console", api.console_lines, methods=["GET"]),
            Route("/v1/nodes/{name}/console", api.consoles.show, methods=["POST"]),
            Route("/v1/consoles/{id}", api.consoles.type, methods=["POST"]),
            Route("/v1/nodes/{name}/credentials", api.rotate, methods=["POST"]),
            Route("/v1/nodes/{name}/inspect", api.inspect, methods=["POST"]),
            Route("/v1/nodes/{name}/test", api.test, methods=["POST"]),
            Route("/v1/nodes/{name}/release", api.release, methods=["POST"]),
            Route("/v1/nodes/{name}/rebuild", api.rebuild, methods=["POST"]),
            Route("/v1/nodes/{name}/maintenance", api.maintenance, methods=["POST"]),
            Route("/v1/nodes/{name}/rescue", api.rescue, methods=["POST"]),
            Route("/v1/nodes/{name}/erase", api.erase, methods=["POST"]),
            Route("/v1/nodes/{name}/bmc/{what}", api.bmc, methods=["GET"]),
            Route("/v1/nodes/{name}/{verb}", api.verb, methods=["POST"]),
            Route("/v1/plan", api.plan, methods=["POST"]),
            Route("/v1/apply", api.apply, methods=["POST"]),
            Route("/v1/clouds", api.clouds, methods=["GET"]),
            Route("/v1/clouds/{name}", api.cloud, methods=["GET"]),
            Route("/v1/clouds/{name}/instances", api.instances, methods=["GET"]),
            Route("/v1/clouds/{name}/deployments", api.deployments, methods=["GET"]),
            Route("/v1/clouds/{name}/authority", api.authority, methods=["GET"]),
            Route("/v1/clouds/{name}/secrets/{key}", api.secret, methods=["GET"]),
            Route("/v1/clouds/{name}/secrets/{key}", api.store_secret, methods=["POST"]),
            Route("/v1/events", api.events, methods=["GET"]),
            Route("/v1/conductors", api.conductors, methods=["GET"]),
            Route("/v1/operators", api.operators, methods=["GET"]),
            Route("/v1/operators/{name}", api.add_operator, methods=["POST"]),
            Route("/v1/operators/{name}", api.remove_operator, methods=["DELETE"]),
            Route("/v1/images", api.images, methods=["GET"]),
        ]
    )


def _json(value: Value) -> Any:
    return value.model_dump(mode="json")


class _Api:
    def __init__(
        self,
        conductor: ForOperators,
        images: Callable[[], Sequence[Image]],
        about: dict[str, Any],
        desk: Desk,
        changes: Changes,
    ) -> None:
        self._conductor = conductor
        self._images = images
        self._about = about
        self._call = desk.for_operator
        self._changes = changes
        self.consoles = Consoles(conductor)

    async def status(self, request: Request) -> Response:
        nodes = await self._call(self._conductor.nodes)
        return JSONResponse(self._about | {"nodes": len(nodes)})

    async def enroll(self, request: Request) -> Response:
        """The results as they come, a JSON line each. A fault before the first is an error answer."""
        wanted = await read_value(request, EnrollRequest)
        return await self._stream(lambda: iter(self._conductor.enroll(wanted.items)))

    async def sweep(self, request: Request) -> Response:
        """What each BMC says, as it comes, a JSON line each."""
        return await self._stream(lambda: iter(self._conductor.sweep()))

    async def scan(self, request: Request) -> Response:
        """The BMCs of a network, as they answer, a JSON line each."""
        wanted = await read_value(request, ScanRequest)
        return await self._stream(lambda: iter(self._conductor.scan(wanted.network)))

    async def audit(self, request: Request) -> Response:
        """The findings of each node, as they come, a JSON line each."""
        wanted = await read_value(request, AuditRequest)
        return await self._stream(lambda: iter(self._conductor.audit(wanted.names)))

    async def _stream(self, begin: Callable[[], Iterator[Value]]) -> Response:
        results = await self._call(begin)
        first = await self._call(take, results)
        return StreamingResponse(self._lines(first, results), media_type="application/x-ndjson")

    async def _lines(self, item: object, results: Iterator[Value]) -> AsyncIterator[str]:
        while isinstance(item, Value):
            yield item.model_dump_json() + "\n"
            try:
                item = await self._call(take, results)
            except ProvisionerError as error:
                yield json.dumps(error.to_dict()) + "\n"
                item = END

    async def nodes(self, request: Request) -> Response:
        """A page of the nodes by name; ``next`` is what ``after`` must be for the one that follows."""
        limit = max(1, min(int(read_number(request, "limit", PAGE)), MOST_IN_PAGE))
        found = await self._call(self._conductor.nodes, request.query_params.get("after", ""), limit)
        following = found[-1].name if len(found) == limit else None
        return JSONResponse({"nodes": [_json(node) for node in found], "next": following})

    async def node(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.node, request.path_params["name"])))

    async def report(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.deployment_report, request.path_params["name"])))

    async def node_files(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.node_files, request.path_params["name"])))

    async def node_diff(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.node_diff, request.path_params["name"])))

    async def cloud_diff(self, request: Request) -> Response:
        wanted = await read_value(request, DiffRequest)
        return JSONResponse(_json(await self._call(self._conductor.cloud_diff, wanted.desired, wanted.member)))

    async def values(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.explain, request.path_params["name"])))

    async def instance(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.instance_report, request.path_params["name"])))

    async def power(self, request: Request) -> Response:
        wanted = await read_value(request, PowerRequest)
        power = await self._call(self._conductor.set_power, request.path_params["name"], wanted.want)
        return JSONResponse({"node": request.path_params["name"], "power": str(power)})

    async def boot_device(self, request: Request) -> Response:
        wanted = await read_value(request, BootDeviceRequest)
        name = request.path_params["name"]
        await self._call(self._conductor.set_boot_device, name, wanted.device, wanted.persistent)
        return JSONResponse({"node": name, "device": wanted.device, "persistent": wanted.persistent})

    async def identify(self, request: Request) -> Response:
        wanted = await read_value(request, IdentifyRequest)
        await self._call(self._conductor.identify, request.path_params["name"], wanted.seconds)
        return JSONResponse({"node": request.path_params["name"], "seconds": wanted.seconds})

    async def console_lines(self, request: Request) -> Response:
        lines = await self._call(self._conductor.console_lines, request.path_params["name"])
        return JSONResponse({"lines": list(lines)})

    async def rotate(self, request: Request) -> Response:
        await self._call(self._conductor.rotate, request.path_params["name"])
        return JSONResponse({"node": request.path_params["name"], "rotated": True})

    async def bmc(self, request: Request) -> Response:
        path = request.path_params
        return JSONResponse({path["what"]: await self._call(self._conductor.read_bmc, path["name"], path["what"])})

    async def verb(self, request: Request) -> Response:
        path = request.path_params
        return JSONResponse(_json(await self._call(self._conductor.verb, path["name"], path["verb"])))

    async def release(self, request: Request) -> Response:
        wanted = await read_value(request, ReleaseRequest)
        name = request.path_params["name"]
        return JSONResponse(_json(await self._call(self._conductor.release, name, wanted.erase, stays=wanted.stays)))

    async def erase(self, request: Request) -> Response:
        wanted = await read_value(request, EraseRequest)
        name = request.path_params["name"]
        return JSONResponse(_json(await self._call(self._conductor.erase, name, wanted.level, stays=wanted.stays)))

    async def rebuild(self, request: Request) -> Response:
        wanted = await read_value(request, RebuildRequest)
        return JSONResponse(_json(await self._call(self._conductor.rebuild, request.path_params["name"], wanted.image)))

    async def rescue(self, request: Request) -> Response:
        wanted, name = await read_value(request, RescueRequest), request.path_params["name"]
        if wanted.off:
            return JSONResponse(_json(await self._call(self._conductor.end_rescue, name)))
        return JSONResponse(_json(await self._call(self._conductor.rescue, name, wanted.keys)))

    async def maintenance(self, request: Request) -> Response:
        wanted = await read_value(request, MaintenanceRequest)
        name = request.path_params["name"]
        return JSONResponse(_json(await self._call(self._conductor.maintenance, name, wanted.reason)))

    async def inspect(self, request: Request) -> Response:
        wanted = await read_value(request, InspectRequest)
        node = await self._call(self._conductor.inspect, request.path_params["name"], stays=wanted.stays)
        return JSONResponse(_json(node))

    async def test(self, request: Request) -> Response:
        wanted = await read_value(request, HardwareTestRequest)
        name, parts, seconds = request.path_params["name"], wanted.parts, wanted.burn_seconds
        return JSONResponse(_json(await self._call(self._conductor.test, name, parts, seconds, stays=wanted.stays)))

    async def plan(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.plan, await read_value(request, Desired))))

    async def apply(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.apply, await read_value(request, Plan))))

    async def clouds(self, request: Request) -> Response:
        return JSONResponse({"clouds": list(await self._call(self._conductor.clouds))})

    async def cloud(self, request: Request) -> Response:
        return JSONResponse(_json(await self._call(self._conductor.cloud_status, request.path_params["name"])))

    async def instances(self, request: Request) -> Response:
        found = await self._call(self._conductor.cloud_reports, request.path_params["name"])
        return JSONResponse({"instances": [_json(report) for report in found]})

    async def deployments(self, request: Request) -> Response:
        found = await self._call(self._conductor.cloud_deployments, request.path_params["name"])
        return JSONResponse({"deployments": [_json(deployment) for deployment in found]})

    async def authority(self, request: Request) -> Response:
        found = await self._call(self._conductor.cloud_authority, request.path_params["name"])
        return JSONResponse({"certificate": found})

    async def secret(self, request: Request) -> Response:
        path = request.path_params
        secret = await self._call(self._conductor.cloud_secret, path["name"], path["key"])
        return JSONResponse({"secret": secret}, headers={"cache-control": "no-store"})

    async def store_secret(self, request: Request) -> Response:
        path, wanted = request.path_params, await read_value(request, SecretRequest)
        known = await self._call(self._conductor.store_secret, path["name"], path["key"], wanted.secret)
        return JSONResponse({"on_record": known})

    async def events(self, request: Request) -> Response:
        since = int(read_number(request, "since", 0))
        limit = max(1, min(int(read_number(request, "limit", EVENTS)), EVENTS))
        found = await self._changes.poll(
            lambda: self._call(self._conductor.events, since, limit), bool, read_number(request, "wait", 0)
        )
        return JSONResponse({"events": [dict(event) for event in found]})

    async def conductors(self, request: Request) -> Response:
        return JSONResponse({"conductors": [_json(found) for found in await self._call(self._conductor.conductors)]})

    async def operators(self, request: Request) -> Response:
        return JSONResponse({"operators": [_json(found) for found in await self._call(self._conductor.operators)]})

    async def add_operator(self, request: Request) -> Response:
        wanted, name = await read_value(request, OperatorRequest), request.path_params["name"]
        token = await self._call(self._conductor.add_operator, name, wanted.role, wanted.days)
        return JSONResponse({"token": token}, headers={"cache-control": "no-store"})

    async def remove_operator(self, request: Request) -> Response:
        await self._call(self._conductor.remove_operator, request.path_params["name"])
        return JSONResponse({})

    async def images(self, request: Request) -> Response:
        return JSONResponse({"images": [_json(image) for image in await self._call(self._images)]})
