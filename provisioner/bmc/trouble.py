"""The five ways in which a controller can fail a driver. Nothing is imported here: a console starts with it alone."""

from __future__ import annotations

from typing import ClassVar

CHECK_PASSWORD = "check the password that the node's hardware file names, or by hand: {ipmitool}"
CHECK_USER = "list the controller's users: {ipmitool:user list 1} (as a user who may log in)"


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
