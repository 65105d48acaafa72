"""The door to management controllers: what others may ask of it, and what comes back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from provisioner.bmc.driver import Reading, Switch
from provisioner.errors import BmcError
from provisioner.model.hardware import BmcAddress, BootDevice, Power

PowerWord = Switch
Asked = Mapping[str, tuple[BmcAddress, str]]
"""Address and password of controllers, by any key."""


class Console(Protocol):
    """A node's serial console. One thread may read while another writes and closes."""

    def read(self) -> bytes:
        """What the node wrote; waits for it. Empty once it was closed.

        :raises BmcError: it ended otherwise, or never began.
        """

    def write(self, data: bytes) -> None:
        """Type it."""

    def close(self) -> None:
        """End it; a reader gets the end."""


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

        ``on``, ``off`` and ``soft`` do nothing when it is so already; ``reset`` and ``cycle`` turn a node on that is
        off; ``soft`` asks its operating system to shut down, and is an error when that does not follow in time.
        """

    def set_boot_device(
        self,
        bmc: BmcAddress,
        password: str,
        device: BootDevice,
        uefi: bool,
        deadline: float,
        persistent: bool = False,
    ) -> None:
        """Choose the device of the next boot, or of all from now on; read it back where the controller keeps it."""

    def identify(self, bmc: BmcAddress, password: str, seconds: int | None, deadline: float) -> None:
        """Light the identify light for ``seconds``, until told otherwise with None, or no more with 0."""

    def read(self, bmc: BmcAddress, password: str, what: Reading, deadline: float) -> Any:
        """Sensors, event log or inventory; shapes as in :class:`~provisioner.bmc.driver.Controller`.

        A controller with many sensors may take a minute: each is a question of its own.
        """

    def event_record(self, bmc: BmcAddress, password: str, record: int, deadline: float) -> bytes:
        """A record of the event log as it is kept: its kind and what follows, 14 bytes (IPMI 2.0, 32.2)."""

    def console(self, bmc: BmcAddress, password: str, *, force: bool = True) -> Console:
        """Open the serial console; it is proved only by the first read.

        :param force: take it over from whoever has it; a controller has one.
        """

    def audit(self, bmc: BmcAddress, password: str, deadline: float) -> list[dict[str, Any]]:
        """What makes it unsafe: ``check``, ``risk`` (high, medium, low), ``summary``, ``cause``, ``mend`` of each.

        ``{node}`` in ``mend`` stands for the node's name. Nothing is changed, and no account can be locked by it.
        """

    def change_password(self, bmc: BmcAddress, password: str, new: str, deadline: float) -> None:
        """Give the user another password, prove it by logging in with it, and else set the old one back.

        A :class:`~provisioner.errors.BmcSilent` leaves open which of the two holds.
        """

    def sweep(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, Power | BmcError]]:
        """The power of all, asked at once: the answers as they come, some at a time, by the keys of the questions.

        A controller that is dead costs the others nothing; it is answered for with the error, by the deadline.
        """

    def verify_all(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, dict[str, Any] | BmcError]]:
        """As :meth:`verify`, of all at once: the facts, or the error, of each as they come."""

    def scan(self, network: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        """Address and drivers of each controller that answers in a network such as ``10.0.4.0/24``.

        :raises UsageError: it is none, or too large.
        """

    def close(self) -> None:
        """Log out everywhere and end what was started for it."""
