"""Runs in a virtual machine: the config agent brings generations into force on a disk whose writes are logged.

``ROOT METADATA... [--careless]``. Careless, its files are not flushed before their names are, as of an agent that
leaves out one line.
"""

from __future__ import annotations

import os
import stat
import sys

from provisioner_agent.instance.main import run_command

flush = os.fsync


def flush_folders_alone(handle: int) -> None:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        flush(handle)


root, *files = [word for word in sys.argv[1:] if word != "--careless"]
if "--careless" in sys.argv:
    os.fsync = flush_folders_alone
for file in files:
    run_command(["trial", "--root", root, "--metadata", file])
