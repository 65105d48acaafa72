"""The connection to the server: JSON both ways, authenticated both ways."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import urlsplit

from provisioner_agent.protocol import auth

LARGEST_ANSWER = 16 * 1024 * 1024


class ServerAway(Exception):
    """The server did not answer, or nobody can say that it was the server."""


class ForgedAnswer(ServerAway):
    """An answer came whose authentication does not hold; it was ignored."""


class Refused(Exception):
    """The server answered, and said no."""


class Link(Protocol):
    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        """One request.

        :param target: path and query. :param timeout: seconds without a byte until the server counts as away.
        :returns: the answer's JSON. :raises ServerAway: :raises Refused:
        """


class HttpLink:
    """The real link. ``token`` is ``ID.SECRET``; the secret is never sent."""

    def __init__(self, url: str, token: str) -> None:
        self.url = urlsplit(url)
        self.ident, self.secret = auth.split_token(token)

    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        target = self.url.path.rstrip("/") + target
        data = b"" if body is None else json.dumps(body).encode()
        nonce = auth.new_nonce()
        headers = {
            auth.ID_HEADER: self.ident,
            auth.NONCE_HEADER: nonce,
            auth.MAC_HEADER: auth.request_mac(self.secret, method, target, nonce, data),
            "Content-Type": "application/json",
        }
        status, answer, mac = self._exchange(method, target, data, headers, timeout)
        try:
            auth.check_mac(auth.answer_mac(self.secret, nonce, status, answer), mac)
        except auth.AuthError as error:
            if status >= 400 and mac is None:
                raise ServerAway(f"the server answered {status} without authentication") from error
            raise ForgedAnswer(f"an answer to {method} {target} was not from the server: {error}") from error
        return _parse(status, answer)

    def _exchange(
        self, method: str, target: str, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[int, bytes, str | None]:
        kind = http.client.HTTPSConnection if self.url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self.url.hostname or "", self.url.port, timeout=timeout)
        try:
            connection.request(method, target, body=data, headers=dict(headers))
            response = connection.getresponse()
            answer = response.read(LARGEST_ANSWER)
            return response.status, answer, response.getheader(auth.MAC_HEADER)
        except (OSError, http.client.HTTPException) as error:
            raise ServerAway(f"the server does not answer: {error or type(error).__name__}") from error
        finally:
            connection.close()


def _parse(status: int, answer: bytes) -> Any:
    try:
        value = json.loads(answer or b"{}")
    except ValueError as error:
        raise Refused(f"the server's answer is not JSON: {error}") from error
    if status >= 400:
        raise Refused(str(value.get("summary", status)) if isinstance(value, dict) else str(status))
    return value


Answer = Callable[[str, str, Mapping[str, Any]], Any]


class FakeLink:
    """A server in memory: ``answer(method, target, body)`` gives the JSON or raises; every call is recorded."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.calls: list[tuple[str, str, dict[str, Any]]] = []

    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        self.calls.append((method, target, dict(body or {})))
        return self.answer(method, target, dict(body or {}))
