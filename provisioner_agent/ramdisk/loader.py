"""The order ``boot-loader``: GRUB finds the kernel of the image and starts it.

UEFI: the image's own signed, self-contained GRUB becomes the fallback loader of the disk (UEFI 2.10, section 3.5.1.1),
so no entry in the firmware's memory is needed. BIOS: ``grub-install`` of the image, run in it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from provisioner_agent.ramdisk.disks import disk_path, mounted
from provisioner_agent.ramdisk.host import Host, run_checked
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.seed import resolve_below, write_below
from provisioner_agent.ramdisk.stack import close_stacks, open_stacks

EFI_LOADER = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"
BIOS_MODULES = "/usr/lib/grub/i386-pc"
ESP_MENUS = ("/EFI/BOOT/grub.cfg", "/EFI/debian/grub.cfg")
"""The second is the folder that Debian builds into its self-contained GRUB."""
ROOT_MENU = "/boot/grub/grub.cfg"
KERNEL, INITRD = "/vmlinuz", "/initrd.img"
ENTRY = re.compile(r"^Boot([0-9A-Fa-f]{4})\*?.*?HD\(\d+,GPT,([0-9A-Fa-f-]{36}),", re.MULTILINE)
"""An entry with a hard drive's device path (UEFI 2.10, 10.3.5.1), as efibootmgr(8) writes it."""
BOUND = ("/dev", "/proc", "/sys")


def render_menu(filesystem: str, root_device: str, partition: str, cmdline: str) -> str:
    """``grub.cfg``. The disk that GRUB came from is asked first: another disk may hold a copy of the file system.

    :param filesystem: the UUID of the root file system. :param partition: GRUB's name of the root's, such as ``gpt2``;
        empty when it lies on a RAID or in a volume group.
    """
    hint = f'--hint="$disk,{partition}" ' if partition else ""
    return f"""\
# Written when the node was deployed. Kernels are found by the links {KERNEL} and {INITRD}.
set timeout=0
set default=0
insmod part_gpt
insmod part_msdos
insmod mdraid1x
insmod lvm
insmod regexp
insmod search_fs_uuid
insmod serial
insmod terminal
if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
fi
regexp --set=1:disk '^([^,]+)' "$root"
search --no-floppy --set=root {hint}--fs-uuid {filesystem}
menuentry "instance" {{
    linux {KERNEL} root={root_device} ro {cmdline}
    initrd {INITRD}
}}
"""


def do_boot_loader(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """:raises OrderFailed: the image lacks a kernel or a loader, or installing it failed."""
    root, disks = str(order["root"]), [disk_path(str(disk)) for disk in order["disks"]]
    if order["stacked"]:
        open_stacks(host, order["raids"])  # the step may have been done before, to its end
    filesystem = read_uuid(host, root)
    device, partition = str(order["root_device"]), str(order["grub_partition"])
    menu = render_menu(filesystem, device, partition, str(order.get("cmdline", ""))).encode()
    with mounted(host, root) as folder:
        for path in (KERNEL, INITRD):
            if _find(host, folder, path) is None:
                raise OrderFailed(f"the image has no {path}", "it must be a link to the newest kernel's file")
        write_below(host, folder, ROOT_MENU, menu, 0o644)
        if order["firmware"] == "uefi":
            loader = _find(host, folder, EFI_LOADER)
            if loader is None:
                raise OrderFailed("the image cannot boot on UEFI", f"{EFI_LOADER} (grub-efi-amd64-bin) is not in it")
            data = host.read_file(loader)
            _write_esp(host, str(order["esp"]), data, menu)
            drop_entries(host, order["gone"])
        else:
            _install_bios(host, folder, disks)
    if order["stacked"]:
        close_stacks(host)  # the power is taken away next
    host.say(f"{', '.join(disks)}: boot loader installed ({order['firmware']})")
    return {"firmware": order["firmware"], "filesystem": filesystem}


def drop_entries(host: Host, gone: Sequence[str]) -> None:
    """Remove what the firmware remembers of partitions that are no more: it would try them first, each time.

    The new disk needs no entry; its loader lies at the place where firmware looks by itself.
    """
    if not gone:
        return
    for number, guid in parse_entries(host.run(["efibootmgr", "-v"]).output):
        if guid in gone:
            host.say(f"boot entry {number} leads to a partition that is gone; it is removed")
            host.run(["efibootmgr", "--quiet", "--bootnum", number, "--delete-bootnum"])


def parse_entries(text: str) -> list[tuple[str, str]]:
    """(number, GUID of the partition) of each entry for a disk in the output of ``efibootmgr -v``."""
    return [(number, guid.lower()) for number, guid in ENTRY.findall(text)]


def read_uuid(host: Host, device: str) -> str:
    """The UUID of a file system, read from the disk. :raises OrderFailed: there is none."""
    argv = ["blkid", "-p", "-s", "UUID", "-o", "value", device]
    uuid = run_checked(host, argv, f"{device} holds no file system").strip()
    if not uuid:
        raise OrderFailed(f"the file system on {device} has no UUID")
    return uuid


def _find(host: Host, top: str, path: str) -> str | None:
    """Where a file of the image is, its links followed inside the image."""
    found = resolve_below(host, top, path.split("/"), make=False)
    return found if host.exists(found) else None


def _write_esp(host: Host, device: str, loader: bytes, menu: bytes) -> None:
    with mounted(host, device, "vfat") as esp:
        for path in ESP_MENUS:
            write_below(host, esp, path, menu, 0o644)
        write_below(host, esp, "/EFI/BOOT/BOOTX64.EFI", loader, 0o644)


def _install_bios(host: Host, folder: str, disks: Sequence[str]) -> None:
    if _find(host, folder, BIOS_MODULES) is None:
        raise OrderFailed("the image cannot boot on BIOS", f"{BIOS_MODULES} (grub-pc-bin) is not in it")
    bound: list[str] = []
    try:
        for path in BOUND:
            run_checked(host, ["mount", "--bind", path, folder + path], f"{path} cannot be shown to the image")
            bound.append(folder + path)
        for disk in disks:
            argv = ["chroot", folder, "grub-install", "--target=i386-pc", disk]
            run_checked(host, argv, f"GRUB cannot be installed on {disk}", limit=300)
    finally:
        for path in reversed(bound):
            host.run(["umount", path])
