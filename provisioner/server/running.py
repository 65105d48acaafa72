"""The listeners at work: both applications in one event loop, until the service is told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

RENEW_SECONDS = 12 * 3600.0
"""Between two looks at the certificates."""
LARGEST_HEAD = 64 << 10
"""Bytes of a request line and its headers."""
GRACE = 5
"""Seconds that requests under way get when the service ends."""


@dataclass(frozen=True)
class Served:
    """An application and the socket that it answers on; by TLS if ``certify`` gives a certificate and its key."""

    app: ASGIApp
    socket: socket
    certify: Callable[[], tuple[Path, Path]] | None = None


class _Http(HttpToolsProtocol):
    """With a limit for what is no body, of which its parser would keep as much as somebody sends: heads, and the
    fields that may follow the last chunk of a body (RFC 9112, section 7.1.2)."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head = 0

    def data_received(self, data: bytes) -> None:
        self._head += len(data)
        super().data_received(data)
        if self._head > LARGEST_HEAD and not self.transport.is_closing():
            self.send_400_response("the head of the request is too large")

    def on_headers_complete(self) -> None:
        self._head = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._head = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._head = 0
        super().on_message_complete()


class _Listener(uvicorn.Server):
    """uvicorn without its signal handlers: the service has its own, one for both listeners."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def shutdown(self, sockets: list[socket] | None = None) -> None:
        """Connections that nobody uses end at once: by TLS it would be waited until the other side has said so, too."""
        for connection in list(self.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if (cycle is None or cycle.response_complete) and connection.transport is not None:
                connection.transport.abort()
        await super().shutdown(sockets)


def _listener(served: Served) -> _Listener:
    certificate, key = served.certify() if served.certify else (None, None)
    return _Listener(
        uvicorn.Config(
            served.app,
            http=_Http,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=certificate,
            ssl_keyfile=key,
        )
    )


async def _renew(pairs: Sequence[tuple[_Listener, Served]]) -> None:
    """A service that runs for a year shows a fresh certificate before the old one has run out."""
    while True:
        await asyncio.sleep(RENEW_SECONDS)
        for listener, served in pairs:
            if served.certify is not None and listener.config.ssl is not None:
                listener.config.ssl.load_cert_chain(*await asyncio.to_thread(served.certify))


async def answer(
    all_served: Sequence[Served], stop: asyncio.Event, *, ready: Callable[[], None], ending: Callable[[], None]
) -> None:
    """Answer on every socket until ``stop`` is set, or a listener dies of an error, which is raised.

    :param ready: called when all listeners answer. :param ending: called before they end; wakes what waits.
    """
    listeners = [_listener(served) for served in all_served]
    work = [
        asyncio.create_task(listener.serve(sockets=[served.socket]))
        for listener, served in zip(listeners, all_served, strict=True)
    ]
    renewing = asyncio.create_task(_renew(list(zip(listeners, all_served, strict=True))))
    stopped = asyncio.create_task(stop.wait())
    try:
        while not all(listener.started for listener in listeners) and not any(task.done() for task in work):
            await asyncio.sleep(0.01)
        if not any(task.done() for task in work):
            ready()
        await asyncio.wait([*work, stopped], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ending()
        stopped.cancel()
        renewing.cancel()
        for listener in listeners:
            listener.should_exit = True
        await asyncio.gather(*work)
