"""What is not done, before it is begun: nothing is changed on a service that is not the master, and nothing that would
take away the node that the service itself runs on, unless that is asked for by name."""

from __future__ import annotations

import json
import re
from typing import Any

from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import Conflict
from provisioner.model.duty import Duty, DutyState
from provisioner.model.value import Value
from provisioner.server.access import LOOKS, PURE
from provisioner.server.answers import build_app, read_value
from provisioner.server.desk import Desk
from provisioner.server.handover import Handover

HANDOVER_PATH = "/v1/handover"
APPLY = "/v1/apply"
ITSELF = "self"
"""In a query: the node on which the service itself runs is meant indeed."""
TAKES_AWAY = re.compile(
    r"^/v1/nodes/([^/]+)/(power|boot-device|release|rebuild|rescue|erase|inspect|test|abort|retry|forget)$"
)
HARMLESS_POWER = (None, "on")
TAKES = ("deploy", "release", "rebuild", "move", "retry")
"""Actions of plans that take a node away, write it anew, or may do so."""


class HandoverRequest(Value):
    """``node``: to which the duty goes; null with ``cancel``."""

    node: str | None = None
    cancel: bool = False


def handover_app(handover: Handover, desk: Desk) -> ASGIApp:
    """``GET`` and ``POST`` of :data:`HANDOVER_PATH`; the answer is the duty as it is then."""

    async def look(request: Request) -> Response:
        return _answer(await desk.for_operator(handover.duty))

    async def begin(request: Request) -> Response:
        wanted = await read_value(request, HandoverRequest)
        if wanted.cancel or wanted.node is None:
            return _answer(await desk.for_operator(handover.cancel))
        return _answer(await desk.for_operator(handover.begin, wanted.node))

    return build_app(
        [Route(HANDOVER_PATH, look, methods=["GET"]), Route(HANDOVER_PATH, begin, methods=["POST"])],
    )


def _answer(duty: Duty) -> Response:
    return JSONResponse(duty.model_dump(mode="json"))


class Fence:
    """ASGI application of operators: ``handover`` has its path, the rest goes to ``app`` if it may.

    :param duty: as it was when the service began to do what it does.
    """

    def __init__(self, app: ASGIApp, handover: ASGIApp, duty: Duty) -> None:
        self._app, self._handover, self._duty = app, handover, duty

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] == HANDOVER_PATH:
            await self._handover(scope, receive, send)
            return
        try:
            if scope["type"] == "http" and scope["method"] not in LOOKS and scope["path"] not in PURE:
                receive = await self._check(scope, receive)
        except Conflict as error:
            await JSONResponse(error.to_dict(), 409)(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive) -> Receive:
        """:raises Conflict: it is not done. :returns: the body, which may have been read."""
        refuse_writing(self._duty)
        own, path = self._duty.own_node, scope["path"]
        if not own or ITSELF in QueryParams(scope.get("query_string", b"")):
            return receive
        found = TAKES_AWAY.match(path)
        if found and found[1] == own:
            if found[2] != "power":
                raise _itself(own, found[2])
            body, receive = await _read(receive)
            if _json(body).get("want") not in HARMLESS_POWER:
                raise _itself(own, f"power {_json(body).get('want')}")
        elif path == APPLY:
            body, receive = await _read(receive)
            if own in _taken(_json(body)):
                raise _itself(own, "apply")
        return receive


def refuse_writing(duty: Duty) -> None:
    """:raises Conflict: these records are not in force."""
    if duty.state.in_force:
        return
    if duty.state is DutyState.TOMBSTONE:
        raise Conflict(
            "this service is the master no more",
            where=duty.node,
            cause=f"the duty went to {duty.node}, in epoch {duty.epoch}; these records are as they were then",
            hint=f"ask the service on {duty.node}: it answers at the address that this one had for nodes",
        )
    hint = "provisioner handover --status" + (" or --cancel" if duty.state.may_cancel else "")
    raise Conflict("nothing is changed while the duty is handed over", where=duty.node, hint=hint)


def _itself(node: str, verb: str) -> Conflict:
    return Conflict(
        "this is the node that the service itself runs on",
        where=node,
        cause=f"{verb} would take the service away in the middle of what it does",
        hint="add --self to the command if that is what you want",
    )


def _taken(plan: dict[str, Any]) -> set[str]:
    """The nodes that a plan takes away or writes anew."""
    taken: set[str] = set()
    for action in plan.get("actions", ()):
        if isinstance(action, dict) and action.get("kind") in TAKES:
            placement = action.get("placement")
            taken |= {str(action.get("node")), str(placement.get("node")) if isinstance(placement, dict) else ""}
    return taken


def _json(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body or b"{}")
    except ValueError:
        return {}  # it is refused where it is read
    return found if isinstance(found, dict) else {}


async def _read(receive: Receive) -> tuple[bytes, Receive]:
    """The whole body, and the same again for the application."""
    messages: list[Message] = []
    body = bytearray()
    while True:
        message = await receive()
        messages.append(message)
        body += message.get("body", b"")
        if message["type"] != "http.request" or not message.get("more_body", False):
            break

    async def again() -> Message:
        return messages.pop(0) if messages else await receive()

    return bytes(body), again
