"""What nodes see: boot scripts and images over HTTP, the two agents and images again over TLS."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import NotFound, UsageError
from provisioner.model.hardware import MAC
from provisioner.server.answers import build_app
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk, ForGuests, Known
from provisioner.server.gather import Gather
from provisioner.server.guard import GuestGuard, Nonces
from provisioner.server.handover import Handover
from provisioner.server.limits import Buckets, peer_of
from provisioner.server.messages import GuestMessages
from provisioner_agent.protocol.messages import ARCHIVE, HANDOVER, IMAGES

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
    conductor: ForGuests,
    path_of: PathOf,
    desk: Desk,
    changes: Changes,
    now: Callable[[], float] = time.monotonic,
    *,
    handover: Handover | None = None,
    master: str = "",
    frozen: bool = False,
) -> ASGIApp:
    """For the agents; to be served by TLS. Their own paths are authenticated besides: see :mod:`.guard`.

    :param handover: for the next master. :param master: what guests are told of this one, ``EPOCH URL,URL``.
    :param frozen: whether nobody else is answered.
    """
    files = _Images(path_of, desk)

    async def file(request: Request) -> Response:
        return _BigBlocks(*await files.find(request))

    async def archive(request: Request) -> Response:
        assert handover is not None
        path = await desk.for_guest(handover.archive, request.path_params["ticket"])
        return _BigBlocks(path, await anyio.Path(path).stat())

    async def doubt(token: str, epoch: int) -> None:
        assert handover is not None
        if token not in doubted:
            doubted.add(token)
            await desk.for_guest(handover.doubt, token, epoch)

    doubted: set[str] = set()
    more = [] if handover is None else [Route(ARCHIVE + "/{ticket}", archive, methods=["GET"])]
    app = build_app([Route(IMAGES + "/{image}/{name}", file, methods=["GET"]), *more])
    guest_of = Gather[tuple[str, str], Known](lambda asks: desk.for_guest(conductor.guests, asks))
    messages = GuestMessages(conductor, desk, changes, handover)
    return GuestGuard(
        app,
        messages,
        lambda ident, kind: guest_of((ident, kind)),
        Nonces(),
        now,
        master=master,
        only=HANDOVER if frozen else "",
        doubt=None if handover is None else doubt,
    )


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
