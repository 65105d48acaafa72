"""The real door to management controllers: a worker process, spoken to over pipes, that cannot hurt the service.

The worker holds the library, its sockets and its threads; this side holds the deadlines. A request that is not answered
in time is given up at once and its controller's process killed; a worker that does not even answer to that, or that has
ended, is replaced at the next call.
"""

from __future__ import annotations

import itertools
import json
import queue
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from provisioner.bmc.console import SerialConsole
from provisioner.bmc.contract import Asked, Console, PowerWord
from provisioner.bmc.driver import Reading
from provisioner.bmc.hints import fill_in, ipmitool, silent, trouble_error, where
from provisioner.bmc.scan import parse_network, scan
from provisioner.bmc.sweep import Sweeper
from provisioner.errors import BmcError, BmcRefused, ProgramMissing
from provisioner.events import Event, Observer, null_observer
from provisioner.model.hardware import BmcAddress, BootDevice, Power
from provisioner.system.run import base_environment

WORKER = (sys.executable, "-m", "provisioner.bmc.worker_main")
STUCK_SECONDS = 3.0
"""A worker that has not acknowledged for so long that it dropped a request is stuck itself."""
LOGOUT_SECONDS = 3.0
LEAST_SECONDS = 5.0
"""What a half changed password gets beyond the deadline."""
THREADS = 32
"""Controllers of other protocols than IPMI that are asked at once."""

Said = TypeVar("Said")


@dataclass
class _Line:
    """What is known of one controller: whose turn it is, and how long to leave it alone between two commands."""

    turn: threading.Lock = field(default_factory=threading.Lock)
    spacing: float = 0.0


class _Process:
    """One worker process and the requests it has not answered yet."""

    def __init__(self, command: Sequence[str]) -> None:
        try:
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=base_environment(),
                start_new_session=True,
            )
        except FileNotFoundError as error:
            raise ProgramMissing(f"{command[0]} is not there", cause=str(error), hint="run seed/bootstrap") from error
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # apart, so that a worker that does not read blocks no more than a write
        self._pending: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._dropped: dict[int, float] = {}
        self._last_words: deque[str] = deque(maxlen=5)
        self._ended = False
        assert self.popen.stdin and self.popen.stdout and self.popen.stderr
        self._stdin = self.popen.stdin
        self._threads = [
            threading.Thread(target=self._read_errors, args=(self.popen.stderr,), daemon=True),
            threading.Thread(target=self._read_answers, args=(self.popen.stdout,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def usable(self) -> bool:
        with self._lock:
            oldest = min(self._dropped.values(), default=time.monotonic())
            return not self._ended and time.monotonic() - oldest < STUCK_SECONDS

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The answer to a request; None when there was none in time."""
        number = request["id"]
        inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._lock:
            if self._ended:
                return {"id": number, "lost": self._why()}
            self._pending[number] = inbox
        self._write(request)
        try:
            return inbox.get(timeout=max(seconds, 0))
        except queue.Empty:
            with self._lock:
                self._dropped[number] = time.monotonic()
            self._write({"drop": number, "key": request["key"]})
            return None
        finally:
            with self._lock:
                self._pending.pop(number, None)

    def end(self, seconds: float) -> None:
        """Let it log out everywhere; kill it if that takes longer than ``seconds``."""
        try:
            with self._writing:
                self._stdin.close()
        except OSError:
            pass  # it has ended, with a request still in the pipe
        try:
            self.popen.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
        for thread in self._threads:
            thread.join()

    def _write(self, message: dict[str, Any]) -> None:
        try:
            with self._writing:
                self._stdin.write(json.dumps(message).encode() + b"\n")
                self._stdin.flush()
        except (OSError, ValueError):
            pass  # it has ended; the reader of its answers tells everyone who waits

    def _read_answers(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                try:
                    message = json.loads(line)
                    self._deliver(message)
                except (ValueError, TypeError, AttributeError):
                    self._last_words.append("it wrote something that is not an answer")
                    self.popen.kill()
                    break
        self.popen.wait()
        with self._lock:
            self._ended = True
            for number, inbox in self._pending.items():
                inbox.put({"id": number, "lost": self._why()})

    def _deliver(self, message: dict[str, Any]) -> None:
        with self._lock:
            if "dropped" in message:
                self._dropped.pop(message["dropped"], None)
            elif message.get("id") in self._pending:
                self._pending[message["id"]].put(message)

    def _read_errors(self, stream: IO[bytes]) -> None:
        with stream:
            for line in stream:
                self._last_words.append(line.decode(errors="replace").strip())

    def _why(self) -> str:
        words = " / ".join(self._last_words)
        return f"the worker ended with code {self.popen.returncode}" + (f": {words}" if words else "")


class BmcWorker:
    """Implements :class:`~provisioner.bmc.contract.Bmcs`. Starts its worker process at the first call.

    :param observer: told of ``bmc.unconfirmed``: a boot device that a controller takes but cannot say.
    :param command: how to start the worker. :param quirks: folder of what vendors do otherwise.
    """

    def __init__(
        self, observer: Observer = null_observer, command: Sequence[str] = WORKER, quirks: Path | None = None
    ) -> None:
        self._observer = observer
        self._command = (*command, str(quirks)) if quirks else tuple(command)
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._lines: dict[str, _Line] = {}
        self._numbers = itertools.count(1)
        self._sweeper = Sweeper()

    def start(self) -> None:
        """Have the poller ready before it is asked the first time; also without this it is started when needed."""
        self._sweeper.start()

    def verify(self, bmc: BmcAddress, password: str, deadline: float) -> dict[str, Any]:
        return self._call(bmc, password, "verify", deadline)

    def power(self, bmc: BmcAddress, password: str, deadline: float) -> Power:
        return Power(self._call(bmc, password, "power", deadline)["power"])

    def set_power(self, bmc: BmcAddress, password: str, want: PowerWord, deadline: float) -> Power:
        return Power(self._call(bmc, password, "set_power", deadline, want=want)["power"])

    def set_boot_device(
        self,
        bmc: BmcAddress,
        password: str,
        device: BootDevice,
        uefi: bool,
        deadline: float,
        persistent: bool = False,
    ) -> None:
        wanted: dict[str, Any] = {"device": device, "uefi": uefi, "persistent": persistent}
        done = self._call(bmc, password, "set_boot_device", deadline, **wanted)
        if not done["confirmed"]:
            message = f"{where(bmc)} took the boot device {device}, but cannot say that it keeps it"
            self._observer(Event("bmc.unconfirmed", message, data={"bmc": where(bmc)}))

    def identify(self, bmc: BmcAddress, password: str, seconds: int | None, deadline: float) -> None:
        self._call(bmc, password, "identify", deadline, light=seconds)

    def read(self, bmc: BmcAddress, password: str, what: Reading, deadline: float) -> Any:
        return self._call(bmc, password, what, deadline)[what]

    def event_record(self, bmc: BmcAddress, password: str, record: int, deadline: float) -> bytes:
        return bytes.fromhex(self._call(bmc, password, "event_record", deadline, record=record)["event_record"])

    def console(self, bmc: BmcAddress, password: str, *, force: bool = True) -> Console:
        return SerialConsole(bmc, password, force=force)

    def audit(self, bmc: BmcAddress, password: str, deadline: float) -> list[dict[str, Any]]:
        found = self._call(bmc, password, "audit", deadline)["audit"]
        return [finding | {"mend": fill_in(finding["mend"], bmc)} for finding in found]

    def change_password(self, bmc: BmcAddress, password: str, new: str, deadline: float) -> None:
        end = time.monotonic() + deadline
        self._call(bmc, password, "change_password", deadline, new=new)
        try:
            self._prove(bmc, new, end)
        except BmcRefused as refused:
            # Some controllers take a password and keep only a part of it. The first session is still logged in.
            self._call(bmc, password, "change_password", max(end - time.monotonic(), LEAST_SECONDS), new=password)
            self._prove(bmc, password, end)
            raise BmcError(
                "the controller does not keep the new password",
                where=where(bmc),
                cause=f"it took it, but a login with it was refused: {refused.summary}; the old one is back and works",
                hint=f"try another length; by hand: {ipmitool(bmc, 'user list 1')}",
            ) from refused

    def _prove(self, bmc: BmcAddress, password: str, end: float) -> None:
        """Log in with a session of its own."""
        self._call(bmc, password, "power", max(end - time.monotonic(), LEAST_SECONDS), session="proof")

    def sweep(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, Power | BmcError]]:
        return self._all(bmcs, self._sweeper.sweep, self.power, deadline)

    def verify_all(self, bmcs: Asked, deadline: float) -> Iterator[Mapping[str, dict[str, Any] | BmcError]]:
        return self._all(bmcs, self._sweeper.verify, self.verify, deadline)

    def _all(
        self,
        bmcs: Asked,
        at_once: Callable[[Asked, float], Iterator[Mapping[str, Said | BmcError]]],
        single: Callable[[BmcAddress, str, float], Said],
        deadline: float,
    ) -> Iterator[Mapping[str, Said | BmcError]]:
        """IPMI at once by the poller, other protocols one by one in threads; the answers as they come."""
        answers: queue.SimpleQueue[Mapping[str, Said | BmcError]] = queue.SimpleQueue()
        ipmi = {key: asked for key, asked in bmcs.items() if asked[0].driver == "ipmi"}
        others = {key: asked for key, asked in bmcs.items() if key not in ipmi}
        if not others:
            yield from at_once(ipmi, deadline)
            return

        def ask_at_once() -> None:
            for batch in at_once(ipmi, deadline):
                answers.put(batch)

        def ask_one(key: str) -> None:
            try:
                answers.put({key: single(*others[key], deadline)})
            except BmcError as error:
                answers.put({key: error})

        threads = ThreadPoolExecutor(min(len(others), THREADS) + 1, thread_name_prefix="bmcs")
        threads.submit(ask_at_once)
        for key in others:
            threads.submit(ask_one, key)
        threads.shutdown(wait=False)
        left = len(bmcs)
        while left:
            batch = answers.get()
            left -= len(batch)
            yield batch

    def scan(self, network: str) -> Iterator[tuple[str, tuple[str, ...]]]:
        addresses = parse_network(network)
        return ((found.address, found.drivers) for found in scan(addresses))

    def close(self) -> None:
        self._sweeper.close()
        with self._lock:
            process, self._process = self._process, None
        if process is not None:
            process.end(LOGOUT_SECONDS)

    def pid(self) -> int | None:
        """The worker's process id, if it was started."""
        with self._lock:
            return self._process.popen.pid if self._process else None

    def _call(
        self, bmc: BmcAddress, password: str, verb: str, deadline: float, session: str = "", **arguments: Any
    ) -> dict[str, Any]:
        """:param session: names another one than that of all other commands."""
        end = time.monotonic() + deadline
        key = f"{bmc.driver} {bmc.address} {bmc.port} {session}".rstrip()
        with self._lock:
            line = self._lines.setdefault(key, _Line())
        if not line.turn.acquire(timeout=max(deadline, 0)):
            raise silent(bmc, f"another command to it had not ended after {deadline:g} s")
        try:
            answer = self._ask(bmc, password, key, verb, arguments, end, line)
            if answer.get("error", {}).get("kind") == "stale":  # nothing was done: once more, with a fresh login
                answer = self._ask(bmc, password, key, verb, arguments, end, line)
        finally:
            line.turn.release()
        if "result" in answer:
            result: dict[str, Any] = answer["result"]
            return result
        raise _error(bmc, answer)

    def _ask(
        self,
        bmc: BmcAddress,
        password: str,
        key: str,
        verb: str,
        arguments: dict[str, Any],
        end: float,
        line: _Line,
    ) -> dict[str, Any]:
        seconds = end - time.monotonic()
        request = {
            "id": next(self._numbers),
            "key": key,
            "driver": bmc.driver,
            "way": {
                "address": bmc.address,
                "port": bmc.port,
                "username": bmc.username,
                "password": password,
                "system": bmc.system,
                "certificate": bmc.certificate,
            },
            "verb": verb,
            "arguments": arguments,
            "seconds": seconds,
            "spacing": line.spacing,
        }
        answer = self._running().ask(request, seconds)
        if answer is None:
            raise silent(bmc, f"{verb.replace('_', ' ')} did not end within {seconds:.1f} s")
        line.spacing = float(answer.get("spacing", line.spacing))
        return answer

    def _running(self) -> _Process:
        with self._lock:
            if self._process is not None and not self._process.usable():
                self._process.popen.kill()
                self._process.end(LOGOUT_SECONDS)
                self._process = None
            if self._process is None:
                self._process = _Process(self._command)
            return self._process


def _error(bmc: BmcAddress, answer: dict[str, Any]) -> BmcError:
    """The error of ours for an answer without a result."""
    if "unknown_driver" in answer:
        return BmcError(
            f"the driver {bmc.driver} is not there yet",
            where=where(bmc),
            cause=f"this version speaks to controllers by: {answer['unknown_driver']}",
            hint="write `driver: ipmi` in the node's hardware file, and enable IPMI over LAN in its controller",
        )
    if "lost" in answer:
        return BmcError(
            "the request to the controller was lost",
            where=where(bmc),
            cause=f"{answer['lost']}; whether the controller did it is not known",
            hint=f"try again; by hand: {ipmitool(bmc)}",
        )
    error = answer["error"]
    return trouble_error(bmc, error["kind"], error["summary"], error["cause"], error["hint"])
