"""The order ``erase``: what lies on the node's disks is gone afterwards, as thoroughly as the order says.

All disks at once, a thread each: what an operator waits for is the slowest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from provisioner_agent.ramdisk.disks import disk_path, unmount_all
from provisioner_agent.ramdisk.disktest import places
from provisioner_agent.ramdisk.hardware import read_disks
from provisioner_agent.ramdisk.host import BlockFile, Host
from provisioner_agent.ramdisk.problem import OrderFailed
from provisioner_agent.ramdisk.progress import Meter
from provisioner_agent.ramdisk.stack import close_stacks
from provisioner_agent.ramdisk.storage import wipe_disk

METADATA, QUICK, SECURE = "metadata", "quick", "secure"
PIECE = 4 << 20
DISCARD_SECONDS = 3600.0
FORMAT_SECONDS = 4 * 3600.0
FLUSH_PIECES = 64
"""So often data is brought past the disk's cache, that a fault is found where it is and the progress is true."""


def do_erase(
    host: Host, order: Mapping[str, Any], meter: Meter, hardware: Callable[[], Mapping[str, Any]]
) -> dict[str, Any]:
    """Erase every disk.

    :returns: ``level``, ``disks``: what was done to each by name, ``hardware``: the report afterwards.
    :raises OrderFailed: a disk is in use or cannot be written; the others are erased all the same.
    """
    level = str(order["level"])
    if level not in (METADATA, QUICK, SECURE):
        raise OrderFailed(f"there is no way to erase called {level!r}")
    close_stacks(host)
    disks = {str(disk["name"]): int(disk["size"]) for disk in read_disks(host)}
    meter.begin("erase", sum(disks.values()) if level == SECURE else 0)
    done, failed = {}, {}
    with ThreadPoolExecutor(max(1, len(disks))) as pool:
        works = {name: pool.submit(_erase, host, name, size, level, meter) for name, size in disks.items()}
    for name, work in works.items():
        try:
            done[name] = work.result()
            host.say(f"/dev/{name}: {done[name]}")
        except (OrderFailed, OSError) as error:
            failed[name] = str(error)
    if failed:
        causes = "; ".join(f"{name}: {why}" for name, why in failed.items())
        raise OrderFailed(f"{len(failed)} of {len(disks)} disks could not be erased", causes)
    return {"level": level, "disks": done, "hardware": dict(hardware())}


def _erase(host: Host, name: str, size: int, level: str, meter: Meter) -> str:
    """One disk. :returns: what was done."""
    path = disk_path(name)
    unmount_all(host, path)
    wipe_disk(host, path, set())
    if level == METADATA:
        return "tables and signatures are gone"
    if level == QUICK:
        discarded = host.run(["blkdiscard", "--force", path], limit=DISCARD_SECONDS)
        return "discarded" if discarded.code == 0 else "it cannot discard; tables and signatures are gone"
    if name.startswith("nvme"):
        argv = ["nvme", "format", path, "--ses=1", "--force"]
        if host.run(argv, limit=FORMAT_SECONDS).code == 0:
            meter.add(size)
            return "has erased itself (NVMe, user data erase)"
    blocks = host.open_block(path)
    try:
        _overwrite(blocks, size, meter)
        _check_zero(blocks, size, path)
    finally:
        blocks.close()
    return "overwritten with zeros, read back at 64 places"


def _overwrite(blocks: BlockFile, size: int, meter: Meter) -> None:
    """Written, not only marked as zero: the disk might keep what it held."""
    zeros = memoryview(bytes(PIECE))
    for number, offset in enumerate(range(0, size, PIECE), 1):
        length = min(PIECE, size - offset)
        blocks.write_at(offset, zeros[:length])
        if number % FLUSH_PIECES == 0:
            blocks.flush()
        meter.add(length)
    blocks.flush()


def _check_zero(blocks: BlockFile, size: int, path: str) -> None:
    """:raises OrderFailed: the disk returns something else."""
    blocks.forget()
    buffer = memoryview(bytearray(PIECE))
    for offset, length in places(size):
        if blocks.read_into(offset, buffer[:length]) < length or any(buffer[:length]):
            raise OrderFailed("the disk does not keep the zeros that are written to it", f"{path}, at byte {offset}")
