"""Disks, their partitions and mounts, as programs and the kernel tell of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass

from provisioner_agent.ramdisk.host import BlockFile, Host, run_checked
from provisioner_agent.ramdisk.problem import OrderFailed


@dataclass(frozen=True)
class Partition:
    """One entry of a table. ``uuid`` and ``type`` lower case; ``size`` and ``start`` in bytes; ``path`` the device.

    ``uuid``: that of the GPT, or what Linux makes of an MBR's number and the partition's (``PARTUUID``).
    """

    path: str
    uuid: str
    size: int
    start: int = 0
    type: str = ""


def disk_path(name: str) -> str:
    """The device of a disk by its kernel name.

    :raises OrderFailed: the name leads out of /dev.
    """
    short = name.removeprefix("/dev/")
    if not short or ".." in short.split("/") or short.startswith("/"):
        raise OrderFailed(f"{name!r} is not the name of a disk")
    return f"/dev/{short}"


def read_partitions(host: Host, disk: str) -> list[Partition]:
    """The table of a disk. :raises OrderFailed: it has none."""
    text = run_checked(host, ["sfdisk", "--json", disk], f"the partition table of {disk} cannot be read")
    table = json.loads(text)["partitiontable"]
    sector = int(table.get("sectorsize", 512))
    found = []
    for entry in table.get("partitions", []):
        path = str(entry["node"])
        uuid = str(entry.get("uuid") or f"{str(table.get('id')).removeprefix('0x')}-{_number(path):02x}").lower()
        size, start = int(entry["size"]) * sector, int(entry["start"]) * sector
        found.append(Partition(path, uuid, size, start, str(entry["type"]).lower()))
    return found


def _number(path: str) -> int:
    """Of a partition by its device: 12 of ``/dev/nvme0n1p12``."""
    return int(path[len(path.rstrip("0123456789")) :])


def device_size(host: Host, device: str) -> int:
    """Bytes. :raises OrderFailed: it is not there."""
    try:
        return host.measure(device)[0]
    except OSError as error:
        raise OrderFailed(f"the size of {device} cannot be read", str(error)) from error


def unmount_all(host: Host, disk: str) -> None:
    """Unmount whatever is mounted of a disk, the innermost first. :raises OrderFailed: one is busy."""
    for line in reversed(host.read_text("/proc/mounts").splitlines()):
        device, _, rest = line.partition(" ")
        if device == disk or (device.startswith(disk) and device.removeprefix(disk).lstrip("p").isdigit()):
            place = rest.split(" ", 1)[0].replace("\\040", " ")
            try:
                host.unmount(place)
            except OSError as error:
                raise OrderFailed(f"{device} is in use on {place}", str(error)) from error


@contextmanager
def mounted(host: Host, device: str, filesystem: str = "", *, read_only: bool = False) -> Iterator[str]:
    """Mount a file system on a new folder; afterwards it is flushed and unmounted, whatever happened.

    :raises OrderFailed: it cannot be mounted or unmounted.
    """
    folder = host.make_folder()
    try:
        try:
            host.mount(device, folder, filesystem, read_only=read_only)
        except OSError as error:
            raise OrderFailed(f"{device} cannot be mounted", str(error)) from error
        try:
            yield folder
        except BaseException:
            with suppress(OSError):
                host.unmount(folder)
            raise
        try:
            host.unmount(folder)
        except OSError as error:
            raise OrderFailed(f"{device} cannot be unmounted", str(error)) from error
        flush(host, device)
    finally:
        host.drop_folder(folder)


@contextmanager
def opened(host: Host, device: str, problem: str) -> Iterator[BlockFile]:
    """A device, closed afterwards. :raises OrderFailed: ``problem``, whatever the system refuses meanwhile."""
    try:
        with closing(host.open_block(device)) as blocks:
            yield blocks
    except OSError as error:
        raise OrderFailed(problem, str(error)) from error


def flush(host: Host, device: str) -> None:
    """Bring a device's data past its own cache: the node's power may be cut next. :raises OrderFailed:"""
    with opened(host, device, f"{device} cannot be flushed") as blocks:
        blocks.flush()
