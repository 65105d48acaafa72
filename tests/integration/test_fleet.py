"""A simulated fleet and a real service: all that has no fault gets active, and what has one is named."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rack import PROGRAM, ROOT

NODES = 24


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Site:
    """A service on the loopback, with a fleet before it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = folder / "fleet.conf"
        self.config.write_text(
            f"[DEFAULT]\nstate_dir = {folder / 'state'}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n"
            f"[network]\ninterface = lo\naddress = 127.0.0.1/8\nhttp_port = {free_port()}\n"
        )

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        words = (PROGRAM, "--config", str(self.config), *words)
        done = subprocess.run(words, capture_output=True, text=True, timeout=300)
        assert done.returncode in codes, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.run("node", "list", "-o", "json"))
        return found

    @contextmanager
    def started(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        log = (self.folder / f"{words[0]}.log").open("ab")
        words = (PROGRAM, "--config", str(self.config), *words)
        with log, subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as process:
            try:
                yield process
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(timeout=30)
                except subprocess.TimeoutExpired:
                    process.kill()

    def wait(self, what: str, holds: Any, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
            time.sleep(0.5)

    def answers(self) -> bool:
        words = [PROGRAM, "--config", str(self.config), "node", "list"]
        return subprocess.run(words, capture_output=True).returncode == 0


@pytest.mark.integration
def test_a_fleet_with_every_fault(tmp_path: Path) -> None:
    site = Site(tmp_path)
    manifests = tmp_path / "fleet"
    quick = ["--boot-seconds", "0.5", "--image-seconds", "0.5", "--start-seconds", "0.5", "--folder", str(manifests)]
    faults = ["--fail", "disk=20", "--fail", "silent=10"]
    with site.started("lab", "fleet", "--nodes", str(NODES), *quick, *faults), site.started("serve"):
        site.wait("fleet and service are up", lambda: (manifests / "cloud.yaml").exists() and site.answers())
        site.run("node", "enroll", str(manifests / "hardware.yaml"), codes=(0, 1))
        enrolled = len(site.nodes())
        assert 0 < enrolled < NODES, "the silent are not taken on record"
        cloud = manifests / "cloud.yaml"
        cloud.write_text(cloud.read_text().replace(f"count: {NODES}", f"count: {enrolled}"))
        site.run("apply", str(cloud), "--no-wait")
        site.wait("all have come to rest", lambda: {n["state"] for n in site.nodes()} <= {"active", "failed"})
        states = Counter(node["state"] for node in site.nodes())
        assert states["failed"] > 0 and states["active"] > enrolled / 2
        reasons = {node["failure"]["summary"] for node in site.nodes() if node["failure"]}
        assert all("does not keep what is written" in reason for reason in reasons), reasons
