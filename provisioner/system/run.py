"""Programs: run one, with a deadline, a fixed environment and no shell; keep what it said."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from provisioner.errors import DeadlinePassed, HostError, ProgramFailed, ProgramMissing

LAST_LINES = 15
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Completed:
    """How a program ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class Runner(Protocol):
    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        deadline: float = 60.0,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        """Run a program to its end.

        :param stdin: what it reads; nothing (``/dev/null``) unless given. Secrets go here, never in ``argv``.
        :param env: added to a small fixed environment; the caller's own is not passed on.
        :param deadline: seconds; then the program and its children are killed.
        :param on_line: called with each line of both outputs as it comes.
        :raises ProgramMissing: it is not installed.
        :raises ProgramFailed: it ended with another code than 0 and ``check`` is set.
        :raises DeadlinePassed: it did not end in time.
        """


def base_environment() -> dict[str, str]:
    """The environment each program gets: a known locale and path, and the host's proxy and CA settings."""
    env = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": os.environ.get("HOME", "/root")}
    passed_on = ("http_proxy", "https_proxy", "no_proxy", "SSL_CERT_FILE", "SSL_CERT_DIR", "TMPDIR")
    return env | {name: os.environ[name] for name in passed_on if name in os.environ}


class StoppableRunner(Runner, Protocol):
    def stop(self) -> None:
        """End every program that other threads run now, and run none from here on: those calls raise HostError."""


class HostRunner:
    """Runs programs of this host, each in a process group of its own so that a deadline ends its children too."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._groups: set[int] = set()
        self._stopped = False

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            for group in self._groups:
                kill_group(group)

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        deadline: float = 60.0,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        words = tuple(os.fspath(word) for word in argv)
        data = stdin.encode() if isinstance(stdin, str) else stdin
        process = self._start(words, data is not None, base_environment() | dict(env or {}), cwd)
        outputs: dict[str, list[str]] = {"stdout": [], "stderr": []}

        def read(name: str, stream: IO[bytes]) -> None:
            with stream:
                for raw in stream:
                    line = raw.decode(errors="replace")
                    outputs[name].append(line)
                    if on_line is not None:
                        on_line(line.rstrip("\n"))

        assert process.stdout is not None and process.stderr is not None
        threads = [
            threading.Thread(target=read, args=("stdout", process.stdout), daemon=True),
            threading.Thread(target=read, args=("stderr", process.stderr), daemon=True),
        ]
        for thread in threads:
            thread.start()
        try:
            if data is not None and process.stdin is not None:
                try:
                    with process.stdin:
                        process.stdin.write(data)
                except BrokenPipeError:
                    pass  # it ended without reading; its exit code says why
            process.wait(timeout=deadline)
        except subprocess.TimeoutExpired as error:
            kill_group(process.pid)
            process.wait()
            raise DeadlinePassed(
                f"{words[0]} did not end within {deadline:g} s",
                cause=last_lines("".join(outputs["stdout"] + outputs["stderr"])),
                hint=f"run it by hand: {shlex.join(words)}",
            ) from error
        except BaseException:
            kill_group(process.pid)
            process.wait()
            raise
        finally:
            with self._lock:
                self._groups.discard(process.pid)
        for thread in threads:
            thread.join(timeout=5)  # a daemonised grandchild may hold the pipe open; what it says later is not ours
        done = Completed(words, process.returncode, "".join(outputs["stdout"]), "".join(outputs["stderr"]))
        if check and done.code != 0:
            raise failed(done)
        return done

    def _start(
        self, words: tuple[str, ...], reads: bool, env: dict[str, str], cwd: Path | None
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise HostError(f"{words[0]} was not started", cause="this run was told to stop")
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.PIPE if reads else subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    env=env,
                    cwd=cwd,
                    start_new_session=True,
                )
            except FileNotFoundError as error:
                raise ProgramMissing(
                    f"{words[0]} is not installed", cause=str(error), hint="run seed/bootstrap, which installs it"
                ) from error
            self._groups.add(process.pid)
            return process


def failed(done: Completed) -> ProgramFailed:
    """The error for a program that ended with another code than 0."""
    return ProgramFailed(
        f"{done.argv[0]} ended with code {done.code}",
        cause=last_lines(done.stderr or done.stdout),
        hint=f"run it by hand: {shlex.join(done.argv)}",
    )


def last_lines(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-LAST_LINES:])


def kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


Answer = Completed | Callable[[tuple[str, ...], bytes | None], Completed]


class FakeRunner:
    """Answers by the longest known prefix of the command line; records every call.

    ``answers`` maps a prefix such as ``"sfdisk --json"`` to ``(code, stdout)``; an unknown command is an error.
    """

    def __init__(self, answers: Mapping[str, tuple[int, str]] | None = None) -> None:
        self.answers = dict(answers or {})
        self.calls: list[tuple[str, ...]] = []
        self.stdins: list[str | bytes | None] = []

    def stop(self) -> None:
        """Forget every answer: nothing runs any more."""
        self.answers.clear()

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        stdin: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        deadline: float = 60.0,
        check: bool = True,
        on_line: Callable[[str], None] | None = None,
    ) -> Completed:
        words = tuple(os.fspath(word) for word in argv)
        self.calls.append(words)
        self.stdins.append(stdin)
        line = " ".join(words)
        known = [prefix for prefix in self.answers if line.startswith(prefix)]
        if not known:
            raise ProgramMissing(f"{words[0]} is not faked", cause=line)
        code, stdout = self.answers[max(known, key=len)]
        if on_line is not None:
            for text in stdout.splitlines():
                on_line(text)
        done = Completed(words, code, stdout, "")
        if check and code != 0:
            raise failed(done)
        return done
