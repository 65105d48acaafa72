"""The door to management controllers: what others may ask of it, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, Protocol

from provisioner.errors import BmcError
from provisioner.model.hardware import BmcAddress, BootDevice, Power

PowerWord = Literal["on", "off", "reset"]


class Bmcs(Protocol):
    """All management controllers. May be called from many threads; calls to one controller are done one by one.

    Each call ends by its ``deadline`` (seconds), whatever the controller does. A controller that says nothing at all
    is given up after 8 seconds even when the deadline is later.

    Every call raises :class:`~provisioner.errors.BmcSilent` when no answer came in time,
    :class:`~provisioner.errors.BmcRefused` when the controller said no (user, password, privilege, command), and
    :class:`~provisioner.errors.BmcError` when it answered but did not do it.
    """

    def verify(self, bmc: BmcAddress, password: str, deadline: float) -> dict[str, Any]:
        """Log in and ask the controller who it is.

        :returns: ``device_id``, ``revision``, ``firmware``, ``ipmi_version``, ``manufacturer_id``, ``product_id``,
            ``guid`` (32 hex digits in the order sent, or None), ``power``, ``privilege``, ``hash``, ``seconds``.
        """

    def power(self, bmc: BmcAddress, password: str, deadline: float) -> Power:
        """Whether the node has power now."""

    def set_power(self, bmc: BmcAddress, password: str, want: PowerWord, deadline: float) -> Power:
        """Switch, and return when the controller says that it is so.

        ``on`` and ``off`` do nothing when it is so already; ``reset`` turns a node on that is off.
        """

    def set_boot_device(self, bmc: BmcAddress, password: str, device: BootDevice, uefi: bool, deadline: float) -> None:
        """Choose the device of the next boot only, and read it back where the controller keeps it."""

    def sweep(
        self, bmcs: Mapping[str, tuple[BmcAddress, str]], deadline: float
    ) -> Iterator[tuple[str, Power | BmcError]]:
        """The power of all, asked at once: each answer as it comes, with the key of its question.

        :param bmcs: address and password by any key. A controller that is dead costs the others nothing; it is
            answered for with the error, by the deadline.
        """

    def close(self) -> None:
        """Log out everywhere and end what was started for it."""
