"""The lab without root: its file, the machines' command lines, the chassis program, up and down."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import LabError, ManifestError, NotFound
from provisioner.events import RecordingObserver
from provisioner.lab import chassis
from provisioner.lab.lab import PASSWORD, Bench, lab_console, lab_down, lab_status, lab_up
from provisioner.lab.machine import kvm_works, machine_command
from provisioner.lab.rack import Machine, Rack, parse_rack, read_rack
from provisioner.lab.save import SAVES, restore_rack, save_rack
from provisioner.model.hardware import Firmware
from provisioner.system.clock import FakeClock
from provisioner.system.daemon import FakeDaemons
from provisioner.system.run import FakeRunner

ROOT = Path(__file__).resolve().parents[2]
TEXT = """\
namespace: r
address: 10.0.0.1/24
bmc_address: 10.0.1.1/24
nodes:
  - {name: n1, bmc: 10.0.1.11, mac: "52:54:00:00:00:01", firmware: bios, disk_gib: 1}
  - {name: n2, bmc: 10.0.1.12, mac: "52:54:00:00:00:02", firmware: bios, disk_gib: 1}
"""


MACHINE = """\
import os, sys, time
read, write = os.pipe()
if os.fork():
    os.close(write)
    os.read(read, 1)
    os._exit(0)
os.setsid()
for number in (1, 2):
    os.dup2(os.open(os.devnull, os.O_WRONLY), number)
open(sys.argv[1] + "qemu.pid", "w").write(str(os.getpid()))
open(sys.argv[1] + "started", "a").write("x")
os.close(write)
time.sleep(60)
"""
"""A machine that only sleeps. As QEMU does, it returns once its pid file is there."""


@pytest.fixture
def rack() -> Rack:
    return parse_rack("lab.yaml", TEXT)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    runner = FakeRunner({"ip netns list": (0, ""), "ip ": (0, ""), "qemu-system-x86_64": (1, ""), "cp ": (0, "")})
    return Bench(tmp_path / "lab", runner, FakeDaemons(), FakeClock(), RecordingObserver())


def test_the_lab_file_that_we_ship_matches_the_hardware_file() -> None:
    shipped = read_rack(ROOT / "seed" / "lab.yaml")
    hardware = (ROOT / "hardware" / "lab.yaml").read_text()
    for machine in shipped.nodes:
        assert machine.mac in hardware and machine.bmc in hardware and machine.name in hardware


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("52:54:00:00:00:02", "52:54:00:00:00:01", "lab.yaml:6: nodes[1].mac 52:54:00:00:00:01 is taken"),
        ("10.0.1.12", "10.0.1.11", "lab.yaml:6: nodes[1].bmc 10.0.1.11 is taken"),
        ("10.0.1.11", "10.0.1.1", "lab.yaml:5: nodes[0].bmc 10.0.1.1 is taken"),
        ("10.0.1.12", "10.0.1.256", 'lab.yaml:6: nodes[1].bmc is "10.0.1.256": not an IPv4 address'),
        ("10.0.0.1/24", "10.0.0.1", 'lab.yaml:2: address is "10.0.0.1": not an IPv4 address with its prefix length'),
        ("10.0.1.1/24", "10.0.1.1/33", "lab.yaml:3: bmc_address"),
        ("name: n2", "name: N2", 'lab.yaml:6: nodes[1].name is "N2": not a host name'),
        ("firmware: bios, disk_gib: 1}\n  - {name: n2", "firmware: efi}\n  - {name: n2", "write 'uefi' or 'bios'"),
        ("namespace: r", "namespacee: r", "did you mean 'namespace'?"),
    ],
    ids=["mac", "bmc", "own", "octet", "length", "prefix", "name", "firmware", "key"],
)
def test_a_wrong_lab_file_is_refused_at_its_line(old: str, new: str, said: str) -> None:
    assert old in TEXT
    with pytest.raises(ManifestError) as caught:
        parse_rack("lab.yaml", TEXT.replace(old, new))
    assert any(said in str(problem) for problem in caught.value.problems), caught.value


def test_a_lab_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="nowhere"):
        read_rack(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize("firmware", list(Firmware))
@pytest.mark.parametrize("kvm", [True, False])
def test_a_machine_boots_what_comes_first(firmware: Firmware, kvm: bool) -> None:
    machine = Machine(name="n1", bmc="10.0.1.11", mac="52:54:00:00:00:01", firmware=firmware)
    for network_first in (True, False):
        words = machine_command(machine, Path("/lab/n1"), kvm=kvm, network_first=network_first)
        nic = next(word for word in words if word.startswith("virtio-net-pci"))
        disk = next(word for word in words if word.startswith("virtio-blk-pci"))
        assert ("bootindex=1" in nic, "bootindex=1" in disk) == (network_first, not network_first)
        assert ("kvm" in words) is kvm
        assert any("OVMF" in word for word in words) is (firmware is Firmware.UEFI)


def test_a_machine_may_have_more_ports_and_disks_of_any_kind() -> None:
    text = TEXT.replace(
        "disk_gib: 1}\n  - {name: n2",
        "disk_gib: 1, more_macs: ['52:54:00:00:01:01'], sector: 4096, disks: "
        "[{serial: small, gib: 2, bus: nvme, before: true}, {serial: big, bus: scsi, sector: 4096}, "
        "{serial: s1, bus: sata}, {serial: s2, bus: sata}]}\n"
        "  - {name: n2",
    )
    machine = parse_rack("lab.yaml", text).nodes[0]
    words = machine_command(machine, Path("/lab/n1"), kvm=False, network_first=True)
    ports = [word for word in words if word.startswith("virtio-net-pci")]
    assert [("bootindex" in port, port.split("mac=")[1][:17]) for port in ports] == [
        (True, "52:54:00:00:00:01"),
        (False, "52:54:00:00:01:01"),
    ]
    disks = [word for word in words if word.startswith(("virtio-blk", "nvme", "scsi-hd"))]
    assert [disk.split("serial=")[1] for disk in disks] == [
        "small",
        "n1-root,logical_block_size=4096,physical_block_size=4096,bootindex=2",
        "big,logical_block_size=4096,physical_block_size=4096",
    ]
    sata = [word.split(",")[1] for word in words if word.startswith("ide-hd")]
    assert sata == ["bus=bus-disk3.0", "bus=bus-disk4.0"], "a port of a controller takes one disk"
    assert "if=none,id=disk0,format=raw,file=/lab/n1/disk-small.raw,cache=unsafe,discard=unmap" in words
    with pytest.raises(ManifestError, match="is taken"):
        parse_rack("lab.yaml", text.replace("52:54:00:00:01:01", "52:54:00:00:00:02"))


def test_kvm_is_believed_only_when_the_processor_has_it_and_qemu_comes_up(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("flags : fpu sse2\n")
    assert not kvm_works(FakeRunner(), cpuinfo)
    cpuinfo.write_text("flags : fpu svm sse2\n")
    assert not kvm_works(FakeRunner({"qemu-system-x86_64": (1, "")}), cpuinfo)
    assert kvm_works(FakeRunner({"qemu-system-x86_64": (0, "")}), cpuinfo)


def test_up_makes_what_is_missing_and_nothing_twice(rack: Rack, bench: Bench) -> None:
    daemons = bench.daemons
    assert isinstance(daemons, FakeDaemons) and isinstance(bench.runner, FakeRunner)
    lab_up(rack, bench)
    assert [words[words.index("-c") + 1] for words in daemons.started] == [
        str(bench.folder / name / "lan.conf") for name in ("n1", "n2")
    ]
    assert (bench.folder / "n1" / "disk.raw").stat().st_size == 1 << 30
    secret = bench.folder / PASSWORD
    password = secret.read_text()
    assert secret.stat().st_mode & 0o777 == 0o600
    assert (bench.folder / "n1" / "lan.conf").stat().st_mode & 0o777 == 0o600
    assert not any(password in word for words in [*bench.runner.calls, *daemons.started] for word in words)
    bench.runner.answers["ip netns list"] = (0, "r (id: 0)\n")
    lab_up(rack, bench)
    assert len(daemons.started) == 2 and secret.read_text() == password
    daemons.running.clear()  # the host was rebooted
    lab_up(rack, bench)
    assert len(daemons.started) == 4
    assert [(row.name, row.controller, row.power) for row in lab_status(rack, bench)] == [
        ("n1", True, False),
        ("n2", True, False),
    ]


def test_a_controller_whose_words_changed_is_started_again(rack: Rack, bench: Bench) -> None:
    assert isinstance(bench.daemons, FakeDaemons) and isinstance(bench.runner, FakeRunner)
    lab_up(rack, bench)
    bench.runner.answers["ip netns list"] = (0, "r\n")
    lab_up(parse_rack("lab.yaml", TEXT.replace("10.0.1.12", "10.0.1.99")), bench)
    assert [words[words.index("-c") + 1] for words in bench.daemons.started[2:]] == [
        str(bench.folder / "n2" / "lan.conf")
    ]
    assert len(bench.daemons.running) == 2


def test_controllers_on_a_network_that_is_gone_are_ended(rack: Rack, bench: Bench) -> None:
    assert isinstance(bench.daemons, FakeDaemons)
    lab_up(rack, bench)
    before = set(bench.daemons.running)
    lab_up(rack, bench)  # there is no namespace
    assert len(bench.daemons.running) == 2 and not before & set(bench.daemons.running)


def test_a_controller_that_does_not_answer_is_named_with_its_last_words(rack: Rack, bench: Bench) -> None:
    assert isinstance(bench.daemons, FakeDaemons) and isinstance(bench.runner, FakeRunner)
    lab_up(rack, bench)
    (bench.folder / "n1" / "controller.log").write_text("port 623 is taken\n")
    bench.daemons.running.clear()
    bench.runner.answers["ip netns exec r ipmitool"] = (1, "")
    with pytest.raises(LabError, match=r"n1 at 10\.0\.1\.11: .*port 623 is taken"):
        lab_up(rack, bench)
    assert (bench.folder / "n1" / "disk.raw").exists()  # it was there before, and stays


def test_down_removes_everything_and_says_when_there_was_nothing(rack: Rack, bench: Bench) -> None:
    lab_up(rack, bench)
    assert lab_down(rack, bench)
    assert isinstance(bench.daemons, FakeDaemons) and bench.daemons.running == {}
    assert not bench.folder.exists()
    assert not lab_down(rack, bench)


def test_a_rack_that_cannot_be_built_leaves_nothing(rack: Rack, bench: Bench) -> None:
    assert isinstance(bench.runner, FakeRunner)
    bench.runner.answers["ip -n r link add"] = (2, "")
    with pytest.raises(LabError, match="could not be built"):
        lab_up(rack, bench)
    assert not bench.folder.exists()


def test_console_gives_what_was_written_and_follows(rack: Rack, bench: Bench) -> None:
    lab_up(rack, bench)
    log = bench.folder / "n1" / "console.log"
    log.write_bytes(b"one")
    assert list(lab_console(rack, bench, "n1", follow=False)) == [b"one"]
    lines = lab_console(rack, bench, "n1", follow=True)
    assert next(lines) == b"one"
    log.write_bytes(b"onetwo")
    assert next(lines) == b"two"
    with pytest.raises(NotFound, match="n9"):
        next(lab_console(rack, bench, "n9", follow=False))


class Chassis:
    """The chassis program as ipmi_sim calls it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        commands = {order: [sys.executable, "-c", MACHINE, f"{folder}/", order] for order in ("network", "disk")}
        (folder / "machine.json").write_text(json.dumps(commands))

    def __call__(self, *words: str) -> str:
        program = [sys.executable, "-I", str(chassis.__file__), str(self.folder), *words]
        return subprocess.run(program, capture_output=True, text=True, check=True, timeout=30).stdout.strip()

    def order(self) -> str:
        pid = (self.folder / "qemu.pid").read_text()
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")[-2]


@pytest.fixture
def chassis_of(tmp_path: Path) -> Iterator[Chassis]:
    found = Chassis(tmp_path)
    yield found
    found("set", "power", "0")


def test_chassis_switches_the_power_and_boots_from_the_network_once(chassis_of: Chassis) -> None:
    assert chassis_of("get", "power") == "power:0"
    chassis_of("set", "boot", "pxe")
    assert chassis_of("get", "boot") == "boot:pxe"
    chassis_of("set", "power", "1")
    assert chassis_of("get", "power") == "power:1"
    assert chassis_of.order() == "network"
    assert chassis_of("get", "boot") == "boot:default"
    chassis_of("set", "reset", "1")
    assert chassis_of("get", "power") == "power:1"
    assert chassis_of.order() == "disk"
    chassis_of("set", "power", "0")
    assert chassis_of("get", "power") == "power:0"


def test_chassis_answers_for_several_words_at_once(chassis_of: Chassis) -> None:
    assert chassis_of("get", "power", "boot", "identify").splitlines() == ["power:0", "boot:default"]


def test_commands_at_once_start_one_machine(chassis_of: Chassis) -> None:
    program = [sys.executable, "-I", str(chassis.__file__), str(chassis_of.folder), "set", "power", "1"]
    several = [subprocess.Popen(program) for _ in range(4)]
    assert [process.wait(timeout=30) for process in several] == [0] * 4
    assert (chassis_of.folder / "started").read_text() == "x"


def test_the_power_button_is_held_until_it_was_heard(chassis_of: Chassis) -> None:
    """QEMU forgets what it was told by somebody who has hung up."""
    chassis_of("set", "power", "1")
    program = [sys.executable, "-I", str(chassis.__file__), str(chassis_of.folder), "set", "shutdown", "1"]
    with socket.socket(socket.AF_UNIX) as door:
        door.bind(str(chassis_of.folder / "qmp.sock"))
        door.listen()
        door.settimeout(30)
        with subprocess.Popen(program) as pressing:
            monitor, _ = door.accept()
            with monitor:
                monitor.settimeout(30)
                heard = []
                for _ in range(2):
                    monitor.sendall(b"{}\n")
                    heard.append(json.loads(monitor.recv(4096))["execute"])
                with pytest.raises(subprocess.TimeoutExpired):
                    pressing.wait(timeout=0.5)
                monitor.sendall(b"{}\n")
            assert pressing.wait(timeout=30) == 0
    assert heard == ["qmp_capabilities", "system_powerdown"]


def test_a_strangers_process_is_not_the_machine(chassis_of: Chassis) -> None:
    (chassis_of.folder / "qemu.pid").write_text(str(os.getpid()))
    assert chassis_of("get", "power") == "power:0"
    chassis_of("set", "power", "0")


@pytest.mark.parametrize("kept", [True, False], ids=["now", "of a release that did not keep it"])
def test_a_save_brings_its_password_back_if_it_has_one(rack: Rack, bench: Bench, kept: bool) -> None:
    lab_up(rack, bench)
    password = (bench.folder / PASSWORD).read_text()
    save_rack(rack, bench, "once")
    lab_down(rack, bench)
    assert not bench.folder.exists()
    if not kept:
        (bench.folder.with_name(SAVES) / "once" / PASSWORD).unlink()
    restore_rack(rack, bench, "once")
    restored = (bench.folder / PASSWORD).read_text()
    assert len(restored) == 16 and (restored == password) is kept
