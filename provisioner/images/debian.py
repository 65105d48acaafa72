"""The lowest layer: a Debian root file system with a kernel, made once by mmdebstrap and named by what went in."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.disk import EPOCH
from provisioner.images.inputs import hash_inputs
from provisioner.images.lock import render_preferences
from provisioner.images.pool import bootstrap_options
from provisioner.images.sources import Source
from provisioner.system.run import Runner
from provisioner.system.scratch import held_folder, sweep_folders

RELEASE = "bookworm"
PACKAGES = (
    "ca-certificates",
    "dbus",
    "e2fsprogs",
    "grub-efi-amd64-bin",
    "grub-pc-bin",
    "grub2-common",
    "init",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "linux-image-amd64",
    "netbase",
    "openssl",
    "python3",
    "python3-pystache",
    "systemd-resolved",
    "systemd-timesyncd",
    "udev",
    "zstd",
)
EXCLUDED = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*",
    "/lib/udev/hwdb.d/*", "/usr/lib/udev/hwdb.d/*",
)  # fmt: skip
KEPT = "/usr/share/doc/*/copyright"
"""Licences stay: whoever hands an image on must hand them on, and the list of parts is read from them."""
UNUSED_MODULES = (
    "drivers/block/floppy.ko", "drivers/bluetooth", "drivers/char/lp.ko", "drivers/char/ppdev.ko", "drivers/comedi",
    "drivers/gpu/drm/amd", "drivers/gpu/drm/gma500", "drivers/gpu/drm/i915", "drivers/gpu/drm/nouveau",
    "drivers/gpu/drm/radeon", "drivers/iio", "drivers/input/joystick", "drivers/input/misc/pcspkr.ko",
    "drivers/input/tablet", "drivers/input/touchscreen", "drivers/isdn", "drivers/media", "drivers/net/can",
    "drivers/net/ieee802154", "drivers/net/wireless", "drivers/nfc", "drivers/parport", "drivers/staging",
    "drivers/usb/gadget", "drivers/video/fbdev", "lib/test_bpf.ko", "net/bluetooth", "net/can",
    "net/ieee802154", "net/mac80211", "net/mac802154", "net/nfc", "net/wireless", "sound",
)  # fmt: skip
"""Folders of kernel modules for desktops, radios and sensors, which servers do not have: half of the kernel's bytes."""
BOOT_MODULES = (
    "drivers/ata", "drivers/block/loop.ko", "drivers/block/virtio_blk.ko", "drivers/message/fusion", "drivers/nvme",
    "drivers/scsi/aacraid", "drivers/scsi/hpsa.ko", "drivers/scsi/megaraid", "drivers/scsi/mpt3sas",
    "drivers/scsi/sd_mod.ko", "drivers/scsi/smartpqi", "drivers/scsi/virtio_scsi.ko", "drivers/scsi/vmw_pvscsi.ko",
    "drivers/usb/storage", "drivers/virtio", "fs/ext4", "fs/overlayfs", "fs/squashfs", "fs/xfs",
)  # fmt: skip
"""What an instance's initramfs needs to find its root file system, on any server that the ramdisk can write."""
INITRAMFS_HOOK = """\
#!/bin/sh
# Modules by what the hardware reports, not loaded by force: disks and file systems of servers, nothing else.
[ "$1" = prereqs ] && exit 0
. /usr/share/initramfs-tools/hook-functions
cd "/lib/modules/$version/kernel" || exit 1
manual_add_modules $(find {modules} -name "*.ko" | sed "s,.*/,,; s,[.]ko$,,")
"""
OVERLAY_SCRIPT = """\
#!/bin/sh
# With this word on the kernel's command line the root file system (a squashfs) stays as it is; changes go to memory.
[ "$1" = prereqs ] && exit 0
grep -qw provisioner.overlay /proc/cmdline || exit 0
modprobe overlay
mkdir -p /run/overlay/below /run/overlay/memory
mount -o move "$rootmnt" /run/overlay/below
mount -t tmpfs -o mode=0755 overlay /run/overlay/memory
mkdir /run/overlay/memory/upper /run/overlay/memory/work
cd /run/overlay && mount -t overlay -o lowerdir=below,upperdir=memory/upper,workdir=memory/work overlay "$rootmnt"
"""
SETUP = """\
cd "$1"
mkdir -p etc/initramfs-tools/conf.d etc/initramfs-tools/hooks etc/initramfs-tools/scripts/init-bottom
echo MODULES=list >etc/initramfs-tools/conf.d/provisioner
cat >etc/initramfs-tools/hooks/provisioner <<'END'
{hook}END
cat >etc/initramfs-tools/scripts/init-bottom/provisioner <<'END'
{overlay}END
chmod 0755 etc/initramfs-tools/hooks/provisioner etc/initramfs-tools/scripts/init-bottom/provisioner
"""
PREFERENCES = "/etc/apt/preferences.d/provisioner-lock"
"""The lock inside a layer: what is installed on it later obeys it too. No image keeps it."""
DEADLINE = 1200.0
STORING = ".storing."


def setup_script() -> str:
    """Shell for mmdebstrap, run before the first package: a small initramfs, made once, with the right modules."""
    return SETUP.format(hook=INITRAMFS_HOOK.format(modules=" ".join(BOOT_MODULES)), overlay=OVERLAY_SCRIPT)


def excluded() -> tuple[str, ...]:
    """Patterns of files that dpkg leaves out, in the layer and in all that is installed on it later."""
    return EXCLUDED + tuple(f"/lib/modules/*/kernel/{name}{_below(name)}" for name in UNUSED_MODULES)


def _below(name: str) -> str:
    return "" if name.endswith(".ko") else "/*"


def debian_inputs(sources: tuple[Source, ...], lock: Mapping[str, str]) -> dict[str, str]:
    """What the lowest layer is made from."""
    return {
        "release": RELEASE,
        "packages": " ".join(PACKAGES),
        "excluded": " ".join(excluded()),
        "kept": KEPT,
        "setup": setup_script(),
        "sources": " ".join(source.line() for source in sources),
        "lock": hash_inputs(lock),
        "recipe": "5",
    }


def make_debian(
    path: Path,
    sources: tuple[Source, ...],
    lock: Mapping[str, str],
    *,
    work: Path,
    pool: Path,
    runner: Runner,
    observer: Observer,
) -> None:
    """Write the layer to ``path``, a ``.tar.zst``; whole or not at all.

    :param lock: versions by package. :param work: an empty folder. :param pool: folder of packages, filled by this.
    :raises ImageError: mmdebstrap could not make it.
    """
    pool.mkdir(parents=True, exist_ok=True, mode=0o700)
    preferences, temporary = work / "preferences", work / "debian.tar"
    preferences.write_text(render_preferences(lock))

    def line(text: str) -> None:
        if text.startswith("I: ") and text.endswith("..."):
            phase = text[3:].removesuffix("...")
            observer(Event("image.phase", f"debian: {phase}", data={"image": "debian", "phase": phase}))

    options = [*(f"--dpkgopt=path-exclude={pattern}" for pattern in excluded()), f"--dpkgopt=path-include={KEPT}"]
    try:
        runner.run(
            [
                sys.executable,
                "-m",
                "provisioner.system.nosync",
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                "--dpkgopt=force-unsafe-io",
                *options,
                f"--setup-hook={setup_script()}",
                f'--setup-hook=install -D -m 0644 "{preferences}" "$1{PREFERENCES}"',
                *bootstrap_options(pool),
                "--skip=cleanup/apt/lists",  # what is installed on it later needs no mirror when the pool has it
                '--aptopt=Acquire::Languages "none"',
                RELEASE,
                temporary,
                "-",
            ],
            stdin="\n".join(source.line() for source in sources) + "\n",
            env={"SOURCE_DATE_EPOCH": EPOCH},
            deadline=DEADLINE,
            on_line=line,
        )
        store_layer(temporary, path, runner)
    except HostError as error:
        raise ImageError(
            "the layer debian could not be made",
            where="mmdebstrap",
            cause=error.cause or error.summary,
            hint="apt-get update shows whether this host's package sources answer; df -h whether its disk is full",
        ) from error


def store_layer(tar: Path, path: Path, runner: Runner) -> None:
    """Compress ``tar`` into ``path``; whole or not at all."""
    sweep_folders(path.parent, STORING)
    with held_folder(path.parent, STORING) as folder:
        runner.run(["zstd", "-q", "-T0", "-1", tar, "-o", folder / path.name], deadline=DEADLINE)
        (folder / path.name).replace(path)
