"""What a driver must do; how a controller can fail it is in :mod:`provisioner.bmc.trouble`.

A driver speaks one protocol to one controller and knows nothing of deadlines, retries or waiting: those are in
:mod:`provisioner.bmc.session`, once for all drivers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from provisioner.bmc.quirks import Quirk
from provisioner.model.hardware import BootDevice, Power

Switch = Literal["on", "off", "soft", "reset", "cycle"]
Reading = Literal["sensors", "log", "inventory"]
READINGS: tuple[Reading, ...] = ("sensors", "log", "inventory")


@dataclass(frozen=True)
class Way:
    """How to reach a controller. ``system``: which of its systems (Redfish); ``certificate``: the SHA-256 of the one
    it must show, in hexadecimal digits, empty for any."""

    address: str
    port: int
    username: str
    password: str = field(repr=False)
    system: str = ""
    certificate: str = ""


@dataclass(frozen=True)
class Kept:
    """What the next boot is from, as the controller says; None where it cannot say."""

    device: BootDevice | str
    uefi: bool | None = None
    persistent: bool | None = None


class Controller(Protocol):
    """One controller, logged in. Each method raises a :class:`Trouble`. ``quirks``: what it does otherwise."""

    quirks: frozenset[Quirk]

    def identity(self) -> dict[str, Any]:
        """Who made it, cheaply: the facts by which quirks are known."""

    def alive(self) -> bool:
        """Whether the session still holds; asked before a kept session is used again."""

    def facts(self) -> dict[str, Any]:
        """Who it is, but for power."""

    def power(self) -> Power: ...

    def switch(self, word: Switch) -> None:
        """Send the command; do not wait for its effect. ``soft`` asks the operating system to shut down."""

    def set_boot_device(self, device: BootDevice, uefi: bool, persistent: bool) -> None:
        """For the next boot only, or for all that follow."""

    def boot_device(self) -> Kept | None:
        """What the controller will boot from; None when it cannot say. A word for a device we never set."""

    def identify(self, seconds: int | None) -> None:
        """Light the identify light for so long, until told otherwise with None, or no more with 0."""

    def sensors(self) -> Sequence[dict[str, Any]]:
        """``{"name", "kind", "value", "unit", "health"}`` each; ``value`` None without a reading."""

    def log(self) -> Sequence[dict[str, Any]]:
        """The event log, oldest first: ``{"time", "sensor", "event", "severity"}``; ``time`` as the controller says."""

    def event_record(self, record: int) -> bytes:
        """One record of the event log: its kind and what follows, 14 bytes. :param record: its number."""

    def inventory(self) -> dict[str, Any]:
        """The parts that the controller knows of, by name, each a map."""

    def audit(self, now: float) -> Sequence[dict[str, Any]]:
        """What makes it unsafe, as :class:`~provisioner.bmc.audit.Finding` has it. :param now: seconds since 1970."""

    def change_password(self, password: str) -> None:
        """Give the user who is logged in another password; this session goes on."""

    def close(self) -> None:
        """Log out without waiting for an answer."""


class Connect(Protocol):
    """The entrance of a driver: log in, or raise a :class:`Trouble`.

    It may take for ever; :class:`TimeUp` then comes out of the call it hangs in, and it says how far it got.
    """

    def __call__(self, way: Way, /) -> Controller: ...


Drivers = dict[str, Connect]
