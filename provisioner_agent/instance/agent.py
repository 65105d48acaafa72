"""The config agent's loop: what is due is done, one thing after another, and reported."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.account import build_mask
from provisioner_agent.instance.apply import APPLIED, APPLYING, BROKEN, FAILED, Applier, Outcome
from provisioner_agent.instance.collect import Box
from provisioner_agent.instance.confirm import Confirmer
from provisioner_agent.instance.document import Document, read_document, write_document
from provisioner_agent.instance.drain import is_over, read_order, run_drain, run_undrain, unwritten
from provisioner_agent.instance.drift import LOOK_SECONDS, find_drift, is_repaired
from provisioner_agent.instance.failure import script_error
from provisioner_agent.instance.host import Host
from provisioner_agent.instance.journal import SWITCHED, UNCONFIRMED, Journal, close_journal, read_journal
from provisioner_agent.instance.permits import Permits, back_off
from provisioner_agent.instance.phases import PhaseResult
from provisioner_agent.instance.probes import ProbeResult, pause_after, run_probes
from provisioner_agent.instance.record import Record, read_record, write_record
from provisioner_agent.instance.report import RETRY, Reporter
from provisioner_agent.instance.services import read_states
from provisioner_agent.protocol.link import Link

LOG = logging.getLogger("provisioner-agent")


class Agent:
    """Brings generations into force as they come. One thread calls :meth:`turn` again and again.

    :param open_link: gives another link, without a connection, from the agent's configuration as it is then.
    :param root: what the instance runs from; None for what its kernel was told.
    """

    def __init__(
        self,
        host: Host,
        link: Link,
        box: Box,
        chance: random.Random,
        open_link: Callable[[], Link] | None = None,
        root: str | None = None,
    ) -> None:
        self.host = host
        self.box = box
        self.chance = chance
        self.permits = Permits(host, link, chance, self._waits)
        confirmer = Confirmer(
            host, open_link or (lambda: link), chance, self._unconfirmed, self._is_unsure, lambda: box.generation
        )
        self.applier = Applier(host, self._acquire, self, confirmer)
        self.reporter = Reporter(host, link, root)
        self.record = read_record(host)
        self.probes: dict[str, ProbeResult] = {}
        self.waiting: str | None = None
        self.tried = 0
        self.probe_due = 0.0
        self.release_due = 0.0
        self.boot_due = 0.0
        self.boot_failures = 0
        self.cleared = False
        self.drift: dict[str, str] = {}
        self.units: dict[str, str] = {}
        self.drift_due = 0.0
        self._interim = self.record

    def run(self) -> None:
        while True:
            seconds = self.turn()
            self.box.wait(max(self.record.applied, self.record.refused, self.tried), seconds)

    def turn(self) -> float:
        """Do what is due; seconds until something else will be, unless a newer generation comes before."""
        with self.host.hold(places.LOCK):
            self._converge()
            self._look_for_drift()
        self._probe()
        self._release()
        self._tell()
        now = self.host.monotonic()
        dues = [self.reporter.next]
        if self._in_force() is not None:
            dues += [self.probe_due - now, self.drift_due - now]
        if self._boot_pending() and not self.record.drain:
            dues.append(self.boot_due - now)
        if self._may_release():
            dues.append(self.release_due - now)
        return max(0.1, min(dues))

    def _converge(self) -> None:
        journal = read_journal(self.host)
        if journal is None and not self.cleared:
            close_journal(self.host)  # contents without a record: nothing was begun, or all was done
            self.host.remove(places.CANDIDATE)
        self.cleared = True
        if journal is not None and not self._catch_up(journal):
            self.tried = journal.document.generation
            outcome = self.applier.resume(journal, self.record)
            if outcome is not None:
                self._settle(outcome)
                return
            self.tried = 0
        newest = self.box.newest
        order = read_order(newest)
        if newest is not None and order is not None and self.record.applied:
            self._drain(newest, order)
            return
        if self.record.drain and not self._undrain():
            return
        if self._boot_pending() and self.host.monotonic() >= self.boot_due:
            before = read_document(self.host, places.APPLIED)
            if before is not None:
                LOG.info("the instance was booted: generation %s is brought up", before.generation)
                self.doing(before.generation, "comes up after a boot")  # what was said before that holds no more
                self._settle(self.applier.bring_up(before, self.record))
        if newest is not None and newest.generation > max(self.record.applied, self.record.refused, self.tried):
            outcome = self.applier.apply(newest, self.record)
            if outcome is not None:
                self.tried = newest.generation
                self._settle(outcome)

    def _drain(self, newest: Document, order: Mapping[str, Any]) -> None:
        """Once for each order and boot. Nothing of the generation that asks for it is brought into force."""
        self.tried = max(self.tried, newest.generation)
        if is_over(self.record.drain, order, self.host.boot_id()):
            return
        LOG.info("the instance is drained")
        if not self.probes:
            self._probe()  # after a boot nobody knows yet, and what is told next says whether it is healthy

        def note(state: Mapping[str, Any]) -> None:
            self.record = write_record(self.host, replace(self.record, drain=dict(state)))
            self._tell()

        try:
            note(run_drain(self.host, newest, note))
        except OSError as error:
            note(unwritten(self.host, newest, error))
        LOG.info("drain: %s", self.record.drain["state"])
        self.probe_due = 0.0

    def _undrain(self) -> bool:
        """The member stays after all. Whether its services may be brought up again; else it is tried later."""
        before = read_document(self.host, places.APPLIED)
        if before is None or self.host.monotonic() < self.boot_due:
            return before is None
        LOG.info("the instance stays: it is let back in")
        results = run_undrain(self.host, self.box.newest or before)
        error = script_error(results)
        if error is not None:
            self._settle(Outcome(BROKEN, before, self.record.managed, tuple(results), error, boot=True))
            return False
        self.record = write_record(self.host, replace(self.record, drain={}, boot_id=""))
        self.boot_due = 0.0
        return True

    def _catch_up(self, journal: Journal) -> bool:
        """Whether the generation of an open journal got through and only the record did not say so yet; now it does.

        The kernel for which it was brought up stays as it is on record: if it is another one, it is brought up again.
        """
        done, generation = read_document(self.host, places.APPLIED), journal.document.generation
        if journal.boot or journal.state != SWITCHED:
            return False
        if done is None or not self.record.applied < generation == done.generation:
            return False
        record = replace(self.record, applied=generation, state=APPLIED, about=generation, error=None, phases=())
        record = replace(record, files=journal.files, units=journal.units, confirm=journal.confirm)
        self.record = write_record(self.host, replace(record, account=journal.account))
        close_journal(self.host)
        return True

    def _settle(self, outcome: Outcome) -> None:
        """Put an outcome on record, close its journal, tell the server."""
        generation = outcome.document.generation
        mask = build_mask(outcome.document, read_document(self.host, places.APPLIED))
        error = outcome.error
        record = replace(
            self.record,
            files=outcome.managed.files,
            units=outcome.managed.units,
            confirm=outcome.managed.confirm,
            state=outcome.state,
            about=generation,
            error=error and error | {"cause": mask(error["cause"] or "")},
            phases=tuple(result.to_dict() for result in outcome.phases) or self.record.phases,
        )
        if not outcome.boot or outcome.account.get("diff"):
            record = replace(record, account=outcome.account)
        if outcome.boot and outcome.state == APPLIED and self.record.about > generation:
            # What became of a later generation is still the news, not that the old one came up again.
            last = self.record
            record = replace(record, state=last.state, about=last.about, error=last.error, phases=last.phases)
            record = replace(record, account=last.account)
        if outcome.state == APPLIED:
            write_document(self.host, places.APPLIED, outcome.document)
            record = replace(record, applied=generation, boot_id=self.host.boot_id())
        elif outcome.boot:
            self.boot_failures += 1
            self.boot_due = self.host.monotonic() + back_off(self.boot_failures, self.chance)
        elif record.applied:
            # Not tried again. A first generation is, when the agent starts again: there is nothing to go back to.
            record = replace(record, refused=generation)
            if outcome.state not in (FAILED, BROKEN):
                record = replace(record, boot_id=self.host.boot_id())
        self.record = write_record(self.host, record)
        close_journal(self.host)
        self.probe_due = 0.0
        self.drift, self.drift_due = {}, self.host.monotonic() + LOOK_SECONDS
        LOG.info("generation %s: %s", generation, outcome.state)

    def _look_for_drift(self) -> None:
        """What was changed by hand is told and, if the role says so, put back as a change like any other."""
        if self._boot_pending() or self.record.drain or self.host.monotonic() < self.drift_due:
            return
        document = read_document(self.host, places.APPLIED)
        if document is None:
            return
        self.drift_due = self.host.monotonic() + LOOK_SECONDS
        self.drift = find_drift(self.host, document, self.record)
        if self.drift and is_repaired(document) and self.record.state == APPLIED:
            LOG.warning("changed by hand, and put back: %s", ", ".join(self.drift))
            outcome = self.applier.apply(document, self.record)
            if outcome is not None:
                self._settle(outcome)
                self.drift = find_drift(self.host, document, self.record)

    def _boot_pending(self) -> bool:
        return bool(self.record.applied) and self.record.boot_id != self.host.boot_id()

    def _in_force(self) -> Document | None:
        """Whose probes are run: the applied generation's; before the first, the one that was tried."""
        return read_document(self.host, places.APPLIED) or (self.box.newest if self.record.state else None)

    def _probe(self) -> None:
        if self.host.monotonic() < self.probe_due:
            return
        document = self._in_force()
        if document is None:
            return
        began = self.host.monotonic()
        self.probes = run_probes(self.host, document.probes, build_mask(document, self.box.newest))
        self._look_at_units()
        now = self.host.monotonic()
        self.probe_due = now + pause_after(self.probes, now - began)

    def _look_at_units(self) -> None:
        named = {unit: None for units in self.record.units.values() for unit in units}
        self.units = {unit: str(state) for unit, state in read_states(self.host, sorted(named)).items()}

    def _acquire(self, generation: int, *, whatever_comes: bool, patience: float | None) -> Mapping[str, Any] | None:
        def superseded() -> bool:
            return not whatever_comes and self.box.generation > generation

        return self.permits.acquire(generation, superseded, patience)

    def _may_release(self) -> bool:
        """A broken member keeps its permit, so that no other one follows it."""
        return bool(self.record.permit) and self.record.state != BROKEN

    def _release(self) -> None:
        if self._may_release() and self.host.monotonic() >= self.release_due:
            self._tell()  # the server hears how it went before it lets the next member go
            if self.permits.release(self.record.permit):
                self.record = write_record(self.host, replace(self.record, permit=0))
            else:
                self.release_due = self.host.monotonic() + RETRY

    def _tell(self, *, send: bool = True) -> None:
        self.reporter.tell(
            self.record,
            self.probes,
            drift=self.drift,
            units=self.units,
            waiting=self.waiting,
            problem=self.box.problem,
            send=send,
        )

    def _waits(self, why: str | None, *, send: bool = True) -> None:
        if why != self.waiting:
            self.waiting = why
            if why is not None:
                LOG.info("waits: %s", why)
            self._tell(send=send)

    def _is_unsure(self, why: str | None) -> None:
        """Whether the server is heard is being tried: the other link would only take time from that."""
        self._waits(why, send=False)

    def _unconfirmed(self, generation: int) -> Mapping[str, Any]:
        """The message that asks for the server's word: it says that the generation is not in force yet."""
        record = self._on_the_way(generation, UNCONFIRMED)
        return self.reporter.compose(record, self.probes, drift=self.drift, units=self.units, settled=False)

    def _on_the_way(self, generation: int, state: str) -> Record:
        """The record as it is told, and not kept, while a generation is being applied."""
        return replace(self.record, about=generation, state=state, error=None, phases=(), account={})

    def _tell_on_the_way(self, record: Record, doing: str | None = None) -> None:
        self.reporter.tell(
            record,
            self.probes,
            drift=self.drift,
            units=self.units,
            settled=False,
            doing=doing,
            problem=self.box.problem,
        )

    # What the applier tells on its way.

    def holding(self, generation: int) -> None:
        self.record = write_record(self.host, replace(self.record, permit=generation))

    def doing(self, generation: int, what: str) -> None:
        self._tell_on_the_way(self._on_the_way(generation, APPLYING), what)

    def configured(self, document: Document, phases: list[PhaseResult]) -> None:
        self._interim = replace(
            self._on_the_way(document.generation, APPLIED),
            applied=document.generation,
            phases=tuple(result.to_dict() for result in phases),
        )
        self.probed({})

    def probed(self, results: Mapping[str, ProbeResult]) -> None:
        self.probes = dict(results)
        self._tell_on_the_way(self._interim)
