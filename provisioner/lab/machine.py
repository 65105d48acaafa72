"""The command line of one virtual server, once for each boot order; and whether KVM really works here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from provisioner.lab.rack import Bus, LabDisk, Machine
from provisioner.model.hardware import Firmware
from provisioner.system.run import Runner

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
SYSTEM_PORT = 9002
"""At the controller's address: its system interface, which QEMU carries into the machine."""
SERIAL_PORT = 9003
"""At the controller's address; the controller carries it to whoever asks for serial over LAN."""
QEMU = "qemu-system-x86_64"
FIRST_DISK, WRITE_LOG = "disk.raw", "writes.log"
DEVICES = {
    Bus.VIRTIO: ("virtio-blk-pci,drive={0}",),
    Bus.SATA: ("ahci,id=bus-{0}", "ide-hd,bus=bus-{0}.0,drive={0}"),
    Bus.NVME: ("nvme,drive={0}",),
    Bus.SCSI: ("virtio-scsi-pci,id=bus-{0}", "scsi-hd,bus=bus-{0}.0,drive={0}"),
}
"""QEMU's devices for a disk on each bus, with the drive's name for ``{0}``."""
# Without a display SeaBIOS speaks on the serial console.
MACHINE = "q35,graphics=off"
KVM = ("-accel", "kvm", "-cpu", "host")
TCG = ("-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max")


def kvm_works(runner: Runner, cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether QEMU can really use KVM: ``/dev/kvm`` also exists where only modified kernels run in it, or nothing.

    The processor must have the extension, and a machine must come into being with the very words that a node gets.
    """
    if not {"vmx", "svm"} & set(cpuinfo.read_text().split()):
        return False
    words = [QEMU, "-machine", MACHINE, *KVM, "-m", "64", "-display", "none", "-nodefaults", "-S", "-monitor", "stdio"]
    return runner.run(words, stdin="quit\n", deadline=10, check=False).code == 0


def tap_name(mac: str) -> str:
    """The name of a port's end of the wire, at most 15 characters."""
    return f"tap{mac.replace(':', '')[-8:]}"


def machine_command(machine: Machine, folder: Path, *, kvm: bool, network_first: bool) -> list[str]:
    """QEMU's arguments. The firmware tries the network or the disk first, and then the other one."""
    network, disk = (1, 2) if network_first else (2, 1)
    words = [
        QEMU, "-name", machine.name, "-uuid", str(machine.uuid), "-machine", MACHINE, *(KVM if kvm else TCG),
        "-smp", str(machine.cpus), "-m", str(machine.memory_mib), "-display", "none", "-nodefaults",
        "-smbios", f"type=1,manufacturer=provisioner,product=lab,serial={machine.name}",
        *_ports(machine, network), *_disks(machine, folder, disk),
        "-device", "virtio-rng-pci",
        # The machine's own controller, seen from inside: the one that it is reached by from outside.
        "-chardev", f"socket,id=bmc,host={machine.bmc},port={SYSTEM_PORT},reconnect=2",
        "-device", "ipmi-bmc-extern,id=bmc0,chardev=bmc", "-device", "isa-ipmi-kcs,bmc=bmc0",
        "-chardev",
        f"socket,id=serial,host={machine.bmc},port={SERIAL_PORT},telnet=on,server=on,wait=off,"
        f"logfile={folder / 'console.log'},logappend=on",
        "-serial", "chardev:serial",
        "-qmp", f"unix:{folder / 'qmp.sock'},server=on,wait=off",
        "-daemonize", "-pidfile", str(folder / "qemu.pid"),
    ]  # fmt: skip
    if machine.firmware is Firmware.UEFI:
        words += [
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
            "-drive", f"if=pflash,unit=1,format=raw,file={folder / 'vars.fd'}",
            # The rack speaks IPv4; waiting for IPv6 first costs half a minute at each network boot.
            "-fw_cfg", "name=opt/org.tianocore/IPv6PXESupport,string=n",
        ]  # fmt: skip
    return words


def _ports(machine: Machine, bootindex: int) -> Iterator[str]:
    for number, mac in enumerate(machine.macs):
        boots = f",bootindex={bootindex}" if number == 0 else ""
        yield from ("-netdev", f"tap,id=net{number},ifname={tap_name(mac)},script=no,downscript=no")
        yield from ("-device", f"virtio-net-pci,netdev=net{number},mac={mac}{boots}")


def _disks(machine: Machine, folder: Path, bootindex: int) -> Iterator[str]:
    """In the order in which the machine finds them."""
    first = LabDisk(serial=f"{machine.name[:15]}-root", sector=machine.sector, bad_mib=machine.bad_mib)
    before = [disk for disk in machine.disks if disk.before]
    after = [disk for disk in machine.disks if not disk.before]
    for number, disk in enumerate((*before, first, *after)):
        ident = f"disk{number}"
        path = folder / (FIRST_DISK if disk is first else disk_file(disk))
        log = folder / WRITE_LOG if disk is first and machine.log_writes else None
        yield from ("-drive", f"if=none,id={ident},{_file(path, disk.bad_mib, log)},discard=unmap")
        sizes = f",logical_block_size={disk.sector},physical_block_size={disk.sector}" if disk.sector != 512 else ""
        boots = f",bootindex={bootindex}" if disk is first else ""
        yield from disk_devices(DEVICES[disk.bus], ident, f"serial={disk.serial}{sizes}{boots}")


def disk_devices(devices: Sequence[str], drive: str, properties: str) -> Iterator[str]:
    """The arguments for a disk on its bus. :param properties: of the disk itself, not of its controller."""
    for device in devices:
        yield from ("-device", device.format(drive) + (f",{properties}" if "drive=" in device else ""))


def _file(path: Path, bad_mib: int | None, log: Path | None) -> str:
    """Where the bytes of a drive are, behind a filter that lets a place fail or logs what is written (qemu(1))."""
    if bad_mib is not None:
        fault = {"event": "none", "iotype": "write", "errno": 5, "sector": bad_mib * 2048, "once": "off"}
        words = [f"file.inject-error.0.{key}={value}" for key, value in fault.items()]
        return ",".join(["driver=raw,file.driver=blkdebug", f"file.image.filename={path}", *words, "cache=unsafe"])
    if log is not None:
        # Flushes must reach the filter: they are what a power cut is measured by.
        words = [f"file.file.filename={path}", f"file.log.filename={log}", "cache=writeback"]
        return ",".join(["driver=raw,file.driver=blklogwrites,file.file.driver=file,file.log.driver=file", *words])
    return f"format=raw,file={path},cache=unsafe"


def disk_files(machine: Machine) -> list[str]:
    """The names of all files in which a machine's disks are."""
    return [FIRST_DISK, *map(disk_file, machine.disks), *([WRITE_LOG] if machine.log_writes else [])]


def disk_file(disk: LabDisk) -> str:
    """The name of the file that stands for a further disk."""
    return f"disk-{disk.serial}.raw"
