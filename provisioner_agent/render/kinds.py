"""What a tag may ask its value to be: ``{{address:netaddress}}``. The words are those of os-apply-config's ``--type``.

There they are patterns that let much through; here a value of the type is one that the service will take.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

INTEGER = re.compile(r"-?[0-9]+")
LABELS = re.compile(
    r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?)*"
)
DEVICE = re.compile(r"(?!\.{1,2}$)[^\s/:]{1,15}(:[^\s/:]{1,15})?")
SOURCE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
DOTTED = re.compile(r"[0-9.]+")


@dataclass(frozen=True)
class Type:
    """``what``: in words, for who gave another value."""

    holds: Callable[[Any], bool]
    what: str


def is_of_type(kind: str, value: Any) -> bool:
    """:param kind: one of :data:`TYPES`. :param value: as JSON has it."""
    return TYPES[kind].holds(value)


def _is_integer(value: Any) -> bool:
    return (isinstance(value, int) and not isinstance(value, bool)) or _matches(INTEGER, value)


def _is_boolean(value: Any) -> bool:
    return isinstance(value, bool) or value in ("true", "false")


def _is_address(value: Any) -> bool:
    """RFC 1123, section 2.1: a name of digits and dots alone would be an address, and is none."""
    if not isinstance(value, str):
        return False
    try:
        ipaddress.ip_interface(value)
    except ValueError:
        return _matches(LABELS, value) and not DOTTED.fullmatch(value)
    return True


def _matches(pattern: re.Pattern[str], value: Any) -> bool:
    return isinstance(value, str) and bool(pattern.fullmatch(value))


TYPES: Mapping[str, Type] = {
    "int": Type(_is_integer, "a whole number"),
    "bool": Type(_is_boolean, "true or false"),
    "netaddress": Type(_is_address, "an IP address, also with a prefix length, or a host name"),
    "netdevice": Type(lambda value: _matches(DEVICE, value), "a network interface's name, at most 15 characters"),
    "dsn": Type(lambda value: _matches(SOURCE, value), "scheme://..., without spaces"),
    "username": Type(lambda value: _matches(USER, value), "small letters, digits, _ and -, at most 32 characters"),
    "line": Type(lambda value: isinstance(value, str) and value.splitlines() in ([], [value]), "text in one line"),
}
