"""``index.json`` of an image: which bytes of the partition are mapped, and what they must be."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from provisioner_agent.ramdisk.download import Away, Source
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.patience import Patience
from provisioner_agent.ramdisk.problem import OrderFailed

INDEX_FILE = "index.json"
LARGEST_INDEX = 256 << 20
READ = 1 << 20
TRIES = 4


@dataclass(frozen=True, slots=True)
class Chunk:
    """``length`` bytes at ``offset`` of the partition; their zstd frame lies at ``frame`` of ``root.zst``."""

    offset: int
    length: int
    sha256: str
    frame: int
    frame_length: int


@dataclass(frozen=True)
class Index:
    """``size``: bytes of the file system. Chunks are in the order of their offsets and of their frames.

    Chunks may overlap if they agree there; the hashes see to that.
    """

    size: int
    chunks: tuple[Chunk, ...]

    @property
    def mapped(self) -> int:
        return sum(chunk.length for chunk in self.chunks)

    def gaps(self) -> list[tuple[int, int]]:
        """(offset, length) of what no chunk covers: it must be zero on the disk."""
        gaps, at = [], 0
        for chunk in self.chunks:
            if chunk.offset > at:
                gaps.append((at, chunk.offset - at))
            at = max(at, chunk.offset + chunk.length)
        if at < self.size:
            gaps.append((at, self.size - at))
        return gaps


def parse_index(text: bytes) -> Index:
    """:raises OrderFailed: it is not an index, or a chunk is out of place."""
    try:
        raw = json.loads(text)
        chunks = tuple(
            Chunk(int(c["offset"]), int(c["length"]), str(c["sha256"]), int(c["frame"]), int(c["frame_length"]))
            for c in raw["chunks"]
        )
        index = Index(int(raw["size"]), chunks)
    except (ValueError, KeyError, TypeError) as error:
        raise OrderFailed("the image's index cannot be understood", repr(error)) from error
    at, frame = 0, 0
    for chunk in index.chunks:
        if (
            chunk.offset < at
            or chunk.offset + chunk.length > index.size
            or chunk.frame != frame
            or chunk.length <= 0
            or chunk.frame_length <= 0
        ):
            raise OrderFailed("the image's index cannot be understood", f"the chunk at {chunk.offset} is out of place")
        at, frame = chunk.offset, chunk.frame + chunk.frame_length
    return index


def fetch_index(host: Host, source: Source, image: str, sha256: str) -> Index:
    """:raises OrderFailed: the server does not give it, or it is not the one that was ordered."""
    patience, damaged = Patience(host), 0
    while damaged < TRIES:
        try:
            text = _fetch(source, image, patience)
        except Away as error:
            patience.wait(f"image {image}, {INDEX_FILE}: {error}")
            continue
        if hashlib.sha256(text).hexdigest() == sha256:
            return parse_index(text)
        damaged += 1
    raise OrderFailed(f"the index of the image {image} is not the one that was ordered", f"expected sha256 {sha256}")


def _fetch(source: Source, image: str, patience: Patience) -> bytes:
    body = source.open(image, INDEX_FILE, 0, None)
    text, view = bytearray(), memoryview(bytearray(READ))
    try:
        while count := body.readinto(view):
            patience.heard()
            text += view[:count]
            if len(text) > LARGEST_INDEX:
                raise OrderFailed(f"the index of the image {image} has no end")
    finally:
        body.close()
    return bytes(text)
