"""From what an instance runs, where its image is a whole disk that somebody brought: how its kernel was told is its own
business."""

from __future__ import annotations

from provisioner_agent.instance.host import Host

TIMEOUT = 30.0


def find_root(host: Host) -> str:
    """The partition on which the root lies in the end, as ``PARTUUID=...``; empty when it cannot be told."""
    findmnt = ["findmnt", "--noheadings", "--nofsroot", "--output", "SOURCE", "/"]
    source = host.run(findmnt, limit=TIMEOUT).output.strip()
    lsblk = ["lsblk", "--noheadings", "--inverse", "--raw", "--output", "PARTUUID", source]
    words = host.run(lsblk, limit=TIMEOUT).output.split()
    return f"PARTUUID={words[0].lower()}" if words else ""
