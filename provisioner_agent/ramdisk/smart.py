"""What a disk says of its own health: the JSON of smartctl(8), for NVMe, ATA and SCSI."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.verdict import DEGRADED, FAILED, PASSED, Finding

SMART_SECONDS = 60.0
WORN = 100
"""Per cent of its life that an NVMe disk has used (NVM Express Base Specification, SMART / Health log, byte 5)."""
WARNINGS = (
    "few spare blocks are left",
    "it is too hot or too cold",
    "it is not reliable any more",
    "it can only be read now",
    "its cache is not safe when the power fails",
    "its persistent memory can only be read now",
)
"""The bits of an NVMe disk's critical warning (the same log, byte 0)."""
BAD_SECTORS = {
    5: "sectors were replaced",
    187: "errors were not mended",
    197: "sectors wait to be replaced",
    198: "sectors cannot be read",
}
"""ATA attributes whose count should be 0; their numbers are the same with every vendor that has them."""


def read_smart(host: Host, disk: str) -> list[Finding]:
    """:param disk: a name such as ``sda``. Without SMART one finding that says so, and is no fault."""
    said = host.run(["smartctl", "--json", "--all", f"/dev/{disk}"], limit=SMART_SECONDS).output
    return list(parse_smart(said))


def parse_smart(text: str) -> Iterator[Finding]:
    """:param text: of ``smartctl --json --all``; whatever it is."""
    try:
        said = json.loads(text)
    except ValueError:
        said = None
    said = said if isinstance(said, dict) else {}
    status, log = _part(said, "smart_status"), _part(said, "nvme_smart_health_information_log")
    if "passed" not in status and not log:
        yield Finding(PASSED, "it does not tell of its health (no SMART)")
        return
    if status.get("passed") is False:
        yield Finding(FAILED, "SMART says that it fails")
    yield from _nvme(log)
    yield from _ata(_part(said, "ata_smart_attributes").get("table"))
    grown = said.get("scsi_grown_defect_list")
    if _count(grown):
        yield Finding(DEGRADED, f"{grown} sectors were replaced")
    for way in ("read", "write", "verify"):
        lost = _part(_part(said, "scsi_error_counter_log"), way).get("total_uncorrected_errors")
        if _count(lost):
            yield Finding(DEGRADED, f"{lost} errors were not mended ({way})")


def _nvme(log: Mapping[str, Any]) -> Iterator[Finding]:
    warning = _count(log.get("critical_warning"))
    for bit, text in enumerate(WARNINGS):
        if warning >> bit & 1:
            yield Finding(FAILED, text)
    if errors := _count(log.get("media_errors")):
        yield Finding(DEGRADED, f"{errors} errors were not mended")
    if (used := _count(log.get("percentage_used"))) >= WORN:
        yield Finding(DEGRADED, f"it has used {used} % of its life")


def _ata(table: Any) -> Iterator[Finding]:
    for attribute in table if isinstance(table, list) else ():
        if not isinstance(attribute, dict):
            continue
        count = _count(_part(attribute, "raw").get("value"))
        name, when = str(attribute.get("name")), attribute.get("when_failed")
        if when:
            verdict = FAILED if when == "now" else DEGRADED
            yield Finding(verdict, f"its attribute {name} is below its threshold, or was ({when})")
        elif count and attribute.get("id") in BAD_SECTORS:
            yield Finding(DEGRADED, f"{count} {BAD_SECTORS[attribute['id']]}")


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    found = value.get(key)
    return found if isinstance(found, dict) else {}


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
