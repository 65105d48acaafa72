"""Images that somebody brings: a raw or qcow2 file becomes an image of the catalogue.

What such a file says of itself is not believed. oslo.utils inspects it without running anything; only then qemu-img
reads it, as a child with limits, under the format that was found.
"""

from __future__ import annotations

import uuid
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from time import time

from provisioner.errors import HostError, ImageError
from provisioner.images.catalogue import INDEX, Catalogue, describe_files
from provisioner.images.disk import write_chunks
from provisioner.images.provenance import build_statement, builder
from provisioner.model.image import Image
from provisioner.system.files import hash_file, write_file
from provisioner.system.run import Runner

ALLOWED = {"raw": "raw", "gpt": "raw", "qcow2": "qcow2"}
"""Formats that may come in, as the inspector names them → as qemu-img does."""
GIB = 1024**3
MEMORY = 2 * GIB
SECONDS = 1800
SECTOR = 512
SECTORS = (512, 4096)
GPT_MAGIC = b"EFI PART"
EXT4_MAGIC, XFS_MAGIC = (1080, b"\x53\xef"), (0, b"XFSB")
"""(offset, bytes) of file systems' magic numbers."""


@dataclass(frozen=True)
class Foreign:
    """A file that was inspected. ``form``: for qemu-img; ``size``: bytes of the disk that it holds."""

    path: Path
    form: str
    size: int


def inspect(path: Path, most: int) -> Foreign:
    """What a file is, by its content alone.

    :param most: bytes that its disk may have. :raises ImageError: it is of another format, refers to other files, has
        features that are not understood, is larger, or is cut off.
    """
    from oslo_utils.imageutils import format_inspector  # only here: few commands need it

    try:
        found = format_inspector.detect_file_format(str(path))
        name = str(found) if found is not None else "unknown"
        if found is None or name not in ALLOWED:
            raise _refused(path, f"its format is {name}", "convert it to raw or qcow2 where you trust it")
        found.safety_check()
        size = found.virtual_size if ALLOWED[name] == "qcow2" else path.stat().st_size
    except format_inspector.SafetyCheckFailed as error:
        cause = "; ".join(str(failure) for failure in error.failures.values()) or str(error)
        raise _refused(
            path, cause, "qemu-img convert -O raw writes it without references, where you trust it"
        ) from error
    except (format_inspector.ImageFormatError, ValueError) as error:
        raise _refused(path, str(error), "qemu-img info shows what it is") from error
    if not 0 < size <= most:
        raise _refused(path, f"its disk has {size} bytes, allowed are {most}", "--max-size GIB allows more")
    return Foreign(path, ALLOWED[name], size)


def _refused(path: Path, cause: str, hint: str) -> ImageError:
    return ImageError("this file is not taken as an image", where=str(path), cause=cause, hint=hint)


def import_foreign(
    catalogue: Catalogue, found: Foreign, name: str, *, reserved: Collection[str], work: Path, runner: Runner
) -> Image:
    """Publish it under ``name``.

    :param reserved: names of roles that are built from elements, which whole disks may not take.
    :param work: an empty folder with room for the disk.
    :raises ImageError: it cannot be read, or holds neither a partition table nor a file system.
    """
    start = time()
    raw = work / "disk.raw"
    limits: list[str | Path] = [
        "prlimit",
        f"--as={MEMORY}",
        f"--cpu={SECONDS}",
        f"--fsize={found.size + GIB}",
        "--nofile=64",
        "--core=0",
    ]
    convert: list[str | Path] = ["qemu-img", "convert", "-f", found.form, "-O", "raw", found.path, raw]
    try:
        runner.run([*limits, *convert], deadline=SECONDS)
    except HostError as error:
        raise _refused(found.path, error.cause or error.summary, "qemu-img check tells more") from error
    kind = read_kind(raw)
    table, sector = read_table(raw) if kind == "disk" else ("", 0)
    if kind is None:
        raise _refused(found.path, "it has no partition table, nor ext4 or XFS", "file FILE shows what it is")
    if kind == "disk" and name in reserved:
        hint = "give it a name that is no role's, and name it in a role: image: {disk: NAME}"
        raise _refused(found.path, f"it is a whole disk, and the role {name} has elements to build it from", hint)
    with catalogue.workplace() as out:
        index = write_chunks(raw, out / "root.zst")
        write_file(out / INDEX, index.model_dump_json())
        ident, files, sizes = describe_files(name, out)
        image = Image(
            id=ident,
            name=name,
            files=files,
            sizes=sizes,
            mapped=index.mapped,
            kind=kind,
            table=table,
            sector=sector,
            test="skipped",
            inputs={found.path.name: hash_file(found.path)},
        )
        catalogue.publish(image, out, build_statement(image, (), (), start, time(), builder()))
    return image


def read_kind(raw: Path) -> str | None:
    """``disk`` for one with a partition table, ``root`` for a file system, None for neither."""
    with raw.open("rb") as file:
        for offset, magic in (EXT4_MAGIC, XFS_MAGIC):
            file.seek(offset)
            if file.read(len(magic)) == magic:
                return "root"
        file.seek(0)
        first = file.read(SECTOR)
    return "disk" if first[510:512] == b"\x55\xaa" and any(first[446:510]) else None


def read_table(raw: Path) -> tuple[str, int]:
    """What a partition table calls itself, and bytes of the sectors in which it counts, 0 when that is not said.

    A GPT's header is in the second sector (UEFI 2.10, 5.3.2); an MBR's number is at byte 440 (5.2.1).
    """
    with raw.open("rb") as file:
        for sector in SECTORS:
            file.seek(sector)
            header = file.read(92)
            if header.startswith(GPT_MAGIC):
                return str(uuid.UUID(bytes_le=header[56:72])), sector
        file.seek(440)
        return file.read(4)[::-1].hex(), 0
