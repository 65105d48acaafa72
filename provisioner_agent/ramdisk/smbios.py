"""Memory modules, from the SMBIOS tables that the firmware hands to the kernel (DMTF DSP0134, 7.18). Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

MEMORY_DEVICE, END = 17, 127
UNKNOWN_SIZE, EXTENDED_SIZE, IN_KIB = 0xFFFF, 0x7FFF, 0x8000


def parse_memory(tables: bytes) -> list[dict[str, Any]]:
    """Each module that is plugged in: ``place``, ``size_mib``, ``speed`` (MT/s), ``manufacturer``, ``part`` and
    ``serial``.

    :param tables: as in ``/sys/firmware/dmi/tables/DMI``; what is cut short is left out.
    """
    modules = []
    for kind, body, texts in _structures(tables):
        if kind != MEMORY_DEVICE or len(body) < 0x15:
            continue
        size = _size(body)
        if not size:
            continue
        modules.append(
            {
                "place": _text(body, 0x10, texts),
                "size_mib": size,
                "speed": struct.unpack_from("<H", body, 0x15)[0] if len(body) >= 0x17 else 0,
                "manufacturer": _text(body, 0x17, texts),
                "part": _text(body, 0x1A, texts),
                "serial": _text(body, 0x18, texts),
            }
        )
    return modules


def _structures(tables: bytes) -> Iterator[tuple[int, bytes, list[str]]]:
    """(type, the fixed part with its header, the texts after it) of each structure (6.1)."""
    at = 0
    while at + 4 <= len(tables):
        kind, length = tables[at], tables[at + 1]
        end = tables.find(b"\0\0", at + length)
        if length < 4 or end < 0 or kind == END:
            return
        texts = [text.decode("ascii", "replace").strip() for text in tables[at + length : end].split(b"\0")]
        yield kind, tables[at : at + length], texts
        at = end + 2


def _size(body: bytes) -> int:
    size = int(struct.unpack_from("<H", body, 0x0C)[0])
    if size == UNKNOWN_SIZE:
        return 0
    if size == EXTENDED_SIZE and len(body) >= 0x20:
        return int(struct.unpack_from("<I", body, 0x1C)[0]) & 0x7FFFFFFF
    return (size & ~IN_KIB) // 1024 if size & IN_KIB else size


def _text(body: bytes, offset: int, texts: list[str]) -> str:
    """The text whose number, counted from 1, stands at an offset; empty for 0."""
    number = body[offset] if offset < len(body) else 0
    text = texts[number - 1] if 0 < number <= len(texts) else ""
    return "".join(char for char in text if char.isprintable())
