"""The worker: ``python -m provisioner.bmc.worker_main [QUIRKS]``. For each controller in use it forks a process.

pyghmi shares sockets, queues and locks among all sessions of a process, so that one dead controller can hold up the
others, and a login may hang for ever. Here each controller has a process to itself, which costs a fork (the library is
loaded once, before) and can be killed alone.

Requests come by standard input, answers leave by standard output, one line of JSON each; see
:class:`~provisioner.bmc.session.Session`. Two lines are this process's own: ``{"drop": ID, "key": KEY}`` is a request
to kill the process of one controller and is answered by ``{"dropped": ID}``; ``{"id": ID, "lost": WHY}`` answers a
request whose process ended without an answer. Passwords travel in these pipes and nowhere else. The end of standard
input ends everything.
"""

from __future__ import annotations

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.bmc.driver import Drivers
from provisioner.bmc.quirks import QuirkEntry, read_quirks
from provisioner.bmc.session import run_session

IDLE_SECONDS = 15.0
"""A session that is not used for so long is logged out: controllers serve a few only, and forget idle ones themselves
after a minute."""
KEPT_SECONDS = {"redfish": 120.0}
"""By driver, where sessions live longer and a login costs more: a sweep then finds the session of the one before."""
GOODBYE_SECONDS = 1.0
DOOR = 3


@dataclass
class Child:
    """The process of one controller. ``request`` is the id of what it does now; after ``idle`` seconds it ends."""

    key: str
    pid: int
    door: socket.socket
    idle: float
    request: int | None = None
    used: float = 0.0
    unread: bytes = field(default=b"")


class Worker:
    def __init__(
        self,
        drivers: Drivers,
        inward: int,
        outward: int,
        idle: float = IDLE_SECONDS,
        quirks: Sequence[QuirkEntry] = (),
    ) -> None:
        self._idle = idle
        self._drivers = drivers
        self._quirks = quirks
        self._inward = inward
        self._outward = outward
        self._unread = b""
        self._by_key: dict[str, Child] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(inward, selectors.EVENT_READ)
        self._children: set[int] = set()

    def run(self) -> None:
        """Serve until standard input ends."""
        while True:
            for ready, _ in self._selector.select(timeout=min(self._idle, 1.0)):
                if ready.data is not None:
                    self._hear(ready.data)
                elif not self._take_requests():
                    self._end()
                    return
            self._close_idle()
            self._reap()

    def _take_requests(self) -> bool:
        data = os.read(self._inward, 65536)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            request = json.loads(line)
            if "drop" in request:
                self._drop(request)
            else:
                self._give(request, line)
        return bool(data)

    def _give(self, request: dict[str, Any], line: bytes) -> None:
        if request["driver"] not in self._drivers:
            known = ", ".join(sorted(self._drivers))
            self._say({"id": request["id"], "unknown_driver": known})
            return
        child = self._by_key.get(request["key"]) or self._fork(request["key"], request["driver"])
        child.request = request["id"]
        child.used = time.monotonic()
        try:
            child.door.sendall(line + b"\n")
        except OSError as error:  # it has ended in this very moment
            self._lose(child, f"could not be given the request ({error.strerror})")

    def _fork(self, key: str, driver: str) -> Child:
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            try:
                self._be_child(theirs)
            finally:
                os._exit(0)  # no exit handlers: they are this process's parent's
        theirs.close()
        child = Child(key, pid, ours, max(self._idle, KEPT_SECONDS.get(driver, 0.0)))
        self._by_key[key] = child
        self._children.add(pid)
        self._selector.register(ours, selectors.EVENT_READ, child)
        return child

    def _be_child(self, door: socket.socket) -> None:
        """Keep the door only, at a low number, because pyghmi's ``select`` takes none above 1023."""
        os.dup2(door.detach(), DOOR)
        os.closerange(DOOR + 1, max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1)
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(nothing, 1)  # pyghmi prints some of its errors
        os.dup2(nothing, 2)
        os.close(nothing)
        run_session(self._drivers, socket.socket(fileno=DOOR), self._quirks)

    def _hear(self, child: Child) -> None:
        try:
            data = child.door.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._lose(child, "its process ended without an answer")
            return
        *lines, child.unread = (child.unread + data).split(b"\n")
        for line in lines:
            answer = json.loads(line)
            child.request = None
            child.used = time.monotonic()
            if "error" in answer:
                self._forget(child)
            self._say(answer)

    def _drop(self, request: dict[str, Any]) -> None:
        child = self._by_key.get(request["key"])
        if child is not None and child.request == request["drop"]:
            os.kill(child.pid, signal.SIGKILL)
            child.request = None
            self._forget(child)
        self._say({"dropped": request["drop"]})

    def _lose(self, child: Child, why: str) -> None:
        if child.request is not None:
            self._say({"id": child.request, "lost": why})
            child.request = None
        self._forget(child)

    def _forget(self, child: Child) -> None:
        """The next request gets a fresh process; this one sees its door closed, says goodbye and ends."""
        if self._by_key.get(child.key) is child:
            del self._by_key[child.key]
        if child.door.fileno() >= 0:
            self._selector.unregister(child.door)
            child.door.close()

    def _close_idle(self) -> None:
        now = time.monotonic()
        for child in list(self._by_key.values()):
            if child.request is None and now - child.used > child.idle:
                self._forget(child)

    def _reap(self) -> None:
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)

    def _end(self) -> None:
        for child in list(self._by_key.values()):
            self._forget(child)
        end = time.monotonic() + GOODBYE_SECONDS
        while self._children and time.monotonic() < end:
            time.sleep(0.01)
            self._reap()
        for pid in self._children:
            os.kill(pid, signal.SIGKILL)  # ours and not reaped yet, so the number is still its own

    def _say(self, message: dict[str, Any]) -> None:
        left = memoryview(json.dumps(message).encode() + b"\n")
        while left:
            left = left[os.write(self._outward, left) :]


def main(drivers: Drivers, idle: float = IDLE_SECONDS, quirks: Sequence[QuirkEntry] = ()) -> int:
    """Be the worker until standard input ends."""
    outward = os.dup(1)
    os.dup2(2, 1)  # whoever prints does not print into the answers
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # else each collection of a child writes to the pages that it shares with this process
    try:
        Worker(drivers, 0, outward, idle, quirks).run()
    except BrokenPipeError:
        return 1  # nobody reads the answers any more
    return 0


if __name__ == "__main__":
    from provisioner.bmc.drivers import DRIVERS  # only here: tests serve drivers of their own without pyghmi

    sys.exit(main(DRIVERS, quirks=read_quirks(Path(sys.argv[1])) if len(sys.argv) > 1 else ()))
