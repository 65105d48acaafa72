"""Every file in cases/sources: which of a host's package sources a build installs from."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.sources import parse_sources
from provisioner.images.workshop import read_sources

CASES = sorted((Path(__file__).parent / "cases" / "sources").glob("*.case"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    parts = re.split(r"^=== (\S+)\n", case.read_text(), flags=re.MULTILINE)
    files = dict(zip(parts[1::2], parts[2::2], strict=True))
    expected = files.pop("expect").splitlines()
    try:
        found = [source.line() for source in parse_sources(files, "bookworm")]
    except ImageError as error:
        assert "bookworm" in error.summary and error.hint
        found = ["error"]
    assert found == expected


def test_files_that_are_no_sources_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "a.list").write_text("deb http://mirror.example/debian bookworm main\n")
    (tmp_path / "b.list.save").write_text("deb http://old.example/debian bookworm main\n")
    assert [source.uri for source in read_sources((tmp_path,))] == ["http://mirror.example/debian"]


def test_a_list_of_mirrors_is_read_here_since_a_chroot_cannot_see_it(tmp_path: Path) -> None:
    mirrors = tmp_path / "debian.list"
    mirrors.write_text("# nearest first\nhttps://mirror.example/debian\tpriority:1\nhttps://second.example/debian\n")
    (tmp_path / "a.list").write_text(f"deb mirror+file://{mirrors} bookworm main\n")
    assert [source.uri for source in read_sources((tmp_path / "a.list",))] == ["https://mirror.example/debian"]
