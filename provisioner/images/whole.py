"""From the chunks of a role image to a whole disk that UEFI and BIOS can start, for those who want a file.

GPT with a BIOS boot partition, an EFI system partition and the root file system last, so that it can grow. Nothing is
mounted, no device is made and nothing here needs root: ``debugfs`` reads and writes the ext4 file system inside the
disk's file, mtools the FAT one, and GRUB's own parts, out of the image, are put where its documentation says
("BIOS installation" in GRUB's manual; ``boot.S`` and ``diskboot.S`` for the two places that name sectors).
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import zstandard

from provisioner.errors import ImageError
from provisioner.images.disk import EPOCH, data_extents
from provisioner.model.image import ImageIndex
from provisioner.system.run import Runner

MIB = 1024 * 1024
SECTOR = 512
BIOS_AT, ESP_AT, ROOT_AT = MIB, 2 * MIB, 66 * MIB
"""Byte offsets of the three partitions; the second copy of the table takes the last MiB."""
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
ESP = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B"
ROOT = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
"""Partition types: GRUB's, UEFI 2.10 section 5.3.3, and the root of x86-64 (Discoverable Partitions Specification)."""
EFI_LOADER = "/usr/lib/grub/x86_64-efi/monolithic/grubx64.efi"
BIOS_MODULES = "/usr/lib/grub/i386-pc"
CORE_MODULES = (
    "biosdisk", "part_gpt", "ext2", "normal", "linux", "configfile", "serial", "terminal", "search", "search_fs_uuid",
    "echo", "test",
)  # fmt: skip
MENUS = ("EFI/BOOT/grub.cfg", "EFI/debian/grub.cfg")
"""The second is the folder that Debian builds into its self-contained GRUB."""
CMDLINE = "console=tty0 console=ttyS0,115200"
CORE_PLACE, DRIVE_CHECK = 0x5C, 0x66
"""In GRUB's ``boot.img``: the sector of ``core.img`` (8 bytes), and a jump that only floppies may take."""
TABLE = slice(440, 510)
"""Bytes of the first sector that belong to the partition table."""
BLOCK_LIST = SECTOR - 12
"""In the first sector of ``core.img``: the sector where its rest begins (8 bytes)."""
TOLERATED = re.compile("debugfs [0-9]|rm: File not found by ext2_lookup|(ext2fs_)?mkdir: Ext2 directory already exists")
COPIED = 16 * MIB


@dataclass(frozen=True)
class DiskPlan:
    """What a disk holds besides the image.

    :param seed: identifiers come from it, not from chance. :param grow: MiB of room in the root file system beside
        what the image has. :param files: content and mode by absolute path. :param links: target by absolute path.
    """

    seed: str
    grow: int = 0
    files: Mapping[str, tuple[bytes, int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)

    def guid(self, of: str) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_URL, f"provisioner:{self.seed}:{of}")).upper()


def make_disk(chunks: Path, index: ImageIndex, disk: Path, plan: DiskPlan, *, work: Path, runner: Runner) -> None:
    """Write the sparse raw file ``disk``.

    :param chunks: ``root.zst`` of an image. :param work: an empty folder.
    :raises ImageError: a chunk is not the one that the index names, or the image lacks a kernel or a boot loader.
    :raises HostError: a program failed. :raises OSError: the disk is full.
    """
    size = index.size + plan.grow * MIB
    root = work / "root.ext4"
    with root.open("wb") as file:
        file.truncate(index.size)
        expand_chunks(chunks, index, file)
    if plan.grow:
        runner.run(["resize2fs", "-f", root, f"{size // 1024}K"], env=_still(), deadline=300)
    menu = render_menu(read_filesystem_uuid(root), plan.guid("root"))
    files = {**plan.files, "/boot/grub/grub.cfg": (menu.encode(), 0o644)}
    _add_files(root, files, plan.links, work=work, runner=runner)
    with disk.open("wb") as file:
        file.truncate(ROOT_AT + size + MIB)
    runner.run(["sfdisk", "-q", "--no-reread", "--no-tell-kernel", disk], stdin=render_table(size, plan))
    _copy_into(disk, ROOT_AT, root)
    _copy_into(disk, ESP_AT, _make_esp(root, menu, plan, work=work, runner=runner))
    _install_bios(disk, root, work=work, runner=runner)


def expand_chunks(chunks: Path, index: ImageIndex, target: BinaryIO) -> None:
    """Write the file system's data, each chunk checked, into ``target``; what is zero stays a hole.

    :raises ImageError: a chunk is damaged.
    """
    with chunks.open("rb") as source:
        for chunk in index.chunks:
            source.seek(chunk.frame)
            try:
                data = zstandard.ZstdDecompressor().decompress(
                    source.read(chunk.frame_length), max_output_size=chunk.length
                )
            except zstandard.ZstdError as error:
                raise _damaged(chunks, chunk.frame, str(error)) from error
            if len(data) != chunk.length or hashlib.sha256(data).hexdigest() != chunk.sha256:
                raise _damaged(chunks, chunk.frame, "the data is not what was signed")
            target.seek(chunk.offset)
            target.write(data)


def _damaged(path: Path, at: int, cause: str) -> ImageError:
    return ImageError(
        "the image is damaged",
        where=f"{path}, byte {at}",
        cause=cause,
        hint="provisioner image build makes it again; then remove the damaged one with provisioner image prune",
    )


def render_table(root_size: int, plan: DiskPlan) -> str:
    """The partition table, for sfdisk."""
    parts = (
        ("bios", BIOS_BOOT, BIOS_AT, ESP_AT - BIOS_AT),
        ("esp", ESP, ESP_AT, ROOT_AT - ESP_AT),
        ("root", ROOT, ROOT_AT, root_size),
    )
    lines = [
        f"start={at // SECTOR}, size={size // SECTOR}, type={kind}, uuid={plan.guid(name)}, name={name}"
        for name, kind, at, size in parts
    ]
    return "\n".join(["label: gpt", f"label-id: {plan.guid('disk')}", *lines, ""])


def render_menu(filesystem: str, root_guid: str) -> str:
    """``grub.cfg``. :param filesystem: the UUID of the root file system."""
    return f"""\
set timeout=0
set default=0
if serial --unit=0 --speed=115200; then
    terminal_input console serial
    terminal_output console serial
fi
search --no-floppy --set=root --fs-uuid {filesystem}
menuentry "instance" {{
    linux /vmlinuz root=PARTUUID={root_guid.lower()} ro {CMDLINE}
    initrd /initrd.img
}}
"""


def _copy_into(disk: Path, offset: int, part: Path) -> None:
    """Copy the sparse file ``part`` to ``offset`` of ``disk``, holes left out."""
    with part.open("rb") as source, disk.open("r+b") as target:
        for begin, length in data_extents(source, part.stat().st_size):
            for at in range(begin, begin + length, COPIED):
                target.seek(offset + at)
                target.write(os.pread(source.fileno(), min(COPIED, begin + length - at), at))


def read_filesystem_uuid(root: Path) -> str:
    """The UUID of a file system (ext4 superblock, offset 0x68)."""
    with root.open("rb") as file:
        file.seek(1024 + 0x68)
        return str(uuid.UUID(bytes=file.read(16)))


def _still() -> dict[str, str]:
    """Time stands still, so that the same image gives the same bytes."""
    return {"SOURCE_DATE_EPOCH": EPOCH, "E2FSPROGS_FAKE_TIME": EPOCH, "TZ": "UTC"}


def _debugfs(root: Path, commands: Sequence[str], runner: Runner, *, write: bool = False) -> None:
    """:raises ImageError: a command failed; debugfs itself ends with 0 all the same."""
    mode = ["-w"] if write else []
    done = runner.run(["debugfs", *mode, "-f", "-", root], stdin="\n".join(commands) + "\n", env=_still(), deadline=300)
    wrong = [line for line in done.stderr.splitlines() if line.strip() and not TOLERATED.match(line)]
    if wrong:
        raise ImageError(
            "the root file system does not have what is needed", where=str(root), cause="\n".join(wrong[:3])
        )


def _add_files(
    root: Path, files: Mapping[str, tuple[bytes, int]], links: Mapping[str, str], *, work: Path, runner: Runner
) -> None:
    """Put files, owned by root, and links into the file system; those that are there go."""
    commands = [f"mkdir {folder}" for path in (*files, *links) for folder in reversed(Path(path).parents[:-1])]
    for number, (path, (data, mode)) in enumerate(files.items()):
        source = work / f"file{number}"
        source.write_bytes(data)
        commands += [f"rm {path}", f"write {source} {path}", f"set_inode_field {path} mode 0100{mode:03o}"]
        commands += [f"set_inode_field {path} {field} 0" for field in ("uid", "gid")]
    for path, goal in links.items():
        commands += [f"rm {path}", f"symlink {path} {goal}"]
    _debugfs(root, list(dict.fromkeys(commands)), runner, write=True)


def _make_esp(root: Path, menu: str, plan: DiskPlan, *, work: Path, runner: Runner) -> Path:
    """The EFI system partition: the image's self-contained GRUB as the fallback loader (UEFI 2.10, section 3.5.1.1)."""
    loader, esp, config = work / "grubx64.efi", work / "esp.fat", work / "grub.cfg"
    _debugfs(root, [f"dump {EFI_LOADER} {loader}"], runner)
    config.write_text(menu)
    with esp.open("wb") as file:
        file.truncate(ROOT_AT - ESP_AT)
    volume = plan.guid("esp").partition("-")[0]
    runner.run(["mkfs.fat", "-F", "32", "-n", "ESP", "-i", volume, "--invariant", esp], env=_still())
    for path in (loader, config):
        os.utime(path, (int(EPOCH), int(EPOCH)))
    runner.run(["mmd", "-i", esp, "::EFI", "::EFI/BOOT", "::EFI/debian"], env=_still())
    for source, name in ((loader, "EFI/BOOT/BOOTX64.EFI"), *((config, place) for place in MENUS)):
        runner.run(["mcopy", "-m", "-i", esp, source, f"::{name}"], env=_still())
    return esp


def _install_bios(disk: Path, root: Path, *, work: Path, runner: Runner) -> None:
    """GRUB for BIOS: its first sector in the disk's first, the rest in the BIOS boot partition."""
    _debugfs(root, [f"rdump {BIOS_MODULES} {work}"], runner)
    modules, core = work / Path(BIOS_MODULES).name, work / "core.img"
    runner.run(["grub-mkimage", "-d", modules, "-O", "i386-pc", "-p", "(,gpt3)/boot/grub", "-o", core, *CORE_MODULES])
    data = patch_core(core.read_bytes(), BIOS_AT // SECTOR)
    if len(data) > ESP_AT - BIOS_AT:
        raise ImageError("GRUB does not fit into the BIOS boot partition", cause=f"{len(data)} bytes")
    with disk.open("r+b") as file:
        first = patch_boot((modules / "boot.img").read_bytes(), file.read(SECTOR), BIOS_AT // SECTOR)
        file.seek(0)
        file.write(first)
        file.seek(BIOS_AT)
        file.write(data)


def patch_boot(boot: bytes, sector: bytes, core_at: int) -> bytes:
    """The disk's first sector: GRUB's code, the partition table of ``sector``.

    :param core_at: the sector where ``core.img`` begins.
    """
    first = bytearray(boot[:SECTOR])
    first[TABLE] = sector[TABLE]
    struct.pack_into("<Q", first, CORE_PLACE, core_at)
    first[DRIVE_CHECK : DRIVE_CHECK + 2] = b"\x90\x90"
    return bytes(first)


def patch_core(core: bytes, core_at: int) -> bytes:
    """``core.img`` for the place ``core_at``: its first sector loads the others from behind itself."""
    data = bytearray(core)
    struct.pack_into("<Q", data, BLOCK_LIST, core_at + 1)
    return bytes(data)


def convert_disk(disk: Path, target: Path, runner: Runner) -> None:
    """The raw file ``disk`` as a compressed qcow2 file."""
    options = ["-c", "-o", "compression_type=zstd"]
    runner.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, disk, target], deadline=1200)
