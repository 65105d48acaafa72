"""The service's side of the poller: a process that keeps a session with each controller and asks all at once."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from provisioner.bmc.contract import Asked
from provisioner.bmc.hints import silent, trouble_error
from provisioner.errors import BmcError
from provisioner.model.hardware import Power
from provisioner.system.run import base_environment

POLLER = (sys.executable, "-m", "provisioner.bmc.poller_main")
START_SECONDS = 5.0
"""Until a poller just started has loaded its modules, on a busy machine."""


class Sweeper:
    """Starts the poller's process at the first sweep, and anew when it has ended or does not answer.

    :param start_seconds: what a process gets beyond a sweep's own seconds.
    """

    def __init__(self, command: Sequence[str] = POLLER, start_seconds: float = START_SECONDS) -> None:
        self._command = tuple(command)
        self._start_seconds = start_seconds
        self._turn = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._watched: list[list[str | int]] = []
        self._number = 0

    def sweep(self, bmcs: Asked, seconds: float) -> Iterator[dict[str, Power | BmcError]]:
        """The power of each, or why it is not known, as the answers come; all of them, whatever happens."""
        for batch in self._all("sweep", bmcs, seconds):
            yield {key: said if isinstance(said, BmcError) else Power(said) for key, said in batch.items()}

    def verify(self, bmcs: Asked, seconds: float) -> Iterator[dict[str, dict[str, Any] | BmcError]]:
        """The facts of each, or why there are none, as the answers come."""
        yield from self._all("verify", bmcs, seconds)

    def _all(self, what: str, bmcs: Asked, seconds: float) -> Iterator[dict[str, Any]]:
        if not bmcs:
            return
        with self._turn:
            left = dict(bmcs)
            process = self._running()
            self._ask(process, what, bmcs, seconds)
            end = time.monotonic() + seconds + self._start_seconds
            while left and (answers := self._read(end)) is not None:
                yield {
                    key: said if trouble is None else trouble_error(left[key][0], *trouble)
                    for key, said, trouble in answers
                }
                for key, _, _ in answers:
                    del left[key]
            if left:
                process.kill()  # it is not one controller that is slow: the poller itself ended, or hangs
                yield {
                    key: silent(bmc, "the program that asks all controllers ended meanwhile")
                    for key, (bmc, _) in left.items()
                }

    def start(self) -> None:
        """Have the process ready before it is asked the first time."""
        with self._turn:
            self._running()

    def close(self) -> None:
        with self._turn:
            process, self._process = self._process, None
            if process is not None:
                _end(process)

    def pid(self) -> int | None:
        """The poller's process id, if it was started."""
        return self._process.pid if self._process else None

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            if self._process is not None:
                _end(self._process)
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=base_environment(),
                start_new_session=True,
            )
            self._lines = queue.SimpleQueue()
            self._watched = []
            threading.Thread(target=_read_lines, args=(self._process, self._lines), daemon=True).start()
        return self._process

    def _ask(self, process: subprocess.Popen[str], what: str, bmcs: Asked, seconds: float) -> None:
        self._number += 1
        request: dict[str, Any] = {"id": self._number, "do": what, "seconds": seconds}
        targets: list[list[Any]] = [
            [key, bmc.address, bmc.port, bmc.username, word] for key, (bmc, word) in bmcs.items()
        ]
        if what == "verify":
            request["targets"] = targets
        elif targets != self._watched:
            request["targets"] = self._watched = targets
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except OSError:
            self._watched = []  # it has just ended; the end of its output says so

    def _read(self, end: float) -> list[list[Any]] | None:
        """The next answers; None when there will be none."""
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return None
            message: dict[str, Any] = json.loads(line) if line is not None else {"done": True, "id": self._number}
            if message["id"] != self._number:
                continue  # the rest of a sweep that nobody read to its end
            if "done" in message:
                return None
            return list(message["seen"])


def _read_lines(process: subprocess.Popen[str], lines: queue.SimpleQueue[str | None]) -> None:
    assert process.stdout is not None
    with process.stdout as stream:
        for line in stream:
            lines.put(line)
    lines.put(None)


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    try:
        process.stdin.close()
    except OSError:
        pass
    try:
        process.wait(timeout=2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
