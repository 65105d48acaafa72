"""What an inspection adds: memory modules from the firmware's tables, switches from their frames, KVM by trying."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.model.hardware import HardwareReport
from provisioner_agent.ramdisk.fakehost import FakeHost
from provisioner_agent.ramdisk.inspect import do_inspect
from provisioner_agent.ramdisk.lldp import parse_frame
from provisioner_agent.ramdisk.smbios import parse_memory


def structure(kind: int, body: bytes, *texts: str) -> bytes:
    """One SMBIOS structure (DSP0134, 6.1)."""
    strings = b"\0".join(text.encode() for text in texts) + b"\0\0" if texts else b"\0\0"
    return bytes((kind, 4 + len(body))) + b"\0\0" + body + strings


def module(size: int, extended: int = 0) -> bytes:
    body = bytearray(0x28 - 4)
    struct.pack_into("<H", body, 0x0C - 4, size)
    body[0x10 - 4], body[0x17 - 4], body[0x18 - 4], body[0x1A - 4] = 1, 2, 3, 4
    struct.pack_into("<H", body, 0x15 - 4, 3200)
    struct.pack_into("<I", body, 0x1C - 4, extended)
    return structure(17, bytes(body), "DIMM_A1", "Maker", "12345", "PART-1 ")


TABLES = (
    structure(0, bytes(14), "BIOS")
    + module(16384)
    + module(0)
    + module(0x7FFF, 65536)
    + module(0x8000 | 2048)
    + structure(127, b"")
)


def test_memory_modules_are_read_as_the_specification_lays_them_out() -> None:
    modules = parse_memory(TABLES)
    assert [m["size_mib"] for m in modules] == [16384, 65536, 2]
    assert modules[0] == {
        "place": "DIMM_A1", "size_mib": 16384, "speed": 3200, "manufacturer": "Maker", "part": "PART-1",
        "serial": "12345",
    }  # fmt: skip


@given(st.integers(0, len(TABLES)), st.binary(max_size=40))
def test_tables_that_are_cut_short_or_garbled_are_read_as_far_as_they_go(at: int, noise: bytes) -> None:
    assert len(parse_memory(TABLES[:at])) <= 3
    parse_memory(noise)
    parse_memory(TABLES[:at] + noise)


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!H", kind << 9 | len(value)) + value


def frame(*tlvs: bytes) -> bytes:
    return bytes.fromhex("0180c200000e 020000000001 88cc") + b"".join(tlvs) + tlv(0, b"")


CHASSIS, PORT = tlv(1, b"\4" + bytes.fromhex("001122334455")), tlv(2, b"\5eth1/7")


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (frame(CHASSIS, PORT, tlv(3, b"\0\x78")), {"switch": "00:11:22:33:44:55", "port": "eth1/7"}),
        (frame(CHASSIS, PORT, tlv(5, b"leaf1")), {"switch": "leaf1", "port": "eth1/7"}),
        (
            frame(CHASSIS, tlv(2, b"\3" + bytes.fromhex("001122334466")), tlv(4, b"Port 7")),
            {"switch": "00:11:22:33:44:55", "port": "Port 7"},
        ),
        (frame(CHASSIS, PORT, tlv(5, b"le\x1b[2Jaf")), {"switch": "le[2Jaf", "port": "eth1/7"}),
        (frame(CHASSIS), None),
        (frame(CHASSIS, PORT)[:20], None),
        (b"", None),
    ],
)
def test_a_switch_is_known_by_its_frame(data: bytes, found: dict[str, str] | None) -> None:
    assert parse_frame(data) == found


@given(st.binary(max_size=80))
def test_noise_is_no_switch_and_harms_nobody(noise: bytes) -> None:
    parse_frame(noise)
    parse_frame(frame(noise))


def test_an_inspection_tells_all_of_it(tmp_path: Path) -> None:
    processor = "processor : 0\nmodel name : Testing 9000\nphysical id : 0\nsiblings : 2\ncore id : 0\nflags : svm\n\n"
    host = FakeHost(
        tmp_path,
        {
            "/proc/cpuinfo": processor + processor.replace("processor : 0", "processor : 1"),
            "/proc/meminfo": "MemTotal: 2014340 kB\n",
            "/sys/class/dmi/id/bios_vendor": "SeaBIOS",
            "/sys/class/dmi/id/bios_version": "1.16",
            "/sys/class/net/eth0/address": "52:54:00:77:00:01",
            "/sys/class/net/eth0/carrier": "1",
            "/sys/class/net/eth0/speed": "10000",
            "/sys/class/net/eth0/device/vendor": "0x1af4",
            "/sys/class/net/eth1/address": "52:54:00:77:00:02",
            "/sys/class/net/eth1/device/vendor": "0x1af4",
        },
    )
    host.links["/sys/class/net/eth0/device"] = "/sys/devices/pci0000:00/0000:00:03.0"
    host.links["/sys/class/net/eth0/device/driver"] = "/sys/bus/pci/drivers/ixgbe"
    host.tables, host.kvm = TABLES, True
    host.frames = {"eth0": frame(CHASSIS, PORT, tlv(5, b"leaf1")), "eth1": frame(CHASSIS, PORT)}
    report = HardwareReport.model_validate(do_inspect(host, {"lldp_seconds": 5})["hardware"])
    assert (report.processor, report.sockets, report.cores, report.cpus) == ("Testing 9000", 1, 1, 2)
    assert (report.bios, report.kvm, report.virtualisation) == ("SeaBIOS 1.16", True, True)
    assert [m.size_mib for m in report.memory] == [16384, 65536, 2]
    first, second = report.nics
    assert (first.driver, first.speed, first.pci) == ("ixgbe", 10000, "0000:00:03.0")
    assert first.neighbour is not None and (first.neighbour.switch, first.neighbour.port) == ("leaf1", "eth1/7")
    assert not second.link and second.neighbour is None
    assert ("modprobe", "kvm_amd") in host.runs


def test_without_the_extension_nobody_tries(tmp_path: Path) -> None:
    host = FakeHost(tmp_path, {"/proc/cpuinfo": "processor : 0\nflags : fpu\n"})
    host.kvm = True
    assert do_inspect(host, {})["hardware"]["kvm"] is False
