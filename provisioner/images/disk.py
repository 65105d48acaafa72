"""From a file tree to a root file system in chunks: no loop device, no device-mapper, no mount.

``mke2fs -d`` writes the tree into a sparse ext4 file (e2fsprogs); only its mapped data is kept, cut in chunks that are
compressed as independent zstd frames (RFC 8878), so that any chunk can be fetched and checked alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import zstandard

from provisioner.errors import ImageError
from provisioner.model.image import Chunk, ImageIndex
from provisioner.system.run import Runner

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4 * 1024 * 1024
BLOCK = 64 * 1024
LEVEL = 3
EPOCH = "1700000000"
"""Seconds since 1970 that stand for every time the build itself would leave."""
ZERO = bytes(BLOCK)
SLACK = 192 * 1024 * 1024
"""Free bytes of the file system before it is grown on the node: enough for its first boot if it cannot be."""


def settle_tree(tree: Path) -> None:
    """Give every file that is newer than :data:`EPOCH` that time: when a build ran is no part of what it made."""
    epoch = int(EPOCH)
    for folder, folders, files in os.walk(tree):
        for name in (*folders, *files, "."):
            path = os.path.join(folder, name)  # noqa: PTH118 - a hundred thousand of them
            if os.lstat(path).st_mtime > epoch:
                os.utime(path, (epoch, epoch), follow_symlinks=False)


def make_filesystem(tree: Path, image: Path, *, seed: str, runner: Runner) -> None:
    """Write ``tree`` into the sparse ext4 file ``image``; identifiers come from ``seed``, not from chance.

    :param tree: with its times settled, see :func:`settle_tree`.
    """
    used = int(runner.run(["du", "-s", "-x", "-B1", tree]).stdout.split()[0])
    size = (used * 11 // 10 + SLACK) // CHUNK * CHUNK
    with image.open("wb") as file:
        file.truncate(size)
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"provisioner:{seed}")
    runner.run(
        [
            "mke2fs", "-q", "-F", "-t", "ext4", "-L", "root", "-U", str(name), "-m", "1", "-J", "size=16",
            "-E", f"hash_seed={name},lazy_itable_init=1,lazy_journal_init=1", "-d", tree, image,
        ],
        env={"SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH},
        deadline=600,
    )  # fmt: skip
    _settle_times(image, runner)


def _settle_times(image: Path, runner: Runner) -> None:
    """When the tree was unpacked and read is no part of it: e2fsprogs 1.47.0 (Debian 12) writes both times down."""
    used = used_inodes(runner.run(["dumpe2fs", image]).stdout)
    commands = "".join(
        f"set_inode_field <{number}> {field} {value}\n"
        for number in used
        for field, value in (("ctime", f"@{EPOCH}"), ("atime", f"@{EPOCH}"), ("ctime_extra", "0"), ("atime_extra", "0"))
    )
    runner.run(["debugfs", "-w", "-f", "-", image], stdin=commands, env={"E2FSPROGS_FAKE_TIME": EPOCH}, deadline=300)


def used_inodes(listing: str) -> list[int]:
    """Numbers of the inodes in use, from what dumpe2fs says; of those below 11, ext4's own, only the root's."""
    count = re.search(r"^Inode count: +(\d+)$", listing, re.MULTILINE)
    free: set[int] = set()
    for line in re.findall(r"^ +Free inodes: (.*)$", listing, re.MULTILINE):
        for part in line.replace(",", " ").split():
            first, _, last = part.partition("-")
            free |= set(range(int(first), int(last or first) + 1))
    if count is None or not free:
        raise ImageError("dumpe2fs says nothing about inodes", cause=listing[:200])
    return [number for number in (2, *range(11, int(count[1]) + 1)) if number not in free]


def data_extents(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of each part of a sparse file that is not a hole (lseek(2), SEEK_DATA)."""
    at = 0
    while at < size:
        try:
            begin = os.lseek(file.fileno(), at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            raise
        end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
        yield begin, end - begin
        at = end


def mapped_runs(file: BinaryIO, size: int) -> Iterator[tuple[int, bytes]]:
    """(offset, data) of each run of blocks that are not zero, at most one chunk long."""
    run = bytearray()
    start = 0
    at = 0
    for begin, length in data_extents(file, size):
        at = max(at, begin // BLOCK * BLOCK)  # two extents may lie in one block
        while at < begin + length:
            block = os.pread(file.fileno(), min(BLOCK, size - at), at)
            if block == ZERO[: len(block)]:
                if run:
                    yield start, bytes(run)
                    run.clear()
            else:
                if run and (start + len(run) != at or len(run) >= CHUNK):
                    yield start, bytes(run)
                    run.clear()
                if not run:
                    start = at
                run += block
            at += BLOCK
    if run:
        yield start, bytes(run)


def write_chunks(image: Path, target: Path) -> ImageIndex:
    """Compress the mapped data of ``image`` into ``target`` and say where each chunk is."""
    size = image.stat().st_size
    chunks: list[Chunk] = []
    frame_at = 0

    def compress(run: tuple[int, bytes]) -> tuple[int, int, str, bytes]:
        offset, data = run
        frame = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(data)
        return offset, len(data), hashlib.sha256(data).hexdigest(), frame

    workers = os.cpu_count() or 1
    with image.open("rb") as source, target.open("wb") as out, ThreadPoolExecutor(workers) as pool:
        for offset, length, digest, frame in _ordered(pool, compress, mapped_runs(source, size), workers * 4):
            chunks.append(Chunk(offset=offset, length=length, sha256=digest, frame=frame_at, frame_length=len(frame)))
            out.write(frame)
            frame_at += len(frame)
    return ImageIndex(size=size, chunks=tuple(chunks))


def _ordered(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """Like ``pool.map``, but never more than ``ahead`` items in memory."""
    pending: list[Future[Result]] = []
    for item in items:
        pending.append(pool.submit(work, item))
        if len(pending) >= ahead:
            yield pending.pop(0).result()
    for future in pending:
        yield future.result()
