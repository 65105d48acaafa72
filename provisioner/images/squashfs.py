"""An image as kernel, initramfs and squashfs: a system that runs from a file it never changes."""

from __future__ import annotations

import shutil
from pathlib import Path

from provisioner.errors import ImageError
from provisioner.images.disk import EPOCH
from provisioner.system.run import Runner

ROOT = "root.squashfs"


def make_squashfs(tree: Path, out: Path, *, runner: Runner) -> None:
    """Write ``out/kernel``, ``out/initramfs`` and ``out/root.squashfs``; the same bytes for the same tree.

    Boot it with the squashfs as a disk: ``root=/dev/vda rootfstype=squashfs provisioner.overlay``. The last word lays
    a file system in memory over it (``scripts/init-bottom/provisioner`` in the initramfs).

    :raises ImageError: the tree has no kernel.
    """
    for link, name in (("vmlinuz", "kernel"), ("initrd.img", "initramfs")):
        if not (tree / link).is_symlink():
            raise ImageError(f"the image has no /{link}", hint="name a kernel in its package-installs.yaml")
        shutil.copyfile(tree / (tree / link).readlink(), out / name)
    words = ["-comp", "zstd", "-noappend", "-quiet", "-no-progress", "-reproducible", "-all-time", EPOCH]
    words += ["-mkfs-time", EPOCH]
    runner.run(["mksquashfs", tree, out / ROOT, *words], deadline=600)
