"""Where the service is: at one address, or at several, of which one is asked at a time; and in which epoch it is."""

from __future__ import annotations

import base64
import http.client
import ssl
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:  # Python 3.8 has no such words
    from collections.abc import Callable

    Keep = Callable[[str], None]

BETWEEN = ","
"""Stands between several addresses."""


class StaleServer(Exception):
    """Who answered was the master once, and is not any more."""


class Servers:
    """The servers of a guest; one is asked until it is away, then the next.

    :param urls: ``https://ADDRESS:PORT``, several with commas between them. :param ca: the authority that their
        certificates must be of, as PEM (RFC 7468); for ``http`` it is not needed.
    :param known: what the master last said of itself, ``EPOCH URL,URL``. :param keep: is told when that changes.
    :param follows: whether one goes on to where the master says that it will be.
    :raises ValueError: the authority is none.
    """

    def __init__(
        self, urls: str, ca: str = "", known: str = "", keep: Keep | None = None, *, follows: bool = True
    ) -> None:
        self._follows = follows
        self._given = urls.split(BETWEEN)
        self._said = ""
        self.epoch = 0
        """The greatest that was heard; 0 before any was."""
        self._urls = [urlsplit(url) for url in self._given]
        try:
            self._take(known)
        except ValueError:
            pass  # a file that was cut off: the master says it again
        self._trust = build_trust(ca) if any(url.scheme == "https" for url in self._urls) else None
        self._lock = threading.Lock()
        self._keep = keep

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

    def hear(self, url: SplitResult, master: str) -> None:
        """What an authenticated answer from ``url`` says of the master: ``EPOCH URL,URL``.

        :raises StaleServer: a greater epoch was heard before. :raises ValueError: it has another form.
        """
        epoch = int(master.partition(" ")[0])
        if epoch < self.epoch:
            self.is_away(url)
            raise StaleServer(f"{url.netloc} is at epoch {epoch}, and {self.epoch} was heard")
        with self._lock:
            if master == self._said:
                return
            at_hand = self._urls[0]
            self._take(master)
            if at_hand in self._urls:  # who answers is asked again
                while self._urls[0] != at_hand:
                    self._urls.append(self._urls.pop(0))
        if self._keep is not None:
            self._keep(master)

    def _take(self, master: str) -> None:
        """The addresses that the master names come first; those that one was given once are kept for the worst."""
        epoch, _, urls = master.partition(" ")
        if not epoch:
            return
        self.epoch, self._said = int(epoch), master
        found = [url for url in urls.split(BETWEEN) if url] if self._follows else []
        self._urls = [urlsplit(url) for url in dict.fromkeys([*found, *self._given])]


def read_servers(config: Mapping[str, Any], known: str = "", keep: Keep | None = None) -> Servers:
    """Of an agent's configuration file. :raises KeyError: it has no ``url``."""
    return Servers(config["url"], config.get("ca", ""), known, keep)


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
