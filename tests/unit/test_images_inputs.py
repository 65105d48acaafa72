"""What decides that an image is built again, and what it says then."""

from __future__ import annotations

import os
from pathlib import Path

from provisioner.images.inputs import explain, folder_inputs, hash_inputs


def make(folder: Path) -> Path:
    (folder / "install.d").mkdir(parents=True)
    (folder / "install.d" / "50-it").write_text("#!/bin/sh\n")
    (folder / "packages").write_text("rsync\n")
    (folder / "link").symlink_to("packages")
    return folder


def test_content_mode_and_links_count_times_and_places_do_not(tmp_path: Path) -> None:
    one, two = make(tmp_path / "one"), make(tmp_path / "two")
    os.utime(two / "packages", (1, 1))
    before = folder_inputs("e", one)
    assert folder_inputs("e", two) == before
    assert set(before) == {"e/install.d/50-it", "e/packages", "e/link"}
    (two / "install.d" / "50-it").chmod(0o755)
    assert explain(before, folder_inputs("e", two)) == "because e/install.d/50-it changed"
    (one / "packages").write_text("rsync\nlsof\n")
    assert explain(before, folder_inputs("e", one)) == "because e/packages changed"


def test_a_link_counts_by_its_target(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    before = hash_inputs(folder_inputs("e", folder))
    (folder / "link").unlink()
    (folder / "link").symlink_to("install.d/50-it")
    assert hash_inputs(folder_inputs("e", folder)) != before


def test_what_python_leaves_behind_does_not_count(tmp_path: Path) -> None:
    folder = make(tmp_path / "one")
    before = folder_inputs("e", folder)
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("x")
    (folder / "x.egg-info").mkdir()
    (folder / "x.egg-info" / "PKG-INFO").write_text("x")
    assert folder_inputs("e", folder) == before


def test_the_reason_names_one_file_and_how_many_more() -> None:
    assert explain(None, {"a": "1"}) == "because it was never built here"
    assert explain({"a": "1"}, {"a": "1"}) == "because its result is gone"
    assert explain({"a": "1", "c": "1"}, {"b": "1", "c": "2"}) == ("because c changed, b was added, a is gone")
    assert explain({"a": "1", "b": "1"}, {"a": "2", "b": "2"}) == "because a and 1 more changed"


def test_the_hash_follows_content_not_order() -> None:
    assert hash_inputs({"a": "1", "b": "2"}) == hash_inputs({"b": "2", "a": "1"})
    assert hash_inputs({"a": "1"}) != hash_inputs({"a": "2"})
