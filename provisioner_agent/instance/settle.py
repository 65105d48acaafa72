"""The command ``settle``, for early boot: a switch that was cut off is taken back before a service reads a file of it.

It knows the disk alone, no server. It imports little, since the boot waits for it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from provisioner_agent.instance.host import Host, LinuxHost
from provisioner_agent.instance.journal import RECORD, read_journal, settle

EXIT_ERROR = 1
EXIT_USAGE = 64
RELOAD_SECONDS = 60.0
UNITS = ("/etc/systemd/system/", "/usr/lib/systemd/system/", "/etc/fstab")
"""Systemd has read what is there before anything could be taken back."""


def main(argv: Sequence[str], program: str) -> None:
    sys.exit(run_command(argv, program))


def run_command(argv: Sequence[str], program: str) -> int:
    """Exit code 0: the files are the old or the new ones. 1: they may be a mixture, and nothing should use them."""
    parser = argparse.ArgumentParser(prog=program, description="Take back a switch that was cut off, before services.")
    parser.add_argument("--root", type=Path, default=Path("/"), help="folder that stands for the root")
    try:
        words = parser.parse_args(argv)
    except SystemExit as end:
        return EXIT_USAGE if end.code else 0
    try:
        print(f"{program}: {settle_host(LinuxHost(words.root), words.root == Path('/'))}")
    except (OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        print(
            f"{program}: the files of two generations may be mixed, so no service is to start\n  where: {RECORD}\n"
            f"  cause: {type(error).__name__}: {error}\n  next: mend that (df, dmesg, mount) and restart the node",
            file=sys.stderr,
        )
        return EXIT_ERROR
    return 0


def settle_host(host: Host, booting: bool) -> str:
    """What was done, in one sentence. :param booting: whether systemd of this root is to read its units again."""
    journal = read_journal(host)
    if journal is None:
        return "no switch was cut off"
    generation = journal.document.generation
    if not settle(host, journal):
        return f"the files are those of generation {generation}, all of them"
    if booting and any(path.startswith(UNITS) for path in journal.changed):
        done = host.run(["systemctl", "daemon-reload"], limit=RELOAD_SECONDS)
        if done.code != 0:
            raise RuntimeError(f"systemctl daemon-reload ended with code {done.code}: {done.output.strip()}")
    return f"the switch to generation {generation} was cut off; all its {len(journal.changes)} files were taken back"
