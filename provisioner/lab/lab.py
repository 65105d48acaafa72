"""The recipes of the lab: up, status, console, down. Each can be run again at any time."""

from __future__ import annotations

import ipaddress
import json
import secrets
import shutil
import string
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import LabError, NotFound, ProvisionerError
from provisioner.events import Event, Observer
from provisioner.lab import chassis
from provisioner.lab.controller import EMULATION, controller_command, controller_config
from provisioner.lab.machine import FIRST_DISK, OVMF_VARS, WRITE_LOG, disk_file, kvm_works, machine_command
from provisioner.lab.rack import Machine, Rack
from provisioner.lab.wire import ensure_network, namespaces, remove_network
from provisioner.model.hardware import Firmware
from provisioner.system.clock import Clock
from provisioner.system.daemon import Daemons, find_daemon, load_daemon, save_daemon
from provisioner.system.files import ensure_file
from provisioner.system.run import Runner, last_lines

PASSWORD = "bmc-password"
GIB = 1024**3
SET_ADDRESS = ("0x0c", "0x01", "1", "3")
"""Set LAN Configuration Parameters: channel 1, the IP address (IPMI 2.0, 23.1)."""
ATTEMPTS = 10
"""At a controller that was just started; it needs a tenth of a second."""


@dataclass(frozen=True)
class LabRow:
    """One machine of the rack as ``lab status`` shows it."""

    name: str
    bmc: str
    controller: bool
    power: bool
    firmware: str
    memory_mib: int
    disk_used: int
    console: str


@dataclass(frozen=True)
class Bench:
    """What the lab works with: the folder of its files, and the doors to programs, processes and time."""

    folder: Path
    runner: Runner
    daemons: Daemons
    clock: Clock
    observer: Observer


def lab_up(rack: Rack, bench: Bench, password: str | None = None) -> None:
    """Build the rack: network, disks, controllers. Its machines stay off until their controllers say otherwise.

    :param password: of the controllers; None keeps the one that there is, or makes one.
    :raises LabError: a part could not be made; what had been made is removed again if the rack is new.
    """
    fresh = not bench.folder.exists()
    try:
        bench.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if rack.namespace not in namespaces(bench.runner):
            _end_processes(bench)  # left over by a rack whose network is gone
        ensure_network(rack, bench.runner)
        password = _ensure_password(bench.folder / PASSWORD, password)
        kvm = kvm_works(bench.runner)
        how = "hardware virtualisation" if kvm else "emulation (no working KVM)"
        bench.observer(Event("lab.machines", f"{len(rack.nodes)} machines by {how}"))
        for machine in rack.nodes:
            _ensure_machine(machine, bench, kvm=kvm)
        started = [machine for machine in rack.nodes if _ensure_controller(machine, rack, bench, password=password)]
        for machine in started:
            _wait_for_controller(machine, rack, bench)
    except ProvisionerError as error:
        if fresh:
            lab_down(rack, bench)
        raise LabError(
            "the virtual rack could not be built", where=error.where, cause=str(error), hint=error.hint
        ) from error


def _ensure_password(path: Path, given: str | None) -> str:
    if given is not None:
        ensure_file(path, given, mode=0o600)
    elif not path.is_file():
        letters = string.ascii_letters + string.digits
        ensure_file(path, "".join(secrets.choice(letters) for _ in range(16)), mode=0o600)
    return path.read_text()


def _ensure_machine(machine: Machine, bench: Bench, *, kvm: bool) -> None:
    folder = bench.folder / machine.name
    (folder / "bmc").mkdir(parents=True, exist_ok=True)
    sizes = {FIRST_DISK: machine.disk_gib} | {disk_file(disk): disk.gib for disk in machine.disks}
    for name, gib in sizes.items():
        if not (folder / name).exists():
            with (folder / name).open("wb") as file:
                file.truncate(gib * GIB)
    if machine.log_writes:
        (folder / WRITE_LOG).touch()
    if machine.firmware is Firmware.UEFI and not (folder / "vars.fd").exists():
        if not OVMF_VARS.exists():
            raise LabError("the UEFI firmware is not installed", where=str(OVMF_VARS), hint="apt-get install ovmf")
        shutil.copyfile(OVMF_VARS, folder / "vars.fd")
    commands = {
        "network": machine_command(machine, folder, kvm=kvm, network_first=True),
        "disk": machine_command(machine, folder, kvm=kvm, network_first=False),
    }
    ensure_file(folder / "machine.json", json.dumps(commands, indent=1))


def _ensure_controller(machine: Machine, rack: Rack, bench: Bench, *, password: str) -> bool:
    """True when it had to be started: it did not run, or ran with other words than now."""
    folder = bench.folder / machine.name
    program = f"/usr/bin/python3 -I {chassis.__file__} {folder}"
    config = controller_config(machine, username=rack.username, password=password, chassis=program)
    changed = ensure_file(folder / "emulation", EMULATION)
    changed = ensure_file(folder / "lan.conf", config, mode=0o600) or changed
    known = load_daemon(folder / "controller.json")
    if known is not None and bench.daemons.alive(known):
        if not changed:
            return False
        bench.daemons.end(known)
    words = ["ip", "netns", "exec", rack.namespace, *controller_command(folder)]
    save_daemon(folder / "controller.json", bench.daemons.start(words, log=folder / "controller.log"))
    return True


def _wait_for_controller(machine: Machine, rack: Rack, bench: Bench) -> None:
    """Until it answers a login with the rack's own password; it then learns its address, which it tells inside too."""
    folder = bench.folder / machine.name
    login = ["-C", "3", "-N", "1", "-R", "2", "-U", rack.username, "-f", str(bench.folder / PASSWORD)]
    words = ["ip", "netns", "exec", rack.namespace, "ipmitool", "-I", "lanplus", "-H", machine.bmc, *login]
    address = [str(number) for number in ipaddress.IPv4Address(machine.bmc).packed]
    for _ in range(ATTEMPTS):
        done = bench.runner.run([*words, "raw", *SET_ADDRESS, *address], deadline=20, check=False)
        if done.code == 0:
            bench.observer(Event("lab.controller", f"{machine.name}: controller at {machine.bmc}", node=machine.name))
            return
        bench.clock.sleep(0.2)
    log = folder / "controller.log"
    raise LabError(
        "the controller does not answer",
        where=f"{machine.name} at {machine.bmc}",
        cause=last_lines((log.read_text(errors="replace") if log.exists() else "") or done.stderr),
        hint="provisioner lab down, then provisioner lab up",
    )


def lab_status(rack: Rack, bench: Bench) -> list[LabRow]:
    """Every machine of the rack; also of one that is not up."""
    rows = []
    for machine in rack.nodes:
        folder = bench.folder / machine.name
        controller = load_daemon(folder / "controller.json")
        disks = list(folder.glob("disk*.raw"))
        rows.append(
            LabRow(
                name=machine.name,
                bmc=machine.bmc,
                controller=controller is not None and bench.daemons.alive(controller),
                power=chassis.running(folder) is not None,
                firmware=machine.firmware,
                memory_mib=machine.memory_mib,
                disk_used=sum(disk.stat().st_blocks * 512 for disk in disks),
                console=str(folder / "console.log"),
            )
        )
    return rows


def lab_console(rack: Rack, bench: Bench, name: str, *, follow: bool) -> Iterator[bytes]:
    """What a machine has written to its serial console since the rack was built; with ``follow``, what comes next.

    :raises NotFound: the rack has no such machine.
    """
    if name not in {machine.name for machine in rack.nodes}:
        raise NotFound("the rack has no such machine", where=name, hint="provisioner lab status")
    path = bench.folder / name / "console.log"
    at = 0
    while True:
        if path.exists():
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
            at += len(data)
            if data:
                yield data
        if not follow:
            return
        bench.clock.sleep(0.2)


def lab_down(rack: Rack, bench: Bench) -> bool:
    """End every process of the rack and remove its network and files; True when there was anything to remove."""
    found = bench.folder.exists() or rack.namespace in namespaces(bench.runner)
    _end_processes(bench)
    remove_network(rack, bench.runner)
    shutil.rmtree(bench.folder, ignore_errors=True)
    return found


def _end_processes(bench: Bench) -> None:
    for folder in sorted(bench.folder.glob("*/")):
        controller = load_daemon(folder / "controller.json")
        if controller is not None and bench.daemons.alive(controller):
            bench.daemons.end(controller)
        machine = find_daemon(folder / "qemu.pid") if chassis.running(folder) else None
        if machine is not None:
            bench.daemons.end(machine)
