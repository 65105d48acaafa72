"""Disks erased at each level: what a disk cannot do is said, and one that lies or fails does not hold up the others."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provisioner_agent.ramdisk.erase import do_erase
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import BlockFile, Finished
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import NoMeter

MIB = 1 << 20
SIZE = 20 * MIB
SECRET = b"somebody's secret" * 64


class Keeper:
    """A disk that says it has written and keeps what it has."""

    def __init__(self, blocks: BlockFile) -> None:
        self.blocks = blocks

    def __getattr__(self, name: str) -> Any:
        return getattr(self.blocks, name)

    def write_at(self, offset: int, data: bytes) -> None:
        pass


class Node(FakeHost):
    def __init__(self, folder: Path, *names: str) -> None:
        super().__init__(folder)
        self.lies = ""
        for name in names:
            path = folder / name
            path.write_bytes(SECRET.ljust(SIZE // 2, b"x") + SECRET.ljust(SIZE - SIZE // 2, b"x"))
            self.devices[f"/dev/{name}"] = path
            self.texts[f"/sys/block/{name}/size"] = str(SIZE // 512)
        listed = [{"kname": name, "name": name, "type": "disk", "size": SIZE, "ro": False} for name in names]
        self.programs["lsblk"] = lambda argv, stdin: Finished(0, json.dumps({"blockdevices": listed}))
        self.programs["wipefs"] = lambda argv, stdin: Finished(0)
        self.programs["blkdiscard"] = lambda argv, stdin: Finished(1 if argv[-1].endswith("vdb") else 0)
        self.programs["nvme"] = self.format

    def format(self, argv: Sequence[str], stdin: str) -> Finished:
        self.devices[argv[2]].write_bytes(bytes(SIZE))
        return Finished(0)

    def open_block(self, path: str) -> BlockFile:
        blocks = super().open_block(path)
        return Keeper(blocks) if path == self.lies else blocks  # type: ignore[return-value]

    def ran(self, program: str) -> list[tuple[str, ...]]:
        return [argv for argv in self.runs if argv[0] == program]

    def erase(self, level: str) -> dict[str, str]:
        detail = do_erase(self, {"level": level}, NoMeter(), lambda: {"cpus": 1})
        assert detail["level"] == level and detail["hardware"] == {"cpus": 1}
        disks: dict[str, str] = detail["disks"]
        return disks

    def holds(self, name: str) -> bool:
        return SECRET in self.devices[f"/dev/{name}"].read_bytes()


def test_metadata_is_tables_and_signatures_at_both_ends(tmp_path: Path) -> None:
    node = Node(tmp_path, "vda")
    assert node.erase("metadata") == {"vda": "tables and signatures are gone"}
    data = (tmp_path / "vda").read_bytes()
    assert data[:MIB] == bytes(MIB) == data[-MIB:] and SECRET in data


def test_quick_names_what_cannot_discard(tmp_path: Path) -> None:
    found = Node(tmp_path, "vda", "vdb").erase("quick")
    assert found["vda"] == "discarded" and found["vdb"].startswith("it cannot discard")


def test_secure_leaves_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "vda", "nvme0n1")
    found = node.erase("secure")
    assert "overwritten" in found["vda"] and "NVMe" in found["nvme0n1"]
    assert not node.holds("vda") and not node.holds("nvme0n1")
    assert node.ran("nvme") == [("nvme", "format", "/dev/nvme0n1", "--ses=1", "--force")]


def test_an_nvme_that_cannot_is_overwritten(tmp_path: Path) -> None:
    node = Node(tmp_path, "nvme0n1")
    node.programs["nvme"] = lambda argv, stdin: Finished(1)
    assert "overwritten" in node.erase("secure")["nvme0n1"] and not node.holds("nvme0n1")


def test_a_disk_that_lies_is_found_out_and_the_others_are_erased(tmp_path: Path) -> None:
    node = Node(tmp_path, "vda", "vdb")
    node.lies = "/dev/vda"
    with pytest.raises(OrderFailed, match=r"1 of 2 disks.*vda.*does not keep the zeros"):
        node.erase("secure")
    assert node.holds("vda") and not node.holds("vdb")


def test_a_disk_that_is_gone_is_named(tmp_path: Path) -> None:
    node = Node(tmp_path, "vda", "vdb")
    del node.devices["/dev/vda"]
    with pytest.raises(OrderFailed, match=r"1 of 2 disks could not be erased: vda: .*cannot be written"):
        node.erase("metadata")


def test_a_level_that_is_not_known_touches_nothing(tmp_path: Path) -> None:
    node = Node(tmp_path, "vda")
    with pytest.raises(OrderFailed, match="'thorough'"):
        node.erase("thorough")
    assert node.ran("wipefs") == [] and node.holds("vda")
