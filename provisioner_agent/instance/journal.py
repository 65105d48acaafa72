"""The switch from one set of files to the next, under a journal.

All new and all previous content is in the journal's folder, flushed, before the first file is touched. So an agent that
starts again finds one of: no journal (nothing was touched, or all is done); ``switching`` (some files may be new: it
takes them back); ``switched`` (all are new: it goes on with the phases); ``unconfirmed`` (all are new, and may have cut
the node off: it takes them back unless the server is heard within the time that is left); ``returning`` (it goes on
taking back). In ``switching`` and ``returning`` alone the files may be a mixture; early boot ends it (:func:`settle`)
before any service reads one of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document, read_document, write_document
from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.record import Managed, Record

RECORD = f"{places.JOURNAL}/journal.json"
DOCUMENT = f"{places.JOURNAL}/metadata.json"
SWITCHING = "switching"
SWITCHED = "switched"
UNCONFIRMED = "unconfirmed"
RETURNING = "returning"


@dataclass(frozen=True)
class Change:
    """One path: what stood there and what is to stand there; None stands for no file."""

    path: str
    old: FileState | None
    new: FileState | None


@dataclass(frozen=True)
class Journal:
    """An open switch. ``files``: all paths that the new generation manages. ``boot``: only brings the instance up.

    ``units`` and ``confirm`` are the new generation's: see :class:`.record.Managed`. ``deadline``: seconds since the
    epoch until which it must be confirmed; ``confirmed``: it was. ``touched``: units that were restarted or reloaded on
    this way, forth or back, since the kernel ``booted`` began to run. ``account``: what is to be told of the change.
    ``error``: why it is taken back, not masked.
    ``again``: it puts files of the generation in force back.
    """

    document: Document
    changes: tuple[Change, ...]
    files: tuple[str, ...]
    once: Mapping[str, Any]
    boot: bool = False
    state: str = SWITCHING
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    confirm: tuple[str, ...] = ()
    deadline: float = 0.0
    confirmed: bool = False
    touched: tuple[str, ...] = ()
    booted: str = ""
    account: Mapping[str, Any] = field(default_factory=dict)
    error: Mapping[str, Any] | None = None
    again: bool = False

    @property
    def changed(self) -> tuple[str, ...]:
        return tuple(change.path for change in self.changes)

    @property
    def managed(self) -> Managed:
        return Managed(self.files, self.units, self.confirm)

    def is_risky(self, record: Record) -> bool:
        """Whether the change may have cut the node off, and nobody has said yet that it has not."""
        risky = {*self.confirm, *record.confirm}
        return not self.boot and not self.confirmed and any(path in risky for path in self.changed)


def open_journal(host: Host, journal: Journal) -> Journal:
    """Put everything on record that the switch and the way back need."""
    host.remove(places.JOURNAL)
    for number, change in enumerate(journal.changes):
        for side, state in (("old", change.old), ("new", change.new)):
            if state is not None:
                host.write(_content(side, number), FileState(state.data, 0o600))
    write_document(host, DOCUMENT, journal.document)
    return _record(host, journal, SWITCHING)


def switch(host: Host, journal: Journal) -> Journal:
    """Write the new files."""
    _put(host, ((change.path, change.new) for change in journal.changes))
    return _record(host, journal, SWITCHED)


def await_word(host: Host, journal: Journal, deadline: float) -> Journal:
    """From now on it is taken back, unless the server is heard before ``deadline``."""
    return _record(host, replace(journal, deadline=deadline), UNCONFIRMED)


def confirm(host: Host, journal: Journal) -> Journal:
    """The server was heard: it goes on as any other switch."""
    return _record(host, replace(journal, confirmed=True), SWITCHED)


def note_touched(host: Host, journal: Journal, unit: str, booted: str) -> Journal:
    """A unit was restarted or reloaded; an agent that starts again in the same boot does not do that again."""
    touched = journal.touched if journal.booted == booted else ()
    return _record(host, replace(journal, touched=(*touched, unit), booted=booted), journal.state)


def take_back(host: Host, journal: Journal, error: Mapping[str, Any]) -> Journal:
    """Put the previous files back. :param error: why; who goes on with the way back tells it."""
    if read_journal(host) is None:
        return journal  # it never came to a switch
    if journal.state != RETURNING:
        journal = replace(journal, touched=(), error=error)
    returning = _record(host, journal, RETURNING)
    settle(host, returning)
    return returning


def settle(host: Host, journal: Journal) -> bool:
    """Put the previous files back where the switch, or the way back, was cut off; whether it was.

    After ``switching`` nothing is left to be done, and the journal is closed. After ``returning`` it stays: the agent
    has to run the phases of the previous files, and to report. Done again it does the same.

    :raises OSError: a file cannot be written; the files are a mixture. :raises LookupError: an owner is unknown.
    """
    if journal.state not in (SWITCHING, RETURNING):
        return False
    back = reversed(journal.changes)
    _put(host, ((change.path, change.old) for change in back if host.read(change.path) != change.old))
    for change in journal.changes:
        host.sweep(change.path)
    if journal.state == SWITCHING:
        close_journal(host)
    return True


def close_journal(host: Host) -> None:
    host.remove(RECORD)
    host.remove(places.JOURNAL)


def read_journal(host: Host) -> Journal | None:
    """The open journal; None when there is none."""
    record = host.read(RECORD)
    if record is None:
        return None
    raw = json.loads(record.data)
    document = read_document(host, DOCUMENT)
    if document is None:
        raise RuntimeError(f"{DOCUMENT} is missing beside {RECORD}")
    changes = tuple(
        Change(item["path"], _state(host, "old", number, item["old"]), _state(host, "new", number, item["new"]))
        for number, item in enumerate(raw["changes"])
    )
    return Journal(
        document,
        changes,
        tuple(raw["files"]),
        raw["once"],
        raw["boot"],
        raw["state"],
        raw.get("units", {}),  # an older agent's journal has none of these
        tuple(raw.get("confirm", ())),
        raw.get("deadline", 0.0),
        raw.get("confirmed", False),
        tuple(raw.get("touched", ())),
        raw.get("booted", ""),
        raw.get("account", {}),
        raw.get("error"),
        raw.get("again", False),
    )


def _put(host: Host, wanted: Iterable[tuple[str, FileState | None]]) -> None:
    for path, state in wanted:
        if state is None:
            host.remove(path)
        else:
            host.write(path, state)


def _record(host: Host, journal: Journal, state: str) -> Journal:
    raw = {
        "state": state,
        "files": journal.files,
        "once": journal.once,
        "boot": journal.boot,
        "units": journal.units,
        "confirm": journal.confirm,
        "deadline": journal.deadline,
        "confirmed": journal.confirmed,
        "touched": journal.touched,
        "booted": journal.booted,
        "account": journal.account,
        "error": journal.error,
        "again": journal.again,
        "changes": [{"path": c.path, "old": _attributes(c.old), "new": _attributes(c.new)} for c in journal.changes],
    }
    host.write(RECORD, FileState(json.dumps(raw).encode(), 0o600))
    return replace(journal, state=state)


def _content(side: str, number: int) -> str:
    return f"{places.JOURNAL}/{side}/{number}"


def _attributes(state: FileState | None) -> dict[str, Any] | None:
    return None if state is None else {"mode": state.mode, "owner": state.owner, "group": state.group}


def _state(host: Host, side: str, number: int, attributes: Mapping[str, Any] | None) -> FileState | None:
    if attributes is None:
        return None
    kept = host.read(_content(side, number))
    if kept is None:
        raise RuntimeError(f"{_content(side, number)} is missing beside {RECORD}")
    return FileState(kept.data, attributes["mode"], attributes["owner"], attributes["group"])
