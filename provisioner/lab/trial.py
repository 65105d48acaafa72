"""The boot test of an image: started in QEMU, configured as a cloud of one, judged by the role's own probes.

The image under test is not touched: what makes it an instance is written into a copy. Its config agent is its own
server (``provisioner-agent trial``). What it found comes back over a second serial port, since that needs no network.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provisioner.conductor.certificates import Issuer
from provisioner.conductor.instance import build_hosts
from provisioner.conductor.network import build_networks
from provisioner.errors import HostError, ImageError
from provisioner.events import Event, Observer
from provisioner.images.whole import DiskPlan, make_disk
from provisioner.lab.machine import DEVICES, KVM, MACHINE, OVMF_CODE, OVMF_VARS, QEMU, TCG, disk_devices, kvm_works
from provisioner.lab.rack import Bus
from provisioner.manifest.values import Values
from provisioner.metadata.build import build_metadata, needed_secrets
from provisioner.model.deployment import Address, Interface, InterfaceKind, Placement
from provisioner.model.hardware import Firmware
from provisioner.model.image import ImageIndex
from provisioner.model.role import Cloud, Desired, Network, Role, RoleUse
from provisioner.system.clock import HostClock
from provisioner.system.run import Runner, last_lines
from provisioner.trust.keys import new_secret

HOSTNAME = "trial"
FOLDER = "/provisioner-trial"
UNIT = """\
[Unit]
Description=Boot test of this image
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart=/usr/bin/python3 {folder}/run.py
"""
PROGRAM = '''\
"""Waits until the boot is over, tries the role, says on the second serial port how it went, and powers off."""

import json
import pathlib
import subprocess


def run(*argv):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True)


run("timeout", "240", "systemctl", "is-system-running", "--wait")
found = {"system": run("systemctl", "is-system-running").stdout.strip()}
listed = run("systemctl", "list-units", "--failed", "--plain", "--no-legend").stdout.splitlines()
found["failed"] = [line.split()[0] for line in listed if line.split()]
found["jobs"] = run("systemctl", "list-jobs", "--plain", "--no-legend").stdout
found["journal"] = {unit: run("journalctl", "-n", "8", "-o", "cat", "-u", unit).stdout for unit in found["failed"]}
if pathlib.Path("/usr/local/bin/provisioner-agent").exists():
    words = json.loads(pathlib.Path("/provisioner-trial/words.json").read_text())
    tried = run("provisioner-agent", "trial", "--metadata", "/provisioner-trial/metadata.json", *words)
    found["log"] = tried.stderr
    try:
        found["report"] = json.loads(tried.stdout)
    except ValueError:
        found["report"] = {}
with open("/dev/ttyS1", "w") as port:
    port.write(json.dumps(found) + "\\n")
run("systemctl", "poweroff", "--force", "--force")
'''
SERVICE = "/etc/systemd/system/provisioner-trial.service"
LINKS = {"/etc/systemd/system/multi-user.target.wants/provisioner-trial.service": SERVICE}
MEMORY_MIB = 1024
MOST_MEMORY_MIB = 2048
GROWN_MIB = 2048
"""Room for what the instance writes."""
BOOT = 420.0
"""Seconds until the system is up, on an emulated processor; the role's own patience comes on top."""
SHOWN = 12
MAC = "52:54:00:7e:57:%02x"
DISK_MIB = 64
BUSES = {
    "virtio": DEVICES[Bus.VIRTIO],
    "sata": DEVICES[Bus.SATA],
    "nvme": DEVICES[Bus.NVME],
    "megaraid": ("megasas,id=bus-{0}", "scsi-hd,bus=bus-{0}.0,drive={0}"),
    "virtio-scsi": DEVICES[Bus.SCSI],
    "pvscsi": ("pvscsi,id=bus-{0}", "scsi-hd,bus=bus-{0}.0,drive={0}"),
}
"""Kinds of disk that the ramdisk must find, each as QEMU's devices, with the disk's name for ``{0}``."""
SMART = ("sata", "nvme")
"""Those of them that QEMU makes tell of their health."""
NICS = ("virtio-net-pci", "e1000e", "e1000", "vmxnet3", "rtl8139")


@dataclass(frozen=True)
class Finding:
    """What a boot test found: ``problems`` is empty when it passed. ``checked``: names of what was looked at."""

    problems: tuple[str, ...]
    checked: tuple[str, ...]


@dataclass(frozen=True)
class Bench:
    """Where boot tests run. ``work``: an empty folder, with room for a copy of the image."""

    work: Path
    runner: Runner
    observer: Observer
    firmware: Firmware = Firmware.UEFI

    @property
    def console(self) -> Path:
        return self.work / "console.log"

    @property
    def result(self) -> Path:
        return self.work / "result.json"


def try_image(image: Path, index: ImageIndex, role: Role, bench: Bench) -> Finding:
    """Boot an image as the only instance of ``role`` and run the role's checks and health probes.

    :param image: folder with ``root.zst``.
    :raises ImageError: it does not boot, or a probe is not green; names what the instance said.
    """
    disk = bench.work / "disk.raw"
    plan = DiskPlan(f"trial:{role.role}", GROWN_MIB, build_instance(role), LINKS)
    parts = bench.work / "parts"
    parts.mkdir()
    make_disk(image / "root.zst", index, disk, plan, work=parts, runner=bench.runner)
    shutil.rmtree(parts)
    memory = min(int(role.match.properties.get("memory_mib", MEMORY_MIB)), MOST_MEMORY_MIB)
    words = [*_machine(role.role, memory, bench), *_firmware(bench)]
    words += ["-drive", f"if=none,id=disk0,format=raw,file={disk},cache=unsafe,discard=unmap"]
    words += ["-device", "virtio-blk-pci,drive=disk0,bootindex=1"]
    for address in build_placement(role).addresses:
        words += ["-nic", f"user,restrict=on,ipv6=off,model=virtio-net-pci,mac={address.mac}"]
    return _judge(role.role, words, BOOT + role.health.wait, read_instance, bench)


def try_ramdisk(image: Path, bench: Bench) -> Finding:
    """Boot the deploy ramdisk on a machine that has one disk and one network interface of each common kind.

    :param image: folder with ``kernel`` and ``initramfs``. :raises ImageError: it does not boot, or does not find one.
    """
    cmdline = (
        f"console=ttyS0,115200 provisioner.trial=/dev/ttyS1 provisioner.mac={MAC % 0} provisioner.address=10.0.2.15/24"
    )
    words = [*_machine("ramdisk", MEMORY_MIB, bench), "-kernel", str(image / "kernel")]
    words += ["-initrd", str(image / "initramfs"), "-append", cmdline]
    for name, devices in BUSES.items():
        disk = bench.work / f"{name}.raw"
        with disk.open("wb") as file:
            file.truncate(DISK_MIB << 20)
        words += ["-drive", f"if=none,id={name},format=raw,file={disk},cache=unsafe"]
        words += disk_devices(devices, name, f"serial={name}")
    for number, model in enumerate(NICS):
        words += ["-nic", f"user,restrict=on,ipv6=off,model={model},mac={MAC % number}"]
    return _judge("ramdisk", words, BOOT, read_hardware, bench)


def _judge(name: str, words: Sequence[str], deadline: float, read: Callable[[str], Finding], bench: Bench) -> Finding:
    """Run the machine until it powers off and read what it said."""
    firmware = bench.firmware
    bench.observer(Event("image.phase", f"{name}: boot test", data={"image": name, "phase": "boot test"}))
    try:
        bench.runner.run(words, deadline=deadline)
        finding = read(bench.result.read_text())
    except (HostError, ValueError, OSError) as error:
        raise ImageError(
            f"the image {name} does not boot ({firmware})",
            where="boot test",
            cause=_tail(bench.console) or str(error),
            hint="correct its elements and build it again; with --no-test it is published untested",
        ) from error
    if finding.problems:
        raise ImageError(
            f"the image {name} boots, but is not healthy ({firmware})",
            where="boot test",
            cause="\n".join(finding.problems),
            hint=f"correct the role, its elements or templates, then provisioner image build {name}",
        )
    message = f"{name}: boot test passed ({firmware}; {', '.join(finding.checked)})"
    bench.observer(Event("image.tested", message, data={"image": name, "checked": list(finding.checked)}))
    return finding


def build_instance(role: Role) -> dict[str, tuple[bytes, int]]:
    """The files, with their modes, that make an image the only instance of its role."""
    placement = build_placement(role)
    texts = {
        "/etc/hostname": f"{HOSTNAME}\n",
        "/etc/hosts": build_hosts(placement, (placement,)),
        "/etc/fstab": "LABEL=root / ext4 errors=remount-ro 0 1\n",
        SERVICE: UNIT.format(folder=FOLDER),
        f"{FOLDER}/run.py": PROGRAM,
        f"{FOLDER}/metadata.json": json.dumps(build_document(role, placement)),
        f"{FOLDER}/words.json": json.dumps([] if role.image.alone else ["--files"]),
    }
    texts |= build_networks(placement)
    return {path: (text.encode(), 0o644) for path, text in texts.items()}


def build_placement(role: Role) -> Placement:
    """One member with an address and a port on each of the role's networks, however the role bundles them."""
    ports = [Interface(name=f"port{at}", kind=InterfaceKind.PORT, mac=MAC % at) for at in range(len(role.networks))]
    addresses = tuple(
        Address(network=name, address=f"10.0.{2 + at}.15/24", mac=ports[at].mac, interface=ports[at].name)
        for at, name in enumerate(role.networks)
    )
    return Placement(
        cloud="trial",
        role=role.role,
        index=0,
        hostname=HOSTNAME,
        node="node",
        image="",
        addresses=addresses,
        interfaces=tuple(ports),
    )


def build_document(role: Role, placement: Placement) -> dict[str, Any]:
    """The metadata of a cloud of one: the role's own values, fresh secrets, its checks beside its probes.

    The probes of a role that needs others are left out.
    """
    health = role.health if role.image.alone else role.health.model_copy(update={"node": (), "role": ()})
    health = health.model_copy(update={"node": (*role.image.checks, *health.node)})
    tried = role.model_copy(update={"health": health})
    networks = {
        address.network: Network(cidr=f"10.0.{2 + at}.0/24", pool=f"10.0.{2 + at}.15-10.0.{2 + at}.15")
        for at, address in enumerate(placement.addresses)
    }
    cloud = Cloud(cloud="trial", networks=networks, roles={role.role: RoleUse(count=1)})
    desired = Desired(cloud=cloud, roles={role.role: tried})
    secrets = {name: new_secret() for name in needed_secrets(desired, Values(desired).of(role.role))}
    issuer = Issuer(desired, {}, HostClock().now())
    return build_metadata(
        desired,
        placement,
        (placement,),
        "00000000-0000-0000-0000-000000000000",
        secrets,
        1,
        certify=issuer.find,
        authority=issuer.authority,
    )


def _machine(name: str, memory: int, bench: Bench) -> list[str]:
    """QEMU in the foreground, with networks that lead nowhere; it ends when the machine powers off."""
    return [
        QEMU, "-name", f"trial-{name}", "-machine", MACHINE, *(KVM if kvm_works(bench.runner) else TCG), "-smp", "2",
        "-m", str(memory), "-display", "none", "-nodefaults", "-no-reboot", "-device", "virtio-rng-pci",
        "-serial", f"file:{bench.console}", "-serial", f"file:{bench.result}",
    ]  # fmt: skip


def _firmware(bench: Bench) -> list[str]:
    if bench.firmware is Firmware.BIOS:
        return []
    variables = bench.work / "vars.fd"
    shutil.copyfile(OVMF_VARS, variables)
    return [
        "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={OVMF_CODE}",
        "-drive", f"if=pflash,unit=1,format=raw,file={variables}",
    ]  # fmt: skip


def read_instance(text: str) -> Finding:
    """What an instance said on its second serial port.

    :raises ValueError: it said nothing, or something else.
    """
    found = _last_json(text)
    problems = [f"the unit {unit} failed: {_last(found['journal'].get(unit, ''))}" for unit in found["failed"]]
    report = found.get("report")
    probes: Mapping[str, Any] = {}
    if report is not None:
        probes = report.get("probes", {})
        if error := report.get("error"):
            problems.append(f"{error['summary']}: {error['cause']}" if error.get("cause") else str(error["summary"]))
        problems += [
            f"the probe {name} said {result['output']!r}" for name, result in probes.items() if not result["ok"]
        ]
        if not report.get("healthy") and not problems:
            problems.append(f"the config agent did not get through: {_last(found.get('log', ''))}")
    if found["system"] not in ("running", "degraded"):  # degraded: a unit failed, which is named above
        problems.append(f"the system is {found['system']} after four minutes; jobs: {found['jobs']}")
    return Finding(tuple(problems), ("boot", *probes))


def read_hardware(text: str) -> Finding:
    """What the ramdisk found of the machine. :raises ValueError: it said nothing, or something else."""
    found = _last_json(text)
    disks = {disk.get("serial") for disk in found["disks"]}
    macs = {nic["mac"] for nic in found["nics"]}
    problems = [f"no disk found at the controller {name}" for name in BUSES if name not in disks]
    problems += [f"no interface found of the kind {name}" for at, name in enumerate(NICS) if MAC % at not in macs]
    test = found["disk_test"]
    names = {disk.get("name"): disk.get("serial") for disk in found["disks"]}
    problems += [] if test["verdict"] == "passed" else [f"the disk test {test['verdict']}: {test['summary']}"]
    dumb = [names.get(text.partition(":")[0]) for text in test["summary"].split("; ") if "no SMART" in text]
    problems += [f"the disk of the kind {name} does not tell of its health" for name in SMART if name in dumb]
    return Finding(tuple(problems), (*BUSES, *NICS, "smart"))


def _last_json(text: str) -> dict[str, Any]:
    """What came after the firmware, which writes to every serial port. :raises ValueError: nothing came."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        raise ValueError("it ended without a word on how it went")
    return dict(json.loads(lines[-1]))


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _tail(console: Path) -> str:
    if not console.is_file():
        return ""
    return "\n".join(last_lines(console.read_text(errors="replace")).splitlines()[-SHOWN:])
