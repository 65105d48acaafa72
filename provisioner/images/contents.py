"""The list of all files of an image: what ``image diff`` and ``image build --check`` compare."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import zstandard

KINDS = {
    stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link", stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket",
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One file. ``content``: the sha256 of a file, the goal of a link, the numbers of a device.

    :param size: bytes, 0 for what is no file. :param mtime: seconds since 1970. :param attributes: extended ones, hex.
    """

    kind: str
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    content: str
    attributes: Mapping[str, str]


@dataclass(frozen=True)
class Difference:
    """How one path differs. ``what``: ``added``, ``removed``, or the names of what changed."""

    path: str
    what: str


def write_contents(tree: Path, target: Path) -> None:
    """List ``tree`` into ``target``: a zstd frame of lines, each a JSON list of the path and an entry's fields."""
    paths = sorted(_walk(str(tree)))
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        entries = pool.map(_read, paths, chunksize=256)
        top = len(str(tree))
        lines = [json.dumps([path[top:] or "/", *astuple(entry)]) for path, entry in zip(paths, entries, strict=True)]
    target.write_bytes(zstandard.ZstdCompressor(level=9).compress(("\n".join(lines) + "\n").encode()))


def read_contents(path: Path) -> dict[str, Entry]:
    """Entries by path, as :func:`write_contents` wrote them."""
    with path.open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    rows = (json.loads(line) for line in text.splitlines())
    return {row[0]: Entry(*row[1:]) for row in rows}


def compare_contents(
    old: Mapping[str, Entry], new: Mapping[str, Entry], *, times: bool = False
) -> Iterator[Difference]:
    """Each path that differs, in order. :param times: whether a time alone makes a difference."""
    for path in sorted(old.keys() | new.keys()):
        before, after = old.get(path), new.get(path)
        if before is None or after is None:
            yield Difference(path, "removed" if after is None else "added")
            continue
        if not times:
            after = replace(after, mtime=before.mtime)
        names = [name for name in Entry.__annotations__ if getattr(before, name) != getattr(after, name)]
        if names:
            yield Difference(path, " ".join(names))


def _walk(folder: str) -> Iterator[str]:
    yield folder
    with os.scandir(folder) as found:
        for entry in found:
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _read(path: str) -> Entry:
    found = os.lstat(path)
    kind, content, size = stat.S_IFMT(found.st_mode), "", 0
    if kind == stat.S_IFREG:
        size = found.st_size
        with open(path, "rb") as file:  # noqa: PTH123 - a hundred thousand of them
            content = hashlib.file_digest(file, "sha256").hexdigest()
    elif kind == stat.S_IFLNK:
        content = os.readlink(path)  # noqa: PTH115
    elif kind in (stat.S_IFCHR, stat.S_IFBLK):
        content = f"{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}"
    names = os.listxattr(path, follow_symlinks=False) if kind in (stat.S_IFREG, stat.S_IFDIR) else []
    attributes = {name: os.getxattr(path, name, follow_symlinks=False).hex() for name in sorted(names)}
    mode = stat.S_IMODE(found.st_mode)
    return Entry(KINDS[kind], mode, found.st_uid, found.st_gid, size, int(found.st_mtime), content, attributes)
