"""The connection to the server: JSON both ways, authenticated both ways."""

from __future__ import annotations

import http.client
import json
import select
import socket
from collections.abc import Callable, Mapping
from typing import Any, Protocol
from urllib.parse import SplitResult

from provisioner_agent.protocol import auth
from provisioner_agent.protocol.servers import Servers, StaleServer

LARGEST_ANSWER = 16 * 1024 * 1024
CONNECT_SECONDS = 30.0
"""Until an address at which nobody is counts as away; a question may be held open for much longer."""


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

    def close(self) -> None:
        """Drop the connections that were kept open; the next request makes a new one."""


class RamdiskLink(Link, Protocol):
    def speak_under(self, secret: str) -> None:
        """From now on messages and answers are authenticated by another secret."""


class HttpLink:
    """The real link. ``token`` is ``ID.SECRET``; the secret is never sent. May be used by several threads."""

    def __init__(self, servers: Servers, token: str) -> None:
        self.ident, self.secret = auth.split_token(token)
        self._servers = servers
        self._idle: list[tuple[SplitResult, http.client.HTTPConnection]] = []
        """Connections that were kept open; to make one with TLS costs both ends more than what is said over it."""

    def speak_under(self, secret: str) -> None:
        self.secret = secret

    def close(self) -> None:
        while self._idle:
            self._idle.pop()[1].close()

    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        data = b"" if body is None else json.dumps(body).encode()
        target = f"{target}{'&' if '?' in target else '?'}{auth.EPOCH_QUERY}={self._servers.epoch}"
        nonce = auth.new_nonce()
        headers = {
            auth.ID_HEADER: self.ident,
            auth.NONCE_HEADER: nonce,
            auth.MAC_HEADER: auth.request_mac(self.secret, method, target, nonce, data),
            "Content-Type": "application/json",
        }
        url, status, answer, said = self._send(method, target, data, headers, timeout)
        mac, master = said[auth.MAC_HEADER] or None, said[auth.MASTER_HEADER]
        try:
            auth.check_mac(auth.answer_mac(self.secret, nonce, status, answer, master), mac)
        except auth.AuthError as error:
            if status >= 400 and mac is None:
                self._servers.is_away(url)  # such as one that is the master no more
                raise ServerAway(f"the server answered {status} without authentication") from error
            raise ForgedAnswer(f"an answer to {method} {target} was not from the server: {error}") from error
        if master:
            try:
                self._servers.hear(url, master)
            except (StaleServer, ValueError) as error:
                raise ServerAway(f"an answer was ignored: {error}") from error
        return _parse(status, answer)

    def _send(
        self, method: str, target: str, data: bytes, headers: Mapping[str, str], timeout: float
    ) -> tuple[SplitResult, int, bytes, Mapping[str, str]]:
        kept = self._kept(timeout)
        if kept is not None:
            try:
                return self._exchange(*kept, method, target, data, headers)
            except (OSError, http.client.HTTPException):
                pass  # it was closed meanwhile; if the message was heard all the same, this one is refused as its echo
        url = self._servers.at_hand
        try:
            return self._exchange(url, self._servers.open(timeout), method, target, data, headers)
        except (OSError, http.client.HTTPException) as error:
            self._servers.is_away(url)
            raise ServerAway(f"the server does not answer: {error or type(error).__name__}") from error

    def _kept(self, timeout: float) -> tuple[SplitResult, http.client.HTTPConnection] | None:
        """A connection to the server at hand that is open and that nobody uses."""
        while True:
            try:
                url, connection = self._idle.pop()
            except IndexError:
                return None
            if url == self._servers.at_hand and connection.sock is not None and not _has_ended(connection.sock):
                connection.sock.settimeout(timeout)
                return url, connection
            connection.close()

    def _exchange(
        self,
        url: SplitResult,
        connection: http.client.HTTPConnection,
        method: str,
        target: str,
        data: bytes,
        headers: Mapping[str, str],
    ) -> tuple[SplitResult, int, bytes, Mapping[str, str]]:
        try:
            if not connection.sock:
                patience = connection.timeout
                connection.timeout = CONNECT_SECONDS if patience is None else min(patience, CONNECT_SECONDS)
                connection.connect()
                connection.sock.settimeout(patience)
                watch_peer(connection.sock)
            connection.request(method, target, body=data, headers=dict(headers))
            response = connection.getresponse()
            answer = response.read(LARGEST_ANSWER)
            if response.isclosed() and not response.will_close:
                self._idle.append((url, connection))
            else:
                connection.close()
            said = {name: response.getheader(name) or "" for name in (auth.MAC_HEADER, auth.MASTER_HEADER)}
            return url, response.status, answer, said
        except BaseException:
            connection.close()
            raise


def watch_peer(door: socket.socket) -> None:
    """Let the kernel find out whether the other end is still there, also while nothing is said (tcp(7)).

    A request may be held open for minutes; a server whose power failed says no word of it.
    """
    door.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 5), (socket.TCP_KEEPCNT, 3)):
        door.setsockopt(socket.IPPROTO_TCP, option, value)
    door.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 35_000)


def _has_ended(door: socket.socket) -> bool:
    """Whether the other end has closed it: there is something to read although nothing was asked."""
    return bool(select.select([door], [], [], 0)[0])


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
        self.secret = ""

    def speak_under(self, secret: str) -> None:
        self.secret = secret

    def close(self) -> None:
        """It has no connections."""

    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        self.calls.append((method, target, dict(body or {})))
        return self.answer(method, target, dict(body or {}))
