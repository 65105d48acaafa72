"""How far an order is, posted about once a second by a thread of its own, so that no work ever waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from provisioner_agent.protocol.link import Link, Refused, ServerAway
from provisioner_agent.protocol.messages import PROGRESS
from provisioner_agent.ramdisk.host import Host

EVERY = 1.0
ALIVE_EVERY = 10
"""Rounds without news after which the server is told that the order is still worked on."""
WINDOW = 15.0
"""Seconds over which the rate is measured."""
POST_SECONDS = 5.0


class Meter(Protocol):
    def begin(self, phase: str, total: int) -> None:
        """A phase over ``total`` bytes begins."""

    def add(self, count: int) -> None:
        """``count`` bytes more are done. From any thread."""


class NoMeter:
    def begin(self, phase: str, total: int) -> None: ...

    def add(self, count: int) -> None: ...


class Progress:
    """A meter that tells the server. Use as a context manager around an order."""

    def __init__(self, host: Host, link: Link, order: str) -> None:
        self._host, self._link, self._order = host, link, order
        self._lock = threading.Lock()
        self._phase, self._total, self._bytes = "", 0, 0
        self._samples: deque[tuple[float, int]] = deque()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._post_all, name="progress", daemon=True)

    def __enter__(self) -> Progress:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def begin(self, phase: str, total: int) -> None:
        with self._lock:
            self._phase, self._total, self._bytes = phase, total, 0
            self._samples = deque([(self._host.monotonic(), 0)])

    def add(self, count: int) -> None:
        with self._lock:
            self._bytes = min(self._total, self._bytes + count)

    def message(self) -> dict[str, Any]:
        """The body of a post: ``rate`` in bytes per second over the last seconds, ``remaining`` in seconds."""
        with self._lock:
            said: dict[str, Any] = {"order": self._order}
            if not self._samples:
                return said
            now = self._host.monotonic()
            self._samples.append((now, self._bytes))
            while len(self._samples) > 2 and self._samples[0][0] < now - WINDOW:
                self._samples.popleft()
            since, before = self._samples[0]
            rate = (self._bytes - before) / (now - since) if now > since else 0.0
            said |= {"phase": self._phase, "bytes": self._bytes, "total": self._total, "rate": round(rate)}
            if rate > 0:
                said["remaining"] = round((self._total - self._bytes) / rate, 1)
            return said

    def _post_all(self) -> None:
        last: Mapping[str, Any] = {}
        quiet = 0
        while not self._end.wait(EVERY):
            said = self.message()
            quiet = quiet + 1 if said.get("bytes") == last.get("bytes") else 0
            if quiet % ALIVE_EVERY:
                continue
            last = said
            try:
                self._link.call("POST", PROGRESS, said, timeout=POST_SECONDS)
            except (ServerAway, Refused):
                continue  # the next one says more
