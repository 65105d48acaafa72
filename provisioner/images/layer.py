"""The base layer: a Debian root file system with a kernel, made once by mmdebstrap and named by what went in."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.inputs import hash_inputs
from provisioner.images.lock import render_preferences
from provisioner.images.pool import bootstrap_options
from provisioner.images.sources import Source
from provisioner.system.run import Runner

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
    "systemd-resolved",
    "systemd-timesyncd",
    "udev",
    "zstd",
)
EXCLUDED = (
    "/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*",
    "/lib/udev/hwdb.d/*", "/usr/lib/udev/hwdb.d/*",
)  # fmt: skip
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
    "drivers/ata", "drivers/block/virtio_blk.ko", "drivers/message/fusion", "drivers/nvme", "drivers/scsi/aacraid",
    "drivers/scsi/hpsa.ko", "drivers/scsi/megaraid", "drivers/scsi/mpt3sas", "drivers/scsi/sd_mod.ko",
    "drivers/scsi/smartpqi", "drivers/scsi/virtio_scsi.ko", "drivers/scsi/vmw_pvscsi.ko", "drivers/usb/storage",
    "drivers/virtio", "fs/ext4", "fs/xfs",
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
SETUP = """\
cd "$1"
mkdir -p etc/initramfs-tools/conf.d etc/initramfs-tools/hooks
echo MODULES=list >etc/initramfs-tools/conf.d/provisioner
cat >etc/initramfs-tools/hooks/provisioner <<'END'
{hook}END
chmod 0755 etc/initramfs-tools/hooks/provisioner
"""
PREFERENCES = "/etc/apt/preferences.d/provisioner-lock"
"""The lock inside a layer: what is installed on it later obeys it too. No image keeps it."""
DEADLINE = 1200.0


def setup_script() -> str:
    """Shell for mmdebstrap, run before the first package: a small initramfs, made once, with the right modules."""
    return SETUP.format(hook=INITRAMFS_HOOK.format(modules=" ".join(BOOT_MODULES)))


def excluded() -> tuple[str, ...]:
    """Patterns of files that dpkg leaves out, in the layer and in all that is installed on it later."""
    return EXCLUDED + tuple(f"/lib/modules/*/kernel/{name}{_below(name)}" for name in UNUSED_MODULES)


def _below(name: str) -> str:
    return "" if name.endswith(".ko") else "/*"


def layer_inputs(sources: tuple[Source, ...], lock: Mapping[str, str]) -> dict[str, str]:
    """What the base layer is made from."""
    return {
        "release": RELEASE,
        "packages": " ".join(PACKAGES),
        "excluded": " ".join(excluded()),
        "setup": setup_script(),
        "sources": " ".join(source.line() for source in sources),
        "lock": hash_inputs(lock),
        "recipe": "3",
    }


def ensure_layer(
    folder: Path,
    sources: tuple[Source, ...],
    lock: Mapping[str, str],
    *,
    pool: Path,
    runner: Runner,
    observer: Observer,
) -> Path:
    """The base layer's path, ``folder/HASH.tar.zst``; made when it is not there.

    :param lock: versions by package. :param pool: folder of packages, filled by this.
    :raises ImageError: mmdebstrap could not make it; nothing is left behind.
    """
    inputs = layer_inputs(sources, lock)
    path = folder / f"{hash_inputs(inputs)}.tar.zst"
    if path.is_file():
        observer(Event("image.layer.reused", f"base layer {path.name} is there already"))
        return path
    folder.mkdir(parents=True, exist_ok=True)
    pool.mkdir(parents=True, exist_ok=True, mode=0o700)
    preferences = folder / f".{path.name.removesuffix('.tar.zst')}.preferences"
    preferences.write_text(render_preferences(lock))
    observer(Event("image.layer.started", "base layer: mmdebstrap installs Debian with a kernel"))
    temporary = folder / f".{path.name.removesuffix('.tar.zst')}.part.tar"

    def line(text: str) -> None:
        if text.startswith("I: ") and text.endswith("..."):
            message = f"base layer: {text[3:].removesuffix('...')}"
            observer(Event("image.layer.phase", message))

    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in excluded()]
    try:
        runner.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                "--dpkgopt=force-unsafe-io",
                *options,
                f"--setup-hook={setup_script()}",
                f'--setup-hook=install -D -m 0644 "{preferences}" "$1{PREFERENCES}"',
                *bootstrap_options(pool),
                '--aptopt=Acquire::Languages "none"',
                RELEASE,
                temporary,
                "-",
            ],
            stdin="\n".join(source.line() for source in sources) + "\n",
            deadline=DEADLINE,
            on_line=line,
        )
        runner.run(["zstd", "-q", "-T0", "-1", "--rm", temporary, "-o", f"{temporary}.zst"], deadline=DEADLINE)
        Path(f"{temporary}.zst").replace(path)
    except HostError as error:
        raise ImageError(
            "the base layer could not be made",
            where="mmdebstrap",
            cause=error.cause or error.summary,
            hint="apt-get update shows whether this host's package sources answer; df -h whether its disk is full",
        ) from error
    finally:
        preferences.unlink(missing_ok=True)
        temporary.unlink(missing_ok=True)
        Path(f"{temporary}.zst").unlink(missing_ok=True)
    observer(Event("image.layer.done", f"base layer {path.name}", data={"bytes": path.stat().st_size}))
    return path
