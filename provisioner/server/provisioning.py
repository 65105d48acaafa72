"""What nodes see: boot scripts and images over HTTP, the two agents and images again over TLS."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import NotFound, UsageError
from provisioner.model.hardware import MAC
from provisioner.server.answers import build_app, read_map, read_number
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk, ForGuests
from provisioner.server.guard import GuestGuard, Nonces, token_id, topics
from provisioner.server.limits import Buckets, peer_of
from provisioner.store.permits import ANY_PERMIT
from provisioner_agent.protocol.messages import (
    BETWEEN,
    HELLO,
    IMAGES,
    METADATA,
    ORDER,
    PERMIT,
    PROGRESS,
    REPORT,
    RESULT,
)

BLOCK = 1 << 20
"""Bytes read and sent at once: one thread hand-over for each, so few of them for 400 MB."""
KNOWN_PATHS = 512
BOOT_RATE, BOOT_BURST = 50.0, 2000.0
"""Boot scripts that one address may ask for a second, and at once; a whole rack may be behind one."""

PathOf = Callable[[str, str], Path]
"""(image id, file name) → the file, if the catalogue lists it; raises NotFound or ImageError."""


class _BigBlocks(FileResponse):
    chunk_size = BLOCK

    def __init__(self, path: Path, found: os.stat_result) -> None:
        super().__init__(path, stat_result=found, media_type="application/octet-stream")


class _Counted(_BigBlocks):
    """Says how many bytes were sent when whoever fetched it has all, or is gone.

    :param told: hears the number.
    """

    def __init__(self, path: Path, found: os.stat_result, told: Callable[[int], Awaitable[None]]) -> None:
        super().__init__(path, found)
        self._told = told

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sent = 0
        gone = asyncio.create_task(_until_gone(receive))

        async def counted(message: Message) -> None:
            nonlocal sent
            await send(message)
            sent += 0 if gone.done() else len(message.get("body", b""))

        try:
            await super().__call__(scope, receive, counted)
        finally:
            gone.cancel()
            await self._told(sent)


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def boot_app(conductor: ForGuests, path_of: PathOf, desk: Desk, now: Callable[[], float] = time.monotonic) -> ASGIApp:
    """For firmware, which knows nobody yet: boot scripts, and what they load."""

    buckets = Buckets(BOOT_RATE, BOOT_BURST)

    async def boot_script(request: Request) -> Response:
        if not buckets.take(peer_of(request.scope), now()):
            return PlainTextResponse("too many requests", 429, {"retry-after": "1"})
        mac = request.path_params["mac"].lower().replace("-", ":")
        if not MAC.match(mac):
            raise UsageError("not a MAC address", where=request.url.path)
        script = await desk.for_guest(conductor.boot_script, mac, peer_of(request.scope))
        if script is None:
            raise NotFound("no boot script is due to this node", where=mac)
        return PlainTextResponse(script)

    files = _Images(path_of, desk)

    async def file(request: Request) -> Response:
        """Kernel or initramfs of the ramdisk: how much of it a node got is the evidence of its boot."""
        path, found = await files.find(request)
        peer = peer_of(request.scope)

        async def told(sent: int) -> None:
            message = f"it fetched {path.name}: {sent} of {found.st_size} bytes"
            await desk.for_guest(conductor.seen_on_wire, peer, "boot.fetched", message)

        return _Counted(path, found, told)

    return build_app(
        [
            Route("/boot/{mac}", boot_script, methods=["GET"]),
            Route(IMAGES + "/{image}/{name}", file, methods=["GET"]),
        ]
    )


def agent_app(
    conductor: ForGuests, path_of: PathOf, desk: Desk, changes: Changes, now: Callable[[], float] = time.monotonic
) -> ASGIApp:
    """For the agents; to be served by TLS. Their own paths are authenticated besides: see :mod:`.guard`."""
    guests = _Guests(conductor, desk, changes)
    files = _Images(path_of, desk)

    async def file(request: Request) -> Response:
        return _BigBlocks(*await files.find(request))

    app = build_app(
        [
            Route(IMAGES + "/{image}/{name}", file, methods=["GET"]),
            Route(HELLO, guests.hello, methods=["POST"]),
            Route(ORDER, guests.order, methods=["GET"]),
            Route(PROGRESS, guests.told(conductor.progress), methods=["POST"]),
            Route(RESULT, guests.told(conductor.result), methods=["POST"]),
            Route(METADATA, guests.metadata, methods=["GET"]),
            Route(REPORT, guests.told(conductor.report), methods=["POST"]),
            Route(PERMIT, guests.permit, methods=["POST"]),
        ]
    )

    async def guest_of(ident: str, kind: str) -> tuple[str, frozenset[str]]:
        return await desk.for_guest(conductor.guest, ident, kind)

    return GuestGuard(app, guest_of, Nonces(), now)


class _Guests:
    def __init__(self, conductor: ForGuests, desk: Desk, changes: Changes) -> None:
        self._conductor = conductor
        self._desk = desk
        self._changes = changes

    async def hello(self, request: Request) -> Response:
        ident, message = token_id(request), await read_map(request)
        return JSONResponse(await self._desk.for_guest(self._conductor.hello, ident, message, peer_of(request.scope)))

    async def order(self, request: Request) -> Response:
        ident = token_id(request)
        order = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.order, ident),
            bool,
            read_number(request, "wait", 0),
            topics(request),
        )
        return JSONResponse({"order": order} if order else {})

    async def metadata(self, request: Request) -> Response:
        ident, since = token_id(request), int(read_number(request, "since", 0))
        have = tuple(request.query_params.get("have", "").split(BETWEEN))
        found = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.metadata, ident, since, have),
            bool,
            read_number(request, "wait", 0),
            topics(request),
        )
        return Response(found or "{}", media_type="application/json")

    async def permit(self, request: Request) -> Response:
        """An acquire waits until it is granted; a release is answered at once."""
        ident, message = token_id(request), await read_map(request)
        wait = message.get("wait", 0)
        if not isinstance(wait, int | float) or isinstance(wait, bool) or wait < 0:
            raise UsageError("wait is not a number of seconds", where=request.url.path)
        acquires = message.get("action") == "acquire"
        answer = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.permit, ident, message),
            lambda said: not acquires or bool(said.get("granted")),
            wait,
            topics(request) | {ANY_PERMIT},
        )
        return JSONResponse(answer)

    def told(self, call: Callable[[str, dict[str, Any]], object]) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint that hands a message on and answers what ``call`` gives."""

        async def endpoint(request: Request) -> Response:
            return JSONResponse(await self._desk.for_guest(call, token_id(request), await read_map(request)))

        return endpoint


class _Images:
    """Files of images. What the catalogue said of a file is kept: images never change under their id."""

    def __init__(self, path_of: PathOf, desk: Desk) -> None:
        self._path_of = path_of
        self._desk = desk
        self._known: dict[tuple[str, str], Path] = {}

    async def find(self, request: Request) -> tuple[Path, os.stat_result]:
        """:raises NotFound: the catalogue has no such file, or no more."""
        key = (request.path_params["image"], request.path_params["name"])
        path = self._known.get(key)
        if path is None:
            path = await self._desk.for_guest(self._path_of, *key)
            if len(self._known) >= KNOWN_PATHS:
                self._known.clear()
            self._known[key] = path
        try:
            found = await anyio.Path(path).stat()
        except FileNotFoundError:
            found = None
        if found is None or not stat.S_ISREG(found.st_mode):
            self._known.pop(key, None)
            raise NotFound("the image has been removed", where=request.url.path)
        return path, found
