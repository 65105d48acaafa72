"""Which node is walked on when: at once when something of it was recorded, else when its step asked for another look.

What is recorded of one node costs nothing for the others, so a thousand may be on their way.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from provisioner.store.store import Store

WORKERS = 32
LONGEST = 1.0
"""Seconds after which the loop at least wakes."""
GATHER = 0.02
"""Seconds in which news is gathered, for one look at the records for many nodes."""
RESCAN = 10.0
"""Seconds after which all records are looked at, whatever was announced."""

LOG = logging.getLogger(__name__)


class Loop:
    """Walks nodes on in threads, each node in one at a time.

    :param at_work: names of nodes that there is something to do with, of all or of some.
    :param walk: takes a node as far as it goes; seconds until its next look, 0 for at once, None for none.
    """

    def __init__(
        self, store: Store, walk: Callable[[str], float | None], at_work: Callable[[Collection[str] | None], list[str]]
    ) -> None:
        self._store = store
        self._at_work = at_work
        self._walk = walk
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._heard: list[tuple[frozenset[str], str | None]] = []
        """Topics, and on which node the thread walked that wrote."""
        self._local = threading.local()
        self._due: dict[str, float] = {}
        self._busy: set[str] = set()
        self._thread: threading.Thread | None = None
        self._workers: ThreadPoolExecutor | None = None
        self._unsubscribe: Callable[[], None] = lambda: None

    @property
    def stopping(self) -> bool:
        """Whether nothing new is to be begun."""
        return self._stopping.is_set()

    def start(self) -> None:
        if self._thread is not None:
            return
        self._stopping.clear()
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="walk")
        self._unsubscribe = self._store.listen(self._hear)
        self._thread = threading.Thread(target=self._run, name="conductor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing new and wait for what is begun; a BMC is waited for until its own deadline."""
        if self._thread is None:
            return
        self._stopping.set()
        self._wake.set()
        self._thread.join()
        self._thread = None
        self._unsubscribe()
        if self._workers is not None:
            self._workers.shutdown(wait=True, cancel_futures=True)
        self._due.clear()
        self._busy.clear()

    def _hear(self, topics: frozenset[str]) -> None:
        if topics:
            with self._lock:
                self._heard.append((topics, getattr(self._local, "walks", None)))
            self._wake.set()

    def _run(self) -> None:
        rescan = 0.0
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                now = time.monotonic()
                if now >= rescan:
                    self._rescan(now)
                    rescan = now + RESCAN
                self._take_news()
                for name in self._ready(time.monotonic()):
                    self._submit(name)
            except Exception:
                LOG.exception("the loop could not look at the records; it looks again")
                rescan = 0.0
            self._wake.wait(self._pause(time.monotonic()))
            self._stopping.wait(GATHER)

    def _rescan(self, now: float) -> None:
        names = set(self._at_work(None))
        with self._lock:
            self._due = {name: due for name, due in self._due.items() if name in names}
            for name in names - self._busy:
                self._due.setdefault(name, now)

    def _take_news(self) -> None:
        """What a walk wrote of its own node is no news: it went on until there was nothing to do but wait."""
        with self._lock:
            heard, self._heard = self._heard, []
        if not heard:
            return
        nodes = self._store.deployments.nodes_of({topic for topics, _ in heard for topic in topics})
        concerned = {nodes[topic] for topics, walked in heard for topic in topics if nodes[topic] != walked}
        if concerned:
            names = self._at_work(concerned)
            with self._lock:
                self._due.update(dict.fromkeys(names, 0.0))

    def _ready(self, now: float) -> list[str]:
        """Nodes that are due and that nobody walks on; the others stay due."""
        with self._lock:
            ready = [name for name, due in self._due.items() if due <= now and name not in self._busy]
            for name in ready:
                del self._due[name]
            self._busy |= set(ready)
        return ready

    def _pause(self, now: float) -> float:
        with self._lock:
            waiting = [due for name, due in self._due.items() if name not in self._busy]
        return min(max(min(waiting, default=now + LONGEST) - now, 0.0), LONGEST)

    def _submit(self, name: str) -> None:
        assert self._workers is not None
        self._workers.submit(self._walk_on, name)

    def _walk_on(self, name: str) -> None:
        again: float | None = LONGEST
        self._local.walks = name
        try:
            again = self._walk(name)
        except Exception:
            LOG.exception("%s: a fault of the program; it is walked on again", name)
        finally:
            self._local.walks = None
            with self._lock:
                self._busy.discard(name)
                if again is not None:
                    due = time.monotonic() + again
                    self._due[name] = min(self._due.get(name, due), due)
            self._wake.set()
