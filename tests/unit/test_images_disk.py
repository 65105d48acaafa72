"""A tree becomes a file system, a file system becomes chunks; the chunks and zeros are the file system again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
import zstandard

from provisioner.errors import ImageError
from provisioner.images.disk import (
    BLOCK,
    CHUNK,
    EPOCH,
    make_filesystem,
    mapped_runs,
    settle_tree,
    used_inodes,
    write_chunks,
)
from provisioner.model.image import ImageIndex
from provisioner.system.run import HostRunner


def rebuild(index: ImageIndex, compressed: Path) -> bytes:
    data = bytearray(index.size)
    stored = compressed.read_bytes()
    for chunk in index.chunks:
        frame = stored[chunk.frame : chunk.frame + chunk.frame_length]
        part = zstandard.ZstdDecompressor().decompress(frame)
        assert len(part) == chunk.length and hashlib.sha256(part).hexdigest() == chunk.sha256
        data[chunk.offset : chunk.offset + chunk.length] = part
    return bytes(data)


def make_tree(folder: Path, ctime_apart: bool = False) -> Path:
    (folder / "etc").mkdir(parents=True)
    (folder / "etc" / "hostname").write_text("node1\n")
    (folder / "big").write_bytes(bytes(range(256)) * 4096)
    (folder / "link").symlink_to("etc/hostname")
    os.link(folder / "big", folder / "same")
    for path in (folder / "etc" / "hostname", folder / "big", folder / "link", folder / "etc", folder):
        os.utime(path, ns=(10**18 + ctime_apart, 10**18), follow_symlinks=False)
    return folder


def test_chunks_and_zeros_are_the_file_system(tmp_path: Path) -> None:
    image, out = tmp_path / "root.img", tmp_path / "root.zst"
    make_filesystem(make_tree(tmp_path / "tree"), image, seed="a", runner=HostRunner())
    index = write_chunks(image, out)
    assert index.size == image.stat().st_size
    assert rebuild(index, out) == image.read_bytes()
    assert all(chunk.length <= CHUNK for chunk in index.chunks)
    assert 2**20 < index.mapped < index.size // 4
    whole = zstandard.ZstdDecompressor().stream_reader(out.read_bytes(), read_across_frames=True).read()
    assert len(whole) == index.mapped


def test_the_same_tree_unpacked_at_another_time_is_the_same_file_system(tmp_path: Path) -> None:
    images = []
    for name in ("one", "two"):
        image = tmp_path / f"{name}.img"
        make_filesystem(make_tree(tmp_path / name, name == "two"), image, seed="a", runner=HostRunner())
        images.append(hashlib.sha256(image.read_bytes()).hexdigest())
    assert images[0] == images[1]


def test_another_seed_is_another_file_system(tmp_path: Path) -> None:
    tree = make_tree(tmp_path / "tree")
    for seed in ("a", "b"):
        make_filesystem(tree, tmp_path / seed, seed=seed, runner=HostRunner())
    assert (tmp_path / "a").read_bytes() != (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([], []),
        ([(0, 1)], [(0, BLOCK)]),
        ([(BLOCK, BLOCK), (3 * BLOCK, 10)], [(BLOCK, BLOCK), (3 * BLOCK, BLOCK)]),
        ([(0, CHUNK + BLOCK)], [(0, CHUNK), (CHUNK, BLOCK)]),
    ],
)
def test_runs_cover_what_is_not_zero(
    tmp_path: Path, parts: list[tuple[int, int]], expected: list[tuple[int, int]]
) -> None:
    path = tmp_path / "sparse"
    size = 3 * CHUNK
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in parts:
            file.seek(offset)
            file.write(b"x" * length)
    with path.open("rb") as file:
        assert [(offset, len(data)) for offset, data in mapped_runs(file, size)] == expected


def test_zeros_that_are_stored_and_a_last_part_of_a_block(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * BLOCK) + b"end")
    with path.open("rb") as file:
        assert list(mapped_runs(file, path.stat().st_size)) == [(4 * BLOCK, b"end")]


def test_inodes_in_use_are_those_that_are_not_free() -> None:
    listing = "Inode count:              32\nGroup 0:\n  Free inodes: 14-15\nGroup 1:\n  Free inodes: 17, 19-32\n"
    assert used_inodes(listing) == [2, 11, 12, 13, 16, 18]
    with pytest.raises(ImageError):
        used_inodes("dumpe2fs: Bad magic number")


def test_times_of_the_build_are_settled_and_older_ones_stay(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for path in (old, new):
        path.write_text("x")
    os.utime(old, (10**9, 10**9))
    (tmp_path / "link").symlink_to("nowhere")
    settle_tree(tmp_path)
    assert old.stat().st_mtime == 10**9
    assert {path.lstat().st_mtime for path in (new, tmp_path / "link", tmp_path)} == {float(EPOCH)}
