"""What a driver must do, and the five ways in which a controller can fail it.

A driver speaks one protocol to one controller and knows nothing of deadlines, retries or waiting: those are in
:mod:`provisioner.bmc.session`, once for all drivers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Protocol

from provisioner.model.hardware import BootDevice, Power


class Trouble(Exception):
    """Base of what a driver raises. It crosses a pipe: ``kind``, ``summary``, ``cause``, ``hint``; never a secret.

    ``{ipmitool}`` in a hint stands for the command line with which an operator reaches the same controller.
    """

    kind: ClassVar[str] = "failed"

    def __init__(self, summary: str, cause: str = "", hint: str = "") -> None:
        super().__init__(summary)
        self.summary = summary
        self.cause = cause
        self.hint = hint


class Silent(Trouble):
    """No answer. The session, if there was one, is lost."""

    kind = "silent"


class Refused(Trouble):
    """It answered and said no."""

    kind = "refused"


class Failed(Trouble):
    """It answered, but not as the protocol says, or it did not do what it said."""


class Busy(Trouble):
    """It asks to be left alone for a moment; the same command may be sent again."""

    kind = "busy"


class Stale(Trouble):
    """A session kept from an earlier request is gone, and nothing of this request was done yet."""

    kind = "stale"


class TimeUp(BaseException):
    """The request's time is over. Not an ``Exception``, so that no library takes it for an error of its own."""


class Controller(Protocol):
    """One controller, logged in. Each method raises a :class:`Trouble`."""

    def alive(self) -> bool:
        """Whether the session still holds; asked before a kept session is used again."""

    def facts(self) -> dict[str, Any]:
        """Who it is, but for power."""

    def power(self) -> Power: ...

    def switch(self, word: Literal["on", "off", "reset"]) -> None:
        """Send the command; do not wait for its effect."""

    def set_boot_device(self, device: BootDevice, uefi: bool) -> None:
        """For the next boot only."""

    def boot_device(self) -> BootDevice | str | None:
        """What the controller will boot from; None when it cannot say, another word for a device we never set."""

    def close(self) -> None:
        """Log out without waiting for an answer."""


class Connect(Protocol):
    """The entrance of a driver: log in, or raise a :class:`Trouble`.

    It may take for ever; :class:`TimeUp` then comes out of the call it hangs in, and it says how far it got.
    """

    def __call__(self, address: str, port: int, username: str, password: str, /) -> Controller: ...


Drivers = dict[str, Connect]
