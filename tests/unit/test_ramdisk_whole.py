"""A whole disk in the ramdisk: the real sfdisk moves its table, and nothing of the image itself is changed."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import Finished
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.whole import FALLBACK_LOADER, do_check_disk, do_clear_disk, do_seed_disk

MIB = 1 << 20
GPT = "label: gpt\nsize=8MiB, type=uefi\nsize=16MiB\n"
MBR = "label: dos\nsize=8MiB, type=ef\nsize=16MiB, type=83, bootable\n"
FILES = [
    {"path": "/meta-data", "mode": 0o600, "content": "{}\n"},
    {"path": "/user-data", "mode": 0o600, "content": "x"},
]
ORDER = {"disk": "vda", "files": FILES, "firmware": "uefi", "gone": []}
SBIN = "/usr/sbin:/sbin:/usr/bin:/bin"


class Node(FakeHost):
    """A disk of 64 MiB in a file, with the real sfdisk and blkid; its partitions appear when the table is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = folder / "vda"
        with self.disk.open("wb") as file:
            file.truncate(64 * MIB)
        self.devices["/dev/vda"] = self.disk
        self.texts["/sys/block/vda/size"] = str(64 * MIB // 512)
        self.programs["sfdisk"] = self.real_program
        self.programs["blkid"] = self.real_program
        self.loader = True
        self.programs["mount"] = self.show_esp

    def write(self, script: str, size: int = 32) -> None:
        """The image: a disk of so many MiB."""
        image = self.folder / "image"
        with image.open("wb") as file:
            file.truncate(size * MIB)
        subprocess.run([shutil.which("sfdisk", path=SBIN) or "", "-q", image], input=script, text=True, check=True)
        with self.disk.open("r+b") as file:
            file.write(image.read_bytes())

    def real_program(self, argv: Sequence[str], stdin: str) -> Finished:
        words = [shutil.which(argv[0], path=SBIN) or "", *argv[1:-1], str(self.disk)]
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
        output = done.stdout.replace(f'"{self.disk}', '"/dev/vda')
        if "--json" in argv and done.returncode == 0:
            for entry in json.loads(output)["partitiontable"].get("partitions", []):
                self.devices.setdefault(entry["node"], self.disk)
        return Finished(done.returncode, output, done.stderr)

    def show_esp(self, argv: Sequence[str], stdin: str) -> Finished:
        if self.loader and "ro" in argv:
            place = Path(argv[-1] + FALLBACK_LOADER)
            place.parent.mkdir(parents=True)
            place.touch()
        return Finished(0)

    def table(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.real_program(["sfdisk", "--json", "x"], "").output)["partitiontable"]
        return found


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


@pytest.mark.parametrize(("script", "kind"), [(GPT, "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), (MBR, "c")])
def test_the_seed_lies_at_the_end_of_the_disk(node: Node, script: str, kind: str) -> None:
    node.write(script)
    before = node.table()["partitions"]
    for _ in range(2):  # whoever does it again does no harm
        do_seed_disk(node, ORDER)
        table = node.table()
        assert table["partitions"][:2] == before
        seed = table["partitions"][2]
        assert (seed["start"] * 512, seed["size"] * 512) == (55 * MIB, 8 * MIB)
        assert seed["type"].lower() == kind and len(table["partitions"]) == 3
    assert node.real_program(["sfdisk", "--verify", "x"], "").code == 0
    made = [argv for argv in node.runs if argv[0] == "mkfs.fat"]
    assert made[0][-3:] == ("-n", "CIDATA", "/dev/vda3")


def test_the_files_are_in_it(node: Node) -> None:
    node.write(GPT)
    assert do_seed_disk(node, ORDER)["files"] == 2
    assert (node.folder / "mount-1" / "user-data").read_text() == "x"


@pytest.mark.parametrize(
    ("script", "word"),
    [("label: dos\n" + "size=2MiB, type=83\n" * 4, "no room for the seed"), (None, "no partition table")],
)
def test_a_disk_that_cannot_take_it_is_named(node: Node, script: str | None, word: str) -> None:
    if script:
        node.write(script)
    with pytest.raises(OrderFailed, match=word):
        do_seed_disk(node, ORDER)


def test_a_cleared_disk_has_nothing_and_tells_what_it_had(node: Node) -> None:
    node.write(GPT)
    uuids = sorted(entry["uuid"].lower() for entry in node.table()["partitions"])
    detail = do_clear_disk(node, ORDER)
    assert detail["gone"] == uuids and detail["devices"] == {"root": "/dev/vda"}
    assert node.disk.read_bytes()[:MIB] == bytes(MIB)
    assert ("wipefs", "--all", "--force", "/dev/vda") in node.runs


@pytest.mark.parametrize("script", [GPT, MBR])
def test_what_uefi_boots_is_there(node: Node, script: str) -> None:
    node.write(script)
    detail = do_check_disk(node, ORDER)
    assert len(detail["partitions"]) == 2 and all("-" in uuid for uuid in detail["partitions"])
    node.loader = False
    with pytest.raises(OrderFailed, match="cannot boot on UEFI"):
        do_check_disk(node, ORDER)


def test_without_an_esp_uefi_boots_nothing(node: Node) -> None:
    node.write("label: gpt\nsize=8MiB\n")
    with pytest.raises(OrderFailed, match="no EFI system partition"):
        do_check_disk(node, ORDER)


def test_a_bios_needs_a_program_in_the_first_sector(node: Node) -> None:
    node.write(MBR)
    with pytest.raises(OrderFailed, match="cannot boot on BIOS"):
        do_check_disk(node, ORDER | {"firmware": "bios"})
    with node.disk.open("r+b") as file:
        file.write(b"\xeb\x63")
    assert do_check_disk(node, ORDER | {"firmware": "bios"})["firmware"] == "bios"
