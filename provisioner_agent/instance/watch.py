"""The command ``watch``: takes back a change that may have cut the node off, when the agent does not come to end it.

It is a unit of its own, and it runs before the first file is touched: what a change does to the agent, its unit or its
programs does not reach it. Who works on a journal holds the lock, so one of the two acts. An agent that lives has it,
and takes its change back itself (:mod:`.confirm`); what is watched is how long nobody holds it. Then the files come
back, and the agent is started: it finds the way back begun, runs its phases and reports.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from provisioner_agent.instance import places
from provisioner_agent.instance.failure import absent_error
from provisioner_agent.instance.host import Host, LinuxHost
from provisioner_agent.instance.journal import (
    RECORD,
    UNCONFIRMED,
    Journal,
    note_touched,
    read_journal,
    take_back,
)
from provisioner_agent.instance.phases import failure_of
from provisioner_agent.instance.record import Record, read_record
from provisioner_agent.instance.services import (
    LOOK_LIMIT,
    OWN,
    VERBS,
    last_lines,
    read_states,
    read_units,
    split_gone,
    units_of,
)
from provisioner_agent.render.tree import PHASE, RESTART

EXIT_ERROR = 1
EXIT_USAGE = 64
PAUSE = 2.0
GRACE = 30.0
"""Seconds that an agent which ended has at least, to start again."""


def main(argv: Sequence[str], program: str) -> None:
    sys.exit(run_command(argv, program))


def run_command(argv: Sequence[str], program: str) -> int:
    """Exit code 0: no change is open that would have to be taken back. 1: one is, and could not be."""
    parser = argparse.ArgumentParser(prog=program, description="Take back what the agent is not there to take back.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder that stands for the root")
    try:
        words = parser.parse_args(argv)
    except SystemExit as end:
        return EXIT_USAGE if end.code else 0
    host = LinuxHost(words.root)
    socket = os.environ.get("NOTIFY_SOCKET")
    if socket:
        host.run(["systemd-notify", "--ready"], limit=LOOK_LIMIT, env={"NOTIFY_SOCKET": socket})
    try:
        print(f"{program}: {watch(host, lambda text: print(f'{program}: {text}', flush=True))}")
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        print(
            f"{program}: the change cannot be taken back; tried again in a moment\n  where: {RECORD}\n"
            f"  cause: {type(error).__name__}: {error}\n  next: mend that (df, dmesg, mount)",
            file=sys.stderr,
        )
        return EXIT_ERROR
    return 0


def watch(host: Host, tell: Callable[[str], None]) -> str:
    """Wait until the journal is closed, or the time is over and nobody works on it; what came of it, in a sentence.

    :raises OSError: :raises LookupError: as :func:`.journal.settle` does. :raises RuntimeError: :raises ValueError:
        the journal cannot be read.
    """
    seen, since, end = "", 0.0, 0.0
    while host.read(RECORD) is not None:
        with host.hold(places.LOCK, wait=False) as held:
            journal = read_journal(host) if held else None  # whoever holds it may be about to close it
            if journal is not None:
                record = read_record(host)
                if not journal.is_risky(record):
                    return f"generation {journal.document.generation} need not be taken back by anybody but the agent"
                now = host.monotonic()
                if journal.state != seen:
                    seen, since, end = journal.state, now, now + _time_left(host, journal)
                    tell(f"the agent is not there; in {end - now:.0f} s its change is taken back ({seen})")
                if now >= end:
                    bring_back(host, journal, record, now - since)
                    return f"generation {journal.document.generation} is taken back, and the agent started"
        host.sleep(PAUSE)
    return "the change is over"


def bring_back(host: Host, journal: Journal, record: Record, seconds: float) -> None:
    """Put the previous files back, and let units have them; what comes after is the agent's.

    Phases and units in their order are the agent's too, so it does with the units what it always does. They are
    restarted here as well, and not waited for, since it may be one of them without which the agent does not start.
    """
    state = read_states(host, [OWN]).get(OWN)
    journal = take_back(host, journal, absent_error(seconds, str(state or "unknown"), last_lines(host, OWN)))
    wrong = failure_of(read_units(host, journal.changed))
    if wrong is not None:
        raise RuntimeError(f"systemctl {wrong.script} ended with code {wrong.code}: {wrong.tail}")
    if not host.has_units:
        return
    units = split_gone(host, units_of(journal.changed, record.units, journal.units), record.units)
    note_touched(host, journal, OWN, host.boot_id())  # so that the agent that starts does not restart itself again
    for unit, how in (*((unit, how) for unit, how in units.items() if unit != OWN), (OWN, RESTART)):
        if how != PHASE:
            host.run(["systemctl", "reset-failed", unit], limit=LOOK_LIMIT)
            host.run(["systemctl", "--no-block", VERBS[how], unit], limit=LOOK_LIMIT)


def _time_left(host: Host, journal: Journal) -> float:
    seconds = journal.document.confirm_seconds
    if journal.state == UNCONFIRMED:
        seconds = min(seconds, journal.deadline - host.now())  # a clock that was set back does not make it longer
    return max(GRACE, seconds)
