"""What dnsmasq saw of a node: the evidence of a network boot before anything of ours runs on it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ACK = re.compile(r"dnsmasq-dhcp\[\d+\]: DHCPACK\(\S+\) (?P<address>\S+) (?P<mac>[0-9a-f:]{17})")
SENT = re.compile(r"dnsmasq-tftp\[\d+\]: sent (?P<file>\S+) to (?P<address>\S+)")
FAILED = re.compile(r"dnsmasq-tftp\[\d+\]: failed sending (?P<file>\S+) to (?P<address>\S+)")
MOST = 1 << 20
"""Bytes of the log that are read at once; of more only the end."""


@dataclass(frozen=True)
class Seen:
    """``kind`` of the event; ``address``: the node's, from our range."""

    kind: str
    message: str
    address: str


def parse_line(line: str) -> Seen | None:
    """A line of dnsmasq's log (dnsmasq 2.90); None for one that is about no node."""
    if found := ACK.search(line):
        address, mac = found["address"], found["mac"]
        return Seen("dhcp.answered", f"{mac} got the address {address} by DHCP", address)
    if found := SENT.search(line):
        return Seen("tftp.sent", f"{Path(found['file']).name} was sent by TFTP", found["address"])
    if found := FAILED.search(line):
        return Seen("tftp.failed", f"{Path(found['file']).name} could not be sent by TFTP", found["address"])
    return None


class WireLog:
    """Reads what was added to the log; a piece of work for a follower. What was there at the start is old.

    :param tell: hears of each.
    """

    def __init__(self, log: Path, tell: Callable[[Seen], None]) -> None:
        self._log, self._tell = log, tell
        self._at = self._size()
        self._rest = b""

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0

    def __call__(self) -> None:
        size = self._size()
        if size < self._at:  # it was begun anew
            self._at, self._rest = 0, b""
        if size == self._at:
            return
        with self._log.open("rb") as file:
            file.seek(max(self._at, size - MOST))
            data = file.read(size - file.tell())
        self._at = size
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            seen = parse_line(line.decode(errors="replace"))
            if seen is not None:
                self._tell(seen)
