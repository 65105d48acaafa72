"""What a power cut leaves: everything up to the last flush."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from provisioner.errors import LabError
from provisioner.lab.powercut import (
    DISCARD,
    ENTRY,
    FLUSH,
    FUA,
    MAGIC,
    SUPERBLOCK,
    VERSION,
    Cut,
    Replay,
    cut_power,
    list_cuts,
    read_log,
)

SECTOR = 512
Entry = tuple[int, int, bytes]
"""(sector, flags, data)."""


def write_log(path: Path, entries: list[Entry], count: int | None = None, discarded: int = 2) -> None:
    head = SUPERBLOCK.pack(MAGIC, VERSION, len(entries) if count is None else count, SECTOR)
    parts = [head.ljust(SECTOR, b"\0")]
    for sector, flags, data in entries:
        sectors = discarded if flags & DISCARD else len(data) // SECTOR
        parts += [ENTRY.pack(sector, sectors, flags, 0).ljust(SECTOR, b"\0"), data]
    path.write_bytes(b"".join(parts))


def block(letter: str, sectors: int = 1) -> bytes:
    return letter.encode() * SECTOR * sectors


def after(tmp_path: Path, entries: list[Entry], count: int | None = None) -> tuple[int, bytes]:
    """(writes that are left, the disk)."""
    log, disk = tmp_path / "log", tmp_path / "disk"
    write_log(log, entries, count)
    disk.write_bytes(b"?" * SECTOR * 8)
    return cut_power(log, disk), disk.read_bytes()


def test_what_was_flushed_is_there_and_nothing_else(tmp_path: Path) -> None:
    kept, disk = after(tmp_path, [(0, 0, block("a")), (2, 0, block("b", 2)), (0, FLUSH, b""), (5, 0, block("c"))])
    assert kept == 3
    assert disk == block("a") + bytes(SECTOR) + block("b", 2) + bytes(4 * SECTOR)


def test_a_write_past_the_cache_counts_as_a_flush(tmp_path: Path) -> None:
    kept, disk = after(tmp_path, [(0, 0, block("a")), (1, FUA, block("b")), (2, 0, block("c"))])
    assert (kept, disk[: 2 * SECTOR]) == (2, block("a") + block("b"))


def test_what_was_discarded_reads_as_zeros(tmp_path: Path) -> None:
    _, disk = after(tmp_path, [(0, 0, block("a", 4)), (1, DISCARD, b""), (4, FLUSH, block("z"))])
    assert disk[: 5 * SECTOR] == block("a") + bytes(2 * SECTOR) + block("a") + block("z")


def test_without_a_flush_the_disk_is_as_it_was_made(tmp_path: Path) -> None:
    assert after(tmp_path, [(0, 0, block("a"))]) == (0, bytes(8 * SECTOR))


def test_entries_that_the_log_does_not_count_yet_are_not_there(tmp_path: Path) -> None:
    kept, disk = after(tmp_path, [(0, FLUSH, block("a")), (1, FLUSH, block("b"))], count=1)
    assert (kept, disk[SECTOR : 2 * SECTOR]) == (1, bytes(SECTOR))


@pytest.mark.parametrize("data", [b"", b"not a log", bytes(4096)])
def test_what_is_no_log_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "log").write_bytes(data)
    (tmp_path / "disk").write_bytes(b"")
    with pytest.raises(LabError):
        cut_power(tmp_path / "log", tmp_path / "disk")


def replayed(tmp_path: Path, entries: list[Entry], chosen: int) -> dict[Cut, bytes]:
    """What each cut leaves of a disk of eight sectors, of which each one had a question mark."""
    write_log(tmp_path / "log", entries)
    with (tmp_path / "log").open("rb") as source:
        writes = list(read_log(source))
        replay = Replay(source, writes, b"?" * SECTOR * 8)
        return {cut: replay.disk_after(cut) for cut in list_cuts(writes, random.Random(1), chosen)}


def letters(disk: bytes) -> str:
    return bytes(disk[::SECTOR]).replace(b"\0", b"0").decode()


def test_a_cut_keeps_all_that_was_flushed_and_any_part_of_the_rest(tmp_path: Path) -> None:
    entries = [(0, 0, block("a")), (0, FLUSH, b""), (1, 0, block("b")), (2, 0, block("c")), (0, FLUSH, b"")]
    found = replayed(tmp_path, entries, 40)
    by_flush: dict[int, set[str]] = {}
    for cut, disk in found.items():
        by_flush.setdefault(cut.flushed, set()).add(letters(disk))
    assert by_flush == {
        0: {"????????", "a???????"},
        2: {"a???????", "ab??????", "a?c?????", "abc?????"},
        5: {"abc?????"},
    }


def test_what_a_part_of_comes_after_the_last_flush_may_be_there(tmp_path: Path) -> None:
    found = replayed(tmp_path, [(0, FLUSH, b""), (1, 0, block("b")), (1, DISCARD, b"")], 40)
    assert {letters(disk) for disk in found.values()} == {"????????", "?b??????", "?00?????"}


def test_a_write_past_the_cache_is_in_every_part(tmp_path: Path) -> None:
    found = replayed(tmp_path, [(0, 0, block("a")), (1, FUA, block("b")), (2, 0, block("c"))], 40)
    assert {letters(disk) for cut, disk in found.items() if cut.kept} == {
        "?b??????", "ab??????", "?bc?????", "abc?????",
    }  # fmt: skip


def test_the_same_chance_gives_the_same_cuts(tmp_path: Path) -> None:
    entries = [(number % 8, 0, block("x")) for number in range(20)]
    assert list(replayed(tmp_path, entries, 3)) == list(replayed(tmp_path, entries, 3))


def test_a_replay_does_not_go_back(tmp_path: Path) -> None:
    write_log(tmp_path / "log", [(0, 0, block("a")), (0, FLUSH, b"")])
    with (tmp_path / "log").open("rb") as source:
        replay = Replay(source, list(read_log(source)), bytes(SECTOR * 8))
        replay.disk_after(Cut(2))
        with pytest.raises(ValueError, match="order"):
            replay.disk_after(Cut(0))
