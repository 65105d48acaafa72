"""Who may reach an instance, as data: the rules of a role, and named groups of rules of a cloud."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field, field_validator, model_serializer, model_validator

from provisioner.model.value import Value

PORTS = re.compile(r"^[0-9]{1,5}(?:-[0-9]{1,5})?$")
NOTE = re.compile(r'^[^"\\\x00-\x1f\x7f]{0,60}$')
"""What may stand between quotation marks in a file of nft(8); a comment has 128 bytes there."""
LARGEST = 65535
"""The largest port (RFC 9293, section 3.1)."""
WITH_PORTS = ("tcp", "udp")


class Source(Value):
    """Where packets come from: members of a role, a network of the cloud, addresses; with none of these, anywhere."""

    role: str | None = None
    network: str | None = None
    cidr: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _one(cls, value: Any) -> Any:
        if value == "any":
            return {}
        given = [key for key in cls.model_fields if value.get(key)] if isinstance(value, dict) else []
        unknown = isinstance(value, dict) and value.keys() - cls.model_fields
        if not isinstance(value, (dict, cls)) or (len(given) != 1 and not unknown and isinstance(value, dict)):
            raise ValueError("not a source; write any, or one of {role: NAME}, {network: NAME}, {cidr: 10.0.0.0/8}")
        return value

    @model_serializer
    def _dump(self) -> Any:
        return {key: value for key, value in self if value is not None} or "any"

    def __str__(self) -> str:
        return next((f"{key} {value}" for key, value in self if value is not None), "any")


class Rule(Value):
    """What is let in. ``ports``: of the instance, a number or a range such as ``4567-4568`` each; none for all.

    ``protocol``: ``icmp`` stands for that of IPv4 and that of IPv6; ``vrrp`` (RFC 9568) for virtual addresses.
    """

    source: Source = Field(alias="from")
    protocol: Literal["tcp", "udp", "icmp", "vrrp", "any"]
    ports: tuple[int | str, ...] = ()
    note: str = ""

    @field_validator("ports", mode="before")
    @classmethod
    def _ports(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            return value
        for port in value:
            first, last = parse_ports(port)
            if not 1 <= first <= last <= LARGEST:
                raise ValueError(f'{port!r} is no port; write 1 to {LARGEST}, or a range such as "4567-4568"')
        return tuple(value)

    @field_validator("note")
    @classmethod
    def _note(cls, value: str) -> str:
        if not NOTE.match(value):
            raise ValueError("not a note; write at most 60 characters on one line, without quotation marks")
        return value

    @model_validator(mode="after")
    def _fits(self) -> Rule:
        if self.ports and self.protocol not in WITH_PORTS:
            raise ValueError(f"{self.protocol} has no ports; write protocol: tcp or udp, or take the ports out")
        return self

    @model_serializer
    def _dump(self) -> dict[str, Any]:
        found = {"from": self.source.model_dump(), "protocol": self.protocol, "ports": list(self.ports)}
        return {**found, "note": self.note}

    def __str__(self) -> str:
        """Equal for rules that let the same in: ``tcp 22, 4567-4568 from role galera``."""
        ports = ", ".join(join_ports(self.ports))
        return f"{self.protocol}{' ' if ports else ''}{ports} from {self.source}"


class Firewall(Value):
    """All that may reach the members of a role, beside what any instance needs."""

    allow: tuple[Rule, ...] = ()


def parse_ports(port: int | str) -> tuple[int, int]:
    """The first and the last; ``(0, 0)`` for what is neither a port nor a range."""
    if isinstance(port, bool) or not isinstance(port, (int, str)) or not PORTS.match(str(port)):
        return 0, 0
    first, _, last = str(port).partition("-")
    return int(first), int(last or first)


def join_ports(ports: tuple[int | str, ...]) -> list[str]:
    """In order, each once: what overlaps or touches becomes one range."""
    joined: list[tuple[int, int]] = []
    for first, last in sorted(map(parse_ports, ports)):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = joined[-1][0], max(last, joined[-1][1])
        else:
            joined.append((first, last))
    return [str(first) if first == last else f"{first}-{last}" for first, last in joined]
