"""In which order the members of a role change, and how many of them at once."""

from __future__ import annotations

import re
from typing import Any

from pydantic import Field, field_validator

from provisioner.model.value import Value

SHARE = re.compile(r"^(?:100|[1-9][0-9]?)%$")
"""A share of a role's members."""


class Policy(Value):
    """How a change goes through the members of a role.

    ``at_a_time``: how many members may be away at once: those that change, and those that are down without that. A
    number, or a share of the members such as ``25%``, rounded down and at least one.
    ``canary``: so many members change first; the others when these have been green for ``settle`` seconds.
    ``after``: roles whose members all have their newest generation in force, and are healthy, before this one changes.
    ``apart``: groups; of all members of all roles that name the same one, one at a time changes.
    ``max_failures``: how many members may fail before the others stop.
    ``drain``: seconds that a member has to be drained before it leaves.
    """

    at_a_time: int | str = 1
    canary: int = Field(default=0, ge=0)
    settle: float = Field(default=60.0, ge=0, le=86400)
    after: tuple[str, ...] = ()
    apart: tuple[str, ...] = ()
    max_failures: int = Field(default=0, ge=0)
    drain: float = Field(default=1800.0, gt=0, le=7 * 86400)

    @field_validator("at_a_time", mode="before")
    @classmethod
    def _at_a_time(cls, value: Any) -> Any:
        number = isinstance(value, int) and not isinstance(value, bool) and value >= 1
        if not number and not (isinstance(value, str) and SHARE.match(value)):
            raise ValueError('not a number of members; write 1 or more, or a share of them such as "25%"')
        return value

    def width(self, members: int) -> int:
        """How many of so many members may be away at once."""
        if isinstance(self.at_a_time, int):
            return self.at_a_time
        return max(1, members * int(self.at_a_time.removesuffix("%")) // 100)
