"""One session with one controller, from the first packet to the last, without sockets, clock or waiting.

Whoever owns a :class:`Dialogue` sends what it gives, gives it what arrives, and says when time has passed. The order of
the login is that of the IPMI specification 2.0, revision 1.1, 13.15 to 13.24.
"""

from __future__ import annotations

import hmac
import os
import struct
from enum import Enum

from provisioner.bmc.rmcp import (
    APPLICATION,
    CAPABILITIES,
    CLOSE_SESSION,
    IPMI,
    OPEN_RESPONSE,
    RAKP2,
    RAKP3,
    RAKP4,
    SUITES,
    Keys,
    Message,
    Packet,
    Suite,
    build_greeting,
    build_message,
    build_name,
    build_open,
    build_open_request,
    build_sealed,
    build_who,
    derive_sik,
    parse_message,
    parse_packet,
)
from provisioner.bmc.trouble import CHECK_PASSWORD, CHECK_USER, Failed, Refused, Trouble

USER, OPERATOR, ADMINISTRATOR = 0x02, 0x03, 0x04
"""Privileges (table 13-18)."""
NO_SUITE = frozenset({0x04, 0x05, 0x06, 0x07, 0x10, 0x11})
STATUS: dict[int, tuple[type[Trouble], str, str]] = {
    0x01: (Failed, "the controller has no session left", "log others out, or wait a minute until it forgets idle ones"),
    0x09: (Refused, "the user lacks the privilege", CHECK_USER),
    0x0A: (Refused, "the user lacks the privilege", CHECK_USER),
    0x0B: (Failed, "the controller has no session left", "log others out, or wait a minute until it forgets idle ones"),
    0x0C: (Refused, "the user is unknown", CHECK_USER),
    0x0D: (Refused, "the user is unknown", CHECK_USER),
    0x0F: (Refused, "the password is wrong", CHECK_PASSWORD),
}
"""RMCP+ status codes (table 13-15) that mean something to an operator."""
WRONG_PASSWORD = Refused(
    "the password is wrong",
    "the controller knows the user, but proved another password (RAKP message 2)",
    CHECK_PASSWORD,
)


class Stage(Enum):
    """What the controller is to answer next; the words are for people."""

    GREETING = "asked what it offers"
    OPENING = "it said what it offers; then asked for a session"
    NAMING = "a session was opened; then nothing followed the user's name"
    PROVING = "the user's name was taken; then nothing followed the proof of the password"
    READY = "logged in"


class Dialogue:
    """One session of ``username``; ``suite`` is the cipher suite to try first, all weaker ones follow.

    :param privilege: what is asked for. A user's is enough for reading, and a stolen session can do no more then.
    """

    def __init__(self, username: str, password: str, suite: Suite = SUITES[0], privilege: int = USER) -> None:
        self.stage = Stage.GREETING
        self.suite = suite
        self._name = username.encode()
        self._password = password.encode()
        self._id = int.from_bytes(os.urandom(4), "little") or 1
        self._theirs = 0
        self._random = os.urandom(16)
        self._privilege = privilege
        self._who = build_who(self._name, privilege)
        self._keys: Keys | None = None
        self._proof = b""
        self._tag = 0
        self._number = 0
        self._sequence = 0
        self._asked: Message | None = None
        self._last = b""
        self._repeated = False

    def greet(self) -> bytes:
        """The first packet."""
        if len(self._name) > 16:
            raise Refused("the user is unknown", "IPMI names have at most 16 bytes", CHECK_USER)
        self._last = build_greeting(self._privilege)
        return self._last

    def ask(self, function: int, command: int, data: bytes = b"") -> bytes:
        """A command, once the stage is ready."""
        self._number = self._number % 0x3F + 1
        self._asked = Message(function, self._number, command, data)
        return self._seal(self._asked)

    def repeat(self) -> bytes:
        """What was sent last, once more, because no answer came."""
        self._repeated = True
        return self._last if self._asked is None else self._seal(self._asked)

    def bye(self) -> bytes | None:
        """The packet that ends the session; nobody waits for its answer."""
        return None if self._keys is None else self.ask(APPLICATION, CLOSE_SESSION, struct.pack("<I", self._theirs))

    def hear(self, data: bytes) -> bytes | Message | None:
        """Take what arrived: the packet to send next, the answer to the command asked, or None.

        None also at the moment when the stage becomes ready. What does not fit is left aside: it may be late or forged.

        :raises Trouble: the controller said no.
        """
        packet = parse_packet(data, lambda session: self._keys if session == self._id else None)
        if packet is None:
            return None
        if packet.kind == IPMI:
            return self._greeted(packet) if self.stage is Stage.GREETING else self._answered(packet)
        # A refusal may be as short as tag and status.
        if len(packet.payload) < 2 or packet.payload[0] != self._tag:
            return None
        if packet.kind == OPEN_RESPONSE and self.stage is Stage.OPENING:
            return self._opened(packet.payload)
        # A repeated RAKP 1 makes some controllers choose another random number, which then is the one that counts.
        if packet.kind == RAKP2 and self.stage in (Stage.NAMING, Stage.PROVING):
            return self._named(packet.payload)
        if packet.kind == RAKP4 and self.stage is Stage.PROVING:
            self._proved(packet.payload)
        return None

    def _greeted(self, packet: Packet) -> bytes | None:
        message = parse_message(packet.payload)
        if message is None or message.command != CAPABILITIES or packet.session:
            return None
        if not message.data or message.data[0]:
            raise Failed("the controller does not say what it offers", f"its answer is {message.data.hex() or 'empty'}")
        if len(message.data) < 5 or not message.data[2] & 0x80 or not message.data[4] & 0x02:
            raise Refused(
                "the controller does not offer IPMI 2.0",
                "version 1.5 has no encryption and is not used",
                "update the controller's firmware, or enable IPMI 2.0 (RMCP+) in its settings",
            )
        return self._open()

    def _open(self) -> bytes:
        self.stage = Stage.OPENING
        self._tag += 1
        algorithms = (self.suite.authentication, self.suite.integrity, 1)
        self._last = build_open_request(self._tag, self._privilege, self._id, algorithms)
        return self._last

    def _opened(self, payload: bytes) -> bytes | None:
        if payload[1] in NO_SUITE:
            return self._weaker()
        _check(payload[1], "the answer to our wish for a session")
        if len(payload) < 36 or struct.unpack_from("<I", payload, 4)[0] != self._id:
            return None
        if (payload[16], payload[24], payload[32]) != (self.suite.authentication, self.suite.integrity, 1):
            return self._weaker()  # it chose others than were offered, and would not say so again
        self._theirs = struct.unpack_from("<I", payload, 8)[0]
        self.stage = Stage.NAMING
        self._tag += 1
        self._last = build_name(self._tag, self._theirs, self._random, self._who)
        return self._last

    def _weaker(self) -> bytes:
        rest = SUITES[SUITES.index(self.suite) + 1 :]
        if not rest:
            raise Refused(
                "no common cipher suite",
                "the controller accepts neither suite 17 (SHA-256) nor suite 3 (SHA-1)",
                "allow cipher suite 17 or 3 in the controller's settings",
            )
        self.suite = rest[0]
        return self._open()

    def _named(self, payload: bytes) -> bytes | None:
        _check(payload[1], "RAKP message 2")
        if len(payload) < 40 or struct.unpack_from("<I", payload, 4)[0] != self._id:
            return None
        theirs, guid, code = payload[8:24], payload[24:40], payload[40:]
        ids = struct.pack("<II", self._id, self._theirs)
        expected = self.suite.hmac(self._password, ids + self._random + theirs + guid + self._who)
        if not hmac.compare_digest(expected, code):
            raise WRONG_PASSWORD
        sik = derive_sik(self.suite, self._password, self._random, theirs, self._who)
        self._keys = Keys.derive(self.suite, sik)
        self._proof = self.suite.hmac(sik, self._random + ids[4:] + guid)[: self.suite.code_length]
        self.stage = Stage.PROVING
        self._tag += 1
        mine = self.suite.hmac(self._password, theirs + ids[:4] + self._who)
        self._last = build_open(RAKP3, struct.pack("<BBxxI", self._tag, 0, self._theirs) + mine)
        return self._last

    def _proved(self, payload: bytes) -> None:
        if payload[1] and self._repeated:
            raise Failed("the login was lost", f"packets crossed on the way (RAKP message 4, status {payload[1]:#04x})")
        _check(payload[1], "RAKP message 4")
        if len(payload) < 8 or struct.unpack_from("<I", payload, 4)[0] != self._id:
            return
        if not hmac.compare_digest(payload[8:], self._proof):
            raise Refused(
                "the controller uses a second key (Kg)",
                "user and password are right, but the session key is not (RAKP message 4)",
                "set the controller's Kg key to empty",
            )
        self.stage = Stage.READY

    def _answered(self, packet: Packet) -> Message | None:
        message = parse_message(packet.payload) if packet.session else None
        asked = self._asked
        if message is None or asked is None or not message.data:
            return None
        if (message.function, message.number, message.command) != (asked.function | 1, asked.number, asked.command):
            return None
        self._asked = None
        return message

    def _seal(self, message: Message) -> bytes:
        assert self._keys is not None
        self._sequence += 1
        self._last = build_sealed(self._keys, self._theirs, self._sequence, build_message(message))
        return self._last


def _check(status: int, where: str) -> None:
    if not status:
        return
    kind, summary, hint = STATUS.get(status, (Refused, "the login was refused", CHECK_PASSWORD))
    raise kind(summary, f"RMCP+ status {status:#04x} in {where}", hint)
