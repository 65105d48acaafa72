"""One value of the metadata for a script: printed if it is of the type that the script relies on."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from provisioner_agent.classic.metadata import find_value
from provisioner_agent.classic.problem import ClassicError

WORDS = r"[A-Za-z0-9/.:-]*"
USER, WHERE = r"[A-Za-z0-9_+-]+(?::[^@]+)?", r"@?[A-Za-z0-9/_.-]+"
TYPES = {
    "int": r"[0-9]+",
    "default": r"[A-Za-z0-9_]*",
    "netaddress": WORDS,
    "netdevice": WORDS,
    "dsn": rf"[A-Za-z0-9]+://(?:{USER})?(?:{WHERE})?(?:/[A-Za-z0-9_-]+)?(?:\?[A-Za-z0-9=_-]+)?",
    # The range from the dot to the underscore takes more than was meant; device lists rely on what it takes.
    "swiftdevices": r"(?:r\d+z\d+-[A-Za-z0-9.-_]+:%PORT%/[^,]+,?)+",
    "username": r"[A-Za-z0-9_-]+",
    "raw": r"(?s:.*)",
}
TRUE, FALSE, NO_BOOLEAN = 0, 1, 255
"""Exit codes for a boolean."""


def show_value(data: Mapping[str, Any], path: str, kind: str, default: str | None) -> str:
    """The text for a script. The default is of any type.

    :raises ClassicError: it is missing and there is no default; it is of another type, or the type is none.
    """
    value = find_value(data, path)
    if value is None:
        if default is None:
            raise ClassicError(f"the metadata have no {path}")
        return default
    if kind not in TYPES:
        raise ClassicError(f"{kind} is no type; it is one of {', '.join(TYPES)}")
    if not re.match(f"(?:{TYPES[kind]})$", str(value)):
        raise ClassicError(f"{path} is not of the type {kind}: {value}")
    return json.dumps(value) if isinstance(value, (dict, list, bool)) else str(value)


def code_of_boolean(data: Mapping[str, Any], path: str) -> int:
    value = find_value(data, path)
    if not isinstance(value, bool):
        return NO_BOOLEAN
    return TRUE if value else FALSE
