"""Asks a thousand controllers for their power at once: one thread, live sessions, no waiting for one before another.

A session is kept from sweep to sweep, so that most sweeps are one packet there and one back for each controller. One
that has died is logged in to again within the same sweep; what is dead costs its own packets and nothing else.
"""

from __future__ import annotations

import heapq
import ipaddress
import selectors
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import count

from provisioner.bmc.login import USER, Dialogue, Stage
from provisioner.bmc.rmcp import SUITES, Message, Suite
from provisioner.bmc.trouble import Failed, Refused, Silent, Trouble
from provisioner.model.hardware import Power

CHASSIS_STATUS = (0x00, 0x01)
BUSY_CODES = frozenset({0xC0, 0xC3, 0xD2})
FIRST_PATIENCE, PATIENCE_GROWTH = 0.4, 1.6
"""Seconds after which a packet is sent again, and how that grows; a lost packet is rare in a rack, a slow controller is
not."""
OLD_SESSION_TRIES = 2
"""Packets without an answer after which a session kept from an earlier sweep is taken for dead."""
BMCS_PER_SOCKET = 64
"""So that the answers of all fit into the sockets' buffers while this thread still sends."""
AT_ONCE = 32
"""Controllers that are sent to before the answers of others are read."""
FIRST_BUSY, LAST_BUSY = 0.1, 1.0

Sockaddr = tuple[str, int]


@dataclass(frozen=True)
class Target:
    """A controller to ask. ``key`` names it in the answers."""

    key: str
    address: str
    port: int
    username: str
    password: str


@dataclass(frozen=True)
class Question:
    """A command (network function, number) with its data. ``optional``: a refusal is no trouble, only no answer."""

    command: tuple[int, int]
    data: bytes = b""
    optional: bool = False


POWER = (Question(CHASSIS_STATUS),)


@dataclass(frozen=True)
class Seen:
    """What one controller said to each question, without completion codes, or the trouble with it.

    ``suite``: the number of the cipher suite of the session. ``at``: seconds since the sweep began.
    """

    key: str
    answers: tuple[bytes | None, ...]
    trouble: Trouble | None
    suite: int
    at: float

    @property
    def power(self) -> Power | None:
        """From an answer to :data:`CHASSIS_STATUS`, which must be the last question."""
        last = self.answers[-1] if self.answers and self.trouble is None else None
        return None if not last else Power.ON if last[0] & 1 else Power.OFF


@dataclass
class _Line:
    """One controller over all sweeps. ``turn`` changes whenever an old timer of its no longer counts."""

    target: Target
    door: socket.socket
    peer: Sockaddr | None = None
    suite: Suite = SUITES[0]
    dialogue: Dialogue | None = None
    kept: bool = False
    waiting: bool = False
    turn: int = 0
    tries: int = 0
    busy: float = 0.0
    answers: list[bytes | None] = field(default_factory=list)
    resolving: Future[Sockaddr] | None = field(default=None, repr=False)


class Poller:
    """Sweeps the controllers given to :meth:`watch`. Not for more than one thread.

    :param clock: seconds, from any start, never back. :param questions: what each is asked, in order.
    :param privilege: what its sessions may do.
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        questions: Sequence[Question] = POWER,
        privilege: int = USER,
    ) -> None:
        self._clock = clock
        self._questions = questions
        self._privilege = privilege
        self._selector = selectors.DefaultSelector()
        self._lines: dict[str, _Line] = {}
        self._doors: dict[int, list[socket.socket]] = {}
        self._users: dict[socket.socket, dict[Sockaddr, _Line]] = {}
        self._timers: list[tuple[float, int, _Line, int]] = []
        self._numbers = count()
        self._names = ThreadPoolExecutor(4, thread_name_prefix="names")
        self._seen: list[Seen] = []
        self._begun = self._end = 0.0
        self._left = 0

    def watch(self, targets: Sequence[Target]) -> None:
        """From now on sweep these; sessions of those that stay the same are kept."""
        wanted = {target.key: target for target in targets}
        for key, line in list(self._lines.items()):
            if wanted.get(key) != line.target:
                self._leave(self._lines.pop(key))
        for key, target in wanted.items():
            if key not in self._lines:
                self._lines[key] = self._enter(target)

    def sweep(self, seconds: float) -> Iterator[Sequence[Seen]]:
        """Ask all; what was seen, in the order and at the moment of the answers, all within ``seconds``."""
        self._begun = self._clock()
        self._end = self._begun + seconds
        self._left = len(self._lines)
        self._timers.clear()
        # Who answers first is who was logged in to: the dead wait behind the living.
        for number, line in enumerate(sorted(self._lines.values(), key=lambda line: not line.kept)):
            self._begin(line)
            if number % AT_ONCE == AT_ONCE - 1:
                self._listen(0.0)
        while self._left or self._seen:
            if self._seen:
                seen, self._seen = self._seen, []
                yield seen
            elif self._left:
                due = self._timers[0][0] if self._timers else self._end
                self._listen(max(0.0, min(due, self._end) - self._clock()))
                self._pass_time()

    def close(self) -> None:
        """Log out everywhere, without waiting for answers."""
        self.watch(())
        for door in self._users:
            self._selector.unregister(door)
            door.close()
        self._selector.close()
        self._names.shutdown(wait=False, cancel_futures=True)

    def _enter(self, target: Target) -> _Line:
        try:
            address = ipaddress.ip_address(target.address)
        except ValueError:
            return _Line(target, self._door(4), resolving=self._names.submit(_resolve, target))
        door = self._door(address.version)
        line = _Line(target, door, peer=(str(address), target.port))
        self._users[door][(str(address), target.port)] = line
        return line

    def _leave(self, line: _Line) -> None:
        if line.dialogue is not None and line.kept and line.peer is not None:
            bye = line.dialogue.bye()
            if bye is not None:
                self._send(line, bye)
        if line.peer is not None:
            self._users[line.door].pop(line.peer, None)
        line.turn += 1

    def _door(self, version: int) -> socket.socket:
        doors = self._doors.setdefault(version, [])
        if not doors or len(self._users[doors[-1]]) >= BMCS_PER_SOCKET:
            door = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
            door.setblocking(False)
            self._selector.register(door, selectors.EVENT_READ)
            self._users[door] = {}
            doors.append(door)
        return doors[-1]

    def _begin(self, line: _Line) -> None:
        line.waiting, line.tries, line.busy = True, 0, 0.0
        line.answers = []
        if line.peer is None and not self._resolved(line):
            return
        if line.dialogue is not None and line.kept:
            self._ask(line)
        else:
            self._log_in(line)

    def _resolved(self, line: _Line) -> bool:
        assert line.resolving is not None
        if not line.resolving.done():
            self._wait(line, 0.02)
            return False
        try:
            line.peer = line.resolving.result()
        except OSError as error:
            cause = error.strerror or type(error).__name__
            self._finish(line, Failed("the address cannot be resolved", cause, "write an IP address"))
            line.resolving = self._names.submit(_resolve, line.target)
            return False
        self._users[line.door][line.peer] = line
        return True

    def _log_in(self, line: _Line) -> None:
        line.kept, line.tries = False, 0
        line.dialogue = Dialogue(line.target.username, line.target.password, line.suite, self._privilege)
        try:
            self._say(line, line.dialogue.greet())
        except Trouble as trouble:
            self._finish(line, trouble)

    def _ask(self, line: _Line) -> None:
        assert line.dialogue is not None
        line.tries = 0
        question = self._questions[len(line.answers)]
        self._say(line, line.dialogue.ask(*question.command, question.data))

    def _say(self, line: _Line, packet: bytes) -> None:
        self._send(line, packet)
        self._wait(line, FIRST_PATIENCE * PATIENCE_GROWTH**line.tries)

    def _send(self, line: _Line, packet: bytes) -> None:
        assert line.peer is not None
        try:
            line.door.sendto(packet, line.peer)
        except OSError:
            pass  # as if lost on the way: it is sent again, and no answer is told as such

    def _wait(self, line: _Line, seconds: float) -> None:
        line.turn += 1
        heapq.heappush(self._timers, (self._clock() + seconds, next(self._numbers), line, line.turn))

    def _listen(self, seconds: float) -> None:
        for ready, _ in self._selector.select(seconds):
            door = ready.fileobj
            assert isinstance(door, socket.socket)
            users = self._users[door]
            for _ in range(BMCS_PER_SOCKET):
                try:
                    data, peer = door.recvfrom(4096)
                except BlockingIOError:
                    break
                except OSError:
                    continue  # an ICMP error for something that was sent before
                line = users.get(peer[:2])
                if line is not None and line.dialogue is not None and line.waiting:
                    self._hear(line, data)

    def _hear(self, line: _Line, data: bytes) -> None:
        dialogue = line.dialogue
        assert dialogue is not None
        before = dialogue.stage
        try:
            said = dialogue.hear(data)
        except Trouble as trouble:
            line.dialogue = None
            self._finish(line, trouble)
            return
        if isinstance(said, Message):
            self._answered(line, said)
        elif isinstance(said, bytes):
            line.tries = 0
            self._say(line, said)
        elif dialogue.stage is Stage.READY and before is not Stage.READY:
            line.suite, line.kept = dialogue.suite, True
            self._ask(line)

    def _answered(self, line: _Line, message: Message) -> None:
        code = message.data[0]
        if code in BUSY_CODES:
            line.busy = min(max(line.busy * 2, FIRST_BUSY), LAST_BUSY)
            self._wait(line, line.busy)
        elif code and not self._questions[len(line.answers)].optional:
            cause = f"completion code {code:#04x} to network function {message.function & ~1:#04x}"
            cause += f" command {message.command:#04x}"
            self._finish(line, Refused("the controller refused the command", cause, "by hand: {ipmitool}"))
        else:
            line.answers.append(None if code else message.data[1:])
            if len(line.answers) == len(self._questions):
                self._finish(line)
            else:
                self._ask(line)

    def _pass_time(self) -> None:
        now = self._clock()
        while self._timers and self._timers[0][0] <= now:
            _, _, line, turn = heapq.heappop(self._timers)
            if line.turn == turn and line.waiting:
                self._too_late(line)
        if now >= self._end:
            for line in self._lines.values():
                if line.waiting:
                    self._finish(line, self._silence(line, now - self._begun))

    def _too_late(self, line: _Line) -> None:
        if line.peer is None:
            self._begin(line)
            return
        assert line.dialogue is not None
        if line.busy:
            self._ask(line)
            return
        line.tries += 1
        if line.kept and line.tries >= OLD_SESSION_TRIES:
            self._log_in(line)  # it forgot the session, or was started anew: controllers say nothing then
        else:
            self._say(line, line.dialogue.repeat())

    def _silence(self, line: _Line, seconds: float) -> Trouble:
        dialogue, line.dialogue = line.dialogue, None
        if dialogue is None or line.peer is None:
            return Failed("the address cannot be resolved", f"no answer in {seconds:.1f} s", "write an IP address")
        if line.busy:
            return Failed("the controller is busy", f"it said so for {seconds:.1f} s", "by hand: {ipmitool}")
        if dialogue.stage is Stage.GREETING:
            return Silent(
                "no answer",
                f"asked {line.tries + 1} times what it offers over {seconds:.1f} s",
                "check that the controller has power and IPMI over LAN enabled, and the way to it; by hand: {ipmitool}",
            )
        if dialogue.stage is Stage.READY:
            hint = "check the way to the controller; by hand: {ipmitool}"
            return Silent("stopped answering", f"logged in, then no answer to a command for {seconds:.1f} s", hint)
        hint = "check the user's name, and that IPMI 2.0 over LAN is enabled; by hand: {ipmitool}"
        return Silent("stopped answering during the login", f"{dialogue.stage.value} for {seconds:.1f} s", hint)

    def _finish(self, line: _Line, trouble: Trouble | None = None) -> None:
        line.waiting = False
        line.turn += 1
        self._left -= 1
        at = self._clock() - self._begun
        self._seen.append(Seen(line.target.key, tuple(line.answers), trouble, line.suite.number, at))


def _resolve(target: Target) -> Sockaddr:
    found = socket.getaddrinfo(target.address, target.port, socket.AF_INET, socket.SOCK_DGRAM)
    return str(found[0][4][0]), int(found[0][4][1])
