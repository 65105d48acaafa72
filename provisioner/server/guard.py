"""Authentication of guests: every message of theirs and every answer to them carries a MAC over the token's secret.

A message that does not hold gets 401 and no word about why. A message that was heard before does not hold either; the
nonces that were heard are kept in memory, the newest :data:`NONCES` of each token, until the service ends.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from provisioner.errors import NotFound, TrustError
from provisioner.server.limits import Buckets, peer_of
from provisioner_agent.protocol.auth import (
    EPOCH_QUERY,
    ID_HEADER,
    MAC_HEADER,
    MASTER_HEADER,
    NONCE_HEADER,
    AuthError,
    answer_mac,
    check_mac,
    request_mac,
)
from provisioner_agent.protocol.messages import HELLO, ORDER, PROGRESS, RESULT

GUARDED = "/agent/"
KINDS = {HELLO: "hello", ORDER: "boot", PROGRESS: "boot", RESULT: "boot"}
"""Paths of the ramdisk agent; all other guarded paths are the config agent's."""
MAX_BODY = 1 << 20
BODY_SECONDS = 30.0
PIECE = 4096
"""Bytes of an answer that are handed on at once: by TLS a connection keeps as much memory as its largest piece took."""
RATE, BURST = 20.0, 200.0
"""Messages a second that one guest may send, and at once after a pause; one at work sends two."""
GUESS_RATE, GUESS_BURST = 50.0, 500.0
"""The same of an address whose messages do not hold; a whole rack may be behind one."""
NONCES = 20_000
TOKENS = 10_000
NONCE = re.compile(r"^[0-9a-f]{32}$")
IDENT = re.compile(r"^[A-Za-z0-9_-]{1,64}$")

GuestOf = Callable[[str, str], Awaitable[tuple[str, frozenset[str]]]]
"""(token id, ``hello``, ``boot`` or ``instance``) → (the guest's secret, topics that concern it); raises NotFound or
TrustError."""


class Refused(Exception):
    """The message is answered with ``status`` alone."""

    def __init__(self, status: int, summary: str) -> None:
        super().__init__(summary)
        self.status = status


class Nonces:
    """Nonces heard, by token; the oldest are forgotten first."""

    def __init__(self, each: int = NONCES, tokens: int = TOKENS) -> None:
        self._each = each
        self._tokens = tokens
        self._heard: OrderedDict[str, OrderedDict[bytes, None]] = OrderedDict()

    def hear(self, token_id: str, nonce: str) -> bool:
        """Remember a nonce; False when it was heard before."""
        heard = self._heard.setdefault(token_id, OrderedDict())
        self._heard.move_to_end(token_id)
        key = bytes.fromhex(nonce)
        if key in heard:
            return False
        heard[key] = None
        if len(heard) > self._each:
            heard.popitem(last=False)
        if len(self._heard) > self._tokens:
            self._heard.popitem(last=False)
        return True


@dataclass(frozen=True, slots=True)
class Call:
    """A message whose authentication holds: the id of its token, the topics that its guest is to hear of, the address
    that it comes from, and what it says."""

    token: str
    topics: frozenset[str]
    peer: str
    method: str
    path: str
    query: str
    body: bytes


Doubt = Callable[[str, int], Awaitable[None]]
Reply = Callable[[Call], Awaitable[tuple[int, bytes]]]
"""A call → (HTTP status, JSON)."""


class GuestGuard:
    """ASGI application: what is under :data:`GUARDED` goes to ``reply`` if it is authentic, all else to ``app``.

    :param master: what guests that ask for it are told: ``EPOCH URL,URL``; empty for nothing.
    :param only: how guarded paths begin that are answered, where the service is not the master; empty for all.
    :param doubt: hears of a guest, by its token's id, that has heard of a greater epoch than ours.
    """

    def __init__(
        self,
        app: ASGIApp,
        reply: Reply,
        guest_of: GuestOf,
        nonces: Nonces,
        now: Callable[[], float] = time.monotonic,
        *,
        master: str = "",
        only: str = "",
        doubt: Doubt | None = None,
    ) -> None:
        self._app = app
        self._reply = reply
        self._master, self._only, self._doubt = master, only, doubt
        self._now = now
        self._known, self._guesses = Buckets(RATE, BURST), Buckets(GUESS_RATE, GUESS_BURST)
        self._guest_of = guest_of
        self._nonces = nonces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        try:
            if self._only and not scope["path"].startswith(self._only):
                raise Refused(503, "this service is not the master")
            body = await _read_body(headers, receive)
            secret, topics = await self._check(scope, headers, body)
        except Refused as refused:
            said = {"error": "Refused", "summary": str(refused)}
            await JSONResponse(said, refused.status, {"connection": "close"})(scope, receive, send)
            return
        query = scope.get("query_string", b"").decode("latin-1")
        call = Call(headers[ID_HEADER], topics, peer_of(scope), scope["method"], scope["path"], query, body)
        epoch = _epoch(query)
        if epoch is not None and self._master and self._doubt and epoch > int(self._master.partition(" ")[0]):
            await self._doubt(call.token, epoch)
        status, answer = await self._reply(call)
        master = "" if epoch is None else self._master
        mac = answer_mac(secret, headers[NONCE_HEADER], status, answer, master)
        await _send_signed(send, status, answer, mac, master)

    async def _check(self, scope: Scope, headers: Headers, body: bytes) -> tuple[str, frozenset[str]]:
        """The secret under which the message holds, and the topics of its guest."""
        peer = peer_of(scope)
        if not self._guesses.has(peer, self._now()):
            raise Refused(429, "too many messages that are not authenticated")
        token_id, nonce = headers.get(ID_HEADER, ""), headers.get(NONCE_HEADER, "")
        # A MAC is computed for unknown tokens too: how long the refusal takes says nothing about them.
        secret, topics = secrets.token_hex(16), frozenset[str]()
        known = bool(IDENT.match(token_id))
        if known:
            try:
                secret, topics = await self._guest_of(token_id, KINDS.get(scope["path"], "instance"))
            except (NotFound, TrustError):
                known = False
        holds = False
        with suppress(AuthError):
            check_mac(request_mac(secret, scope["method"], _target(scope), nonce, body), headers.get(MAC_HEADER))
            holds = True
        if not (known and holds and NONCE.match(nonce) and self._nonces.hear(token_id, nonce)):
            self._guesses.take(peer, self._now())
            raise Refused(401, "not authenticated")
        if not self._known.take(token_id, self._now()):
            raise Refused(429, "too many messages")
        return secret, topics


def _target(scope: Scope) -> str:
    """Path and query exactly as they were sent."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (path + (b"?" + query if query else b"")).decode("latin-1")


async def _read_body(headers: Headers, receive: Receive) -> bytes:
    """The whole body; it is read before the sender is known, so its size and time are limited."""
    length = headers.get("content-length", "0")
    if not length.isdigit() or int(length) > MAX_BODY:
        raise Refused(413, "the message is too large")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Refused(400, "the message is not complete")
                body += message.get("body", b"")
                if len(body) > MAX_BODY:
                    raise Refused(413, "the message is too large")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError:
        raise Refused(408, "the message did not come in time") from None


def _epoch(query: str) -> int | None:
    """Which epoch the guest knows; None of one that is older than epochs are."""
    said = dict(parse_qsl(query)).get(EPOCH_QUERY, "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 10 else None


async def _send_signed(send: Send, status: int, body: bytes, mac: str, master: str) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (MAC_HEADER.lower().encode(), mac.encode()),
        *([(MASTER_HEADER.lower().encode(), master.encode())] if master else []),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for at in range(0, max(len(body), 1), PIECE):
        more = at + PIECE < len(body)
        await send({"type": "http.response.body", "body": body[at : at + PIECE], "more_body": more})
