"""Files: whole-file reads and writes that are never half done."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def write_file(path: Path, data: str | bytes, *, mode: int = 0o644) -> None:
    """Replace ``path`` by ``data`` at once: written beside it, flushed to the disk, renamed.

    The parent folder is made when missing. A crash leaves the old file or the new one, never a mixture.
    """
    content = data.encode() if isinstance(data, str) else data
    with _written_beside(path, content, mode) as temporary:
        temporary.replace(path)


def create_file(path: Path, data: bytes, *, mode: int = 0o644) -> bytes:
    """Write ``path`` unless there is one; what it holds. Of several who come at once, the first wins for all.

    The parent folder is made when missing. A crash leaves the whole file or none.
    """
    if not path.exists():
        with _written_beside(path, data, mode) as temporary, suppress(FileExistsError):
            path.hardlink_to(temporary)
    return path.read_bytes()


@contextmanager
def _written_beside(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """A temporary file of the content in the folder of ``path``, flushed to the disk; gone at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def ensure_file(path: Path, data: str | bytes, *, mode: int = 0o644) -> bool:
    """Write ``path`` unless it holds ``data`` already; True when it was written."""
    content = data.encode() if isinstance(data, str) else data
    if path.is_file() and path.read_bytes() == content and path.stat().st_mode & 0o7777 == mode:
        return False
    write_file(path, content, mode=mode)
    return True


def hash_file(path: Path) -> str:
    """The sha256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_tree(path: Path) -> None:
    """What is below ``path``, or the file itself, is on the disk, its names as well."""
    folders = [path.parent]
    for place in [path, *path.rglob("*")]:
        if place.is_dir():
            folders.append(place)
        else:
            _sync(place)
    for folder in folders:
        _sync(folder)


def _sync(path: Path) -> None:
    door = os.open(path, os.O_RDONLY)
    try:
        os.fsync(door)
    finally:
        os.close(door)
