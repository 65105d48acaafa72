"""Writes a cpio archive in the "new ASCII" form that Linux unpacks as its initramfs
(kernel documentation, "initramfs buffer format")."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import BinaryIO

ALIGN = 4
NODES = (
    ("dev", stat.S_IFDIR | 0o755, 0, 0),
    ("dev/console", stat.S_IFCHR | 0o600, 5, 1),
    ("dev/null", stat.S_IFCHR | 0o666, 1, 3),
)
"""What must exist before the init program can mount anything: without a console it could not even complain."""


def write_cpio(root: Path, out: BinaryIO) -> None:
    """Archive everything below ``root``, owned by root, without times, in sorted order: same tree, same bytes."""
    number = 1
    for name, mode, major, minor in NODES:
        _entry(out, name, mode, b"", number, major, minor)
        number += 1
    known = {name for name, *_ in NODES}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if name in known:
            continue
        status = path.lstat()
        if stat.S_ISLNK(status.st_mode):
            data = str(path.readlink()).encode()
        elif stat.S_ISREG(status.st_mode):
            data = path.read_bytes()
        else:
            data = b""
        _entry(out, name, status.st_mode, data, number, 0, 0)
        number += 1
    _entry(out, "TRAILER!!!", 0, b"", 0, 0, 0)


def _entry(out: BinaryIO, name: str, mode: int, data: bytes, number: int, major: int, minor: int) -> None:
    raw = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(data), 0, 0, major, minor, len(raw), 0)
    head = b"070701" + b"".join(b"%08x" % field for field in fields) + raw
    out.write(head + bytes(-len(head) % ALIGN))
    out.write(data + bytes(-len(data) % ALIGN))
