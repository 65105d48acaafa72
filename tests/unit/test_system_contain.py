"""A contained process: ends as its child does, and nothing that it started outlives it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from provisioner.system.contain import CLONE_NEWPID, contain

BODY = """
import os, subprocess, sys
from provisioner.system.contain import contain
contain()
"""
allowed = subprocess.run(["unshare", "--pid", "--fork", "true"], capture_output=True).returncode == 0
needs_root = pytest.mark.skipif(not allowed, reason="PID namespaces need root")


def start(body: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", BODY + body], stdout=subprocess.PIPE, text=True)


@needs_root
@pytest.mark.parametrize(
    ("body", "code"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 0), ("raise SystemExit(0)", 0)]
)
def test_it_ends_as_its_child_does(body: str, code: int) -> None:
    # The first process of a namespace cannot even kill itself; it goes on to its end.
    with start(body) as process:
        assert process.wait(timeout=20) == code


@needs_root
def test_proc_is_that_of_the_namespace() -> None:
    with start("print(os.getpid(), os.readlink('/proc/self'))") as process:
        assert process.stdout is not None and process.stdout.read().split() == ["1", "1"]


@needs_root
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_what_it_started_ends_with_it(tmp_path: Path, number: signal.Signals) -> None:
    lock = tmp_path / "held"
    lock.touch()
    body = (
        f"subprocess.Popen(['flock', '{lock}', 'cat', '/dev/zero'], stdout=subprocess.DEVNULL, start_new_session=True)"
    )
    wait = f"\nwhile subprocess.run(['flock', '-n', '{lock}', 'true']).returncode == 0: pass\nprint('up', flush=True)\n"
    with start(f"{body}{wait}import signal; signal.pause()") as process:
        assert process.stdout is not None and process.stdout.readline() == "up\n"
        process.send_signal(number)
        assert process.wait(timeout=20) != 0
    # The kernel ends the others in its own time, which is short.
    end = time.monotonic() + 20
    while subprocess.run(["flock", "-n", lock, "true"]).returncode != 0:
        assert time.monotonic() < end, "what it started still runs"


def test_without_permission_everything_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refuses:
        @staticmethod
        def unshare(flags: int) -> int:
            assert flags == CLONE_NEWPID
            return -1

    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: Refuses)
    before = os.getpid()
    contain()
    assert os.getpid() == before
