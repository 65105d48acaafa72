"""The list of an image's files, and what differs between two."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from provisioner.images.contents import Difference, compare_contents, read_contents, write_contents


def make(folder: Path) -> Path:
    (folder / "etc").mkdir(parents=True)
    (folder / "etc/a").write_text("one")
    (folder / "etc/line\nbreak").write_text("")
    (folder / "link").symlink_to("etc/a")
    os.mkfifo(folder / "pipe")
    for path in (*folder.rglob("*"), folder):
        os.utime(path, (10**9, 10**9), follow_symlinks=False)
    return folder


def test_every_kind_of_file_is_listed(tmp_path: Path) -> None:
    write_contents(make(tmp_path / "tree"), tmp_path / "list")
    found = read_contents(tmp_path / "list")
    assert {path: entry.kind for path, entry in found.items()} == {
        "/": "folder",
        "/etc": "folder",
        "/etc/a": "file",
        "/etc/line\nbreak": "file",
        "/link": "link",
        "/pipe": "pipe",
    }
    assert (found["/etc/a"].size, found["/etc/a"].mtime, found["/link"].content) == (3, 10**9, "etc/a")


def test_the_same_tree_gives_the_same_bytes(tmp_path: Path) -> None:
    write_contents(make(tmp_path / "one"), tmp_path / "first")
    write_contents(make(tmp_path / "two"), tmp_path / "second")
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tree: (tree / "etc/a").write_text("two"), [Difference("/etc/a", "content")]),
        (lambda tree: (tree / "etc/a").chmod(0o600), [Difference("/etc/a", "mode")]),
        (lambda tree: (tree / "etc/a").unlink(), [Difference("/etc/a", "removed")]),
        (lambda tree: (tree / "new").mkdir(), [Difference("/new", "added")]),
        (lambda tree: os.utime(tree / "etc/a", (1, 1)), []),
    ],
    ids=["content", "mode", "removed", "added", "time"],
)
def test_what_differs_is_named(tmp_path: Path, change: object, expected: list[Difference]) -> None:
    tree = make(tmp_path / "tree")
    write_contents(tree, tmp_path / "old")
    change(tree)  # type: ignore[operator]
    write_contents(tree, tmp_path / "new")
    old, new = read_contents(tmp_path / "old"), read_contents(tmp_path / "new")
    assert list(compare_contents(old, new)) == expected


def test_a_time_counts_where_bytes_are_compared(tmp_path: Path) -> None:
    tree = make(tmp_path / "tree")
    write_contents(tree, tmp_path / "old")
    os.utime(tree / "etc/a", (1, 1))
    write_contents(tree, tmp_path / "new")
    old, new = read_contents(tmp_path / "old"), read_contents(tmp_path / "new")
    assert list(compare_contents(old, new, times=True)) == [Difference("/etc/a", "mtime")]
