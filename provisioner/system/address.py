"""An address that moves from host to host: put on an interface, announced to the neighbours, taken off again.

A neighbour keeps the old host's MAC address for a minute or so, unless it is told (RFC 5227, section 3).
"""

from __future__ import annotations

import json
import socket
import struct
import time
from pathlib import Path
from typing import Protocol

from provisioner.errors import HostError
from provisioner.system.run import Runner

LISTEN_SECONDS = 1.0
"""How long another owner has to answer."""
TIMES = 3
"""How often it is asked, and announced; a frame may be lost."""
ARP = 0x0806
REQUEST, REPLY = 1, 2
FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")
LOOPBACK = "127."
"""All of these are on the loopback, and none can be taken off."""
BROADCAST, NOBODY = b"\xff" * 6, bytes(6)


class Addresses(Protocol):
    """IPv4 addresses of this host's interfaces."""

    def has(self, interface: str, address: str) -> bool: ...

    def owner(self, interface: str, address: str) -> str | None:
        """The MAC address of another host on the wire that has it; None when none answers."""

    def add(self, interface: str, address: str) -> None:
        """Put it on the interface, and announce it. Nothing happens if it is there.

        :raises HostError: it cannot be done.
        """

    def remove(self, interface: str, address: str) -> None:
        """Take it off. Nothing happens if it is not there. :raises HostError: it cannot be done."""


class HostAddresses:
    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def has(self, interface: str, address: str) -> bool:
        if _mac(interface) == NOBODY and address.startswith(LOOPBACK):
            return True
        said = self._runner.run(["ip", "-j", "addr", "show", "dev", interface]).stdout
        return any(info.get("local") == address for one in json.loads(said) for info in one.get("addr_info", ()))

    def owner(self, interface: str, address: str) -> str | None:
        own = _mac(interface)
        if own == NOBODY:  # the loopback has no neighbours
            return None
        wanted = socket.inet_aton(address)
        with _door(interface) as door:
            for _ in range(TIMES):
                door.send(_frame(REQUEST, own, bytes(4), wanted))
                found = _hear(door, own, wanted, LISTEN_SECONDS / TIMES)
                if found is not None:
                    return found.hex(":")
        return None

    def add(self, interface: str, address: str) -> None:
        if self.has(interface, address):
            return
        self._runner.run(["ip", "addr", "add", f"{address}/32", "dev", interface])
        own = _mac(interface)
        if own != NOBODY:
            with _door(interface) as door:
                for _ in range(TIMES):
                    door.send(_frame(REQUEST, own, socket.inet_aton(address), socket.inet_aton(address)))

    def remove(self, interface: str, address: str) -> None:
        if self.has(interface, address) and not address.startswith(LOOPBACK):
            self._runner.run(["ip", "addr", "del", f"{address}/32", "dev", interface])


def _mac(interface: str) -> bytes:
    """:raises HostError: there is no such interface."""
    try:
        return bytes.fromhex(Path(f"/sys/class/net/{interface}/address").read_text().strip().replace(":", ""))
    except (OSError, ValueError) as error:
        raise HostError("the interface cannot be read", where=interface, cause=str(error), hint="ip link") from error


def _door(interface: str) -> socket.socket:
    """For ARP frames alone. :raises HostError: it needs root, or the interface is gone."""
    door = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ARP))
    try:
        door.bind((interface, ARP))
    except OSError as error:
        door.close()
        raise HostError("no frame can be sent", where=interface, cause=str(error), hint="ip link") from error
    return door


def _frame(kind: int, own: bytes, sender: bytes, target: bytes) -> bytes:
    """An ARP frame to all (RFC 826). ``sender`` of zeros only asks (RFC 5227, section 2.1.1)."""
    return FRAME.pack(BROADCAST, own, ARP, 1, 0x0800, 6, 4, kind, own, sender, NOBODY, target)


def _hear(door: socket.socket, own: bytes, wanted: bytes, seconds: float) -> bytes | None:
    """The MAC address of another one who says that the address ``wanted`` is his."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        door.settimeout(left)
        try:
            data = door.recv(2048)
        except TimeoutError:
            return None
        if len(data) >= FRAME.size:
            *_, mac, sender, _, _ = FRAME.unpack_from(data)
            if sender == wanted and mac != own:
                return bytes(mac)
    return None


class FakeAddresses:
    """``on``: what this host has, as (interface, address). ``others``: MAC address by address of other hosts."""

    def __init__(self) -> None:
        self.on: set[tuple[str, str]] = set()
        self.others: dict[str, str] = {}

    def has(self, interface: str, address: str) -> bool:
        return (interface, address) in self.on

    def owner(self, interface: str, address: str) -> str | None:
        return self.others.get(address)

    def add(self, interface: str, address: str) -> None:
        self.on.add((interface, address))

    def remove(self, interface: str, address: str) -> None:
        self.on.discard((interface, address))
