"""Members of a role without machines: each has a network of its own on a common wire, and folders of its own by mounts.

What is missing is systemd: each rig has a stand-in that starts and stops the units of its role.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WIRE = "provisioner-rig"
"""The namespace of the wire, in which a user of the members is; each member's has its number besides."""


def in_namespace(name: str, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", name, *argv]


@dataclass
class Machine:
    """``folder``: what is its own of the file system. ``env``: what its programs see besides."""

    index: int
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    keeper: subprocess.Popen[bytes] | None = None

    @property
    def space(self) -> str:
        return f"{WIRE}-{self.index}"

    @property
    def address(self) -> str:
        return f"10.88.0.{20 + self.index}"

    def inside(self, *argv: str) -> list[str]:
        assert self.keeper is not None
        return ["nsenter", "-t", str(self.keeper.pid), "-m", "-n", "--", *argv]

    def run(self, *argv: str, limit: float = 300, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.inside(*argv), capture_output=True, text=True, timeout=limit, env=self.environment() | env
        )

    def environment(self) -> dict[str, str]:
        return {"PATH": f"/usr/local/bin:{os.environ['PATH']}", "HOME": "/root", **self.env}

    def log(self, unit: str) -> str:
        path = self.folder / "run" / "rig" / f"{unit}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-40:]) if path.exists() else ""

    def furnish(self, own: Mapping[str, str]) -> None:
        """Mount its folders over what they stand for, in namespaces that last as long as it has power.

        :param own: folders below ``folder``, ``run`` among them → where they lie in its own mounts.
        """
        for name in (*own, "run/rig"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        mounts = [f"mkdir -p {place} && mount --bind {self.folder / name} {place}" for name, place in own.items()]
        script = " && ".join([*mounts, "touch /run/ready", "exec sleep 7200"])
        words = in_namespace(self.space, "unshare", "-m", "sh", "-c", script)
        self.keeper = subprocess.Popen(words, stdin=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not (self.folder / "run" / "ready").exists():
            assert time.monotonic() < end, "the mounts of a member were not made"
            time.sleep(0.05)

    def cut_power(self) -> None:
        """Everything that runs in its namespace is killed at once, without a word."""
        for _ in range(10):
            found = subprocess.run(["ip", "netns", "pids", self.space], capture_output=True, text=True).stdout.split()
            left = [int(pid) for pid in found if self.keeper is None or int(pid) != self.keeper.pid]
            if not left:
                break
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
            time.sleep(0.1)
        for path in (self.folder / "run" / "rig").glob("*"):
            if path.suffix not in (".log", ".sock"):
                path.unlink()

    def end(self) -> None:
        self.cut_power()
        if self.keeper is not None:
            self.keeper.kill()
            self.keeper.wait()
            self.keeper = None


@contextmanager
def wired(machines: Sequence[Machine]) -> Iterator[None]:
    """Their networks. Needs root; whatever was started in them ends with it."""
    try:
        _lay_wire(machines)
        yield
    finally:
        for machine in machines:
            machine.end()
            subprocess.run(["ip", "netns", "del", machine.space], capture_output=True)
        subprocess.run(["ip", "netns", "del", WIRE], capture_output=True)


def _lay_wire(machines: Sequence[Machine]) -> None:
    def ip(words: str, *more: str) -> None:
        subprocess.run(["ip", *words.split(), *more], check=True)

    ip("netns add", WIRE)
    for words in ("link set lo up", "link add rig0 type bridge", "link set rig0 up", "addr add 10.88.0.1/24 dev rig0"):
        ip(f"-n {WIRE} {words}")
    for machine in machines:
        ip("netns add", machine.space)
        ip(f"-n {WIRE} link add rig-{machine.index} type veth peer name e0 netns {machine.space}")
        ip(f"-n {WIRE} link set rig-{machine.index} master rig0 up")
        for words in ("link set lo up", "link set e0 up", f"addr add {machine.address}/24 dev e0"):
            ip(f"-n {machine.space} {words}")
        subprocess.run(in_namespace(machine.space, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1"), check=True)
