"""One generation as a transaction: render, validate, permit, switch, phases, units, the server's word where the change
may have cut the node off, probes; or back to the one before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Protocol

from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.account import Account, build_mask, cut_diff
from provisioner_agent.instance.document import Document, read_document
from provisioner_agent.instance.failure import build_error, script_error, unconfirmed_error, unwatched_error
from provisioner_agent.instance.files import (
    check_files,
    compare_files,
    diff_text,
    managed_of,
    refuse_files,
    render_files,
)
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.journal import Change, Journal
from provisioner_agent.instance.phases import (
    AFTER_SERVICES,
    BEFORE_SERVICES,
    LAST,
    PhaseResult,
    Tell,
    failure_of,
    run_after_failure,
    run_phases,
)
from provisioner_agent.instance.probes import ProbeResult, wait_for_green
from provisioner_agent.instance.record import Managed, Record
from provisioner_agent.instance.services import (
    Units,
    last_lines,
    read_units,
    split_gone,
    start_units,
    start_watch,
    touch_units,
    units_of,
    watch_units,
)
from provisioner_agent.render.problem import RenderError

APPLIED = "applied"
APPLYING = "applying"
FAILED = "failed"
ROLLED_BACK = "rolled-back"
BROKEN = "broken"

LOG = logging.getLogger("provisioner-agent")


class Watcher(Protocol):
    """Whoever wants to know how an application goes on."""

    def holding(self, generation: int) -> None:
        """The permit was granted; remembered so that it is given back even after a crash."""

    def doing(self, generation: int, what: str) -> None:
        """What takes long at the moment."""

    def configured(self, document: Document, phases: list[PhaseResult]) -> None:
        """All phases ended well; the probes come next."""

    def probed(self, results: Mapping[str, ProbeResult]) -> None:
        """A round of probes."""


@dataclass(frozen=True)
class Outcome:
    """How it ended. ``state`` is a word of the report. ``managed``: what the agent manages now."""

    state: str
    document: Document
    managed: Managed
    phases: tuple[PhaseResult, ...] = ()
    error: dict[str, Any] | None = None
    boot: bool = False
    account: Mapping[str, Any] = field(default_factory=dict)


class Acquire(Protocol):
    def __call__(self, generation: int, *, whatever_comes: bool, patience: float | None) -> Mapping[str, Any] | None:
        """Wait for a permit; the once answers, or None when a newer generation came, unless ``whatever_comes``, or
        when the server was not heard at all for ``patience`` seconds."""


class Confirm(Protocol):
    """How the server is asked whether it hears the node: see :mod:`.confirm`."""

    def reach(self, generation: int) -> bool: ...

    def confirm(self, generation: int, seconds: float) -> str | None: ...


class Applier:
    """Applies generations; a transaction each."""

    def __init__(self, host: Host, acquire: Acquire, watcher: Watcher, confirm: Confirm) -> None:
        self.host = host
        self.acquire = acquire
        self.watcher = watcher
        self.confirm = confirm

    def apply(self, document: Document, record: Record) -> Outcome | None:
        """Bring a new generation into force; None when a newer one came while it waited for its permit."""
        account = Account()
        mask = build_mask(document, read_document(self.host, places.APPLIED))
        try:
            with account.timed("render", self.host.monotonic):
                files = render_files(self.host, document)
            with account.timed("validate", self.host.monotonic):
                checks = check_files(self.host, files, mask)
            account.validators = list(checks)
            refuse_files(checks)
        except RenderError as error:
            cause = mask(str(error))
            LOG.error("generation %s is refused, nothing was changed:\n%s", document.generation, cause)
            what = build_error("the templates cannot be rendered", cause, "correct the value or template; apply again")
            return Outcome(FAILED, document, record.managed, error=what, account=account.to_dict())
        managed = managed_of(files)
        changes = compare_files(self.host, files, record.files)
        if not changes and record.applied and record.boot_id == self.host.boot_id():
            LOG.info("generation %s changes no file", document.generation)
            return Outcome(APPLIED, document, managed, account=account.to_dict())
        diff = mask(diff_text(changes, files))
        account.diff = cut_diff(diff)
        LOG.info("generation %s:\n%s", document.generation, diff)
        with account.timed("permit", self.host.monotonic):
            once = self._permit(document)
        if once is None:
            return None
        changes = compare_files(self.host, files, record.files)
        again = record.applied == document.generation
        journal = _journal(document, changes, managed, once, again=again, account=account.to_dict())
        if journal.is_risky(record) and not self.confirm.reach(document.generation):
            return None
        return self._carry_out(journal, record)

    def bring_up(self, document: Document, record: Record) -> Outcome:
        """After a boot: the applied generation's files as they should be, and its phases. Needs no server."""
        account = Account()
        try:
            with account.timed("render", self.host.monotonic):
                files = render_files(self.host, document)
        except RenderError as error:
            what = build_error(
                "the templates cannot be rendered", build_mask(document)(str(error)), "deploy the node again"
            )
            return Outcome(BROKEN, document, record.managed, error=what, boot=True)
        changes = compare_files(self.host, files, record.files)
        if changes:
            diff = build_mask(document)(diff_text(changes, files))
            account.diff = cut_diff(diff)
            LOG.warning("files differ from generation %s:\n%s", document.generation, diff)
        journal = _journal(document, changes, managed_of(files), {}, boot=True, account=account.to_dict())
        return self._carry_out(journal, record)

    def resume(self, journal: Journal, record: Record) -> Outcome | None:
        """Go on with a switch that the agent's end interrupted; None when it was taken back and can start anew."""
        generation = journal.document.generation
        if journal.state == journals.SWITCHING:
            LOG.warning("the switch to generation %s was interrupted: its files are taken back", generation)
            journals.settle(self.host, journal)
            return None
        if journal.state == journals.RETURNING:
            LOG.warning("the way back from generation %s was interrupted: it goes on", generation)
            what = build_error(f"generation {generation} did not get through", "the agent ended on the way back", None)
            return self._go_back(journal, (), dict(journal.error or what), record)
        if record.applied >= generation + journal.again and not journal.boot:
            journals.close_journal(self.host)
            return None
        LOG.warning("generation %s was interrupted after its switch: its phases run again", generation)
        if journal.state == journals.UNCONFIRMED:
            journal, error = self._confirm(journal)
            if error is not None:
                return self._go_back(journal, (), error, record)
        if not journal.boot:
            # Who cannot be heard since the switch can grant nothing: that must not be waited for without an end.
            patience = journal.document.confirm_seconds if journal.is_risky(record) else None
            once = self._permit(journal.document, whatever_comes=True, patience=patience)
            if once is None and patience is not None:
                why = f"no word about the permit for {patience:g} s after the switch"
                return self._go_back(journal, (), unconfirmed_error(journal.document, why), record)
            journal = replace(journal, once=once or {})
        return self._finish(journal, record)

    def _permit(
        self, document: Document, *, whatever_comes: bool = False, patience: float | None = None
    ) -> Mapping[str, Any] | None:
        if not document.needs_permit:
            return {}
        once = self.acquire(document.generation, whatever_comes=whatever_comes, patience=patience)
        if once is not None:
            self.watcher.holding(document.generation)
        return once

    def _carry_out(self, journal: Journal, record: Record) -> Outcome:
        account = Account(journal.account)
        try:
            with account.timed("switch", self.host.monotonic):
                journal = journals.open_journal(self.host, journal)
            if journal.is_risky(record):
                with account.timed("watch", self.host.monotonic):
                    unwatched = start_watch(self.host)
                if unwatched is not None:
                    LOG.error("generation %s is not begun: %s", journal.document.generation, unwatched)
                    return _outcome(FAILED, journal, record.managed, (), unwatched_error(unwatched))
            with account.timed("switch", self.host.monotonic):
                switched = journals.switch(self.host, journal)
        except (OSError, LookupError) as error:  # no space, no such owner
            LOG.error("the files cannot be written, they are taken back: %s", error)
            what = build_error(
                "the files cannot be written", str(error), "on the instance: journalctl -u provisioner-agent"
            )
            journals.take_back(self.host, journal, what)
            state = BROKEN if journal.boot else FAILED
            return Outcome(state, journal.document, record.managed, error=what, boot=journal.boot)
        return self._finish(replace(switched, account=account.to_dict()), record)

    def _finish(self, journal: Journal, record: Record) -> Outcome:
        """Phases, units, the server's word if it is needed, probes; or the way back."""
        document, account, now = journal.document, Account(journal.account), self.host.monotonic
        env = self._environment(journal, document, record)
        with account.timed("phases", now):
            journal, results = self._bring_in(journal, record, env, journal.units)
        error, cut_off = script_error(results), False
        if journal.is_risky(record) and (error is None or not record.applied):
            with account.timed("confirm", now):
                journal, unheard = self._confirm(journal)
            error, cut_off = error or unheard, unheard is not None
        if error is None:
            with account.timed("phases", now):
                results += run_phases(self.host, env, LAST, self._teller(journal))
            error = script_error(results)
        if error is None:
            self.watcher.configured(document, results)
            with account.timed("probes", now):
                error = self._probe(document, journal, record, journal.units)
        journal = replace(journal, account=account.to_dict())
        if error is None:
            return _outcome(APPLIED, journal, journal.managed, results)
        LOG.error("generation %s: %s: %s", document.generation, error["summary"], error["cause"])
        migrated = any(result.phase in LAST for result in results)
        if journal.boot or migrated or not (record.applied or cut_off):
            return _outcome(BROKEN, journal, journal.managed, results, error)
        return self._go_back(journal, results, error, record)

    def _bring_in(
        self, journal: Journal, record: Record, env: Mapping[str, str], units: Units
    ) -> tuple[Journal, list[PhaseResult]]:
        """The files as they are now come into force: phases but the last, with the units between them.

        :param units: of the files that are managed now.
        """
        tell = self._teller(journal)
        results = read_units(self.host, journal.changed)
        begun = self.host.monotonic()
        if failure_of(results) is None:
            results += run_phases(self.host, env, BEFORE_SERVICES, tell)
        if failure_of(results) is None:
            journal, touched = self._touch(journal, record, units, begun)
            results += touched
            if failure_of(touched) is not None:
                run_after_failure(self.host, env)
        if failure_of(results) is None:
            results += run_phases(self.host, env, AFTER_SERVICES, tell)
        return journal, results

    def _touch(self, journal: Journal, record: Record, units: Units, since: float) -> tuple[Journal, list[PhaseResult]]:
        """Restart or reload the units of what changed; after a boot, and at first, start those that do not run.

        :param since: when the files were as they are now, by the clock that never goes back.
        """
        booted = self.host.boot_id()

        def note(unit: str) -> None:
            nonlocal journal
            journal = journals.note_touched(self.host, journal, unit, booted)

        wanted = split_gone(self.host, units_of(journal.changed, record.units, journal.units), units)
        done = journal.touched if journal.booted == booted else ()
        tell = self._teller(journal)
        results = touch_units(self.host, wanted, done, since, note, tell)
        if failure_of(results) is None and (not record.applied or record.boot_id != booted):
            others = {unit: how for unit, how in units_of(units, units).items() if unit not in wanted}
            results += start_units(self.host, others, tell)
        return journal, results

    def _teller(self, journal: Journal) -> Tell:
        back = "goes back: " if journal.state == journals.RETURNING else ""
        return lambda what: self.watcher.doing(journal.document.generation, f"{back}{what}")

    def _confirm(self, journal: Journal) -> tuple[Journal, dict[str, Any] | None]:
        """The server's word that it hears the node, until the journal's deadline; else what is told."""
        seconds = journal.document.confirm_seconds
        if journal.state != journals.UNCONFIRMED:
            journal = journals.await_word(self.host, journal, self.host.now() + seconds)
        left = min(seconds, journal.deadline - self.host.now())  # a clock that was set back does not make it longer
        why = self.confirm.confirm(journal.document.generation, left)
        if why is None:
            return journals.confirm(self.host, journal), None
        return journal, unconfirmed_error(journal.document, why)

    def _probe(self, document: Document, journal: Journal, record: Record, units_now: Units) -> dict[str, Any] | None:
        """Wait until the probes of the node are green and the units of the change run; else what is told.

        :param document: whose probes. :param units_now: of the files that are managed now.
        """
        named = {unit for of_file in units_now.values() for unit in of_file}
        units = [unit for unit in units_of(journal.changed, record.units, journal.units) if unit in named]
        seen: dict[str, ProbeResult] = {}

        def watch(round_: dict[str, ProbeResult]) -> None:
            seen.update(round_)
            self.watcher.probed(round_)

        mask = build_mask(journal.document, document)
        beside = partial(watch_units, self.host, units)
        if wait_for_green(self.host, document.probes, document.wait, watch, beside, mask):
            return None
        red = {name: result for name, result in seen.items() if result.scope == "node" and not result.ok}
        causes = [f"{name} said {result.output!r}" for name, result in red.items() if name not in units]
        causes += [
            f"{unit} is {red[unit].output}\n{last_lines(self.host, unit)}".rstrip() for unit in units if unit in red
        ]
        lost = [name for name, result in red.items() if result.final]
        summary = f"{', '.join(lost)} did not stay up" if lost else f"the node is not healthy after {document.wait:g} s"
        return build_error(summary, "; ".join(causes), "on the instance: provisioner-agent status")

    def _go_back(
        self, journal: Journal, results: Sequence[PhaseResult], error: dict[str, Any], record: Record
    ) -> Outcome:
        account = Account(journal.account)
        with account.timed("way back", self.host.monotonic):
            journal = journals.take_back(self.host, journal, error)
            previous = read_document(self.host, places.APPLIED)
            if previous is None:
                read_units(self.host, journal.changed)
                journal, _ = self._touch(journal, record, record.units, self.host.monotonic())
                return _outcome(BROKEN, journal, record.managed, results, error)
            env = self._environment(journal, previous, record) | {"PROVISIONER_ROLLBACK": "1"}
            journal, back = self._bring_in(journal, record, env, record.units)
            wrong = script_error(back) or self._probe(previous, journal, record, record.units)
        journal = replace(journal, account=account.to_dict())
        if wrong is None:
            LOG.warning("generation %s is in force again", previous.generation)
            return _outcome(ROLLED_BACK, journal, record.managed, results, error)
        cause = f"{error['cause']}; and with the previous files: {wrong['summary']}: {wrong['cause']}"
        return _outcome(BROKEN, journal, record.managed, results, error | {"cause": cause})

    def _environment(self, journal: Journal, document: Document, record: Record) -> dict[str, str]:
        for path, value in ((places.RUN_METADATA, document.body), (places.RUN_PERMIT, {"once": journal.once})):
            self.host.write(path, FileState(json.dumps(value).encode(), 0o600))
        env = {
            "PROVISIONER_CHANGED": "\n".join(journal.changed),
            "PROVISIONER_METADATA": self.host.real(places.RUN_METADATA),
            "PROVISIONER_PERMIT": self.host.real(places.RUN_PERMIT),
            "PROVISIONER_GENERATION": str(document.generation),
        }
        if not record.applied:
            env["PROVISIONER_FIRST"] = "1"
        if record.boot_id != self.host.boot_id():
            env["PROVISIONER_BOOT"] = "1"
        return env


def _journal(
    document: Document,
    changes: tuple[Change, ...],
    managed: Managed,
    once: Mapping[str, Any],
    *,
    boot: bool = False,
    again: bool = False,
    account: Mapping[str, Any],
) -> Journal:
    units, confirm = managed.units, managed.confirm
    return Journal(
        document, changes, managed.files, once, boot, units=units, confirm=confirm, account=account, again=again
    )


def _outcome(
    state: str,
    journal: Journal,
    managed: Managed,
    results: Sequence[PhaseResult],
    error: dict[str, Any] | None = None,
) -> Outcome:
    return Outcome(state, journal.document, managed, tuple(results), error, journal.boot, journal.account)
