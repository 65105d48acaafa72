"""Who asks, what that one may, how often, and what was done: before every request of an operator.

Over the unix socket it is root on this host, who may everything. From elsewhere a token says who it is.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from provisioner.errors import ProvisionerError, TrustError, UsageError
from provisioner.events import Event
from provisioner.model.operator import Operator, OperatorRole
from provisioner.server.limits import Buckets, peer_of

LARGEST_BODY = 64 << 20
"""Bytes; a plan for ten thousand nodes has a quarter of it."""
RATE, BURST = 50.0, 200.0
"""Requests a second that an operator may make, and at once after a pause."""
GUESS_RATE, GUESS_BURST = 1.0, 20.0
"""The same of an address that shows no valid token."""
LOOKS = frozenset({"GET", "HEAD"})
PURE = frozenset({"/v1/plan", "/v1/config/diff"})
"""Posted to, and nothing is changed."""
KEYS = "/v1/consoles/"
"""What is typed on a console comes one key at a time; that it was opened is on record."""
SECRET_PATHS = ("/v1/operators", "/v1/handover")
"""Also the duty of the site is an admin's: whoever gets it gets all keys."""
SECRET_PARTS = ("/secrets/", "/credentials")

Recognise = Callable[[str], Awaitable[Operator | None]]
Note = Callable[[Event], Awaitable[None]]


def needed_role(method: str, path: str) -> OperatorRole:
    """What one must be for a request."""
    if path.startswith(SECRET_PATHS) or any(part in path for part in SECRET_PARTS):
        return OperatorRole.ADMIN
    return OperatorRole.VIEW if method in LOOKS or path in PURE else OperatorRole.OPERATE


class OperatorGuard:
    """ASGI middleware of the operator API.

    :param recognise: whose token it is; None where nobody needs one, since only root reaches the socket.
    :param note: puts on record what was asked, and what came of it.
    """

    def __init__(
        self,
        app: ASGIApp,
        recognise: Recognise | None,
        note: Note,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app, self._recognise, self._note, self._now = app, recognise, note, now
        self._known, self._guesses = Buckets(RATE, BURST), Buckets(GUESS_RATE, GUESS_BURST)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method, path = scope["method"], scope["path"]
        try:
            operator = await self._who(scope)
            needed = needed_role(method, path)
            if not operator.role.includes(needed):
                said = TrustError(
                    f"{operator.name} may not do this",
                    where=f"{method} {path}",
                    cause=f"it needs the role {needed}; this token has {operator.role}",
                    hint="ask an admin of the site for another token",
                )
                await self._told(operator, scope, 403)
                raise _Refused(403, said)
            length = Headers(scope=scope).get("content-length", "0")
            if not length.isdigit() or int(length) > LARGEST_BODY:
                raise _Refused(413, UsageError("the request is too large", where=path, cause=f"{LARGEST_BODY} bytes"))
        except _Refused as refused:
            headers = {"retry-after": "1"} if refused.status == 429 else None
            answer = JSONResponse(refused.error.to_dict(), refused.status, headers)
            await answer(scope, receive, send)
            return
        answered = 0

        async def watched(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = message["status"]
            await send(message)

        try:
            await self._app(scope, _limited(receive), watched)
        finally:
            if method not in LOOKS and path not in PURE and not path.startswith(KEYS):
                await self._told(operator, scope, answered)

    async def _who(self, scope: Scope) -> Operator:
        """:raises _Refused: nobody who is known, or too often."""
        if self._recognise is None:
            return Operator(name="root", role=OperatorRole.ADMIN, created=0.0)
        peer, now = peer_of(scope), self._now()
        scheme, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
        operator = await self._recognise(token.strip()) if scheme.lower() == "bearer" else None
        if operator is None:
            if not self._guesses.take(peer, now):
                raise _Refused(429, _often(peer))
            await self._note(Event("operator.unknown", f"{peer} shows no valid token", data={"peer": peer}))
            hint = "set PROVISIONER_TOKEN_FILE to the file with your token"
            raise _Refused(401, TrustError("the token is not known, or has run out", hint=hint))
        if not self._known.take(operator.name, now):
            raise _Refused(429, _often(operator.name))
        return operator

    async def _told(self, operator: Operator, scope: Scope, status: int) -> None:
        message = f"{operator.name}: {scope['method']} {scope['path']} → {status or 'no answer'}"
        data = {
            "operator": operator.name,
            "role": str(operator.role),
            "peer": peer_of(scope) or "this host",
            "status": status,
        }
        await self._note(Event("operator.call", message, data=data))


class _Refused(Exception):
    def __init__(self, status: int, error: ProvisionerError) -> None:
        super().__init__(str(error))
        self.status, self.error = status, error


def _often(who: str) -> UsageError:
    return UsageError("too many requests", where=who, hint="wait a second, and ask less often")


def _limited(receive: Receive) -> Receive:
    """A body that is longer than it said is cut off."""
    taken = 0

    async def next_message() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        return message if taken <= LARGEST_BODY else {"type": "http.disconnect"}

    return next_message
