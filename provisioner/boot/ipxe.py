"""iPXE scripts (https://ipxe.org/scripting): into the ramdisk, or on to the node's own disk. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from provisioner_agent.protocol.messages import (
    IMAGES,
    RAMDISK_CA_ARGUMENT,
    RAMDISK_CLOCK_ARGUMENT,
    RAMDISK_MAC_ARGUMENT,
    RAMDISK_PROVE_ARGUMENT,
    RAMDISK_TOKEN_ARGUMENT,
    RAMDISK_URL_ARGUMENT,
)
from provisioner_agent.protocol.servers import BETWEEN, pack_authority

CONSOLES = "console=tty0 console=ttyS0,115200"
TRIES = 5
"""How often iPXE fetches the two files before it gives the node back to its firmware."""


def render_boot_script(
    *,
    url: str,
    services: Sequence[str],
    authority: str,
    token: str,
    mac: str,
    address: str,
    image: str,
    now: float,
    proves: bool = False,
) -> str:
    """The script that boots the ramdisk.

    :param url: where kernel and initramfs are.
    :param services: where the ramdisk finds the service; another one when the first is away.
    :param authority: of their certificates, as PEM.
    :param token: ``ID.SECRET``; the ramdisk proves with it who it is.
    :param mac: of the port that boots.
    :param address: ``A.B.C.D/LEN`` that it gets, or empty when DHCP is another's.
    :param image: id of the ramdisk in the catalogue.
    :param now: seconds since the epoch.
    :param proves: whether the ramdisk must prove by its controller which server it runs on.
    """
    files = f"{url}{IMAGES}/{image}"
    arguments = [
        "initrd=initramfs",  # an EFI kernel finds it by this name
        f"{RAMDISK_URL_ARGUMENT}={BETWEEN.join(services)}",
        f"{RAMDISK_CA_ARGUMENT}={pack_authority(authority)}",
        f"{RAMDISK_CLOCK_ARGUMENT}={now:.0f}",
        f"{RAMDISK_TOKEN_ARGUMENT}={token}",
        f"{RAMDISK_MAC_ARGUMENT}={mac}",
        f"provisioner.address={address}",
        *([f"{RAMDISK_PROVE_ARGUMENT}=1"] if proves else []),
        CONSOLES,
    ]
    lines = ["#!ipxe", f"echo provisioner: {mac} boots {image}"]
    for number in range(1, TRIES + 1):
        again = f"again{number}" if number < TRIES else "failed"
        lines += [
            "imgfree",
            f"kernel {files}/kernel {' '.join(arguments)} || goto {again}",
            f"initrd --name initramfs {files}/initramfs || goto {again}",
            f"boot || goto {again}",
            f":{again}",
        ]
        lines.append("sleep 3" if number < TRIES else f"echo provisioner: {image} could not be fetched")
    # Another code than 0 lets the firmware go on with its next boot device.
    return "\n".join([*lines, "exit 1"]) + "\n"


def render_local_script() -> str:
    """The script for a node that nothing is due to: its firmware goes on to the next device, the disk."""
    return "#!ipxe\necho provisioner: nothing is due to this node, it boots from its disk\nexit 1\n"
