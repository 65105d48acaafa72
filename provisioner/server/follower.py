"""What follows the records: the log says what was recorded, dnsmasq learns which nodes there are."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from provisioner.errors import ProvisionerError
from provisioner.events import Event, Observer
from provisioner.store.events import EventRecord

EVERY = 5.0
"""Seconds after which the work is done although nothing was announced: a dnsmasq that died is started again."""
GATHER = 0.2
"""Seconds in which changes are gathered: a thousand nodes that are deployed at once change many times a second."""
PAGE = 1000

LOG = logging.getLogger(__name__)


class Follower:
    """A thread that does its work after each change of a record, and every :data:`EVERY` seconds.

    A piece of work that fails is tried again the next time, and said once until it works again or fails differently.
    """

    def __init__(
        self,
        listen: Callable[[Callable[[frozenset[str]], None]], Callable[[], None]],
        work: Sequence[Callable[[], None]],
        observer: Observer,
    ) -> None:
        self._listen = listen
        self._work = work
        self._observer = observer
        self._changed = threading.Event()
        self._ending = threading.Event()
        self._said: dict[int, str] = {}
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._unlisten: Callable[[], None] = lambda: None

    def start(self) -> None:
        self._unlisten = self._listen(lambda topics: self._changed.set())
        self._thread.start()

    def stop(self) -> None:
        """Do the work a last time, and end. Nothing happens if it was not started."""
        self._unlisten()
        self._ending.set()
        self._changed.set()
        if self._thread.is_alive():
            self._thread.join(timeout=30)

    def _run(self) -> None:
        while not self._ending.is_set():
            self._changed.wait(EVERY)
            self._changed.clear()
            self.do_work()
            self._ending.wait(GATHER)
        self.do_work()

    def do_work(self) -> None:
        for number, work in enumerate(self._work):
            try:
                work()
                self._said.pop(number, None)
            except ProvisionerError as error:
                if self._said.get(number) != str(error):
                    self._said[number] = str(error)
                    self._observer(Event("serve.failed", str(error), data={"next": error.hint}))
            except Exception as error:  # a fault of ours must not end the thread: the next change may be harmless
                if self._said.get(number) != repr(error):
                    self._said[number] = repr(error)
                    LOG.exception("following the records failed")


class RecordedEvents(Protocol):
    def since(self, since: int, limit: int) -> Sequence[EventRecord]: ...


class Tail:
    """Hands each event that is recorded from now on to an observer, in order."""

    def __init__(self, events: RecordedEvents, observer: Observer) -> None:
        self._events = events
        self._observer = observer
        self._last = 0
        while page := events.since(self._last, PAGE):
            self._last = page[-1].id

    def __call__(self) -> None:
        while page := self._events.since(self._last, PAGE):
            for record in page:
                self._observer(record.event)
                self._last = record.id
