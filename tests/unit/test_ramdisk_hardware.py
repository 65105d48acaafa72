"""What the node says of itself, from recorded output of the kernel and of lsblk, wipefs and blkid."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from provisioner.model.hardware import HardwareReport
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.hardware import parse_by_path, read_hardware
from provisioner_agent.ramdisk.host import Finished

CASES = Path(__file__).parent / "cases" / "ramdisk"
PCI = "/sys/devices/pci0000:00"
GPT = "0A1B2C3D-0000-4000-8000-00000000ABCD"
SIGNATURES = {"vda": ["gpt", "gpt", "PMBR"], "vda1": ["vfat"], "vda2": ["linux_raid_member"], "nvme0n1": []}


def wipefs(argv: Sequence[str], stdin: str) -> Finished:
    types = SIGNATURES[argv[-1].removeprefix("/dev/")]
    found = [{"device": "x", "offset": "0x200", "type": kind, "uuid": None, "label": None} for kind in types]
    return Finished(0, json.dumps({"signatures": found}) if found else "")


def blkid(argv: Sequence[str], stdin: str) -> Finished:
    if argv[-1] == "/dev/vda":
        return Finished(0, f"DEVNAME=/dev/vda\nPTUUID={GPT}\nPTTYPE=gpt\n")
    return Finished(2)


def node(tmp_path: Path) -> FakeHost:
    host = FakeHost(
        tmp_path,
        {
            "/proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu svm sse\nprocessor\t: 1\nflags\t\t: fpu svm sse\n",
            "/proc/meminfo": "MemTotal:        2014340 kB\nMemFree: 1 kB\n",
            "/sys/firmware/efi/fw_platform_size": "64",
            "/sys/class/dmi/id/product_uuid": "AB12CD34-0000-0000-0000-000000000001\n",
            "/sys/class/dmi/id/product_name": "Standard PC\n",
            "/sys/class/net/lo/address": "00:00:00:00:00:00",
            "/sys/class/net/eth0/address": "52:54:00:77:00:01\n",
            "/sys/class/net/eth0/carrier": "1\n",
            "/sys/class/net/eth0/device/vendor": "0x1af4",
            "/sys/class/net/eth1/address": "52:54:00:77:00:02\n",
            "/sys/class/net/eth1/device/vendor": "0x1af4",
            "/sys/block/vda/serial": "node1-root\n",
            "/sys/block/vda/device/wwid": "naa.5000c500deadbeef\n",
        },
    )
    host.links["/sys/block/vda"] = f"{PCI}/0000:00:04.0/virtio1/block/vda"
    host.links["/sys/block/nvme0n1"] = f"{PCI}/0000:00:1d.0/0000:3d:00.0/nvme/nvme0/nvme0n1"
    listed = (CASES / "lsblk.json").read_text()
    host.programs = {"lsblk": lambda argv, stdin: Finished(0, listed), "wipefs": wipefs, "blkid": blkid}
    return host


@pytest.mark.parametrize("page", ["\ufffd\0\x04node", "\0\ufffd\0\x04node", "\ufffd\0$node"])
def test_a_serial_number_from_a_scsi_page(tmp_path: Path, page: str) -> None:
    host = node(tmp_path)
    host.texts["/sys/block/vda/serial"] = page
    assert HardwareReport.model_validate(read_hardware(host)).disks[0].serial == "node"


def test_the_report_is_what_the_server_takes(tmp_path: Path) -> None:
    report = HardwareReport.model_validate(read_hardware(node(tmp_path)))
    assert (report.cpus, report.memory_mib, report.firmware, report.virtualisation) == (2, 1967, "uefi", True)
    assert (report.product, report.uuid) == ("Standard PC", "ab12cd34-0000-0000-0000-000000000001")
    assert [(nic.name, nic.mac, nic.link) for nic in report.nics] == [
        ("eth0", "52:54:00:77:00:01", True),
        ("eth1", "52:54:00:77:00:02", False),
    ]
    vda, nvme = report.disks
    assert (vda.name, vda.size, vda.serial, vda.rotational) == ("vda", 8 << 30, "node1-root", True)
    assert vda.wwn == "0x5000c500deadbeef"
    assert vda.signatures == ("gpt", "linux_raid_member", "vfat")
    assert vda.gpt_uuid == GPT.lower()
    assert vda.by_path == "/dev/disk/by-path/pci-0000:00:04.0"
    assert (nvme.model, nvme.sector, nvme.signatures, nvme.gpt_uuid) == ("INTEL SSDPE2KX", 4096, (), None)
    assert nvme.by_path == "/dev/disk/by-path/pci-0000:3d:00.0-nvme-1"


def test_memory_as_installed(tmp_path: Path) -> None:
    host = node(tmp_path)
    host.texts["/sys/devices/system/memory/block_size_bytes"] = "8000000"
    host.texts |= {f"/sys/devices/system/memory/memory{number}/online": "1" for number in range(16)}
    assert read_hardware(host)["memory_mib"] == 2048


@pytest.mark.parametrize("program", ["wipefs", "blkid"])
def test_a_disk_that_cannot_be_probed_is_not_called_empty(tmp_path: Path, program: str) -> None:
    host = node(tmp_path)
    host.programs[program] = lambda argv, stdin: Finished(1, "", "Input/output error")
    nvme = read_hardware(host)["disks"][1]
    assert nvme["signatures"] == ["unreadable"]


def test_places_of_disks() -> None:
    scsi = f"{PCI}/0000:00:05.0/virtio2/host2/target2:0:1/2:0:1:0/block/sda"
    assert parse_by_path(scsi) == "/dev/disk/by-path/pci-0000:00:05.0-scsi-0:0:1:0"
    assert parse_by_path(f"{PCI}/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda") == ""
    assert parse_by_path("/sys/devices/virtual/block/vdx") == ""
