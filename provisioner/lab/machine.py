"""The command line of one virtual server, once for each boot order; and whether KVM really works here."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from provisioner.lab.rack import Machine
from provisioner.model.hardware import Firmware

OVMF_CODE = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
OVMF_VARS = Path("/usr/share/OVMF/OVMF_VARS_4M.fd")
KVM_CREATE_VM = 0xAE01


def kvm_works(device: Path = Path("/dev/kvm")) -> bool:
    """Whether a virtual machine can be made: the device file exists on machines where it does not work."""
    try:
        handle = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        os.close(fcntl.ioctl(handle, KVM_CREATE_VM, 0))
    except OSError:
        return False
    finally:
        os.close(handle)
    return True


def tap_name(machine: Machine) -> str:
    """The name of the machine's end of the wire, at most 15 characters."""
    return f"tap{machine.mac.replace(':', '')[-8:]}"


def machine_command(machine: Machine, folder: Path, *, kvm: bool, network_first: bool) -> list[str]:
    """QEMU's arguments. The firmware tries the network or the disk first, and then the other one."""
    network, disk = (1, 2) if network_first else (2, 1)
    accelerator = (
        ["-accel", "kvm", "-cpu", "host"] if kvm else ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]
    )
    words = [
        "qemu-system-x86_64", "-name", machine.name, "-machine", "q35", *accelerator,
        "-smp", str(machine.cpus), "-m", str(machine.memory_mib), "-display", "none", "-nodefaults",
        "-smbios", f"type=1,manufacturer=provisioner,product=lab,serial={machine.name}",
        "-netdev", f"tap,id=net0,ifname={tap_name(machine)},script=no,downscript=no",
        "-device", f"virtio-net-pci,netdev=net0,mac={machine.mac},bootindex={network}",
        "-drive", f"if=none,id=disk0,format=raw,file={folder / 'disk.raw'},cache=unsafe,discard=unmap",
        "-device", f"virtio-blk-pci,drive=disk0,serial={machine.name}-root,bootindex={disk}",
        "-device", "virtio-rng-pci",
        "-chardev",
        f"socket,id=serial,path={folder / 'serial.sock'},server=on,wait=off,"
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
