"""From a file tree to a root file system in chunks: no loop device, no device-mapper, no mount.

``mke2fs -d`` writes the tree into a sparse ext4 file (e2fsprogs); only its mapped data is kept, cut in chunks that are
compressed as independent zstd frames (RFC 8878), so that any chunk can be fetched and checked alone.
"""

from __future__ import annotations

import errno
import hashlib
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, TypeVar

import zstandard

from provisioner.model.image import Chunk, ImageIndex
from provisioner.system.run import Runner

Item = TypeVar("Item")
Result = TypeVar("Result")
CHUNK = 4 * 1024 * 1024
BLOCK = 64 * 1024
LEVEL = 3
ZERO = bytes(BLOCK)
SLACK = 192 * 1024 * 1024
"""Free bytes of the file system before it is grown on the node: enough for its first boot if it cannot be."""


def make_filesystem(tree: Path, image: Path, *, seed: str, runner: Runner) -> None:
    """Write ``tree`` into the sparse ext4 file ``image``; identifiers come from ``seed``, not from chance."""
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
        env={"SOURCE_DATE_EPOCH": "1700000000", "E2FSPROGS_FAKE_TIME": "1700000000"},
        deadline=600,
    )  # fmt: skip


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
