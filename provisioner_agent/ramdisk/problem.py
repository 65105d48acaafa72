"""Why an order could not be done."""

from __future__ import annotations


class OrderFailed(Exception):
    """:param summary: one line. :param cause: what a program or the kernel said."""

    def __init__(self, summary: str, cause: str = "") -> None:
        super().__init__(f"{summary}: {cause}" if cause else summary)
        self.summary = summary
        self.cause = cause
