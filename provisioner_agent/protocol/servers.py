"""Where the service is: at one address or, when several conductors share the work, at each of them."""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
from collections.abc import Mapping
from typing import Any
from urllib.parse import SplitResult, urlsplit

BETWEEN = ","
"""Stands between several addresses."""


class Servers:
    """The servers of a guest; one is asked until it is away, then the next.

    :param urls: ``https://ADDRESS:PORT``, several with commas between them. :param ca: the authority that their
        certificates must be of, as PEM (RFC 7468); for ``http`` it is not needed.
    :raises ValueError: the authority is none.
    """

    def __init__(self, urls: str, ca: str = "") -> None:
        self._urls = [urlsplit(url) for url in urls.split(BETWEEN)]
        self._trust = build_trust(ca) if any(url.scheme == "https" for url in self._urls) else None
        self._lock = threading.Lock()

    @property
    def at_hand(self) -> SplitResult:
        """The one that is asked."""
        return self._urls[0]

    def open(self, timeout: float) -> http.client.HTTPConnection:
        """A connection to the one at hand, which is made with the first request on it."""
        url = self.at_hand
        if url.scheme == "https":
            return http.client.HTTPSConnection(url.hostname or "", url.port, timeout=timeout, context=self._trust)
        return http.client.HTTPConnection(url.hostname or "", url.port, timeout=timeout)

    def is_away(self, url: SplitResult) -> None:
        """It did not answer: the next one is asked from now on."""
        with self._lock:
            if url == self._urls[0]:
                self._urls.append(self._urls.pop(0))


def read_servers(config: Mapping[str, Any]) -> Servers:
    """Of an agent's configuration file. :raises KeyError: it has no ``url``."""
    return Servers(config["url"], config.get("ca", ""))


def pack_authority(ca: str) -> str:
    """For the kernel's arguments: some 600 characters of the 2,047 that it takes (x86 boot protocol, cmdline_size).

    :param ca: as PEM (RFC 7468).
    """
    return base64.urlsafe_b64encode(ssl.PEM_cert_to_DER_cert(ca)).decode().rstrip("=")


def read_authority(argument: str) -> str:
    """The authority in a kernel's arguments, as PEM. :raises ValueError: it is not base64."""
    return ssl.DER_cert_to_PEM_cert(base64.urlsafe_b64decode(argument + "=" * (-len(argument) % 4)))


def build_trust(ca: str) -> ssl.SSLContext:
    """No other authority is trusted, so none is read from the system.

    :param ca: as PEM (RFC 7468). :raises ValueError: it is none.
    """
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        trust.load_verify_locations(cadata=ca)
    except ssl.SSLError as error:
        raise ValueError(f"the authority is no certificate: {error}") from error
    return trust
