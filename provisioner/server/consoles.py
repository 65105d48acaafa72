"""Serial consoles over HTTP: a response that goes on for as long as somebody looks, and posts of what is typed."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from provisioner.bmc.contract import Console
from provisioner.errors import NotFound, ProvisionerError
from provisioner.server.desk import ForOperators

P = ParamSpec("P")
T = TypeVar("T")

HEADER = "x-console"
AT_ONCE = 32
LONGEST = 64 << 10
"""Bytes typed in one post."""
ERROR = b"\0error "
"""Begins the last line of a console that ended by an error; the rest of the line is its JSON."""


class Consoles:
    """Those that are open, by an id that only who opened one knows."""

    def __init__(self, conductor: ForOperators) -> None:
        self._conductor = conductor
        self._open: dict[str, Console] = {}
        self._threads = ThreadPoolExecutor(AT_ONCE * 2, thread_name_prefix="console")

    async def show(self, request: Request) -> Response:
        """What the node writes, as it does; closed when the client goes away."""
        console = await self._call(self._conductor.console, request.path_params["name"])
        ident = secrets.token_hex(16)
        self._open[ident] = console
        return StreamingResponse(
            self._bytes(ident, console), media_type="application/octet-stream", headers={HEADER: ident}
        )

    async def type(self, request: Request) -> Response:
        console = self._open.get(request.path_params["id"])
        if console is None:
            raise NotFound("there is no such console", where="console", hint="it has ended; open another")
        data = b""
        async for chunk in request.stream():
            data += chunk
            if len(data) > LONGEST:
                break
        await self._call(console.write, data[:LONGEST])
        return Response(status_code=204)

    async def _bytes(self, ident: str, console: Console) -> AsyncIterator[bytes]:
        try:
            while data := await self._call(console.read):
                yield data
        except ProvisionerError as error:
            yield ERROR + json.dumps(error.to_dict()).encode() + b"\n"
        finally:
            self._open.pop(ident, None)
            self._threads.submit(console.close)

    async def _call(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*args, **kwargs))
