"""Galera members as in instances, without machines: real MariaDB, HAProxy and keepalived in network namespaces.

Each member has its own network, its own /etc, /run and data folder by mounts of its own, the files that our templates
render, and the phase scripts of the role. What is missing is systemd: a stand-in starts and stops the units.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from provisioner.cli.desired import read_source_roles
from provisioner.system.settings import Settings
from provisioner.trust.certificates import Pair, new_authority, new_certificate
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
WIRE = "provisioner-rig"
ADDRESS = "10.88.0.10"
PHASES = ROOT / "elements" / "galera" / "os-refresh-config"
OWN = {
    "etc/mysql": "/etc/mysql",
    "etc/haproxy": "/etc/haproxy",
    "etc/keepalived": "/etc/keepalived",
    "data": "/var/lib/mysql",
    "run": "/run",
    "bin": "/usr/local/bin",
    "state": "/var/lib/provisioner-agent",
}
"""Folders of a member → where they lie in its own mounts."""
SYSTEMCTL = r"""#!/bin/bash
# Of systemctl what phase scripts use, for three units. A unit's process has its id in /run/rig/UNIT.
unit=${*: -1}; unit=${unit%.service}; pid=/run/rig/$unit
alive() { [ -e $pid ] && kill -0 "$(cat $pid)" 2>/dev/null; }
stop() {
    if alive; then kill "$(cat $pid)"; for _ in $(seq 300); do alive || break; sleep 0.1; done; fi
    ! alive || kill -KILL "$(cat $pid)"
    rm -f $pid
}
launch() { setsid $unit "$@" </dev/null >>/run/rig/${pid##*/}.log 2>&1 & echo $! >$pid; }
starting() { [ -e $pid.starting ] && [ "$(cat $pid.starting)" != $$ ] && kill -0 "$(cat $pid.starting)" 2>/dev/null; }
start() {
    while starting; do sleep 0.1; done
    if alive; then return 0; fi
    case $unit in
    mariadb)
        new=; [ ! -e /run/mariadb-wsrep-new-cluster ] || . /run/mariadb-wsrep-new-cluster; new=${_WSREP_NEW_CLUSTER:-}
        position=$(galera_recovery 2>>/run/rig/mariadb.log) || return 1
        setsid mariadbd --user=mysql $new $position </dev/null >>/run/rig/mariadb.log 2>&1 &
        echo $! >$pid
        for _ in $(seq 1200); do
            alive || return 1
            if mariadb-admin --no-defaults --socket=/run/mysqld/mysqld.sock ping >/dev/null 2>&1; then return 0; fi
            sleep 0.1
        done
        return 1 ;;
    haproxy) launch -W -f /etc/haproxy/haproxy.cfg -f /etc/haproxy/conf.d ;;
    keepalived) frontend-interface && launch -n -l -D -p /run/keepalived.pid ;;
    galera-check) unit=python3; launch -c "$RIG_LISTEN" ;;
    esac
}
case $1 in
is-active)
    if starting; then echo activating; exit 3; fi
    if alive; then echo active; exit 0; fi
    echo inactive; exit 3 ;;
reset-failed) ;;
kill) ! alive || kill -KILL "$(cat $pid)" ;;
start)
    case $* in
    *--no-block*) setsid $0 start $unit.service </dev/null >/dev/null 2>&1 & echo $! >$pid.starting ;;
    *) start ;;
    esac ;;
stop)
    case $* in
    *--no-block*) ! alive || kill "$(cat $pid)" ;;
    *) stop ;;
    esac ;;
restart) stop; start ;;
esac
"""
LISTEN = """
import os, socket
os.environ["LISTEN_FDS"] = "1"
door = socket.create_server(("0.0.0.0", 9200), backlog=128, reuse_port=False)
os.dup2(door.fileno(), 3)
os.set_inheritable(3, True)
os.execv("/usr/local/bin/galera-check", ["galera-check"])
"""


def in_namespace(name: str, *argv: str) -> list[str]:
    return ["ip", "netns", "exec", name, *argv]


@dataclass
class Member:
    """A member. ``env``: what its programs see besides."""

    index: int
    folder: Path
    env: dict[str, str] = field(default_factory=dict)
    certificate: Mapping[str, str] = field(default_factory=dict)
    keeper: subprocess.Popen[bytes] | None = None

    @property
    def name(self) -> str:
        return f"galera-{self.index}"

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
        path = f"/usr/local/bin:{os.environ['PATH']}"
        return {"PATH": path, "HOME": "/root", "RIG_LISTEN": LISTEN, **self.env}

    def status(self, name: str) -> str:
        return self.run("galera-status", name).stdout.strip()

    def sql(self, statement: str) -> str:
        done = self.run("mariadb", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-NBe", statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def log(self, unit: str = "mariadb") -> str:
        path = self.folder / "run" / "rig" / f"{unit}.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-40:]) if path.exists() else ""

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
        subprocess.run(in_namespace(self.space, "ip", "addr", "del", f"{ADDRESS}/32", "dev", "e0"), capture_output=True)


@dataclass
class Rig:
    folder: Path
    members: list[Member]
    values: dict[str, Any]
    authority: Pair

    def metadata(self, member: Member) -> dict[str, Any]:
        told = [
            {"hostname": one.name, "address": one.address, "index": one.index, "self": one is member}
            for one in self.members
        ]
        return {
            "generation": 1,
            "cloud": {"name": "rig", "authority": self.authority.certificate},
            "role": {"name": "galera", "count": len(self.members), "recover": True},
            "node": {"name": f"n{member.index}", "hostname": member.name, "address": member.address},
            "members": {"galera": told},
            "values": self.values,
            "certificates": {"galera": member.certificate},
            "secrets": {"galera_app_password": "app-word", "galera_sst_password": "sst-word"},
        }

    def render(self, member: Member) -> list[str]:
        """Put the files of a member in place, judged by their validators; the paths of those that changed."""
        changed = []
        files: dict[str, RenderedFile] = {}
        for tree in ("galera", "frontend"):
            top = ROOT / "templates" / tree
            texts = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
            files |= render_tree(*split_tree(texts), build_data(self.metadata(member)))
        candidate = member.folder / "state" / "candidate"
        for path, file in files.items():
            place = candidate / path.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(file.content)
        for path, file in files.items():
            if file.validate:
                words = [
                    word.replace("{path}", f"/var/lib/provisioner-agent/candidate{path}") for word in file.validate
                ]
                done = member.run(*words)
                assert done.returncode == 0, (path, done.stdout, done.stderr)
        shutil.rmtree(candidate)
        for path, file in files.items():
            place = member.folder / path.lstrip("/")
            if not place.exists() or place.read_text() != file.content:
                changed.append(path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(file.content)
                place.chmod(file.mode)
                shutil.chown(place, file.owner, file.group)
        return changed

    def phase(
        self, member: Member, script: str, once: Mapping[str, Any] | None = None, limit: float = 300, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a phase script of the role on a member."""
        state = member.folder / "state"
        (state / "run-metadata.json").write_text(json.dumps(self.metadata(member)))
        (state / "permit.json").write_text(json.dumps({"once": once or {}}))
        told = {
            "PROVISIONER_METADATA": "/var/lib/provisioner-agent/run-metadata.json",
            "PROVISIONER_PERMIT": "/var/lib/provisioner-agent/permit.json",
            "PROVISIONER_CHANGED": "",
        }
        return member.run(str(PHASES / script), limit=limit, **(told | env))

    def client(self, statement: str, timeout: int = 5) -> subprocess.CompletedProcess[str]:
        """A statement at the virtual address, as an application would."""
        words = ["mariadb", "--no-defaults", "-NB", "-h", ADDRESS, "-u", "app", f"--connect-timeout={timeout}"]
        return subprocess.run(
            in_namespace(WIRE, *words, "-e", statement),
            capture_output=True,
            text=True,
            env={"PATH": os.environ["PATH"], "MYSQL_PWD": "app-word"},
            timeout=60,
        )

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 90) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if holds():
                return
            time.sleep(0.2)
        logs = "\n".join(
            f"--- {one.name} {unit}\n{one.log(unit)}"
            for one in self.members
            for unit in ("mariadb", "haproxy", "keepalived", "galera-check")
        )
        raise AssertionError(f"not within {seconds:g} s: {what}\n{logs}")


def start_front(member: Member) -> None:
    for unit in ("galera-check", "haproxy", "keepalived"):
        assert member.run("systemctl", "start", f"{unit}.service").returncode == 0


@contextmanager
def started_rig(folder: Path, count: int = 3, **values: Any) -> Iterator[Rig]:
    """Members without any process yet. Needs root; whatever was started in them ends with it."""
    members = [Member(index, folder / f"m{index}") for index in range(count)]
    given = read_source_roles(Settings(source_dir=ROOT))["galera"].config.values
    frontend = {"address": ADDRESS, "check_interval": "500ms", "advert_interval": 0.5, "track_interval": 1}
    galera = {"suspect_timeout": "PT3S", "inactive_timeout": "PT8S"} | values
    authority = new_authority("rig", time.time())
    for member in members:
        own = new_certificate(authority, member.name, [member.name, member.address, ADDRESS], time.time())
        member.certificate = {"certificate": own.certificate, "key": own.key}
    told = given | {"frontend": given["frontend"] | frontend, "galera": given["galera"] | galera}
    rig = Rig(folder, members, told, authority)
    try:
        _lay_wire(members)
        for member in members:
            _furnish(member)
        yield rig
    finally:
        for member in members:
            member.cut_power()
            if member.keeper is not None:
                member.keeper.kill()
                member.keeper.wait()
            subprocess.run(["ip", "netns", "del", member.space], capture_output=True)
        subprocess.run(["ip", "netns", "del", WIRE], capture_output=True)


def _lay_wire(members: list[Member]) -> None:
    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    ip("netns", "add", WIRE)
    for words in ("link set lo up", "link add rig0 type bridge", "link set rig0 up", "addr add 10.88.0.1/24 dev rig0"):
        ip("-n", WIRE, *words.split())
    for member in members:
        ip("netns", "add", member.space)
        ip(
            "-n",
            WIRE,
            "link",
            "add",
            f"rig-{member.index}",
            "type",
            "veth",
            "peer",
            "name",
            "e0",
            "netns",
            member.space,
        )
        ip("-n", WIRE, "link", "set", f"rig-{member.index}", "master", "rig0", "up")
        for words in ("link set lo up", "link set e0 up", f"addr add {member.address}/24 dev e0"):
            ip("-n", member.space, *words.split())
        subprocess.run(in_namespace(member.space, "sysctl", "-qw", "net.ipv4.ip_nonlocal_bind=1"), check=True)


def _furnish(member: Member) -> None:
    for name in OWN:
        (member.folder / name).mkdir(parents=True)
    shutil.copytree("/etc/mysql", member.folder / "etc" / "mysql", dirs_exist_ok=True, symlinks=True)
    for element in ("galera", "frontend"):
        for path in (ROOT / "elements" / element / "bin").iterdir():
            shutil.copy(path, member.folder / "bin" / path.name)
    (member.folder / "bin" / "systemctl").write_text(SYSTEMCTL)
    (member.folder / "bin" / "journalctl").write_text("#!/bin/sh\ntail -n 25 /run/rig/mariadb.log\n")
    for name in ("systemctl", "journalctl"):
        (member.folder / "bin" / name).chmod(0o755)
    for name in ("run/rig", "run/mysqld", "run/haproxy", "run/frontend", "etc/haproxy/conf.d"):
        (member.folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("data", "run/mysqld"):
        shutil.chown(member.folder / name, "mysql", "mysql")
    mounts = " && ".join(f"mount --bind {member.folder / name} {place}" for name, place in OWN.items())
    member.keeper = subprocess.Popen(
        in_namespace(
            member.space,
            "unshare",
            "-m",
            "sh",
            "-c",
            f"mkdir -p {OWN['state']} && {mounts} && touch /run/ready && exec sleep 7200",
        ),
        stdin=subprocess.DEVNULL,
    )
    end = time.monotonic() + 10
    while not (member.folder / "run" / "ready").exists():
        assert time.monotonic() < end, "the mounts of a member were not made"
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit("a part of the tests")
