"""Packets of IPMI 2.0 over LAN (RMCP+), for both sides of a session. Pure; no sockets, no clock.

Numbers and tables are those of the IPMI specification 2.0, revision 1.1.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

RMCP = bytes((0x06, 0x00, 0xFF, 0x07))
"""Version, reserved, no acknowledgement, class IPMI (13.1.3)."""
PLAIN, RMCP_PLUS = 0x00, 0x06
IPMI, OPEN_REQUEST, OPEN_RESPONSE, RAKP1, RAKP2, RAKP3, RAKP4 = 0x00, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15
SEALED = 0xC0
"""Encrypted and authenticated, in the payload type (table 13-8)."""
BMC, CONSOLE = 0x20, 0x81
NAME_ONLY = 0x10
"""The user is found by name alone, whatever the privilege that is asked for (13.20)."""
BLOCK = 16
APPLICATION, CAPABILITIES, CLOSE_SESSION = 0x06, 0x38, 0x3C
THIS_CHANNEL, WITH_VERSION_2 = 0x0E, 0x80


@dataclass(frozen=True)
class Suite:
    """A cipher suite (table 22-20): numbers of its algorithms, and how long its authentication codes are."""

    number: int
    digest: Callable[..., Any]
    authentication: int
    integrity: int
    code_length: int

    def hmac(self, key: bytes, data: bytes) -> bytes:
        return hmac.digest(key, data, self.digest)


SHA256_AES = Suite(17, hashlib.sha256, 3, 4, 16)
SHA1_AES = Suite(3, hashlib.sha1, 1, 1, 12)
SUITES = (SHA256_AES, SHA1_AES)
"""Those that are offered, the best first; all others are weaker than what is left in practice."""


@dataclass(frozen=True)
class Keys:
    """What both sides of a session derive from the password (13.31, 13.32)."""

    suite: Suite
    integrity: bytes
    confidentiality: bytes

    @classmethod
    def derive(cls, suite: Suite, sik: bytes) -> Keys:
        """:param sik: the session integrity key, see :func:`derive_sik`."""
        return cls(suite, suite.hmac(sik, b"\x01" * 20), suite.hmac(sik, b"\x02" * 20)[:BLOCK])


def derive_sik(suite: Suite, password: bytes, console_random: bytes, bmc_random: bytes, who: bytes) -> bytes:
    """The session integrity key (13.31). :param who: see :func:`build_who`."""
    return suite.hmac(password, console_random + bmc_random + who)


def build_who(name: bytes, privilege: int) -> bytes:
    """A user as both sides' proofs have it: the privilege that is asked for, looked up by name alone, and the name."""
    return bytes((NAME_ONLY | privilege, len(name))) + name


@dataclass(frozen=True)
class Packet:
    """One packet with a payload that its receiver may use. ``session`` 0 and ``sequence`` 0: outside of sessions."""

    kind: int
    session: int
    sequence: int
    payload: bytes


@dataclass(frozen=True)
class Message:
    """An IPMI message (13.8). In an answer ``data`` begins with the completion code."""

    function: int
    number: int
    command: int
    data: bytes


def build_message(message: Message, *, to: int = BMC, sender: int = CONSOLE) -> bytes:
    head = bytes((to, message.function << 2))
    body = bytes((sender, message.number << 2, message.command)) + message.data
    return head + _checksum(head) + body + _checksum(body)


def parse_message(data: bytes) -> Message | None:
    """None: it is none, or was damaged on the way."""
    if len(data) < 7 or _checksum(data[:2])[0] != data[2] or _checksum(data[3:-1])[0] != data[-1]:
        return None
    return Message(data[1] >> 2, data[4] >> 2, data[5], data[6:-1])


def _checksum(data: bytes) -> bytes:
    return bytes((-sum(data) & 0xFF,))


def build_plain(message: bytes) -> bytes:
    """A message outside of any session, in the form of IPMI 1.5 (table 13-8)."""
    return RMCP + struct.pack("<BIIB", PLAIN, 0, 0, len(message)) + message


def build_open(kind: int, payload: bytes) -> bytes:
    """A payload of the login, which is neither encrypted nor authenticated."""
    return RMCP + struct.pack("<BBIIH", RMCP_PLUS, kind, 0, 0, len(payload)) + payload


def build_greeting(privilege: int) -> bytes:
    """Get Channel Authentication Capabilities of this channel, with those of IPMI 2.0: anyone may ask it (22.13)."""
    question = bytes((WITH_VERSION_2 | THIS_CHANNEL, privilege))
    return build_plain(build_message(Message(APPLICATION, 0, CAPABILITIES, question)))


def build_open_request(tag: int, privilege: int, session: int, algorithms: tuple[int, int, int]) -> bytes:
    """RMCP+ Open Session Request (13.17). :param algorithms: of authentication, integrity and confidentiality."""
    wanted = b"".join(struct.pack("<BxxBBxxx", kind, 8, number) for kind, number in enumerate(algorithms))
    return build_open(OPEN_REQUEST, struct.pack("<BBxxI", tag, privilege, session) + wanted)


def build_name(tag: int, session: int, random: bytes, who: bytes) -> bytes:
    """RAKP message 1 (13.20). :param session: the controller's id."""
    return build_open(RAKP1, struct.pack("<BxxxI", tag, session) + random + who[:1] + b"\0\0" + who[1:])


def build_sealed(keys: Keys, session: int, sequence: int, message: bytes) -> bytes:
    """A message inside a session: AES-CBC-128 (13.29), then an authentication code over all of it (13.28)."""
    fill = -(len(message) + 1) % BLOCK
    vector = os.urandom(BLOCK)
    padded = message + bytes(range(1, fill + 1)) + bytes((fill,))
    sealer = Cipher(AES(keys.confidentiality), CBC(vector)).encryptor()
    payload = vector + sealer.update(padded) + sealer.finalize()
    body = struct.pack("<BBIIH", RMCP_PLUS, SEALED | IPMI, session, sequence, len(payload)) + payload
    fill = -(len(body) + 2) % 4
    body += b"\xff" * fill + bytes((fill, 0x07))
    return RMCP + body + keys.suite.hmac(keys.integrity, body)[: keys.suite.code_length]


def parse_packet(data: bytes, keys: Callable[[int], Keys | None]) -> Packet | None:
    """What ``data`` holds; None when it is not for us, forged or damaged.

    :param keys: the keys of a session by its receiver's id.
    """
    try:
        if data[:4] != RMCP:
            return None
        if data[4] == PLAIN:
            sequence, session, length = struct.unpack_from("<IIB", data, 5)
            return Packet(IPMI, 0, 0, data[14 : 14 + length]) if not session and not sequence else None
        form, kind, session, sequence, length = struct.unpack_from("<BBIIH", data, 4)
        if form != RMCP_PLUS:
            return None
        payload = data[16 : 16 + length]
        if len(payload) != length:
            return None
        if not kind & SEALED:
            return Packet(kind, 0, 0, payload) if not session else None
        return _open(data, kind, session, sequence, payload, keys(session))
    except (struct.error, IndexError):
        return None


def _open(data: bytes, kind: int, session: int, sequence: int, payload: bytes, keys: Keys | None) -> Packet | None:
    if keys is None or kind & SEALED != SEALED or len(payload) < 2 * BLOCK or len(payload) % BLOCK:
        return None
    body, code = data[4 : -keys.suite.code_length], data[-keys.suite.code_length :]
    if not hmac.compare_digest(keys.suite.hmac(keys.integrity, body)[: keys.suite.code_length], code):
        return None
    opener = Cipher(AES(keys.confidentiality), CBC(payload[:BLOCK])).decryptor()
    padded = opener.update(payload[BLOCK:]) + opener.finalize()
    return Packet(kind & 0x3F, session, sequence, padded[: -1 - padded[-1]])
