"""What the listeners make of what comes over a connection, before anybody is known."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from socket import create_server

import pytest
from starlette.types import Receive, Scope, Send

from provisioner.server.running import LARGEST_HEAD, Served, answer

Door = tuple[asyncio.StreamReader, asyncio.StreamWriter]
PIECE = b"X-Field: " + b"a" * 1000 + b"\r\n"
POST = b"POST / HTTP/1.1\r\nHost: seed\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"
BODY = b"x" * 20_000


async def count(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers how many bytes the body has."""
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    said = str(size).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(said))]})
    await send({"type": "http.response.body", "body": said})


def over_a_connection(work: Callable[[Door], Awaitable[None]]) -> None:
    async def run() -> None:
        stop, ready = asyncio.Event(), asyncio.Event()
        with create_server(("127.0.0.1", 0)) as door:
            serving = asyncio.create_task(answer([Served(count, door)], stop, ready=ready.set, ending=lambda: None))
            await ready.wait()
            reader, writer = await asyncio.open_connection(*door.getsockname())
            try:
                await work((reader, writer))
            finally:
                writer.close()
                stop.set()
                await serving

    asyncio.run(run())


@pytest.mark.parametrize("begin", [POST, CHUNKED + b"0\r\n"], ids=["before a body", "after a body"])
def test_fields_without_end_are_cut_off(begin: bytes) -> None:
    async def work(door: Door) -> None:
        reader, writer = door
        writer.write(begin)
        said = asyncio.create_task(reader.read())
        for _ in range(20 * LARGEST_HEAD // len(PIECE)):
            if said.done():
                break
            writer.write(PIECE)
            await asyncio.sleep(0.001)
        assert b" 400 " in (await asyncio.wait_for(said, 10)).splitlines()[0]

    over_a_connection(work)


def test_large_bodies_come_through_one_after_another() -> None:
    async def work(door: Door) -> None:
        reader, writer = door
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(BODY), BODY) for _ in range(20)) + b"0\r\n\r\n"
        plain = POST + b"Content-Length: %d\r\n\r\n%s" % (20 * len(BODY), 20 * BODY)
        for message in (CHUNKED + chunks, plain, CHUNKED + chunks + plain):
            writer.write(message)
            for _ in range(message.count(b"POST")):
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
                assert b" 200 " in head.splitlines()[0]
                assert await reader.readexactly(6) == b"400000"

    over_a_connection(work)
