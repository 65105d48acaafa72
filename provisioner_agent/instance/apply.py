"""One generation as a transaction: render, validate, permit, switch, phases, probes; or back to the one before."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from provisioner_agent.instance import journal as journals
from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document, read_document
from provisioner_agent.instance.files import check_files, compare_files, diff_text, render_files
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.journal import Journal
from provisioner_agent.instance.phases import PHASES, PhaseResult, failure_of, run_phases
from provisioner_agent.instance.probes import ProbeResult, wait_for_green
from provisioner_agent.instance.record import Record
from provisioner_agent.render.problem import RenderError

APPLIED = "applied"
FAILED = "failed"
ROLLED_BACK = "rolled-back"
BROKEN = "broken"
MIGRATION = "migration"

LOG = logging.getLogger("provisioner-agent")


class Watcher(Protocol):
    """Whoever wants to know how an application goes on."""

    def holding(self, generation: int) -> None:
        """The permit was granted; remembered so that it is given back even after a crash."""

    def configured(self, document: Document, phases: list[PhaseResult]) -> None:
        """All phases ended well; the probes come next."""

    def probed(self, results: Mapping[str, ProbeResult]) -> None:
        """A round of probes."""


@dataclass(frozen=True)
class Outcome:
    """How it ended. ``state`` is a word of the report. ``files``: the paths that the agent manages now."""

    state: str
    document: Document
    files: tuple[str, ...]
    phases: tuple[PhaseResult, ...] = ()
    error: dict[str, Any] | None = None
    boot: bool = False


class Acquire(Protocol):
    def __call__(self, generation: int, *, whatever_comes: bool) -> Mapping[str, Any] | None:
        """Wait for a permit; the once answers, or None when a newer generation came, unless ``whatever_comes``."""


class Applier:
    """Applies generations; a transaction each."""

    def __init__(self, host: Host, acquire: Acquire, watcher: Watcher) -> None:
        self.host = host
        self.acquire = acquire
        self.watcher = watcher

    def apply(self, document: Document, record: Record) -> Outcome | None:
        """Bring a new generation into force; None when a newer one came while it waited for its permit."""
        try:
            files = render_files(self.host, document)
            check_files(self.host, files)
        except RenderError as error:
            LOG.error("generation %s is refused, nothing was changed:\n%s", document.generation, error)
            what = _error("the templates cannot be rendered", str(error), "correct the value or template; apply again")
            return Outcome(FAILED, document, record.files, error=what)
        managed = tuple(sorted(files))
        changes = compare_files(self.host, files, record.files)
        if not changes and record.applied and record.boot_id == self.host.boot_id():
            LOG.info("generation %s changes no file", document.generation)
            return Outcome(APPLIED, document, managed)
        LOG.info("generation %s:\n%s", document.generation, diff_text(changes, files))
        once = self._permit(document)
        if once is None:
            return None
        changes = compare_files(self.host, files, record.files)
        return self._carry_out(Journal(document, changes, managed, once), record)

    def bring_up(self, document: Document, record: Record) -> Outcome:
        """After a boot: the applied generation's files as they should be, and its phases. Needs no server."""
        try:
            files = render_files(self.host, document)
        except RenderError as error:
            what = _error("the templates cannot be rendered", str(error), "deploy the node again")
            return Outcome(BROKEN, document, record.files, error=what, boot=True)
        changes = compare_files(self.host, files, record.files)
        if changes:
            LOG.warning("files differ from generation %s:\n%s", document.generation, diff_text(changes, files))
        journal = Journal(document, changes, tuple(sorted(files)), {}, boot=True)
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
            what = _error(f"generation {generation} did not get through", "the agent ended on the way back", None)
            return self._go_back(journal, (), what, record)
        if record.applied >= generation and not journal.boot:
            journals.close_journal(self.host)
            return None
        LOG.warning("generation %s was interrupted after its switch: its phases run again", generation)
        if not journal.boot:
            journal = replace(journal, once=self._permit(journal.document, whatever_comes=True) or {})
        return self._finish(journal, record)

    def _permit(self, document: Document, *, whatever_comes: bool = False) -> Mapping[str, Any] | None:
        if not document.needs_permit:
            return {}
        once = self.acquire(document.generation, whatever_comes=whatever_comes)
        if once is not None:
            self.watcher.holding(document.generation)
        return once

    def _carry_out(self, journal: Journal, record: Record) -> Outcome:
        try:
            journal = journals.open_journal(self.host, journal)
            switched = journals.switch(self.host, journal)
        except (OSError, LookupError) as error:  # no space, no such owner
            LOG.error("the files cannot be written, they are taken back: %s", error)
            journals.take_back(self.host, journal)
            what = _error("the files cannot be written", str(error), "on the instance: journalctl -u provisioner-agent")
            state = BROKEN if journal.boot else FAILED
            return Outcome(state, journal.document, record.files, error=what, boot=journal.boot)
        return self._finish(switched, record)

    def _finish(self, journal: Journal, record: Record) -> Outcome:
        document = journal.document
        env = self._environment(journal, document, record)
        results = run_phases(self.host, env)
        wrong = failure_of(results)
        if wrong is not None:
            error = _script_error(wrong)
        else:
            self.watcher.configured(document, results)
            seen: dict[str, ProbeResult] = {}

            def watch(round_: dict[str, ProbeResult]) -> None:
                seen.update(round_)
                self.watcher.probed(round_)

            if wait_for_green(self.host, document.probes, document.wait, watch):
                return Outcome(APPLIED, document, journal.files, tuple(results), boot=journal.boot)
            error = _probe_error(document, seen)
        LOG.error("generation %s: %s: %s", document.generation, error["summary"], error["cause"])
        migrated = any(result.phase == MIGRATION for result in results)
        if journal.boot or migrated or not record.applied:
            return Outcome(BROKEN, document, journal.files, tuple(results), error, journal.boot)
        return self._go_back(journal, tuple(results), error, record)

    def _go_back(
        self, journal: Journal, results: tuple[PhaseResult, ...], error: dict[str, Any], record: Record
    ) -> Outcome:
        journals.take_back(self.host, journal)
        previous = read_document(self.host, places.APPLIED)
        if previous is None:
            return Outcome(BROKEN, journal.document, record.files, results, error)
        env = self._environment(journal, previous, record) | {"PROVISIONER_ROLLBACK": "1"}
        back = run_phases(self.host, env, tuple(phase for phase in PHASES if phase != MIGRATION))
        wrong = failure_of(back)
        if wrong is None and wait_for_green(self.host, previous.probes, previous.wait, self.watcher.probed):
            LOG.warning("generation %s is in force again", previous.generation)
            return Outcome(ROLLED_BACK, journal.document, record.files, results, error)
        reason = _script_error(wrong)["cause"] if wrong else "the node's probes are not green"
        cause = f"{error['cause']}; and with the previous files: {reason}"
        return Outcome(BROKEN, journal.document, record.files, results, error | {"cause": cause})

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


def _error(summary: str, cause: str, hint: str | None) -> dict[str, Any]:
    return {"error": "ConfigureError", "summary": summary, "where": None, "cause": cause, "hint": hint}


def _script_error(wrong: PhaseResult) -> dict[str, Any]:
    how = "did not end in time" if wrong.timed_out else f"ended with code {wrong.code}"
    summary = f"the phase script {wrong.phase}.d/{wrong.script} {how}"
    return _error(summary, wrong.tail, "on the instance: journalctl -u provisioner-agent") | {
        "phase": wrong.phase,
        "script": wrong.script,
        "code": wrong.code,
    }


def _probe_error(document: Document, seen: Mapping[str, ProbeResult]) -> dict[str, Any]:
    red = {name: result for name, result in seen.items() if result.scope == "node" and not result.ok}
    cause = "; ".join(f"{name} said {result.output!r}" for name, result in red.items())
    summary = f"the node is not healthy after {document.wait:g} s"
    return _error(summary, cause, "on the instance: provisioner-agent status")
