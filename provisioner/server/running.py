"""The listeners at work: both applications in one event loop, until the service is told to end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket

import uvicorn
from starlette.types import ASGIApp

GRACE = 5
"""Seconds that requests under way get when the service ends."""


@dataclass(frozen=True)
class Served:
    """An application and the socket that it answers on; by TLS if there is a certificate."""

    app: ASGIApp
    socket: socket
    certificate: Path | None = None
    key: Path | None = None


class _Listener(uvicorn.Server):
    """uvicorn without its signal handlers: the service has its own, one for both listeners."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listener(served: Served) -> _Listener:
    return _Listener(
        uvicorn.Config(
            served.app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE,
            ssl_certfile=served.certificate,
            ssl_keyfile=served.key,
        )
    )


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
        for listener in listeners:
            listener.should_exit = True
        await asyncio.gather(*work)
