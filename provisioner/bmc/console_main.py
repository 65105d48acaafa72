"""One serial console over IPMI: ``python -m provisioner.bmc.console_main``. Ends when its standard input ends.

In: one line of JSON with ``address``, ``port``, ``username``, ``password`` and ``force``, then the bytes to type. Out:
the bytes that the node writes. On an error: one line of JSON ``{"kind", "summary", "cause", "hint"}`` on standard
error, and code 1.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections import deque
from typing import Any

from pyghmi.ipmi.console import Console
from pyghmi.ipmi.private.session import Session

from provisioner.bmc.ipmi_troubles import REFUSALS

TURN_SECONDS, LISTENING_SECONDS = 0.02, 0.1
"""How long what was typed, or the end, may lie there; a console that is only listened to turns less often."""
LOGIN_SECONDS = 10
SILENCES = ("None", "", "timeout")
IN_USE = "active for another client"


class _Terminal:
    """What pyghmi calls with what it hears, and the queue of what was typed meanwhile."""

    def __init__(self, outward: int) -> None:
        self.error: str | None = None
        self.typed: deque[bytes | None] = deque()
        self._outward = outward

    def hear(self, data: Any) -> None:
        if isinstance(data, dict):
            self.error = str(data["error"]) if "error" in data else self.error
            return
        left = memoryview(data if isinstance(data, bytes) else bytes(data, "utf-8"))
        while left:
            left = left[os.write(self._outward, left) :]

    def read(self, inward: int) -> None:
        """Keep what is typed until the main thread sends it: the library is not made for two threads."""
        while data := os.read(inward, 1024):
            self.typed.append(data)
        self.typed.append(None)


def run(way: dict[str, Any], terminal: _Terminal) -> str | None:
    """Carry bytes until there is nothing more to type; the error that ended it sooner, in pyghmi's words."""
    signal.signal(signal.SIGALRM, lambda *_: os._exit(2))
    signal.alarm(LOGIN_SECONDS)
    console = Console(
        way["address"], way["username"], way["password"], terminal.hear, port=way["port"], force=way["force"]
    )
    while not console.connected and terminal.error is None:
        Session.wait_for_rsp(TURN_SECONDS)
    signal.alarm(0)
    turn = TURN_SECONDS if way["force"] else LISTENING_SECONDS
    while terminal.error is None:
        Session.wait_for_rsp(turn)
        while terminal.typed:
            data = terminal.typed.popleft()
            if data is None:
                console.close()
                console.ipmi_session.logout()
                return None
            console.send_data(data)
    return terminal.error


def explain(words: str) -> dict[str, str]:
    """The error for people."""
    if IN_USE in words:
        return {
            "kind": "refused",
            "summary": "the console is in use",
            "cause": "the controller has one serial-over-LAN session, and another client holds it",
            "hint": "end the other one: {ipmitool:sol deactivate}",
        }
    if words in SILENCES:
        hint = "check that the controller has power and IPMI over LAN enabled, and the way to it; by hand: {ipmitool}"
        return {"kind": "silent", "summary": "no answer", "cause": "no session for the console", "hint": hint}
    for part, kind, summary, cause, hint in REFUSALS:
        if part in words:
            return {"kind": kind.kind, "summary": summary, "cause": cause, "hint": hint}
    return {
        "kind": "refused",
        "summary": "the controller gives no console",
        "cause": f"serial over LAN was refused: {words}",
        "hint": "enable it in the controller's settings: {ipmitool:sol set enabled true 1}",
    }


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = b""
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 0
        line += byte
    outward = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # pyghmi prints some of its errors
    terminal = _Terminal(outward)
    threading.Thread(target=terminal.read, args=(0,), daemon=True).start()
    try:
        error = run(json.loads(line), terminal)
    except BrokenPipeError:
        return 0  # nobody listens any more
    if error is not None:
        sys.stderr.write(json.dumps(explain(error)) + "\n")
    return 0 if error is None else 1


if __name__ == "__main__":
    sys.stderr = open(os.dup(2), "w", buffering=1)  # noqa: SIM115, PTH123 - lives as long as the process
    os._exit(main())  # the library's threads wait for ever
