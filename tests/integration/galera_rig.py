"""Galera members as in instances, without machines: real MariaDB, HAProxy and keepalived in network namespaces.

Each member has its own network, its own /etc, /run and data folder by mounts of its own, the files that our templates
render, and the phase scripts of the role. What is missing is systemd: a stand-in starts and stops the units.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rig import ROOT, WIRE, Machine, in_namespace, metadata, rendered, wait_until, wired

from provisioner.trust.certificates import Pair, new_authority, new_certificate

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


@dataclass
class Member(Machine):
    certificate: Mapping[str, str] = field(default_factory=dict)

    @property
    def hostname(self) -> str:
        return f"galera-{self.index}"

    def environment(self) -> dict[str, str]:
        return super().environment() | {"RIG_LISTEN": LISTEN}

    def status(self, name: str) -> str:
        return self.run("galera-status", name).stdout.strip()

    def sql(self, statement: str) -> str:
        done = self.run("mariadb", "--no-defaults", "--socket=/run/mysqld/mysqld.sock", "-NBe", statement)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def cut_power(self) -> None:
        super().cut_power()
        subprocess.run(in_namespace(self.space, "ip", "addr", "del", f"{ADDRESS}/32", "dev", "e0"), capture_output=True)


@dataclass
class Rig:
    folder: Path
    members: list[Member]
    values: Mapping[str, Mapping[str, Any]]
    authority: Pair

    def metadata(self, member: Member) -> dict[str, Any]:
        told = metadata("galera", self.members, member, self.values)
        told["cloud"]["authority"] = self.authority.certificate
        told["role"]["recover"] = True
        told["certificates"] = {"galera": member.certificate}
        return told

    def render(self, member: Member) -> list[str]:
        """Put the files of a member in place, judged by their validators; the paths of those that changed."""
        changed = []
        told = self.metadata(member)
        files = rendered("galera", told) | rendered("frontend", told)
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
            env={"PATH": os.environ["PATH"], "MYSQL_PWD": "secret-galera_app_password"},
            timeout=60,
        )

    def wait(self, what: str, holds: Callable[[], bool], seconds: float = 240) -> None:
        wait_until(what, holds, seconds, self.log)

    def log(self) -> str:
        return "\n".join(
            f"--- {one.hostname} {unit}\n{one.log(unit)}"
            for one in self.members
            for unit in ("mariadb", "haproxy", "keepalived", "galera-check")
        )


def start_front(member: Member) -> None:
    for unit in ("galera-check", "haproxy", "keepalived"):
        assert member.run("systemctl", "start", f"{unit}.service").returncode == 0


@contextmanager
def started_rig(folder: Path, count: int = 3, **values: Any) -> Iterator[Rig]:
    """Members without any process yet. Needs root; whatever was started in them ends with it."""
    members = [Member(index, folder / f"m{index}") for index in range(count)]
    frontend = {"address": ADDRESS, "check_interval": "500ms", "advert_interval": 0.5, "track_interval": 1}
    galera = {"suspect_timeout": "PT3S", "inactive_timeout": "PT8S"} | values
    authority = new_authority("rig", time.time())
    for member in members:
        own = new_certificate(authority, member.hostname, [member.hostname, member.address, ADDRESS], time.time())
        member.certificate = {"certificate": own.certificate, "key": own.key}
    rig = Rig(folder, members, {"frontend": frontend, "galera": galera}, authority)
    with wired(members):
        for member in members:
            _furnish(member)
        yield rig


def _furnish(member: Member) -> None:
    shutil.copytree("/etc/mysql", member.folder / "etc" / "mysql", symlinks=True)
    for name in ("bin", "data", "run/mysqld", "run/haproxy", "run/frontend", "etc/haproxy/conf.d"):
        (member.folder / name).mkdir(parents=True)
    for element in ("galera", "frontend"):
        for path in (ROOT / "elements" / element / "bin").iterdir():
            shutil.copy(path, member.folder / "bin" / path.name)
    (member.folder / "bin" / "systemctl").write_text(SYSTEMCTL)
    (member.folder / "bin" / "journalctl").write_text("#!/bin/sh\ntail -n 25 /run/rig/mariadb.log\n")
    for name in ("systemctl", "journalctl"):
        (member.folder / "bin" / name).chmod(0o755)
    for name in ("data", "run/mysqld"):
        shutil.chown(member.folder / name, "mysql", "mysql")
    member.furnish(OWN)


if __name__ == "__main__":
    sys.exit("a part of the tests")
