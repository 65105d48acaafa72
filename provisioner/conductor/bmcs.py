"""What operators ask of one node's management controller."""

from __future__ import annotations

from typing import Any

from provisioner.bmc.contract import Console, PowerWord
from provisioner.bmc.driver import READINGS
from provisioner.conductor.doors import Doors
from provisioner.conductor.enroll import BMC_SECONDS
from provisioner.conductor.sweep import expect_end, note_power
from provisioner.errors import BmcError, Conflict, UsageError
from provisioner.model.deployment import Node
from provisioner.model.hardware import BootDevice, Firmware, Power
from provisioner.model.states import AT_WORK

POWER_WORDS: tuple[PowerWord, ...] = ("on", "off", "soft", "reset", "cycle")
SOFT_SECONDS = 90.0
"""An operating system stops its services one after the other."""
READ_SECONDS = 90.0


def set_power(doors: Doors, name: str, want: str | None) -> Power:
    """Switch a node's power, or only ask for it with None; what the BMC says then.

    :raises Conflict: the node is being worked on. :raises BmcError: the BMC did not do it.
    """
    if want is not None and want not in POWER_WORDS:
        raise UsageError(f"there is no power {want}", where=name, hint=f"write one of: {', '.join(POWER_WORDS)}")
    if want is None:
        node = doors.store.nodes.get(name)
        power = doors.bmcs.power(node.bmc, doors.store.nodes.password(name), BMC_SECONDS)
        note_power(doors, doors.store.nodes.get(name), node, power)
        return power
    node = check_idle(doors, name, "power")
    seconds = SOFT_SECONDS if want == "soft" else BMC_SECONDS
    try:
        power = doors.bmcs.set_power(node.bmc, doors.store.nodes.password(name), want, seconds)
    except BmcError as error:
        error.hint = (error.hint or "").replace("{node}", name) or None
        if want == "soft":
            expect_end(doors, node)  # its system may take longer than anybody waits
        raise
    with doors.store.transaction():
        doors.store.nodes.set_power(name, power, doors.clock.now())
        doors.tell("power.changed", f"{want}: the power is {power}", name)
    return power


def set_boot_device(doors: Doors, name: str, device: str, persistent: bool) -> None:
    """:raises Conflict: the node is being worked on. :raises BmcError: the BMC did not do it."""
    if device not in list(BootDevice):
        raise UsageError(f"there is no boot device {device}", where=name, hint=f"one of: {', '.join(BootDevice)}")
    node = check_idle(doors, name, "boot device")
    uefi = node.spec.firmware is Firmware.UEFI
    password = doors.store.nodes.password(name)
    doors.bmcs.set_boot_device(node.bmc, password, BootDevice(device), uefi, BMC_SECONDS, persistent)
    lifetime = "from now on" if persistent else "for the next boot"
    doors.tell("boot-device.changed", f"{lifetime} from {device}", name)


def open_console(doors: Doors, name: str) -> Console:
    """The node's serial console; whoever is on it is put on record."""
    node = doors.store.nodes.get(name)
    console = doors.bmcs.console(node.bmc, doors.store.nodes.password(name))
    doors.tell("console.opened", "an operator is on its serial console", name)
    return console


def identify(doors: Doors, name: str, seconds: int | None) -> None:
    node = doors.store.nodes.get(name)
    doors.bmcs.identify(node.bmc, doors.store.nodes.password(name), seconds, BMC_SECONDS)


def read_bmc(doors: Doors, name: str, what: str) -> Any:
    """Sensors, event log or inventory, as the controller has them now."""
    if what not in READINGS:
        raise UsageError(f"a controller has no {what}", where=name, hint=f"write one of: {', '.join(READINGS)}")
    node = doors.store.nodes.get(name)
    return doors.bmcs.read(node.bmc, doors.store.nodes.password(name), what, READ_SECONDS)


def check_idle(doors: Doors, name: str, what: str) -> Node:
    """The node, which nobody works on. :raises Conflict: the conductor does."""
    node = doors.store.nodes.get(name)
    if node.state in AT_WORK and node.maintenance is None:
        raise Conflict(
            f"the node is {node.state}; its {what} is not yours now",
            where=name,
            hint=f"provisioner node abort {name}, or: provisioner node maintenance {name} --reason TEXT",
        )
    return node
