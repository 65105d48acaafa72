"""What the agent remembers between its starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.host import FileState, Host


@dataclass(frozen=True)
class Managed:
    """What a generation manages.

    :param files: their paths. :param units: of systemd, with what becomes of each when the file changes, by the path
        of the file. :param confirm: paths of the files whose change may cut the node off.
    """

    files: tuple[str, ...] = ()
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    confirm: tuple[str, ...] = ()


@dataclass(frozen=True)
class Record:
    """The agent's memory.

    :param applied: the generation in force, 0 before the first. :param refused: the newest generation that did not get
        through; it is not tried again. :param boot_id: of the kernel under which the services were brought up.
    :param files: paths that the agent manages; ``units`` and ``confirm`` are those of :class:`Managed`.
    :param permit: generation whose permit is held, 0 for none.
    :param state: of the newest attempt, a word of the report, empty before the first; ``about`` is its generation.
    :param account: what is told of the newest change once: see :mod:`.account`. :param drain: how that went, and under
        which kernel: see :mod:`.drain`; empty while it is not asked for.
    """

    applied: int = 0
    refused: int = 0
    boot_id: str = ""
    files: tuple[str, ...] = ()
    permit: int = 0
    state: str = ""
    about: int = 0
    error: dict[str, Any] | None = None
    phases: tuple[dict[str, Any], ...] = ()
    units: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    confirm: tuple[str, ...] = ()
    account: Mapping[str, Any] = field(default_factory=dict)
    drain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def managed(self) -> Managed:
        return Managed(self.files, self.units, self.confirm)


def read_record(host: Host) -> Record:
    """What an older agent did not write is as if nothing was known of it; what a newer one wrote beside is left out."""
    state = host.read(places.STATE)
    if state is None:
        return Record()
    raw = json.loads(state.data)
    known: dict[str, Any] = {item.name: raw[item.name] for item in fields(Record) if item.name in raw}
    lists: dict[str, Any] = {name: tuple(known[name]) for name in ("files", "phases", "confirm") if name in known}
    return replace(Record(), **known | lists)


def write_record(host: Host, record: Record) -> Record:
    host.write(places.STATE, FileState(json.dumps(asdict(record)).encode(), 0o600))
    return record
