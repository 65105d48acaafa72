"""Collect: the newest metadata, by long poll, kept on the disk; a lost or stale server changes nothing."""

from __future__ import annotations

import logging
import random
import threading

from provisioner_agent.instance import places
from provisioner_agent.instance.document import NO_PARTS, BadDocument, Document, parse_document, write_document
from provisioner_agent.instance.host import Host
from provisioner_agent.instance.permits import SLACK, back_off
from provisioner_agent.instance.signature import Verifier
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import Link, Refused, ServerAway

LOG = logging.getLogger("provisioner-agent")
SHORTEST_POLL = 1.0


class Box:
    """Holds the newest document between the collecting thread and the applying one."""

    def __init__(self, document: Document | None = None) -> None:
        self._changed = threading.Condition()
        self._document = document
        self._problem: str | None = None

    @property
    def newest(self) -> Document | None:
        with self._changed:
            return self._document

    @property
    def generation(self) -> int:
        document = self.newest
        return document.generation if document else 0

    @property
    def problem(self) -> str | None:
        """Why the server cannot be heard just now, or what it said that was ignored; None while all is well."""
        with self._changed:
            return self._problem

    def put(self, document: Document) -> None:
        with self._changed:
            self._document = document
            self._changed.notify_all()

    def note(self, problem: str | None) -> None:
        with self._changed:
            self._problem = problem

    def wait(self, known: int, seconds: float) -> None:
        """Return when a newer generation than ``known`` has come, or after ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: self._document is not None and self._document.generation > known, seconds)


class Collector:
    """Asks the server for what is newer than the newest known, for ever."""

    def __init__(self, host: Host, link: Link, box: Box, chance: random.Random, verifier: Verifier) -> None:
        self.host = host
        self.verifier = verifier
        self.link = link
        self.box = box
        self.chance = chance
        self.failures = 0

    def run(self) -> None:
        while True:
            self.host.sleep(self.step())

    def step(self) -> float:
        """Ask once; seconds to wait before the next time."""
        started = self.host.monotonic()
        try:
            document = self._ask()
            if document is not None:
                write_document(self.host, places.METADATA, document)
        except (ServerAway, Refused, BadDocument, OSError) as error:  # that of a full disk, too
            self.failures += 1
            if str(error) != self.box.problem:
                LOG.warning("metadata: %s; generation %s stays in force", error, self.box.generation)
            self.box.note(str(error))
            return back_off(self.failures, self.chance)
        if self.failures:
            LOG.info("metadata: the server answers again")
        self.failures = 0
        self.box.note(None)
        if document is not None:
            LOG.info("metadata: generation %s", document.generation)
            self.box.put(document)
            return 0.0
        return max(0.0, SHORTEST_POLL - (self.host.monotonic() - started))

    def _ask(self) -> Document | None:
        newest = self.box.newest
        known, parts = (0, NO_PARTS) if newest is None else (newest.generation, newest.parts)
        have = messages.BETWEEN.join(parts)
        target = f"{messages.METADATA}?since={known}&wait={messages.METADATA_POLL:g}&have={have}"
        answer = self.link.call("GET", target, timeout=messages.METADATA_POLL + SLACK)
        document = parse_document(answer, parts)
        if document is not None and document.generation < known:
            raise BadDocument(f"the server offered generation {document.generation}, older than {known}; ignored")
        if document is None or document.generation == known:
            return None
        self.verifier.check(document, answer.get("signature"))
        return document
