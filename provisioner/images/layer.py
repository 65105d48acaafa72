"""The base layer: a Debian root file system with a kernel, made once by mmdebstrap and named by what went in."""

from __future__ import annotations

from pathlib import Path

from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.inputs import hash_inputs
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
EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
DEADLINE = 1200.0


def layer_inputs(sources: tuple[Source, ...]) -> dict[str, str]:
    """What the base layer is made from. The index that the packages come from is not pinned yet."""
    return {
        "release": RELEASE,
        "packages": " ".join(PACKAGES),
        "excluded": " ".join(EXCLUDED),
        "sources": " ".join(source.line() for source in sources),
        "recipe": "1",
    }


def ensure_layer(folder: Path, sources: tuple[Source, ...], *, runner: Runner, observer: Observer) -> Path:
    """The base layer's path, ``folder/HASH.tar.zst``; made when it is not there.

    :raises ImageError: mmdebstrap could not make it; nothing is left behind.
    """
    inputs = layer_inputs(sources)
    path = folder / f"{hash_inputs(inputs)}.tar.zst"
    if path.is_file():
        observer(Event("image.layer.reused", f"base layer {path.name} is there already"))
        return path
    folder.mkdir(parents=True, exist_ok=True)
    observer(Event("image.layer.started", "base layer: mmdebstrap installs Debian with a kernel"))
    temporary = folder / f".{path.name.removesuffix('.tar.zst')}.part.tar"
    options = [f"--dpkgopt=path-exclude={pattern}" for pattern in EXCLUDED]
    try:
        runner.run(
            [
                "mmdebstrap",
                "--variant=minbase",
                f"--include={','.join(PACKAGES)}",
                "--dpkgopt=force-unsafe-io",
                *options,
                '--aptopt=Acquire::Languages "none"',
                RELEASE,
                temporary,
                "-",
            ],
            stdin="\n".join(source.line() for source in sources) + "\n",
            deadline=DEADLINE,
        )
        runner.run(["zstd", "-q", "-T0", "-1", "--rm", temporary, "-o", f"{temporary}.zst"], deadline=DEADLINE)
        Path(f"{temporary}.zst").replace(path)
    except HostError as error:
        raise ImageError(
            "the base layer could not be made", where="mmdebstrap", cause=str(error.cause), hint=error.hint
        ) from error
    finally:
        temporary.unlink(missing_ok=True)
        Path(f"{temporary}.zst").unlink(missing_ok=True)
    observer(Event("image.layer.done", f"base layer {path.name}", data={"bytes": path.stat().st_size}))
    return path
