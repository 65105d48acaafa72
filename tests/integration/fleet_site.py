"""A service on the loopback with a simulated fleet before it: real protocols, and no machine."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rack import PROGRAM, ROOT


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


class Site:
    """``url``: where firmware finds it. ``agents_port``: where agents do, by TLS. ``manifests``: what the fleet wrote.

    :param database: URL of the records; a SQLite file without it. :param like: a site whose keys and images it has.
    :param network: more options of its section.
    """

    def __init__(
        self, folder: Path, database: str = "", name: str = "", like: Site | None = None, network: str = ""
    ) -> None:
        folder.mkdir(exist_ok=True)
        state = like.folder / "state" if like else folder / "state"
        self.folder = folder
        self.manifests = folder / "fleet"
        self.port, self.agents_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = folder / "fleet.conf"
        self.config.write_text(
            f"[DEFAULT]\nstate_dir = {state}\nrun_dir = {folder / 'run'}\nsource_dir = {ROOT}\n"
            f"[network]\ninterface = lo\naddress = 127.0.0.1/8\n"
            f"http_port = {self.port}\nhttps_port = {self.agents_port}\n{network}\n"
            f"[database]\nurl = {database}\n[conductor]\nname = {name}\n"
        )

    def run(self, *words: str, codes: tuple[int, ...] = (0,), errors: bool = False) -> str:
        """What it says, on standard error if ``errors``."""
        words = (PROGRAM, "--config", str(self.config), *words)
        done = subprocess.run(words, capture_output=True, text=True, timeout=900)
        assert done.returncode in codes, f"{words} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stderr if errors else done.stdout

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

    def wait(self, what: str, holds: Any, seconds: float = 120, pause: float = 0.5) -> None:
        end = time.monotonic() + seconds
        while not holds():
            assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
            time.sleep(pause)

    def answers(self) -> bool:
        words = [PROGRAM, "--config", str(self.config), "node", "list"]
        return subprocess.run(words, capture_output=True).returncode == 0

    @contextmanager
    def fleet(self, nodes: int, *words: str) -> Iterator[None]:
        """Service and fleet are up, the nodes off and not yet on record."""
        more = ["--nodes", str(nodes), "--folder", str(self.manifests), *words]
        with self.started("lab", "fleet", *more), self.started("serve"):
            self.wait("fleet and service are up", lambda: (self.manifests / "cloud.yaml").exists() and self.answers())
            yield
