"""Whole disks: the table, the boot sectors, and files put into a file system that nobody mounts."""

from __future__ import annotations

import hashlib
import json
import struct
from pathlib import Path

import pytest

from provisioner.errors import ImageError
from provisioner.images.disk import make_filesystem, write_chunks
from provisioner.images.whole import (
    BIOS_AT,
    ESP_AT,
    ROOT_AT,
    DiskPlan,
    expand_chunks,
    make_disk,
    patch_boot,
    patch_core,
    render_table,
)
from provisioner.model.image import ImageIndex
from provisioner.system.run import HostRunner

PLAN = DiskPlan("galera-111111111111")
EFI = "usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"
BIOS = "usr/lib/grub/i386-pc"
RUN = HostRunner().run


class Linker(HostRunner):
    """Plays grub-mkimage, which needs GRUB's own modules; all other programs are real."""

    def run(self, argv, **options):  # type: ignore[no-untyped-def]
        if argv[0] == "grub-mkimage":
            Path(argv[argv.index("-o") + 1]).write_bytes(b"core" * 300)
            argv = ["true"]
        return super().run(argv, **options)


@pytest.fixture
def image(tmp_path: Path) -> tuple[Path, ImageIndex]:
    tree = tmp_path / "tree"
    for name, data in {
        EFI: b"efi" * 1000,
        f"{BIOS}/boot.img": b"boot" * 127 + b"bo\x55\xaa",
        "etc/fstab": b"old",
        "boot/grub/old": b"",
        "data": b"x" * 300_000,
    }.items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(data)
    make_filesystem(tree, tmp_path / "root.img", seed="test", runner=HostRunner())
    return tmp_path / "root.zst", write_chunks(tmp_path / "root.img", tmp_path / "root.zst")


def make(image: tuple[Path, ImageIndex], folder: Path, plan: DiskPlan) -> Path:
    work = folder / "work"
    work.mkdir(parents=True)
    make_disk(*image, folder / "disk.raw", plan, work=work, runner=Linker())
    return folder / "disk.raw"


def read(disk: Path, path: str) -> str:
    return RUN(["debugfs", "-R", f"cat {path}", f"{disk}?offset={ROOT_AT}"]).stdout


def test_a_disk_has_its_partitions_loaders_and_files(image: tuple[Path, ImageIndex], tmp_path: Path) -> None:
    plan = DiskPlan(
        "seed", 64, {"/etc/fstab": (b"new", 0o600), "/opt/deep/file": (b"deep", 0o755)}, {"/opt/link": "/x"}
    )
    disk = make(image, tmp_path / "one", plan)
    table = json.loads(RUN(["sfdisk", "--json", disk]).stdout)["partitiontable"]
    assert [part["start"] * 512 for part in table["partitions"]] == [BIOS_AT, ESP_AT, ROOT_AT]
    assert table["partitions"][2]["size"] * 512 == image[1].size + (64 << 20)
    root = f"{disk}?offset={ROOT_AT}"
    assert RUN(["e2fsck", "-fn", root], check=False).code == 0
    assert (read(disk, "/etc/fstab"), read(disk, "/opt/deep/file")) == ("new", "deep")
    assert "Mode:  0600" in RUN(["debugfs", "-R", "stat /etc/fstab", root]).stdout
    assert 'Fast link dest: "/x"' in RUN(["debugfs", "-R", "stat /opt/link", root]).stdout
    menu = read(disk, "/boot/grub/grub.cfg")
    assert plan.guid("root").lower() in menu
    esp = f"{disk}@@{ESP_AT}"
    assert RUN(["mtype", "-i", esp, "::EFI/BOOT/BOOTX64.EFI"]).stdout == "efi" * 1000
    assert RUN(["mtype", "-i", esp, "::EFI/debian/grub.cfg"]).stdout == menu
    with disk.open("rb") as file:
        assert file.read(4) == b"boot"
        file.seek(BIOS_AT)
        assert file.read(4) == b"core"


def test_the_same_image_gives_the_same_disk(image: tuple[Path, ImageIndex], tmp_path: Path) -> None:
    first, second = (make(image, tmp_path / name, PLAN).read_bytes() for name in ("one", "two"))
    assert hashlib.sha256(first).digest() == hashlib.sha256(second).digest()


def test_an_image_without_a_loader_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    make_filesystem(tmp_path / "tree", tmp_path / "root.img", seed="test", runner=HostRunner())
    index = write_chunks(tmp_path / "root.img", tmp_path / "root.zst")
    with pytest.raises(ImageError, match=r"grubx64\.efi"):
        make((tmp_path / "root.zst", index), tmp_path / "one", PLAN)


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut off":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("how", ["cut off", "changed"])
def test_damaged_chunks_are_refused(image: tuple[Path, ImageIndex], tmp_path: Path, how: str) -> None:
    damage(image[0], how)
    with pytest.raises(ImageError, match="damaged") as caught, (tmp_path / "out").open("wb") as file:
        expand_chunks(*image, file)
    assert str(image[0]) in str(caught.value.where)


def test_the_table_is_named_by_its_seed() -> None:
    assert render_table(1 << 30, PLAN) == render_table(1 << 30, PLAN)
    assert render_table(1 << 30, PLAN) != render_table(1 << 30, DiskPlan("base-111111111111"))


def test_the_boot_sector_keeps_the_table_and_names_where_the_rest_is() -> None:
    sector = patch_boot(b"B" * 512, b"T" * 512, 2048)
    assert (sector[:4], sector[440:510], sector[510:]) == (b"BBBB", b"T" * 70, b"BB")
    assert struct.unpack_from("<Q", sector, 0x5C) == (2048,)
    assert struct.unpack_from("<Q", patch_core(b"c" * 1024, 2048), 500) == (2049,)
