"""Storage, the instance's files and the boot loader: what is run, what is written, and what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from provisioner_agent.ramdisk.disks import disk_path
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.host import Finished
from provisioner_agent.ramdisk.loader import EFI_LOADER, do_boot_loader
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.seed import do_seed
from provisioner_agent.ramdisk.storage import TYPES, do_storage, lay_out, old_partitions, render_table

MIB = 1 << 20
ESP_TYPE, BIOS_BOOT_TYPE, ROOT_TYPE = (TYPES[kind][0] for kind in ("esp", "bios", "root"))
DISK_GUID = "11111111-0000-4000-8000-000000000001"
ESP_GUID = "22222222-0000-4000-8000-000000000002"
ROOT_GUID = "33333333-0000-4000-8000-000000000003"
FILESYSTEM = "44444444-0000-4000-8000-000000000004"


def partition(name: str, guid: str, kind: str, size: int | None, keep: bool = False) -> dict[str, Any]:
    return {"name": name, "guid": guid, "type": kind, "size_mib": size, "keep": keep}


def order(firmware: str = "uefi", **changes: Any) -> dict[str, Any]:
    """A disk with a boot partition and the root, as a role without volumes has it."""
    boot = partition("esp", ESP_GUID, "esp", 64) if firmware == "uefi" else partition("bios_boot", ESP_GUID, "bios", 1)
    esp = {"volume": "esp", "type": "vfat", "uuid": "ABCD-0123", "label": "ESP", "keep": False}
    disk = {"disk": "vda", "guid": DISK_GUID, "partitions": [boot, partition("root", ROOT_GUID, "root", None)]}
    return {
        "firmware": firmware,
        "table": "gpt",
        "disks": [disk],
        "raids": [],
        "groups": [],
        "logicals": [],
        "filesystems": [esp] if firmware == "uefi" else [],
        "root": "root",
        "root_min": 100 * MIB,
    } | changes


def loader_order(firmware: str = "uefi", **changes: Any) -> dict[str, Any]:
    return {
        "root": "/dev/vda2",
        "disks": ["vda"],
        "esp": "/dev/vda1",
        "root_device": f"PARTUUID={ROOT_GUID}",
        "grub_partition": "gpt2",
        "stacked": False,
        "raids": {},
        "gone": [],
        "firmware": firmware,
        "cmdline": "quiet",
    } | changes


def answer_table(root_mib: int = 900) -> Finished:
    entries = [
        {"node": "/dev/vda1", "start": 2048, "size": 64 * MIB // 512, "type": ESP_TYPE, "uuid": ESP_GUID.upper()},
        {"node": "/dev/vda2", "start": 133120, "size": root_mib * MIB // 512, "type": ROOT_TYPE, "uuid": ROOT_GUID},
    ]
    return Finished(0, json.dumps({"partitiontable": {"label": "gpt", "sectorsize": 512, "partitions": entries}}))


@pytest.fixture
def host(tmp_path: Path) -> FakeHost:
    """A node with a partitioned disk of 1 GiB; mounting shows the folders ``esp`` and ``root``."""
    host = FakeHost(tmp_path)
    for name in ("vda", "vda1", "vda2"):
        host.devices[f"/dev/{name}"] = tmp_path / name
        (tmp_path / name).write_bytes(b"\xaa" * 4 * MIB)
    for device, name in (("/dev/vda1", "esp"), ("/dev/vda2", "root")):
        host.trees[device] = tmp_path / name
        (tmp_path / name).mkdir()
    host.texts["/sys/block/vda/size"] = str(1024 * MIB // 512)
    host.texts["/sys/block/vda/vda1/start"] = "2048"
    host.programs["sfdisk"] = lambda argv, stdin: answer_table() if "--json" in argv else Finished(0)
    host.sizes = {f"/dev/{name}": (900 * MIB, 512) for name in ("vda1", "vda2")}
    host.programs["blkid"] = lambda argv, stdin: Finished(0, f"{FILESYSTEM}\n")
    return host


def ran(host: FakeHost, program: str) -> list[tuple[str, ...]]:
    return [argv for argv in host.runs if argv[0] == program]


@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_sfdisk_understands_the_table(tmp_path: Path, firmware: str) -> None:
    """The real sfdisk, on a file."""
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(1024 * MIB)
    sfdisk = shutil.which("sfdisk", path="/usr/sbin:/sbin:/usr/bin:/bin")
    assert sfdisk, "fdisk is a package that the tests need"
    disk = order(firmware)["disks"][0]
    script = render_table(disk, "gpt", lay_out(disk["partitions"], 1024, "vda"))
    subprocess.run([sfdisk, "--quiet", image], input=script.encode(), check=True, capture_output=True)
    listed = subprocess.run([sfdisk, "--json", image], check=True, capture_output=True).stdout
    table = json.loads(listed)["partitiontable"]
    boot, root = table["partitions"]
    assert (table["label"], table["id"].lower()) == ("gpt", DISK_GUID)
    assert (boot["start"], boot["uuid"].lower(), root["uuid"].lower()) == (2048, ESP_GUID, ROOT_GUID)
    assert (boot["type"], root["type"]) == (ESP_TYPE if firmware == "uefi" else BIOS_BOOT_TYPE, ROOT_TYPE)
    assert boot["size"] * 512 == (64 if firmware == "uefi" else 1) * MIB
    assert root["start"] % 2048 == 0
    assert root["size"] * 512 >= 957 * MIB


def test_storage_wipes_then_partitions(host: FakeHost) -> None:
    host.texts["/proc/mounts"] = (
        "/dev/vdab1 /other ext4 rw 0 0\n/dev/vda2 /mnt/a ext4 rw 0 0\n/dev/vda1 /mnt/a/efi\\040x vfat rw 0 0"
    )
    detail = do_storage(host, order())
    assert detail == {
        "devices": {"esp": "/dev/vda1", "root": "/dev/vda2"},
        "made": ["esp"],
        "root_bytes": 900 * MIB,
        "gone": [],
    }
    assert ran(host, "umount") == [("umount", "/mnt/a/efi x"), ("umount", "/mnt/a")]
    assert [argv[3:] for argv in ran(host, "wipefs")] == [("/dev/vda1", "/dev/vda"), ("/dev/vda1", "/dev/vda2")]
    assert ran(host, "mkfs.fat") == [("mkfs.fat", "-F", "32", "-i", "ABCD0123", "-n", "ESP", "/dev/vda1")]
    words = [argv[0] for argv in host.runs if "--json" not in argv]
    assert words.index("umount") < words.index("wipefs") < words.index("sfdisk") < words.index("mkfs.fat")
    disk = host.devices["/dev/vda"].read_bytes()
    assert disk[:MIB] == disk[1023 * MIB :] == bytes(MIB), "both places of a GPT are cleared"
    assert disk[MIB : 4 * MIB] == b"\xaa" * 3 * MIB


def test_storage_on_bios_makes_no_file_system(host: FakeHost) -> None:
    do_storage(host, order("bios"))
    assert ran(host, "mkfs.fat") == []


def test_storage_refuses(host: FakeHost) -> None:
    with pytest.raises(OrderFailed, match="too small"):
        do_storage(host, order(root_min=901 * MIB))
    with pytest.raises(OrderFailed, match="there is no disk /dev/vdz"):
        do_storage(host, order(disks=[{"disk": "vdz", "guid": DISK_GUID, "partitions": []}]))
    host.programs["wipefs"] = lambda argv, stdin: Finished(1, "", "wipefs: error: /dev/vda1: Device or resource busy")
    with pytest.raises(OrderFailed, match="Device or resource busy"):
        do_storage(host, order())


def test_partitions_that_never_appear(host: FakeHost) -> None:
    del host.devices["/dev/vda2"]
    with pytest.raises(OrderFailed, match="does not show the partitions"):
        do_storage(host, order())
    assert ("blockdev", "--rereadpt", "/dev/vda") in host.runs
    assert 10 < sum(host.slept) < 11


@pytest.mark.parametrize("name", ["", "../etc/passwd", "/etc/passwd", "mapper/../../x"])
def test_a_disk_is_in_dev(name: str) -> None:
    with pytest.raises(OrderFailed, match="not the name of a disk"):
        disk_path(name)


def seed(host: FakeHost, path: str, content: str = "text", mode: int = 0o644) -> dict[str, Any]:
    files = [{"path": path, "mode": mode, "content": content}]
    return do_seed(host, {"root": "/dev/vda2", "mounts": [], "made": [], "files": files})


def test_seed_writes_inside_the_image_only(host: FakeHost, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    (root / "etc").mkdir()
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (root / "etc/resolv.conf").symlink_to(outside / "kept")
    (root / "var").symlink_to("/real/../real/var")
    (root / "up").symlink_to("../../outside")
    assert seed(host, "/etc/resolv.conf") == {"files": 1}
    seed(host, "/etc/provisioner-agent/agent.json", "secret", 0o600)
    seed(host, "/var/lib/x", "var")
    seed(host, "/up/kept", "up")
    assert (outside / "kept").read_text() == "kept"
    assert not (root / "etc/resolv.conf").is_symlink()
    assert (root / "etc/resolv.conf").read_text() == "text"
    agent = root / "etc/provisioner-agent/agent.json"
    assert (agent.read_text(), agent.stat().st_mode & 0o777) == ("secret", 0o600)
    assert (root / "real/var/lib/x").read_text() == "var"
    assert (root / "outside/kept").read_text() == "up"
    assert not any("secret" in line for line in host.said)
    assert len(ran(host, "mount")) == len(ran(host, "umount")) == 4
    assert list(tmp_path.glob("mount-*")) == []


@pytest.mark.parametrize("path", ["etc/x", "/", "/etc/../x", "/etc/", "//x", "/etc", "/circle/x", "/file/x"])
def test_seed_refuses(host: FakeHost, tmp_path: Path, path: str) -> None:
    (tmp_path / "root/etc").mkdir()
    (tmp_path / "root/file").write_text("")
    (tmp_path / "root/circle").symlink_to("circle")
    with pytest.raises(OrderFailed):
        seed(host, path)
    assert list(tmp_path.glob("mount-*")) == [], "unmounted all the same"


def fill_image(root: Path, *, kernel: bool = True) -> None:
    (root / "boot").mkdir()
    (root / "boot/vmlinuz-6").write_text("kernel")
    (root / "boot/initrd-6").write_text("initrd")
    if kernel:
        (root / "vmlinuz").symlink_to("boot/vmlinuz-6")
    (root / "initrd.img").symlink_to("/boot/initrd-6")
    loader = root / EFI_LOADER.lstrip("/")
    loader.parent.mkdir(parents=True)
    loader.write_bytes(b"MZ loader")


def test_boot_loader_uefi(host: FakeHost, tmp_path: Path) -> None:
    fill_image(tmp_path / "root")
    assert do_boot_loader(host, loader_order()) == {"firmware": "uefi", "filesystem": FILESYSTEM}
    esp = tmp_path / "esp"
    assert (esp / "EFI/BOOT/BOOTX64.EFI").read_bytes() == b"MZ loader"
    menu = (esp / "EFI/BOOT/grub.cfg").read_text()
    assert menu == (esp / "EFI/debian/grub.cfg").read_text() == (tmp_path / "root/boot/grub/grub.cfg").read_text()
    assert f'search --no-floppy --set=root --hint="$disk,gpt2" --fs-uuid {FILESYSTEM}\n' in menu
    assert f"    linux /vmlinuz root=PARTUUID={ROOT_GUID} ro quiet\n    initrd /initrd.img\n" in menu
    assert "set timeout=0\n" in menu
    assert ran(host, "chroot") == []


ENTRIES = f"""\
BootCurrent: 0001
BootOrder: 0001,0000,0003,0004
Boot0000* debian\tHD(1,GPT,{ESP_GUID.upper()},0x800,0x40000)/File(\\EFI\\debian\\shimx64.efi)
Boot0001* UEFI PXEv4 (MAC:525400770001)\tPciRoot(0x0)/Pci(0x2,0x0)/MAC(525400770001,1)/IPv4(0.0.0.0,0)
Boot0003  old\tPciRoot(0x0)/Pci(0x3,0x0)/HD(2,GPT,{ROOT_GUID},0x800,0x40000)
Boot0004* other\tHD(1,GPT,{DISK_GUID},0x800,0x40000)/File(\\EFI\\x.efi)
"""


def test_entries_of_partitions_that_are_gone_are_removed(host: FakeHost, tmp_path: Path) -> None:
    fill_image(tmp_path / "root")
    host.programs["efibootmgr"] = lambda argv, stdin: Finished(0, ENTRIES if "-v" in argv else "")
    do_boot_loader(host, loader_order(gone=[ESP_GUID, ROOT_GUID]))
    removed = [argv[3] for argv in ran(host, "efibootmgr") if "--delete-bootnum" in argv]
    assert removed == ["0000", "0003"]


def test_what_the_disk_held_before_is_told(host: FakeHost) -> None:
    others = order()
    others["disks"][0]["partitions"][0]["guid"] = "55555555-0000-4000-8000-000000000005"
    with pytest.raises(OrderFailed):  # the table that sfdisk shows here is always the same
        do_storage(host, others)
    assert {partition.uuid for partition in old_partitions(host, "/dev/vda")} == {ESP_GUID, ROOT_GUID}
    assert do_storage(host, order())["gone"] == []


def test_boot_loader_bios(host: FakeHost, tmp_path: Path) -> None:
    root = tmp_path / "root"
    fill_image(root)
    with pytest.raises(OrderFailed, match="cannot boot on BIOS"):
        do_boot_loader(host, loader_order(firmware="bios"))
    (root / "usr/lib/grub/i386-pc").mkdir()
    do_boot_loader(host, loader_order(firmware="bios"))
    chroot = ran(host, "chroot")
    assert [(argv[2:]) for argv in chroot] == [("grub-install", "--target=i386-pc", "/dev/vda")]
    bound = [argv[-1].removeprefix(chroot[0][1]) for argv in ran(host, "mount") if "--bind" in argv]
    assert bound == ["/dev", "/proc", "/sys"]
    assert (root / "boot/grub/grub.cfg").is_file()
    assert [argv[-1] for argv in ran(host, "umount")][-4:-1] == [
        chroot[0][1] + path for path in ("/sys", "/proc", "/dev")
    ]


def test_bound_folders_are_released_when_grub_fails(host: FakeHost, tmp_path: Path) -> None:
    fill_image(tmp_path / "root")
    (tmp_path / "root/usr/lib/grub/i386-pc").mkdir()

    def fails(argv: Sequence[str], stdin: str) -> Finished:
        return Finished(1, "", "grub-install: error: cannot find a GRUB drive")

    host.programs["chroot"] = fails
    with pytest.raises(OrderFailed, match="cannot find a GRUB drive"):
        do_boot_loader(host, loader_order(firmware="bios"))
    assert len(ran(host, "umount")) == len(ran(host, "mount")) == 4


def test_an_image_without_a_kernel(host: FakeHost, tmp_path: Path) -> None:
    fill_image(tmp_path / "root", kernel=False)
    with pytest.raises(OrderFailed, match="the image has no /vmlinuz"):
        do_boot_loader(host, loader_order())
    (tmp_path / "root" / EFI_LOADER.lstrip("/")).unlink()
    (tmp_path / "root/vmlinuz").write_text("kernel")
    with pytest.raises(OrderFailed, match="cannot boot on UEFI"):
        do_boot_loader(host, loader_order())
