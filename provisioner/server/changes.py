"""Long polls: requests that wait for a change as tasks of the event loop, no thread held for any of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

from provisioner.server.desk import Subscribed
from provisioner.store.database import EVERYTHING

T = TypeVar("T")

GATHER = 0.05
"""Seconds in which changes are gathered before the waiting requests look again: a burst wakes them once."""
LOOK_AGAIN = 20.0
"""Seconds after which a waiting request looks by itself: what depends on time alone is not announced."""
ANY = None
"""In the place of a topic: any change."""
LONGEST = 330.0
"""Seconds that one request may wait at most."""
EACH = 4
"""Requests of one guest that wait at the same time, with those whose connection has gone unseen; an agent has two."""


class Changes:
    """Wakes waiting requests when the conductor says that something of what they wait for changed.

    Made inside the running event loop; :meth:`close` lets all of them answer at once.
    """

    def __init__(self, source: Subscribed) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[str | None, set[asyncio.Event]] = {}
        self._of: dict[str, list[asyncio.Event]] = {}
        self._heard: set[str] = set()
        self._lock = threading.Lock()
        self._gathering = False
        self._closed = False
        self._unsubscribe = source.subscribe(self._announce)

    def close(self) -> None:
        """May be called again; the second time it does nothing."""
        if not self._closed:
            self._closed = True
            self._unsubscribe()
            for events in self._waiting.values():
                for event in events:
                    event.set()

    async def poll(
        self,
        look: Callable[[], Awaitable[T]],
        enough: Callable[[T], bool],
        wait: float,
        topics: frozenset[str] | None = None,
        again: float | None = LOOK_AGAIN,
        who: str | None = None,
    ) -> T:
        """Look until it is ``enough`` or ``wait`` seconds are over; what the last look saw.

        It is listened before each look, so a change between look and wait is not missed.

        :param topics: what the request waits for; None for any change. :param again: seconds after which it looks
            though nothing was announced; None where nothing depends on time alone. :param who: asks; the oldest of its
            requests ends when there are more than :data:`EACH`.
        """
        end = self._loop.time() + min(wait, LONGEST)
        event = asyncio.Event()
        wanted: Iterable[str | None] = (ANY,) if topics is None else topics
        for topic in wanted:
            self._waiting.setdefault(topic, set()).add(event)
        mine = [event] if who is None else self._of.setdefault(who, [])
        if who is not None:
            mine.append(event)
            if len(mine) > EACH:
                mine.pop(0).set()
        try:
            while True:
                event.clear()
                seen = await look()
                left = end - self._loop.time()
                if enough(seen) or left <= 0 or self._closed:
                    return seen
                try:
                    await asyncio.wait_for(event.wait(), left if again is None else min(left, again))
                except TimeoutError:
                    pass  # one last look, or the look that does not depend on an announcement
                if event not in mine:
                    return seen
        finally:
            if event in mine:
                mine.remove(event)
            if who is not None and not mine:
                self._of.pop(who, None)
            for topic in wanted:
                events = self._waiting[topic]
                events.discard(event)
                if not events:
                    del self._waiting[topic]

    def _announce(self, topics: frozenset[str]) -> None:
        with self._lock:
            self._heard |= topics
            if self._gathering:
                return
            self._gathering = True
        try:
            self._loop.call_soon_threadsafe(self._loop.call_later, GATHER, self._wake)
        except RuntimeError:
            pass  # the loop has ended; nobody waits any more

    def _wake(self) -> None:
        with self._lock:
            heard, self._heard = self._heard, set()
            self._gathering = False
        for topic in list(self._waiting) if EVERYTHING in heard else (ANY, *heard):
            for event in self._waiting.get(topic, ()):
                event.set()
