"""Long polls: requests that wait for a change as tasks of the event loop, no thread held for any of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from provisioner.server.desk import Subscribed

T = TypeVar("T")

GATHER = 0.05
"""Seconds in which changes are gathered before the waiting requests look again: a burst wakes them once."""
LOOK_AGAIN = 10.0
"""Seconds after which a waiting request looks by itself: what depends on time alone is not announced."""
LONGEST = 60.0
"""Seconds that one request may wait at most."""


class Changes:
    """Wakes waiting requests when the conductor says that something changed.

    Made inside the running event loop; :meth:`close` lets all of them answer at once.
    """

    def __init__(self, source: Subscribed) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._gathering = False
        self._closed = False
        self._unsubscribe = source.subscribe(self._announce)

    def close(self) -> None:
        """May be called again; the second time it does nothing."""
        if not self._closed:
            self._closed = True
            self._unsubscribe()
            self._wake()

    async def poll(self, look: Callable[[], Awaitable[T]], enough: Callable[[T], bool], wait: float) -> T:
        """Look until it is ``enough`` or ``wait`` seconds are over; what the last look saw.

        The event is taken before each look, so a change between look and wait is not missed.
        """
        end = self._loop.time() + min(wait, LONGEST)
        while True:
            changed = self._changed
            seen = await look()
            left = end - self._loop.time()
            if enough(seen) or left <= 0 or self._closed:
                return seen
            try:
                await asyncio.wait_for(changed.wait(), min(left, LOOK_AGAIN))
            except TimeoutError:
                pass  # one last look, or the look that does not depend on an announcement

    def _announce(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._gather)
        except RuntimeError:
            pass  # the loop has ended; nobody waits any more

    def _gather(self) -> None:
        if not self._gathering:
            self._gathering = True
            self._loop.call_later(GATHER, self._wake)

    def _wake(self) -> None:
        self._gathering = False
        self._changed.set()
        self._changed = asyncio.Event()
