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

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import NotFound, TrustError
from provisioner.server.limits import Buckets, peer_of
from provisioner_agent.protocol.auth import (
    ID_HEADER,
    MAC_HEADER,
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
PIECE = 16_384
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


class GuestGuard:
    """ASGI middleware for the paths under :data:`GUARDED`. Behind it ``scope["token_id"]`` is the token's id, and
    ``scope["topics"]`` what its guest is to hear of."""

    def __init__(
        self, app: ASGIApp, guest_of: GuestOf, nonces: Nonces, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._app = app
        self._now = now
        self._known, self._guesses = Buckets(RATE, BURST), Buckets(GUESS_RATE, GUESS_BURST)
        self._guest_of = guest_of
        self._nonces = nonces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(GUARDED):
            await self._app(scope, receive, send)
            return
        try:
            body = await _read_body(scope, receive)
            secret, topics = await self._check(scope, body)
        except Refused as refused:
            said = {"error": "Refused", "summary": str(refused)}
            await JSONResponse(said, refused.status, {"connection": "close"})(scope, receive, send)
            return
        headers = Headers(scope=scope)
        answer = _SignedAnswer(send, secret, headers[NONCE_HEADER])
        known = {**scope, "token_id": headers[ID_HEADER], "topics": topics}
        await self._app(known, _replay(body, receive), answer)

    async def _check(self, scope: Scope, body: bytes) -> tuple[str, frozenset[str]]:
        """The secret under which the message holds, and the topics of its guest."""
        headers, peer = Headers(scope=scope), peer_of(scope)
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


def token_id(request: Request) -> str:
    """The authenticated token of a request behind the guard."""
    return str(request.scope["token_id"])


def topics(request: Request) -> frozenset[str]:
    """What the guest of a request behind the guard is to hear of."""
    found: frozenset[str] = request.scope["topics"]
    return found


def _target(scope: Scope) -> str:
    """Path and query exactly as they were sent."""
    path: bytes = scope.get("raw_path") or scope["path"].encode()
    query: bytes = scope.get("query_string", b"")
    return (path + (b"?" + query if query else b"")).decode("latin-1")


async def _read_body(scope: Scope, receive: Receive) -> bytes:
    """The whole body; it is read before the sender is known, so its size and time are limited."""
    length = Headers(scope=scope).get("content-length", "0")
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


def _replay(body: bytes, receive: Receive) -> Receive:
    given = False

    async def next_message() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return next_message


class _SignedAnswer:
    """Holds an answer back until it is whole, then sends it with its MAC."""

    def __init__(self, send: Send, secret: str, nonce: str) -> None:
        self._send = send
        self._secret = secret
        self._nonce = nonce
        self._start: Message = {}
        self._body = bytearray()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        self._body += message.get("body", b"")
        if not message.get("more_body", False):
            body = bytes(self._body)
            headers = MutableHeaders(raw=list(self._start.get("headers", [])))
            headers[MAC_HEADER] = answer_mac(self._secret, self._nonce, self._start["status"], body)
            await self._send({**self._start, "headers": headers.raw})
            for at in range(0, max(len(body), 1), PIECE):
                more = at + PIECE < len(body)
                await self._send({"type": "http.response.body", "body": body[at : at + PIECE], "more_body": more})
