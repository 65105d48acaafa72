"""Files of images over HTTP, by ranges (RFC 9110, section 14). What comes is checked by the caller, not here."""

from __future__ import annotations

import http.client
import socket
from contextlib import suppress
from typing import Protocol

from provisioner_agent.protocol.messages import IMAGES
from provisioner_agent.protocol.servers import Servers
from provisioner_agent.ramdisk.problem import OrderFailed

SILENT_SECONDS = 20.0


class Away(Exception):
    """The server does not answer, or has stopped in the middle; asked again it may go on."""


class Body(Protocol):
    """The bytes of one range as they come."""

    def readinto(self, buffer: memoryview) -> int:
        """:returns: bytes read, 0 at the end. :raises Away:"""

    def abort(self) -> None:
        """Wake up whoever reads, from another thread."""

    def close(self) -> None: ...


class Source(Protocol):
    def open(self, image: str, name: str, start: int, end: int | None) -> Body:
        """Bytes ``start`` up to ``end`` (exclusive, None for all) of a file of an image.

        :raises Away: :raises OrderFailed: the server has no such file or range.
        """


class HttpSource:
    """The real source."""

    def __init__(self, servers: Servers) -> None:
        self._servers = servers

    def open(self, image: str, name: str, start: int, end: int | None) -> Body:
        url = self._servers.at_hand
        target = f"{IMAGES}/{image}/{name}"
        connection = self._servers.open(SILENT_SECONDS)
        headers = {} if end is None else {"Range": f"bytes={start}-{end - 1}"}
        try:
            connection.request("GET", target, headers=headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self._servers.is_away(url)
            raise Away(str(error) or type(error).__name__) from error
        if response.status in (http.client.OK, http.client.PARTIAL_CONTENT):
            placed = response.getheader("Content-Range", "").startswith(f"bytes {start}-")
            if placed if response.status == http.client.PARTIAL_CONTENT else start == 0:
                return HttpBody(connection, response)
        connection.close()
        if response.status >= http.client.INTERNAL_SERVER_ERROR:
            raise Away(f"the server answers {response.status}")
        raise OrderFailed(f"the server does not give {target}", f"it answers {response.status} to {headers}")


class HttpBody:
    def __init__(self, connection: http.client.HTTPConnection, response: http.client.HTTPResponse) -> None:
        self.connection = connection
        self.response = response
        self.socket: socket.socket | None = connection.sock

    def readinto(self, buffer: memoryview) -> int:
        try:
            return self.response.readinto(buffer)
        except (OSError, ValueError, http.client.HTTPException) as error:
            raise Away(str(error) or type(error).__name__) from error

    def abort(self) -> None:
        if self.socket is not None:
            with suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.response.close()
        self.connection.close()
