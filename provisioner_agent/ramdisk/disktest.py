"""The order ``test-disk``: what each disk says of its own health, and how it reads. Nothing is written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from provisioner_agent.ramdisk.hardware import read_disks
from provisioner_agent.ramdisk.host import BlockFile, Host
from provisioner_agent.ramdisk.progress import Meter
from provisioner_agent.ramdisk.smart import read_smart
from provisioner_agent.ramdisk.verdict import DEGRADED, FAILED, PASSED, SKIPPED, Finding, conclude

PIECE = 4 << 20
PIECES = 64
"""Places on each disk that are read, spread evenly from its first to its last byte."""
HOP = 37
"""The order in which they are read; prime to their number, so that a disk that is given up was read all over."""
DISK_SECONDS = 60.0
"""After so long no further place of a disk is read."""
SLOW_SECONDS, SLOW = 1.0, 10.0
"""A place is slow when it took so long, and so many times the median."""
SIBLINGS, WEAK = 3, 3.0
"""Among so many disks of one model, a disk is slow that reads at less than this part of their median."""
MB = 1_000_000


class Read:
    """How one disk was read. ``rate``: bytes per second, the median of its places."""

    def __init__(self, disk: Mapping[str, Any]) -> None:
        self.name: str = disk["name"]
        self.kind = (disk["model"], disk["size"])
        self.rate = 0.0
        self.findings: list[Finding] = []


def do_test_disk(host: Host, meter: Meter) -> dict[str, Any]:
    disks = read_disks(host)
    if not disks:
        return conclude([Finding(SKIPPED, "")], "there is no disk")
    meter.begin("disk", sum(length for disk in disks for _, length in places(disk["size"])))
    reads = [_test(host, disk, meter) for disk in disks]
    findings = [Finding(finding.verdict, f"{read.name}: {finding.text}") for read in reads for finding in read.findings]
    return conclude([*findings, *compare(reads)], "")


def places(size: int) -> list[tuple[int, int]]:
    """(offset, length) of what is read of a disk of ``size`` bytes; all of it when it is small."""
    if size <= PIECE * PIECES:
        return [(at, min(PIECE, size - at)) for at in range(0, size, PIECE)]
    step = (size - PIECE) / (PIECES - 1)
    ordered = (number * HOP % PIECES for number in range(PIECES))
    return [(int(number * step) // 4096 * 4096, PIECE) for number in ordered]


def _test(host: Host, disk: Mapping[str, Any], meter: Meter) -> Read:
    read = Read(disk)
    read.findings = read_smart(host, read.name)
    try:
        block = host.open_block(f"/dev/{read.name}")
    except OSError as error:
        read.findings.append(Finding(FAILED, f"it cannot be opened: {error.strerror}"))
        return read
    try:
        _read(host, block, disk["size"], read, meter)
    finally:
        block.close()
    return read


def _read(host: Host, block: BlockFile, size: int, read: Read, meter: Meter) -> None:
    block.forget()
    buffer = memoryview(bytearray(PIECE))
    begun, took, unreadable = host.monotonic(), list[tuple[float, int]](), list[int]()
    wanted = places(size)
    for offset, length in wanted:
        start = host.monotonic()
        if start - begun > DISK_SECONDS:
            break
        try:
            came = block.read_into(offset, buffer[:length])
        except OSError:
            came = 0
        if came < length:
            unreadable.append(offset)
        took.append((max(host.monotonic() - start, 1e-9), length))
        meter.add(length)
    read.rate = median(length / seconds for seconds, length in took)
    usual = median(seconds for seconds, _ in took)
    slow = [seconds for seconds, _ in took if seconds > SLOW_SECONDS and seconds > SLOW * usual]
    if unreadable:
        at = ", ".join(f"{offset}" for offset in sorted(unreadable)[:3])
        read.findings.append(Finding(FAILED, f"{len(unreadable)} places cannot be read, the first at byte {at}"))
    if slow:
        worst = f"the slowest took {max(slow):.1f} s"
        read.findings.append(Finding(DEGRADED, f"{len(slow)} of {len(took)} places read slowly, {worst}"))
    text = f"reads at {read.rate / MB:.0f} MB/s"
    if len(took) < len(wanted):
        text += f", {len(took)} of {len(wanted)} places in {DISK_SECONDS:.0f} s"
    read.findings.append(Finding(PASSED, text))


def compare(reads: Sequence[Read]) -> Iterator[Finding]:
    """Disks that are much slower than others of their model."""
    for read in reads:
        siblings = [other.rate for other in reads if other.kind == read.kind and other.rate]
        if len(siblings) >= SIBLINGS and 0 < read.rate < median(siblings) / WEAK:
            usual = f"{median(siblings) / MB:.0f} MB/s is usual for its model here"
            yield Finding(DEGRADED, f"{read.name}: it reads at {read.rate / MB:.0f} MB/s, {usual}")
