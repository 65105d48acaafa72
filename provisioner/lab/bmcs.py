"""Management controllers that are only a program: they speak real IPMI 2.0, many to a process, and fail when told to.

For tests and for planning what a seed can carry; ``ipmi_sim`` is the lab's other controller, and the independent one.
The specification is IPMI 2.0, revision 1.1.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import selectors
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from provisioner.bmc.rmcp import (
    IPMI,
    OPEN_REQUEST,
    OPEN_RESPONSE,
    RAKP1,
    RAKP2,
    RAKP3,
    RAKP4,
    SUITES,
    Keys,
    Message,
    Packet,
    Suite,
    build_message,
    build_open,
    build_plain,
    build_sealed,
    derive_sik,
    parse_message,
    parse_packet,
)

CHASSIS, APPLICATION, STORAGE = 0x00, 0x06, 0x0A
COMPLETED, BUSY, INVALID_COMMAND, NO_PARAMETER = b"\x00", b"\xc0", b"\xc1", b"\x80"
DEVICE_ID = bytes((0x20, 0x01, 0x09, 0x08, 0x02, 0x9F, 0x91, 0x12, 0x00, 0x02, 0x0F))
"""Device, revision, firmware 9.08, IPMI 2.0, what it can do, manufacturer, product (table 20-2)."""
SESSIONS_AT_ONCE = 16
NO_CIPHER = Suite(0, hashlib.sha1, 0, 0, 0)
NOTHING = b"no proof is asked for"


@dataclass
class Faults:
    """How a controller misbehaves; may be changed while it runs.

    :param silent: nothing is answered. :param deaf_to: nothing is answered to these payload kinds of a login.
    :param drop: every so many-th packet is lost. :param late: seconds each answer comes late.
    :param busy: so many commands are answered "node busy" first. :param lazy: power commands are taken and not done.
    :param power: what it says of the power, whatever is true. :param forgetful: it drops its sessions after so many
        commands. :param garbage: it answers with noise.
    """

    silent: bool = False
    deaf_to: tuple[int, ...] = ()
    drop: int = 0
    late: float = 0.0
    busy: int = 0
    lazy: bool = False
    power: bool | None = None
    forgetful: int = 0
    garbage: bool = False


@dataclass
class _Guest:
    """One session, from the wish to have one."""

    console: int
    suite: Suite
    random: bytes = b""
    keys: Keys | None = None
    proof: bytes = b""
    accepted: bytes = b""
    name: str = ""
    open: bool = False
    sequence: int = 0


@dataclass
class SimulatedBmc:
    """One controller. ``users`` are passwords by name, ``privilege`` is the most that each may be (table 13-18);
    ``boot`` holds the boot flags (table 28-14, parameter 5), ``cipher_zero``: anyone is let in who asks for suite 0."""

    users: dict[str, str]
    privilege: int = 4
    suites: Sequence[Suite] = SUITES
    cipher_zero: bool = False
    power: bool = False
    boot: bytes = bytes(5)
    guid: bytes = field(default_factory=lambda: os.urandom(16))
    faults: Faults = field(default_factory=Faults)
    told: list[str] = field(default_factory=list)
    """The words of each command that changes something, in order."""
    event_log: dict[int, bytes] = field(default_factory=dict)
    """Records by number: kind, and what follows."""

    def __post_init__(self) -> None:
        self._guests: dict[int, _Guest] = {}
        self._packets = 0
        self._commands = 0

    def hear(self, data: bytes) -> bytes | None:
        """The answer to a packet, if there is one."""
        self._packets += 1
        if self.faults.silent or (self.faults.drop and self._packets % self.faults.drop == 0):
            return None
        if self.faults.garbage:
            return os.urandom(48)
        packet = parse_packet(data, self._keys)
        if packet is None or packet.kind in self.faults.deaf_to:
            return None
        if packet.kind == IPMI:
            return self._command(packet)
        answers = {OPEN_REQUEST: self._open, RAKP1: self._name, RAKP3: self._prove}
        return answers[packet.kind](packet.payload) if packet.kind in answers else None

    def _keys(self, session: int) -> Keys | None:
        guest = self._guests.get(session)
        return guest.keys if guest is not None and guest.open else None

    def _open(self, payload: bytes) -> bytes:
        tag, console = payload[0], struct.unpack_from("<I", payload, 4)[0]
        wanted = (payload[12], payload[20])
        suite = next((s for s in self.suites if (s.authentication, s.integrity) == wanted and payload[28] == 1), None)
        if self.cipher_zero and (*wanted, payload[28]) == (0, 0, 0):
            suite = NO_CIPHER
        if suite is None:
            return build_open(OPEN_RESPONSE, bytes((tag, 0x11)))  # as short as ipmi_sim's
        while len(self._guests) >= SESSIONS_AT_ONCE:
            del self._guests[next(iter(self._guests))]
        ident = int.from_bytes(os.urandom(4), "little") or 1
        self._guests[ident] = _Guest(console, suite)
        return build_open(OPEN_RESPONSE, struct.pack("<BBBxII", tag, 0, 4, console, ident) + payload[8:32])

    def _name(self, payload: bytes) -> bytes | None:
        tag, ident = payload[0], struct.unpack_from("<I", payload, 4)[0]
        guest = self._guests.get(ident)
        if guest is None:
            return build_open(RAKP2, struct.pack("<BBxxI", tag, 0x02, 0))
        random, who = payload[8:24], payload[24:25] + payload[27:]
        guest.name = who[2 : 2 + who[1]].decode(errors="replace")
        if guest.suite is NO_CIPHER:
            guest.accepted = NOTHING
            return build_open(RAKP2, struct.pack("<BBxxI", tag, 0, guest.console) + bytes(16) + self.guid)
        password = self.users.get(guest.name)
        if password is None:
            return build_open(RAKP2, struct.pack("<BBxxI", tag, 0x0D, guest.console))
        if who[0] & 0x0F > self.privilege:
            return build_open(RAKP2, struct.pack("<BBxxI", tag, 0x09, guest.console))
        key, suite = password.encode(), guest.suite
        guest.random = os.urandom(16)
        ids = struct.pack("<II", guest.console, ident)
        sik = derive_sik(suite, key, random, guest.random, who)
        guest.keys = Keys.derive(suite, sik)
        guest.accepted = suite.hmac(key, guest.random + ids[:4] + who)
        guest.proof = suite.hmac(sik, random + ids[4:] + self.guid)[: suite.code_length]
        code = suite.hmac(key, ids + random + guest.random + self.guid + who)
        head = struct.pack("<BBxxI", tag, 0, guest.console)
        return build_open(RAKP2, head + guest.random + self.guid + code)

    def _prove(self, payload: bytes) -> bytes | None:
        tag, ident = payload[0], struct.unpack_from("<I", payload, 4)[0]
        guest = self._guests.get(ident)
        if guest is None or not guest.accepted:
            return build_open(RAKP4, struct.pack("<BBxxI", tag, 0x02, 0))
        if guest.suite is NO_CIPHER:
            return build_open(RAKP4, struct.pack("<BBxxI", tag, 0, guest.console))
        if not hmac.compare_digest(guest.accepted, payload[8:]):
            return build_open(RAKP4, struct.pack("<BBxxI", tag, 0x0F, guest.console))
        guest.open = True
        return build_open(RAKP4, struct.pack("<BBxxI", tag, 0, guest.console) + guest.proof)

    def _command(self, packet: Packet) -> bytes | None:
        message = parse_message(packet.payload)
        if message is None:
            return None
        if not packet.session:
            if message.command != 0x38:
                return None
            answer = COMPLETED + bytes((1, 0x80, 0x04, 0x02, 0, 0, 0, 0))  # IPMI 2.0, non-null users (table 22-16)
            return build_plain(self._reply(message, answer))
        guest = self._guests[packet.session]
        self._commands += 1
        if self.faults.forgetful and self._commands % self.faults.forgetful == 0:
            self._guests.clear()
            return None
        if self.faults.busy:
            self.faults.busy -= 1
            answer = BUSY
        else:
            answer = self._do(message, packet.session)
        guest.sequence += 1
        assert guest.keys is not None
        return build_sealed(guest.keys, guest.console, guest.sequence, self._reply(message, answer))

    def _reply(self, message: Message, answer: bytes) -> bytes:
        said = Message(message.function | 1, message.number, message.command, answer)
        return build_message(said, to=0x81, sender=0x20)

    def _do(self, message: Message, session: int) -> bytes:
        where, data = (message.function, message.command), message.data
        if where == (APPLICATION, 0x01):
            return COMPLETED + DEVICE_ID
        if where == (APPLICATION, 0x37):
            return COMPLETED + self.guid
        if where == (APPLICATION, 0x3B):
            return COMPLETED + (data[:1] or b"\x04")
        if where == (APPLICATION, 0x3C):
            self._guests.pop(session, None)
            return COMPLETED
        if where == (CHASSIS, 0x01):
            on = self.power if self.faults.power is None else self.faults.power
            return COMPLETED + bytes((0x60 | on, 0, 0x40))
        if where == (CHASSIS, 0x02):
            return self._control(data[0] & 0x0F)
        if where == (CHASSIS, 0x08):
            return self._set_boot(data)
        if where == (CHASSIS, 0x09):
            return COMPLETED + b"\x01\x05" + self.boot if data[0] & 0x7F == 5 else NO_PARAMETER
        if where == (STORAGE, 0x43):
            number = int.from_bytes(data[2:4], "little")
            record = self.event_log.get(number)
            return b"\xcb" if record is None else COMPLETED + b"\xff\xff" + data[2:4] + record
        return INVALID_COMMAND

    def write_event(self, record: bytes) -> int:
        """As from inside the server. :param record: kind and 13 bytes. :returns: its number."""
        number = len(self.event_log) + 1
        self.event_log[number] = record
        return number

    def _control(self, word: int) -> bytes:
        words = {0: "off", 1: "on", 2: "cycle", 3: "reset", 5: "soft"}
        if word not in words:
            return b"\xcc"
        self.told.append(f"power {words[word]}")
        if not self.faults.lazy:
            self.power = word in (1, 2, 3)
        return COMPLETED

    def _set_boot(self, data: bytes) -> bytes:
        if data[0] & 0x7F == 5:
            self.boot = data[1:6]
            self.told.append(f"boot {self.boot.hex()}")
        return COMPLETED if data[0] & 0x7F in (0, 3, 4, 5) else NO_PARAMETER


class SimulatedRack:
    """Controllers, each at a UDP port of its own on the loopback, served by one thread until closed."""

    def __init__(self, bmcs: Sequence[SimulatedBmc], address: str = "127.0.0.1") -> None:
        self.bmcs = list(bmcs)
        self.ports: list[int] = []
        self._selector = selectors.DefaultSelector()
        self._stop, stop = socket.socketpair()
        self._selector.register(stop, selectors.EVENT_READ)
        self._doors = [stop]
        for bmc in self.bmcs:
            door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            door.setblocking(False)
            door.bind((address, 0))
            self._doors.append(door)
            self.ports.append(int(door.getsockname()[1]))
            self._selector.register(door, selectors.EVENT_READ, bmc.hear)
        self._late: list[tuple[float, socket.socket, bytes, tuple[str, int]]] = []
        self._thread = threading.Thread(target=self._serve, name="simulated rack", daemon=True)
        self._thread.start()

    def __enter__(self) -> SimulatedRack:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stop.send(b".")
        self._thread.join()
        for door in (*self._doors, self._stop):
            door.close()
        self._selector.close()

    def _serve(self) -> None:
        while True:
            self._late.sort(key=lambda entry: entry[0])
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else None
            for ready, _ in self._selector.select(wait):
                if ready.data is None:
                    return
                self._answer(ready.fileobj, ready.data)  # type: ignore[arg-type]
            while self._late and self._late[0][0] <= time.monotonic():
                _, door, answer, sender = self._late.pop(0)
                door.sendto(answer, sender)

    def _answer(self, door: socket.socket, hear: Callable[[bytes], bytes | None]) -> None:
        try:
            data, sender = door.recvfrom(4096)
        except OSError:
            return  # an earlier answer met a closed port
        answer = hear(data)
        bmc = hear.__self__  # type: ignore[attr-defined]
        if answer is not None and bmc.faults.late:
            self._late.append((time.monotonic() + bmc.faults.late, door, answer, sender))
        elif answer is not None:
            door.sendto(answer, sender)
