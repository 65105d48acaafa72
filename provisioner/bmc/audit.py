"""What makes a management controller unsafe, found out from outside and with the node's own login. Nothing is changed.

A controller tells anyone a keyed hash of a user's password during the login (IPMI 2.0, 13.31; CVE-2013-4786). Here that
is put to use: passwords that vendors ship are compared without a login of theirs, so that no account is locked.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from provisioner.bmc.driver import Way
from provisioner.bmc.login import USER
from provisioner.bmc.rmcp import (
    APPLICATION,
    CLOSE_SESSION,
    IPMI,
    OPEN_RESPONSE,
    RAKP2,
    RAKP3,
    RAKP4,
    RMCP,
    RMCP_PLUS,
    SHA1_AES,
    SHA256_AES,
    Message,
    Packet,
    Suite,
    build_greeting,
    build_message,
    build_name,
    build_open,
    build_open_request,
    build_who,
    parse_message,
    parse_packet,
)

TRIES, PATIENCE = 3, 0.7
IPMI_PORT = 623
DEFAULTS = (
    ("ADMIN", "ADMIN"), ("admin", "admin"), ("admin", "password"), ("root", "calvin"), ("root", "changeme"),
    ("root", "root"), ("USERID", "PASSW0RD"), ("Administrator", "password"), ("Administrator", "admin"),
    ("admin", "cmb9.admin"), ("root", "0penBmc"), ("sysadmin", "superuser"),
)  # fmt: skip
"""Users and passwords that vendors' manuals name as set in the factory."""
CLOCK_SECONDS, DAY = 60.0, 86_400.0
UNKNOWN = "\0"
"""A password that is none of those it was compared with."""


@dataclass(frozen=True)
class Finding:
    """``check`` names it for scripts; ``risk`` is high, medium or low. ``mend``: the command that ends it, where
    ``{ipmitool:WORDS}`` stands for the operator's command line."""

    check: str
    risk: str
    summary: str
    cause: str
    mend: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def audit_ipmi(way: Way) -> list[Finding]:
    """The findings of what answers at the address, without logging in."""
    with _Probe(way.address, way.port) as probe:
        return list(_find(probe, way))


def answers_ipmi(address: str) -> bool:
    """Whether IPMI over LAN is there at all."""
    with _Probe(address, IPMI_PORT) as probe:
        return probe.capabilities() is not None


def judge_clock(theirs: float, ours: float) -> list[Finding]:
    """:param theirs: seconds since 1970, as the controller counts them."""
    off = theirs - ours
    if abs(off) <= CLOCK_SECONDS:
        return []
    how_far = f"{abs(off):.0f} s" if abs(off) < DAY else f"{abs(off) / DAY:.0f} days"
    cause = f"it is {how_far} {'ahead of' if off > 0 else 'behind'} this host's"
    mend = "{ipmitool:sel time set now}"
    return [Finding("clock", "low", "the controller's clock is off, and so are the times in its log", cause, mend)]


def _find(probe: _Probe, way: Way) -> Iterator[Finding]:
    offers = probe.capabilities()
    if offers is None:
        return
    if probe.opens_without_password(way.username):
        yield Finding(
            "cipher-zero", "high", "anyone is let in with any password (cipher suite 0)",
            f"a login as {way.username} with suite 0 and no password went through",
            "{ipmitool:lan set 1 cipher_privs Xaaaaaaaaaaaaaa}",
        )  # fmt: skip
    if probe.open_session((3, 4, 1)) is None:
        yield Finding(
            "no-suite-17", "medium", "the controller has no SHA-256 (cipher suite 17)",
            "it refuses a session with it; what is left is SHA-1",
            "update the controller's firmware",
        )  # fmt: skip
    if probe.open_session((1, 0, 0)) is not None or probe.open_session((1, 1, 0)) is not None:
        yield Finding(
            "no-encryption", "medium", "sessions without encryption are accepted (cipher suites 1 or 2)",
            "it opened one when asked",
            "{ipmitool:lan set 1 cipher_privs XXXaXXXXXXXXXXX}",
        )  # fmt: skip
    if offers[1] & 0x01:
        yield Finding(
            "no-authentication", "high", "IPMI 1.5 sessions without a password are offered",
            "its answer to Get Channel Authentication Capabilities lists the type none (table 22-15)",
            "{ipmitool:lan set 1 auth ADMIN MD5}",
        )  # fmt: skip
    yield from _find_users(probe, way)


def _find_users(probe: _Probe, way: Way) -> Iterator[Finding]:
    null = probe.password_of("", ("",))
    if null is not None:
        open_door = null == ""
        yield Finding(
            "null-user", "high" if open_door else "medium", "there is a user without a name",
            "and without a password" if open_door else "its password is none that we know",
            "{ipmitool:user disable 1}",
        )  # fmt: skip
    for name in sorted({user for user, _ in DEFAULTS} | {way.username}):
        words = [password for user, password in DEFAULTS if user == name or name == way.username]
        found = probe.password_of(name, words)
        if found and found != UNKNOWN:
            ours = name == way.username
            yield Finding(
                "default-password", "high", f"the user {name} has a password from the factory",
                "it is in the vendor's manual",
                "provisioner node rotate-credentials {node}" if ours else "{ipmitool:user list 1}",
            )  # fmt: skip


class _Probe:
    """Login packets to one controller, each answered in time or not at all."""

    def __init__(self, address: str, port: int) -> None:
        found = socket.getaddrinfo(address, port, type=socket.SOCK_DGRAM)[0]
        self._door = socket.socket(found[0], socket.SOCK_DGRAM)
        self._door.settimeout(PATIENCE)
        self._door.connect(found[4])
        self._tag = 0

    def __enter__(self) -> _Probe:
        return self

    def __exit__(self, *_: object) -> None:
        self._door.close()

    def capabilities(self) -> bytes | None:
        """The answer to Get Channel Authentication Capabilities without its completion code; None: no answer."""
        packet = self._ask(build_greeting(USER), IPMI)
        message = parse_message(packet.payload) if packet else None
        return message.data[1:] if message and len(message.data) >= 5 and not message.data[0] else None

    def open_session(self, algorithms: tuple[int, int, int]) -> tuple[int, int] | None:
        """(our id, its id) of a session with these algorithms; None when it is refused."""
        self._tag += 1
        ours = int.from_bytes(os.urandom(4), "little") or 1
        packet = self._ask(build_open_request(self._tag, 0, ours, algorithms), OPEN_RESPONSE)
        if packet is None or packet.payload[1] or len(packet.payload) < 36:
            return None
        if (packet.payload[16], packet.payload[24], packet.payload[32]) != algorithms:
            return None
        return ours, struct.unpack_from("<I", packet.payload, 8)[0]

    def opens_without_password(self, name: str) -> bool:
        """Whether a login with no algorithm at all goes through; it is logged out again."""
        ids = self.open_session((0, 0, 0))
        if ids is None:
            return False
        said = self._say_name(ids[1], name)
        if said is None or said.payload[1]:
            return False
        self._tag += 1
        packet = self._ask(build_open(RAKP3, struct.pack("<BBxxI", self._tag, 0, ids[1])), RAKP4)
        if packet is None or packet.payload[1]:
            return False
        goodbye = build_message(Message(APPLICATION, 1, CLOSE_SESSION, struct.pack("<I", ids[1])))
        self._door.send(RMCP + struct.pack("<BBIIH", RMCP_PLUS, IPMI, ids[1], 1, len(goodbye)) + goodbye)
        return True

    def password_of(self, name: str, candidates: Sequence[str]) -> str | None:
        """Which of ``candidates`` the user has, :data:`UNKNOWN` for another; None when there is no such user."""
        for suite in (SHA256_AES, SHA1_AES):
            ids = self.open_session((suite.authentication, suite.integrity, 1))
            if ids is not None:
                return self._compare(ids, name, candidates, suite)
        return None

    def _compare(self, ids: tuple[int, int], name: str, candidates: Sequence[str], suite: Suite) -> str | None:
        random = os.urandom(16)
        packet = self._say_name(ids[1], name, random)
        if packet is None or packet.payload[1] or len(packet.payload) < 40:
            return None
        theirs, guid, code = packet.payload[8:24], packet.payload[24:40], packet.payload[40:]
        data = struct.pack("<II", *ids) + random + theirs + guid + build_who(name.encode(), USER)
        return next((word for word in candidates if suite.hmac(word.encode(), data) == code), UNKNOWN)

    def _say_name(self, theirs: int, name: str, random: bytes = bytes(16)) -> Packet | None:
        self._tag += 1
        return self._ask(build_name(self._tag, theirs, random, build_who(name.encode(), USER)), RAKP2)

    def _ask(self, data: bytes, kind: int) -> Packet | None:
        for _ in range(TRIES):
            try:
                self._door.send(data)
                for _ in range(TRIES):
                    packet = parse_packet(self._door.recv(4096), lambda session: None)
                    if packet is not None and packet.kind == kind and (kind == IPMI or packet.payload[0] == self._tag):
                        return packet
            except OSError:
                continue
        return None
