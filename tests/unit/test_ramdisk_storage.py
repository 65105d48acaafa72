"""Disks laid out as a role says: tables that the real sfdisk reads, stacks in the right order, and what is kept."""

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
from provisioner_agent.ramdisk.seed import do_seed
from provisioner_agent.ramdisk.storage import do_storage, lay_out, render_table

MIB = 1 << 20
GUIDS = {
    name: f"{number:08x}-0000-4000-8000-000000000000" for number, name in enumerate(("disk", "a", "b", "c", "d"), 1)
}
UUID = "99999999-0000-4000-8000-000000000000"


def part(name: str, size: int | None, kind: str = "linux", keep: bool = False) -> dict[str, Any]:
    return {"name": name, "guid": GUIDS[name], "type": kind, "size_mib": size, "keep": keep}


def filesystem(volume: str, kind: str = "ext4", keep: bool = False) -> dict[str, Any]:
    return {"volume": volume, "type": kind, "uuid": UUID, "label": "l", "keep": keep}


def order(*parts: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "firmware": "bios",
        "table": "gpt",
        "disks": [{"disk": "vda", "guid": GUIDS["disk"], "partitions": list(parts)}],
        "raids": [],
        "groups": [],
        "logicals": [],
        "filesystems": [],
        "root": "a",
        "root_min": MIB,
    } | changes


class Node(FakeHost):
    """A disk of 1 GiB in a file, with the real sfdisk; its partitions appear when the table is written."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = folder / "vda"
        with self.disk.open("wb") as file:
            file.truncate(1024 * MIB)
        self.devices["/dev/vda"] = self.disk
        self.texts["/sys/block/vda/size"] = str(1024 * MIB // 512)
        self.programs["sfdisk"] = self.sfdisk
        self.programs["blkid"] = lambda argv, stdin: Finished(0, f"{self.uuids.get(argv[-1], '')}\n")
        self.programs["lvm"] = self.lvm
        self.programs["mdadm"] = lambda argv, stdin: Finished(self.assembled if "--assemble" in argv else 0)
        self.uuids: dict[str, str] = {}
        self.volumes: list[str] = []
        self.assembled = 1

    def sfdisk(self, argv: Sequence[str], stdin: str) -> Finished:
        words = [shutil.which("sfdisk", path="/usr/sbin:/sbin") or "", *argv[1:-1], str(self.disk)]
        done = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
        output = done.stdout.replace(f'"{self.disk}', '"/dev/vda')
        if "--json" in argv and done.returncode == 0:
            for entry in json.loads(output)["partitiontable"].get("partitions", []):
                self.devices.setdefault(entry["node"], self.disk)
        return Finished(done.returncode, output, done.stderr)

    def lvm(self, argv: Sequence[str], stdin: str) -> Finished:
        if argv[1] == "vgchange" and argv[-1] == "vg0" and not self.volumes:
            return Finished(5, "", "not found")
        if argv[1] == "lvs":
            return Finished(0, "\n".join(f"  {name}" for name in self.volumes))
        return Finished(0)

    def ran(self, *words: str) -> list[tuple[str, ...]]:
        return [argv for argv in self.runs if argv[: len(words)] == words]

    def lvm_runs(self) -> list[tuple[str, ...]]:
        return [(argv[1], *argv[4:]) for argv in self.runs if argv[0] == "lvm"]


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def entries(node: Node) -> list[tuple[int, int]]:
    table = json.loads(node.sfdisk(["sfdisk", "--json", "/dev/vda"], "").output)["partitiontable"]
    return [(entry["start"] * 512 // MIB, entry["size"] * 512 // MIB) for entry in table["partitions"]]


def test_partitions_follow_each_other_and_the_last_takes_the_rest(node: Node) -> None:
    detail = do_storage(node, order(part("a", 100, "root"), part("b", 200, "swap"), part("c", None)))
    assert detail["devices"] == {"a": "/dev/vda1", "b": "/dev/vda2", "c": "/dev/vda3"}
    assert entries(node) == [(1, 100), (101, 200), (301, 722)]


def test_a_disk_that_is_too_small_is_not_touched(node: Node) -> None:
    with pytest.raises(OrderFailed, match="is too small: 922 MiB are left for b"):
        do_storage(node, order(part("a", 100), part("b", 923)))
    assert node.ran("wipefs") == [] and node.ran("sfdisk", "--quiet") == []


@pytest.mark.parametrize(("table", "label"), [("gpt", "gpt"), ("mbr", "dos")])
def test_the_real_sfdisk_understands_every_kind(node: Node, table: str, label: str) -> None:
    kinds = ["linux", "swap", "raid", "lvm"]
    parts = [part(name, 10, kind) for name, kind in zip("abcd", kinds, strict=True)]
    disk = {"guid": "0badcafe" if table == "mbr" else GUIDS["disk"], "partitions": parts}
    script = render_table(disk, table, lay_out(parts, 1024, "x"))
    assert node.sfdisk(["sfdisk", "--quiet", "/dev/vda"], script).code == 0
    found = json.loads(node.sfdisk(["sfdisk", "--json", "/dev/vda"], "").output)["partitiontable"]
    assert found["label"] == label and len(found["partitions"]) == 4
    assert len({entry["type"] for entry in found["partitions"]}) == 4


def test_an_mbr_knows_its_partitions_by_their_places(node: Node) -> None:
    disk = {"disk": "vda", "guid": "0badcafe", "partitions": [part("a", 100, "root"), part("b", None)]}
    detail = do_storage(node, order(table="mbr", disks=[disk]))
    assert detail["devices"] == {"a": "/dev/vda1", "b": "/dev/vda2"}


def test_file_systems_are_made_with_the_identity_that_the_instance_looks_for(node: Node) -> None:
    made = [filesystem("a", "ext4"), filesystem("b", "xfs"), filesystem("c", "swap")]
    detail = do_storage(node, order(part("a", 100), part("b", 100), part("c", None), filesystems=made))
    assert detail["made"] == ["a", "b", "c"]
    assert node.ran("mke2fs") == [("mke2fs", "-q", "-F", "-t", "ext4", "-U", UUID, "-L", "l", "/dev/vda1")]
    assert node.ran("mkfs.xfs") == [("mkfs.xfs", "-q", "-f", "-m", f"uuid={UUID}", "-L", "l", "/dev/vda2")]
    assert node.ran("mkswap") == [("mkswap", "--uuid", UUID, "--label", "l", "/dev/vda3")]


@pytest.mark.parametrize(("sector", "mib", "bits"), [(512, 128, "32"), (4096, 128, "16"), (4096, 300, "32")])
def test_a_boot_partition_is_the_fat_that_firmware_takes_it_for(node: Node, sector: int, mib: int, bits: str) -> None:
    node.sizes["/dev/vda1"] = (mib * MIB, sector)
    do_storage(node, order(part("a", mib), filesystems=[filesystem("a", "vfat") | {"uuid": "ABCD-0123"}]))
    assert node.ran("mkfs.fat")[0][:3] == ("mkfs.fat", "-F", bits)


KEPT = (part("a", 100, "root"), part("b", 300, keep=True), part("c", None))


def test_a_kept_partition_survives_a_new_table(node: Node) -> None:
    kept = [filesystem("b", "xfs", keep=True)]
    assert do_storage(node, order(*KEPT, filesystems=kept))["made"] == ["b"]
    with node.disk.open("r+b") as file:
        file.seek(150 * MIB)
        file.write(b"precious")
    node.uuids["/dev/vda2"] = UUID
    node.runs.clear()
    new = {"disk": "vda", "guid": GUIDS["d"], "partitions": list(KEPT)}
    assert do_storage(node, order(disks=[new], filesystems=kept))["made"] == []
    assert [argv[3:] for argv in node.ran("wipefs")] == [("/dev/vda",), ("/dev/vda1", "/dev/vda3")]
    with node.disk.open("rb") as file:
        file.seek(150 * MIB)
        assert file.read(8) == b"precious"


def test_a_kept_partition_that_would_move_is_refused_before_anything_is_written(node: Node) -> None:
    do_storage(node, order(*KEPT))
    before = entries(node)
    node.runs.clear()
    moved = (part("a", 200, "root"), part("b", 300, keep=True), part("c", None))
    with pytest.raises(OrderFailed, match="b on /dev/vda is to be kept") as caught:
        do_storage(node, order(*moved))
    assert caught.value.cause == "it begins at 101 MiB and has 300; the role says 201 and 300"
    assert entries(node) == before and node.ran("wipefs") == []


def test_what_is_kept_by_name_but_holds_something_else_is_made_anew(node: Node) -> None:
    node.uuids["/dev/vda2"] = "another"
    assert do_storage(node, order(*KEPT, filesystems=[filesystem("b", keep=True)]))["made"] == ["b"]


RAID = {"name": "r", "level": 1, "members": ["b", "c"], "metadata": "1.2", "uuid": UUID, "keep": False}
GROUP = {"name": "vg0", "members": ["r"], "keep": False}
LOGICALS = [
    {"name": "log", "group": "vg0", "size_mib": 64, "keep": False},
    {"name": "srv", "group": "vg0", "size_mib": None, "keep": False},
]


def stacked(keep: bool) -> dict[str, Any]:
    parts = (part("a", 100, "root"), part("b", 300, "raid", keep), part("c", None, "raid", keep))
    logicals = [LOGICALS[0], LOGICALS[1] | {"keep": keep}]
    return order(*parts, raids=[RAID | {"keep": keep}], groups=[GROUP | {"keep": keep}], logicals=logicals)


def test_a_stack_is_made_from_below(node: Node) -> None:
    detail = do_storage(node, stacked(keep=False))
    assert detail["devices"]["r"] == "/dev/md/r" and detail["devices"]["srv"] == "/dev/mapper/vg0-srv"
    (create,) = node.ran("mdadm", "--create")
    assert create[2] == "/dev/md/r" and create[-2:] == ("/dev/vda2", "/dev/vda3") and "--homehost=any" in create
    assert [argv for argv in node.lvm_runs() if argv[0] not in ("vgchange", "lvs")] == [
        ("pvcreate", "-ff", "--yes", "/dev/md/r"),
        ("vgcreate", "vg0", "/dev/md/r"),
        ("lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y", "--size", "64m", "--name", "log", "vg0"),
        ("lvcreate", "--yes", "--wipesignatures", "y", "--zero", "y", "--extents", "100%FREE", "--name", "srv", "vg0"),
    ]


def test_a_kept_volume_keeps_what_it_lies_on(node: Node) -> None:
    do_storage(node, stacked(keep=True))
    node.runs.clear()
    node.assembled, node.volumes = 0, ["log", "srv", "old"]
    do_storage(node, stacked(keep=True))
    assert node.ran("mdadm", "--create") == []
    words = [argv for argv in node.lvm_runs() if argv[0] not in ("vgchange", "lvs")]
    assert words[:2] == [("lvremove", "--yes", "vg0/log"), ("lvremove", "--yes", "vg0/old")]
    assert [argv[-2] for argv in words[2:]] == ["log"]


def test_everything_is_let_go_of_before_disks_are_written(node: Node) -> None:
    do_storage(node, stacked(keep=False))
    assert ("mdadm", "--stop", "--scan") not in node.runs, "there is nothing to let go of"
    node.runs.clear()
    node.texts["/sys/block/md127/size"] = "1"
    do_storage(node, stacked(keep=False))
    words = [argv[:2] for argv in node.runs]
    assert words.index(("mdadm", "--stop")) < words.index(("wipefs", "--all"))


def test_a_stack_that_cannot_be_made_says_why(node: Node) -> None:
    node.programs["mdadm"] = lambda argv, stdin: Finished(2 if "--create" in argv else 0, "", "mdadm: no such module")
    with pytest.raises(OrderFailed, match="no such module"):
        do_storage(node, stacked(keep=False))


# Volumes beside the root.


def test_a_new_volume_gets_what_the_image_has_there(tmp_path: Path) -> None:
    host = FakeHost(tmp_path)
    for name in ("root", "log", "srv"):
        (tmp_path / name).mkdir()
        host.trees[f"/dev/{name}"] = tmp_path / name
        host.devices[f"/dev/{name}"] = tmp_path / f"{name}.raw"
        (tmp_path / f"{name}.raw").write_bytes(b"")
    (tmp_path / "root" / "var" / "log").mkdir(parents=True)
    (tmp_path / "root" / "var" / "log" / "old").write_text("text")

    def copy(argv: Sequence[str], stdin: str) -> Finished:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        return Finished(done.returncode, done.stdout, done.stderr)

    host.programs["cp"] = copy
    mounts = [
        {"volume": "log", "device": "/dev/log", "path": "/var/log", "filesystem": "ext4"},
        {"volume": "srv", "device": "/dev/srv", "path": "/srv/data", "filesystem": "xfs"},
    ]
    files = [{"path": "/etc/hostname", "mode": 0o644, "content": "x"}]
    done = do_seed(host, {"root": "/dev/root", "mounts": mounts, "made": ["log"], "files": files})
    assert done == {"files": 1}
    assert (tmp_path / "log" / "old").read_text() == "text"
    assert (tmp_path / "root" / "srv" / "data").is_dir(), "there is a folder to mount on"
    assert [argv[-2] for argv in host.runs if argv[0] == "mount"] == ["/dev/root", "/dev/log"]
