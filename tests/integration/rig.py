"""Members of a role without machines: each has a network of its own on a common wire, and folders of its own by mounts.

What is missing is systemd: each rig has a stand-in that starts and stops the units of its role.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from provisioner.cli.desired import read_source_roles
from provisioner.system.settings import Settings
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
WIRE = "provisioner-rig"
"""The namespace of the wire, in which a user of the members is; each member's has its number besides."""


def in_namespace(name: str, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", name, *argv]


class Member(Protocol):
    """``index``: its number among the role's members."""

    @property
    def index(self) -> int: ...
    @property
    def hostname(self) -> str: ...
    @property
    def address(self) -> str: ...


def metadata(
    role: str, members: Iterable[Member], one: Member, values: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """What the service tells an instance of a role, as far as templates and phase scripts ask. A secret says its name.

    :param values: what a manifest would have on top of the role's own, by group.
    """
    found = read_source_roles(Settings(source_dir=ROOT))[role]
    told = [
        {"hostname": each.hostname, "node": f"n{each.index}", "index": each.index, "address": each.address}
        for each in sorted(members, key=lambda each: each.index)
    ]
    given = found.config.values
    return {
        "generation": 1,
        "cloud": {"name": "rig", "authority": "an authority\n"},
        "role": {"name": role, "count": len(told)},
        "node": {"name": f"n{one.index}", "hostname": one.hostname, "index": one.index, "address": one.address},
        "members": {role: [{**each, "self": each["index"] == one.index} for each in told]},
        "certificates": {"frontend": {"certificate": "a certificate\n", "key": "a key\n"}},
        "secrets": {name: f"secret-{name}" for name in found.secrets},
        "values": {**given, **{group: {**given[group], **own} for group, own in values.items()}},
    }


def rendered(tree: str, told: Mapping[str, Any]) -> dict[str, RenderedFile]:
    """The files of a tree of ``templates/``, by path, as the agent makes them of this metadata."""
    top = ROOT / "templates" / tree
    texts = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    return render_tree(*split_tree(texts), build_data(told))


def wait_until(what: str, holds: Callable[[], bool], seconds: float, log: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}\n{log()}"
        time.sleep(0.2)


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
