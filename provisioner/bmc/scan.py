"""Finds the management controllers of a network: who answers IPMI, and who answers Redfish. Nobody is logged in to."""

from __future__ import annotations

import ipaddress
import json
import selectors
import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from provisioner.bmc.login import ADMINISTRATOR
from provisioner.bmc.rmcp import build_greeting, parse_message, parse_packet
from provisioner.errors import UsageError
from provisioner.model.hardware import PORTS

MOST = 4096
"""Addresses of one scan: a /20."""
AT_ONCE = 256
TRIES, PATIENCE = 3, 0.7
ROOT_SECONDS = 3.0
QUESTION = build_greeting(ADMINISTRATOR)
ROOT = b"GET /redfish/v1/ HTTP/1.1\r\nHost: %b\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
"""The one resource that needs no login (DSP0266, 6.4)."""
LARGEST = 64 << 10


@dataclass(frozen=True)
class Found:
    """A controller. ``drivers``: the words of a hardware file by which it can be reached."""

    address: str
    drivers: tuple[str, ...]


def parse_network(text: str) -> list[str]:
    """The addresses of a network, as ``10.0.4.0/24``.

    :raises UsageError: it is none, or has too many.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise UsageError("not a network", where=text, cause=str(error), hint="write it such as 10.0.4.0/24") from error
    if network.num_addresses > MOST:
        raise UsageError("the network is too large", where=text, cause=f"at most {MOST} addresses", hint="scan parts")
    return [str(address) for address in network.hosts()]


def scan(addresses: Sequence[str], ports: dict[str, int] | None = None) -> Iterator[Found]:
    """Who answers, in the order of the addresses, some at a time. :param ports: by driver, other than the usual."""
    chosen = PORTS | (ports or {})
    for start in range(0, len(addresses), AT_ONCE):
        part = addresses[start : start + AT_ONCE]
        ipmi = _answer_ipmi(part, chosen["ipmi"])
        redfish = _answer_redfish(_listen_tcp(part, chosen["redfish"]), chosen["redfish"])
        for address in part:
            drivers = [name for name, found in (("redfish", redfish), ("ipmi", ipmi)) if address in found]
            if drivers:
                yield Found(address, tuple(drivers))


def _answer_ipmi(addresses: Sequence[str], port: int) -> set[str]:
    """Those that say what their channel offers, asked a few times, as packets are lost."""
    found: set[str] = set()
    family = socket.AF_INET6 if addresses and ":" in addresses[0] else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as door:
        for _ in range(TRIES):
            for address in addresses:
                if address not in found:
                    try:
                        door.sendto(QUESTION, (address, port))
                    except OSError:
                        continue  # no way there
            end = time.monotonic() + PATIENCE
            while (left := end - time.monotonic()) > 0 and len(found) < len(addresses):
                door.settimeout(left)
                try:
                    data, sender = door.recvfrom(2048)
                except OSError:
                    continue  # the time is over, or an ICMP error for something sent before
                packet = parse_packet(data, lambda session: None)
                if packet is not None and parse_message(packet.payload) is not None:
                    found.add(str(sender[0]))
    return found & set(addresses)


def _listen_tcp(addresses: Sequence[str], port: int) -> list[str]:
    """Those that take a connection."""
    open_: list[str] = []
    with selectors.DefaultSelector() as selector:
        doors = []
        for address in addresses:
            door = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            door.setblocking(False)
            doors.append(door)
            if door.connect_ex((address, port)) in (0, 115):  # done, or in progress
                selector.register(door, selectors.EVENT_WRITE, address)
        end = time.monotonic() + TRIES * PATIENCE
        while selector.get_map() and (left := end - time.monotonic()) > 0:
            for ready, _ in selector.select(left):
                door = ready.fileobj  # type: ignore[assignment]
                if door.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    open_.append(ready.data)
                selector.unregister(door)
        for door in doors:
            door.close()
    return open_


def _answer_redfish(addresses: Sequence[str], port: int) -> set[str]:
    with ThreadPoolExecutor(32, thread_name_prefix="scan") as threads:
        said = threads.map(lambda address: _has_root(address, port), addresses)
        return {address for address, is_root in zip(addresses, said, strict=True) if is_root}


def _has_root(address: str, port: int) -> bool:
    """Whether there is a Redfish service root; whose certificate it is matters when a node is enrolled."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    data = b""
    try:
        with (
            socket.create_connection((address, port), ROOT_SECONDS) as plain,
            context.wrap_socket(plain, server_hostname=address) as door,
        ):
            door.sendall(ROOT % address.encode())
            while len(data) < LARGEST and (part := door.recv(4096)):
                data += part
        return "RedfishVersion" in json.loads(data.partition(b"\r\n\r\n")[2])
    except (OSError, ValueError):
        return False
