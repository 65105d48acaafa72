"""What the agent remembers between its starts."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from provisioner_agent.instance import places
from provisioner_agent.instance.host import FileState, Host


@dataclass(frozen=True)
class Record:
    """The agent's memory.

    :param applied: the generation in force, 0 before the first. :param refused: the newest generation that did not get
        through; it is not tried again. :param boot_id: of the kernel under which the services were brought up.
    :param files: paths that the agent manages. :param permit: generation whose permit is held, 0 for none.
    :param state: of the newest attempt, a word of the report, empty before the first; ``about`` is its generation.
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


def read_record(host: Host) -> Record:
    state = host.read(places.STATE)
    if state is None:
        return Record()
    raw = json.loads(state.data)
    return replace(Record(), **raw | {"files": tuple(raw["files"]), "phases": tuple(raw["phases"])})


def write_record(host: Host, record: Record) -> Record:
    host.write(places.STATE, FileState(json.dumps(asdict(record)).encode(), 0o600))
    return record
