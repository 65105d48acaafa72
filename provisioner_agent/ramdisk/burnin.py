"""The orders ``test-cpu`` and ``test-memory``: load them, and watch what the machine says of itself meanwhile."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from provisioner_agent.ramdisk.burn import MIB, passes
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.progress import Meter
from provisioner_agent.ramdisk.verdict import DEGRADED, FAILED, PASSED, SKIPPED, Finding, conclude

BURN = ("python3", "-m", "provisioner_agent.ramdisk.burn")
CONTROLLERS = "/sys/devices/system/edac/mc"
"""Counters of errors that memory modules with ECC have mended and have not (Linux, admin-guide/RAS)."""
PROCESSORS = "/sys/devices/system/cpu"
HARDWARE_ERROR = "[Hardware Error]"
"""With this the kernel begins each line about a machine check."""
SLACK_SECONDS = 120.0
LEAST_RATE = 50 * MIB
"""Bytes per second that even an emulated machine gets through."""
SPARE_MIB, WORKER_MIB, PART = 96, 16, 0.95
"""What the agent and each worker need beside the memory under test, and how much of the rest is taken."""


def do_test_cpu(host: Host, order: Mapping[str, Any]) -> dict[str, Any]:
    """:param order: ``seconds``: how long every processor is loaded."""
    seconds = float(order["seconds"])
    watch = Watch(host)
    rounds, findings = _burn(host, ["cpu", f"{seconds:.0f}"], seconds + SLACK_SECONDS, None)
    return conclude([*findings, *watch.news()], f"{host.cpus()} processors reckoned right, {rounds} rounds in all")


def do_test_memory(host: Host, meter: Meter) -> dict[str, Any]:
    """All that is free is written with patterns and read back."""
    mib = memory_to_test(host.read_text("/proc/meminfo"), host.cpus())
    if mib <= 0:
        return conclude([Finding(SKIPPED, "")], "too little memory is free to test any")
    total = mib * MIB * passes()
    meter.begin("memory", total)
    watch = Watch(host)
    _, findings = _burn(host, ["memory", f"{mib}"], total / LEAST_RATE + SLACK_SECONDS, meter)
    if not host.names(CONTROLLERS):
        findings.append(Finding(PASSED, "what ECC mends is not counted here"))
    return conclude([*findings, *watch.news()], f"{mib} MiB hold what is written, {passes() // 2} patterns")


def memory_to_test(meminfo: str, cpus: int) -> int:
    """MiB, from the text of ``/proc/meminfo``."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB", meminfo, re.MULTILINE)
    free = int(found[1]) // 1024 if found else 0
    return max(0, int((free - SPARE_MIB - WORKER_MIB * cpus) * PART))


def _burn(host: Host, arguments: Sequence[str], limit: float, meter: Meter | None) -> tuple[int, list[Finding]]:
    """(what was done in all, what was wrong)."""
    done, faults = 0, []
    for line in host.stream([*BURN, *arguments], limit):
        word, _, rest = line.partition(" ")
        if word == "done" and rest.isdigit():
            done += int(rest)
            if meter is not None:
                meter.add(int(rest))
        elif word == "fault":
            faults.append(Finding(FAILED, rest))
    return done, faults


class Watch:
    """Compares what the machine counts of its own errors with what it counted when this was made."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._mended, self._lost = self._memory("ce_count"), self._memory("ue_count")
        self._slowed, self._checks = self._throttled(), self._machine_checks()

    def news(self) -> Iterator[Finding]:
        lost, mended = self._memory("ue_count") - self._lost, self._memory("ce_count") - self._mended
        if lost:
            yield Finding(FAILED, f"{lost} memory errors that ECC could not mend")
        if mended:
            yield Finding(DEGRADED, f"{mended} memory errors that ECC mended")
        checks = self._machine_checks()
        if len(checks) > len(self._checks):
            yield Finding(DEGRADED, f"a machine check: {checks[-1]}")
        if slowed := self._throttled() - self._slowed:
            yield Finding(DEGRADED, f"processors slowed themselves down {slowed} times because they were too hot")

    def _memory(self, counter: str) -> int:
        found = [self._host.read_text(f"{CONTROLLERS}/{mc}/{counter}") for mc in self._host.names(CONTROLLERS)]
        return sum(int(text) for text in found if text.isdigit())

    def _throttled(self) -> int:
        """How many times, over all processors, each core's own counter said so."""
        cpus = [name for name in self._host.names(PROCESSORS) if re.fullmatch(r"cpu\d+", name)]
        counts = (self._host.read_text(f"{PROCESSORS}/{cpu}/thermal_throttle/core_throttle_count") for cpu in cpus)
        return sum(int(text) for text in counts if text.isdigit())

    def _machine_checks(self) -> list[str]:
        lines = self._host.run(["dmesg"]).output.splitlines()
        return [line.partition(HARDWARE_ERROR)[2].strip(" :") for line in lines if HARDWARE_ERROR in line]
