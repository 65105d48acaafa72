"""What the node is made of, as the server's ``HardwareReport`` wants it: memory in MiB, disks in bytes.

There is no udev in the ramdisk, so what lsblk would have from it is read from sysfs.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from provisioner_agent.ramdisk.bmc import read_bmc_address
from provisioner_agent.ramdisk.host import Host
from provisioner_agent.ramdisk.smbios import parse_memory

MIB = 1 << 20
DMI, TABLES = "/sys/class/dmi/id", "/sys/firmware/dmi/tables"
COLUMNS = "NAME,KNAME,TYPE,SIZE,LOG-SEC,MODEL,SERIAL,WWN,VENDOR,ROTA,RO"
NO_DISK = re.compile(r"^(loop|ram|zram|fd|sr|nbd|dm-|md|mmcblk\d+(boot|rpmb))")
NOTHING_FOUND = 2
"""Exit code of ``blkid -p`` for a device without signatures."""
UNREADABLE = "unreadable"
"""The signature of a disk that cannot be probed: nobody can say that it is empty."""
PROTECTIVE = "PMBR"
PAGE_HEADER = re.compile("^\0?\ufffd\0.", re.DOTALL)
"""Before the text of the SCSI page 80h, read as text: device type, page, two bytes of length (SPC-4, section 7.8)."""
ADDRESS = r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-9a-f]"


def read_hardware(host: Host) -> dict[str, Any]:
    """The whole report."""
    processors = host.read_text("/proc/cpuinfo")
    flags = set(re.findall(r"\b(?:vmx|svm)\b", processors))
    return {
        "cpus": len(re.findall(r"^processor\s*:", processors, re.MULTILINE)) or host.cpus(),
        "memory_mib": read_memory(host),
        "firmware": "uefi" if host.exists("/sys/firmware/efi") else "bios",
        "disks": read_disks(host),
        "nics": read_nics(host),
        "virtualisation": bool(flags),
        "product": host.read_text(f"{DMI}/product_name"),
        "serial": host.read_text(f"{DMI}/product_serial"),
        "uuid": host.read_text(f"{DMI}/product_uuid").lower(),
        "arch": host.machine(),
        "processor": _first(r"^model name\s*:\s*(.+)$", processors),
        "sockets": len(set(re.findall(r"^physical id\s*:\s*(\d+)", processors, re.MULTILINE))) or 1,
        "cores": _cores(processors),
        "bios": " ".join(
            filter(None, (host.read_text(f"{DMI}/bios_{part}") for part in ("vendor", "version", "date")))
        ),
        "bmc_address": read_bmc_address(host),
        "memory": parse_memory(host.read_tables(f"{TABLES}/DMI")),
    }


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.MULTILINE)
    return found[1].strip() if found else ""


def _cores(processors: str) -> int:
    """Cores of all sockets; a virtual machine may not say."""
    each = re.findall(r"^physical id\s*:\s*(\d+)\n(?:.*\n)*?^core id\s*:\s*(\d+)", processors, re.MULTILINE)
    return len(set(each))


def read_memory(host: Host) -> int:
    """MiB as installed, from the kernel's memory blocks; without them what the kernel can use."""
    size = host.read_text("/sys/devices/system/memory/block_size_bytes")
    blocks = [name for name in host.names("/sys/devices/system/memory") if re.fullmatch(r"memory\d+", name)]
    if size and blocks:
        return int(size, 16) * len(blocks) // MIB
    found = re.search(r"^MemTotal:\s*(\d+) kB", host.read_text("/proc/meminfo"), re.MULTILINE)
    return int(found[1]) // 1024 if found else 0


def read_nics(host: Host) -> list[dict[str, Any]]:
    """Interfaces with a device behind them; ``link`` says whether a cable with life in it is plugged in."""
    nics = []
    for name in host.names("/sys/class/net"):
        path = f"/sys/class/net/{name}"
        mac = host.read_text(f"{path}/address").lower()
        if host.exists(f"{path}/device") and re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", mac):
            link = host.read_text(f"{path}/carrier") == "1"
            speed = host.read_text(f"{path}/speed") if link else ""
            nics.append(
                {
                    "name": name,
                    "mac": mac,
                    "link": link,
                    "driver": _driver(host.real(f"{path}/device/driver")),
                    "speed": int(speed) if speed.isdigit() else 0,
                    "pci": (re.findall(ADDRESS, host.real(f"{path}/device")) or [""])[-1],
                }
            )
    return nics


def _driver(real: str) -> str:
    """The name of a driver from where its link leads; empty when there is none."""
    folder, _, name = real.rpartition("/")
    return name if folder.endswith("/drivers") else ""


def read_disks(host: Host) -> list[dict[str, Any]]:
    """Whole disks that can be written, with all that is found on them and on their partitions."""
    listed = host.run(["lsblk", "--json", "--bytes", "--output", COLUMNS])
    disks = []
    for entry in parse_disks(listed.output if listed.code == 0 else ""):
        name = entry["kname"]
        children = [child["kname"] for child in _below(entry)]
        table, signatures = read_signatures(host, name, children)
        disks.append(
            {
                "name": name,
                "size": int(entry["size"]),
                "sector": int(entry.get("log-sec") or 512),
                "model": _known(entry, "model") or _sysfs(host, name, "device/model"),
                "serial": _known(entry, "serial") or _sysfs(host, name, "serial", "device/serial", "device/vpd_pg80"),
                "wwn": _known(entry, "wwn") or _sysfs(host, name, "wwid", "device/wwid"),
                "vendor": _known(entry, "vendor") or _sysfs(host, name, "device/vendor"),
                "rotational": bool(entry.get("rota")),
                "by_path": parse_by_path(host.real(f"/sys/block/{name}")),
                "signatures": signatures,
                "gpt_uuid": table.get("gpt"),
                "mbr_id": table.get("dos"),
            }
        )
    return disks


def parse_disks(text: str) -> list[dict[str, Any]]:
    """The entries of lsblk's JSON that are disks to put an instance on."""
    entries = json.loads(text)["blockdevices"] if text else []
    return [
        entry
        for entry in entries
        if entry["type"] == "disk" and not NO_DISK.match(entry["kname"]) and int(entry["size"] or 0) and not entry["ro"]
    ]


def _below(entry: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for child in entry.get("children", []):
        yield child
        yield from _below(child)


def read_signatures(host: Host, disk: str, children: list[str]) -> tuple[dict[str, str], list[str]]:
    """(what its partition table calls itself, by the table's kind; sorted names of signatures on it and its parts)."""
    found: set[str] = set()
    for name in [disk, *children]:
        listed = host.run(["wipefs", "--json", "--no-act", f"/dev/{name}"])
        found |= parse_signatures(listed.output) if listed.code == 0 else {UNREADABLE}
    probed = host.run(["blkid", "-p", "-o", "export", f"/dev/{disk}"])
    said = dict(line.split("=", 1) for line in probed.output.splitlines() if "=" in line)
    found |= {said[key] for key in ("TYPE", "PTTYPE") if said.get(key)}
    if probed.code != 0 and not found:
        found |= set() if probed.code == NOTHING_FOUND else {UNREADABLE}
    if "gpt" in found:
        found.discard(PROTECTIVE)
    table = {said["PTTYPE"]: said["PTUUID"].lower()} if said.get("PTTYPE") and said.get("PTUUID") else {}
    return table, sorted(found)


def parse_signatures(text: str) -> set[str]:
    """Names in the JSON of wipefs(8), which is empty when there are none."""
    if not text.strip():
        return set()
    return {str(entry["type"]) for entry in json.loads(text).get("signatures", []) if entry.get("type")}


def parse_by_path(real: str) -> str:
    """The name that udev gives a disk by its place, from its path in sysfs; empty for places not known here."""
    addresses = re.findall(ADDRESS, real)
    if not addresses:
        return ""
    base = f"/dev/disk/by-path/pci-{addresses[-1]}"
    nvme = re.search(r"/nvme\d+n(\d+)$", real)
    if nvme:
        return f"{base}-nvme-{nvme[1]}"
    ata = re.search(r"/ata(\d+)/", real)
    if ata or "/usb" in real:
        # udev counts a controller's own ports from 1, the kernel counts all of them: not to be told from here.
        return ""
    scsi = re.search(r"/host\d+/target[^/]*/\d+:(\d+:\d+:\d+)/", real)
    return f"{base}-scsi-0:{scsi[1]}" if scsi else base


def _known(entry: Mapping[str, Any], key: str) -> str:
    return str(entry.get(key) or "").strip()


def _sysfs(host: Host, name: str, *files: str) -> str:
    """The first of these files of a disk that holds a text."""
    for file in files:
        said = host.read_text(f"/sys/block/{name}/{file}")
        text = "".join(char for char in PAGE_HEADER.sub("", said) if char.isprintable()).strip()
        if text:
            return re.sub("^naa[.]", "0x", text)  # as udev and lsblk write a world wide name
    return ""
