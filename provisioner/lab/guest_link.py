"""One connection to the service, as thousands of simulated guests keep it: a little HTTP/1.1 (RFC 9112)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from provisioner_agent.protocol import auth

AWAY = (OSError, EOFError, TimeoutError, ValueError, auth.AuthError)
"""What the service does that is away, or was ended in the middle of an answer."""


NOT_THE_MASTER = 503
ANSWER_SECONDS = 60.0
AWAY_SECONDS = 2.0


class GuestLink:
    """Opened at the first request, and again after a fault, then to the next address. Requests are made one after the
    other.

    :param urls: of the services. :param trust: what their certificates must be of; not needed for ``http``.
    """

    def __init__(self, urls: Sequence[str], trust: ssl.SSLContext | None = None) -> None:
        self._trust = trust
        self._urls = deque(urlsplit(url) for url in urls)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    def __enter__(self) -> GuestLink:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    async def get(self, target: str, timeout: float) -> tuple[int, bytes]:
        """(status, body). :raises OSError: and others of :data:`AWAY`: the service is away."""
        status, answer, _ = await self._exchange("GET", target, b"", {}, timeout)
        return status, answer

    async def call(
        self, token: str, method: str, target: str, body: Mapping[str, Any] | None, timeout: float
    ) -> dict[str, Any] | None:
        """A guest's message, authenticated both ways.

        :param token: ``ID.SECRET``. :returns: None when it was refused. :raises OSError: as above.
        """
        ident, _, secret = token.partition(".")
        data = b"" if body is None else json.dumps(body).encode()
        nonce = auth.new_nonce()
        headers = {
            auth.ID_HEADER: ident,
            auth.NONCE_HEADER: nonce,
            auth.MAC_HEADER: auth.request_mac(secret, method, target, nonce, data),
        }
        status, answer, mac = await self._exchange(method, target, data, headers, timeout)
        if status == NOT_THE_MASTER:
            self.turn()
            raise ConnectionRefusedError("this service is not the master")
        if status >= 400:
            return None
        auth.check_mac(auth.answer_mac(secret, nonce, status, answer), mac)
        found = json.loads(answer or b"{}")
        return found if isinstance(found, dict) else {}

    async def say(
        self,
        token: str,
        method: str,
        target: str,
        body: Mapping[str, Any] | None = None,
        seconds: float = ANSWER_SECONDS,
    ) -> dict[str, Any] | None:
        """As :meth:`call`, again and again until the service takes or refuses it."""
        while True:
            try:
                return await self.call(token, method, target, body, seconds)
            except AWAY:
                await asyncio.sleep(AWAY_SECONDS)

    def turn(self) -> None:
        """Leave this service, and go on with the next."""
        self._urls.rotate(-1)
        self.close()

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _exchange(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, str | None]:
        try:
            async with asyncio.timeout(timeout):
                return await self._send(method, target, body, headers)
        except BaseException:
            with contextlib.suppress(OSError):
                self.turn()
            raise

    async def _send(
        self, method: str, target: str, body: bytes, headers: Mapping[str, str]
    ) -> tuple[int, bytes, str | None]:
        url = self._urls[0]
        if self._streams is None:
            trust = self._trust if url.scheme == "https" else None
            self._streams = await asyncio.open_connection(url.hostname, url.port, ssl=trust)
        reader, writer = self._streams
        lines = [f"{method} {target} HTTP/1.1", f"Host: {url.hostname}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await writer.drain()
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        given = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
        answer = await reader.readexactly(int(given.get("content-length", "0")))
        if given.get("connection", "").lower() == "close":
            self.close()
        return int(head[0].split(" ")[1]), answer, given.get(auth.MAC_HEADER.lower())
