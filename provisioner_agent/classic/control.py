"""``TEMPLATE.oac``: how the file of a template is to be written."""

from __future__ import annotations

import grp
import pwd
from dataclasses import dataclass
from typing import Any

from provisioner_agent.classic.flat import parse_flat
from provisioner_agent.classic.problem import ClassicError

MOST = 0o777


@dataclass(frozen=True)
class Control:
    """``mode``, ``owner`` and ``group`` (numbers): as they are where None. ``allow_empty``: whether a file without
    content is a file; else it is removed."""

    allow_empty: bool = True
    mode: int | None = None
    owner: int | None = None
    group: int | None = None


def parse_control(text: str) -> Control:
    """:raises ClassicError: a key or value that is not known, an account that does not exist."""
    try:
        raw = parse_flat(text)
    except ValueError as error:
        raise ClassicError(str(error)) from error
    if raw is None:
        return Control()
    if not isinstance(raw, dict):
        raise ClassicError("it is not a map")
    found: dict[str, Any] = {}
    for key, value in raw.items():
        if key == "allow_empty":
            if not isinstance(value, bool):
                raise ClassicError(f"allow_empty is true or false, not {value!r}")
            found[key] = value
        elif key == "mode":
            if not isinstance(value, int) or isinstance(value, bool):
                raise ClassicError(f"mode is a number such as 0644, without quotes, not {value!r}")
            if not 0 <= value <= MOST:
                raise ClassicError(f"mode {value:#o} is not between 0 and 0777")
            found[key] = value
        elif key == "owner":
            found[key] = _account(value, "user")
        elif key == "group":
            found[key] = _account(value, "group")
        else:
            raise ClassicError(f"{key!r} is not allow_empty, mode, owner or group")
    return Control(**found)


def _account(value: Any, kind: str) -> int:
    """The number of a name or of a number that exists."""
    try:
        if kind == "user":
            return pwd.getpwuid(value).pw_uid if isinstance(value, int) else pwd.getpwnam(value).pw_uid
        return grp.getgrgid(value).gr_gid if isinstance(value, int) else grp.getgrnam(value).gr_gid
    except (KeyError, TypeError) as error:
        raise ClassicError(f"there is no {kind} {value!r} here") from error
