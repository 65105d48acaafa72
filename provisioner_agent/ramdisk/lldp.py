"""Where a port is plugged in: what its switch says of itself (IEEE 802.1AB-2016, clause 8). Pure."""

from __future__ import annotations

import struct

ETHERTYPE = 0x88CC
HEADER = 14
END, CHASSIS, PORT, PORT_DESCRIPTION, SYSTEM_NAME = 0, 1, 2, 4, 5
MAC_OF_CHASSIS, MAC_OF_PORT = 4, 3
"""Subtypes of chassis and port id that are MAC addresses (8.5.2.2, 8.5.3.2)."""
LONGEST = 100


def parse_frame(frame: bytes) -> dict[str, str] | None:
    """``switch``: its name, or its id without one; ``port``: the port's id. None: it is no such frame, or cut short."""
    if len(frame) < HEADER or struct.unpack_from("!H", frame, 12)[0] != ETHERTYPE:
        return None
    found: dict[int, bytes] = {}
    at = HEADER
    while at + 2 <= len(frame):
        head = struct.unpack_from("!H", frame, at)[0]
        kind, length = head >> 9, head & 0x1FF
        value = frame[at + 2 : at + 2 + length]
        if kind == END or len(value) != length:
            break
        found.setdefault(kind, value)
        at += 2 + length
    if CHASSIS not in found or PORT not in found:
        return None
    switch = _text(found.get(SYSTEM_NAME, b"")) or _ident(found[CHASSIS], MAC_OF_CHASSIS)
    port = _ident(found[PORT], MAC_OF_PORT)
    if found[PORT][:1] == bytes((MAC_OF_PORT,)):  # a name says more, where there is one
        port = _text(found.get(PORT_DESCRIPTION, b"")) or port
    return {"switch": switch, "port": port}


def _ident(value: bytes, mac: int) -> str:
    if value[:1] == bytes((mac,)) and len(value) == 7:
        return value[1:].hex(":")
    return _text(value[1:])


def _text(value: bytes) -> str:
    return "".join(char for char in value.decode("utf-8", "replace") if char.isprintable())[:LONGEST]
