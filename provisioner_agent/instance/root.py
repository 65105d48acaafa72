"""From what an instance of a whole disk that somebody brought runs: what its kernel was told may be anything."""

from __future__ import annotations

import re

from provisioner_agent.instance.host import Host

TIMEOUT = 30.0
PARTUUID = re.compile(r"^[0-9A-Fa-f]+(-[0-9A-Fa-f]+)+$", re.MULTILINE)
"""Of a GPT a GUID, of an MBR its number and the partition's; among the lines may be what a program warns of."""


def find_root(host: Host) -> str:
    """The partition on which the root lies in the end, as ``PARTUUID=...``; empty when it cannot be told."""
    findmnt = ["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", "/"]
    source = host.run(findmnt, limit=TIMEOUT).output.strip()
    lsblk = ["lsblk", "--noheadings", "--inverse", "--raw", "--output", "PARTUUID", source]
    done = host.run(lsblk, limit=TIMEOUT)
    found = PARTUUID.search(done.output) if done.code == 0 else None
    return f"PARTUUID={found[0].lower()}" if found else ""
