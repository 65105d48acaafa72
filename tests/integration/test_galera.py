"""Three Galera members behind one address, with real programs and no machines: who writes, who dies, who begins again.

The phase scripts are those of the role, the decisions those of the service's own records; only systemd and the way
between agent and service have stand-ins.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from galera_rig import ADDRESS, Member, Rig, start_front, started_rig
from inserts import TABLE, inserting, rows
from rack import ROOT
from rig import WIRE, in_namespace

sys.path.append(str(ROOT / "tests" / "unit"))
from conductor_rack import role
from members import Members

from provisioner.conductor.recovery import WAIT, leave_out
from provisioner.conductor.status import read_status
from provisioner.model.hardware import Power
from provisioner.model.status import RecoveryStatus

CONFIGURE, APPLICATION = "configure.d/50-galera", "post-configure.d/50-galera-application"
BEGIN = {"galera-bootstrap": {"do": True, "fence": 1}}
AGENT = """#!/usr/bin/python3
import json, socket, sys
wait, history, sequence = float(sys.argv[3]), sys.argv[5], int(sys.argv[6])
door = socket.socket(socket.AF_UNIX)
try:
    door.connect("/run/rig/service.sock")
except OSError:
    sys.exit(75)
door.sendall(json.dumps({"history": history, "sequence": sequence, "wait": wait}).encode() + b"\\n")
said = door.makefile().readline()
print(said) if said else sys.exit(75)
"""


class Service:
    """The records of a cloud with this role, and who answers its agents."""

    def __init__(self, rig: Rig) -> None:
        self.records = Members(rig.folder, (role("galera", recover=True),), len(rig.members))
        self._lock = threading.Lock()
        self._over = threading.Event()
        self.away = False
        self._doors = []
        for member in rig.members:
            program = member.folder / "bin" / "provisioner-agent"
            program.write_text(AGENT)
            program.chmod(0o755)
            door = socket.socket(socket.AF_UNIX)
            door.bind(str(member.folder / "run" / "rig" / "service.sock"))
            door.listen()
            self._doors.append(door)
            threading.Thread(target=self._serve, args=(door, member.hostname), daemon=True).start()

    def _serve(self, door: socket.socket, name: str) -> None:
        while not self._over.is_set():
            try:
                connection, _ = door.accept()
            except OSError:
                return
            with connection, connection.makefile("rw") as stream:
                message = json.loads(stream.readline())
                if self.away:
                    continue
                answer = self._answer(name, message)
                try:
                    print(json.dumps(answer), file=stream, flush=True)
                except OSError:
                    continue  # its power was cut

    def _answer(self, name: str, message: dict[str, object]) -> dict[str, object]:
        end = time.monotonic() + float(str(message["wait"]))
        while True:
            with self._lock:
                answer = self.records.guests.recover(self.records.members[name].ident, message)
            if answer["verdict"] != WAIT or time.monotonic() >= end:
                return answer
            time.sleep(0.2)

    def report(self, name: str) -> None:
        with self._lock:
            self.records.report(name)

    def outage(self) -> RecoveryStatus | None:
        with self._lock:
            return read_status(self.records.doors, "lab").recoveries.get("galera")

    def leave_out(self, name: str) -> None:
        with self._lock:
            node = self.records.members[name].node
            self.records.store.nodes.set_power(node, Power.OFF, self.records.clock.now())
            leave_out(self.records.doors, "lab", "galera", (node,))

    def close(self) -> None:
        self._over.set()
        for door in self._doors:
            door.close()
        self.records.store.close()


def writer_of(rig: Rig) -> Member:
    name = rig.client("SELECT @@wsrep_node_name").stdout.strip()
    return next(member for member in rig.members if member.hostname == name)


def holders(rig: Rig) -> list[Member]:
    """Who has the virtual address."""
    shown = {
        member.hostname: subprocess.run(["ip", "-n", member.space, "addr"], capture_output=True, text=True).stdout
        for member in rig.members
    }
    return [member for member in rig.members if f"{ADDRESS}/" in shown[member.hostname]]


def synced(member: Member) -> bool:
    return member.status("wsrep_local_state_comment") == "Synced"


def begin_cluster(rig: Rig) -> None:
    for member in rig.members:
        rig.render(member)
        done = rig.phase(member, CONFIGURE, BEGIN if member.index == 0 else None, PROVISIONER_FIRST="1")
        assert done.returncode == 0, done.stdout + done.stderr + member.log("mariadb")
        if member.index == 0:
            assert rig.phase(member, APPLICATION, PROVISIONER_FIRST="1").returncode == 0
        rig.wait(f"{member.hostname} is synced", lambda member=member: synced(member))
        start_front(member)
    rig.wait("the address answers", lambda: rig.client("SELECT 1").returncode == 0)
    assert rig.client(TABLE).returncode == 0


def check_encryption(rig: Rig) -> None:
    """Between members, while data is copied, and to clients."""
    for member in rig.members:
        ask = ["timeout", "5", "openssl", "s_client", "-connect", f"{member.address}:4567"]
        said = subprocess.run(in_namespace(WIRE, *ask), capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout
        assert f"CN = {member.hostname}" in said
    for joiner in rig.members[1:]:
        log = (joiner.folder / "run" / "rig" / "mariadb.log").read_text(errors="replace")
        assert "Verifying peer certificate chain for ssl-mode=VERIFY_CA" in log and "mariabackup" in log
    authority = rig.folder / "authority.pem"
    authority.write_text(rig.authority.certificate)
    words = ["mariadb", "--no-defaults", "-NB", "-h", ADDRESS, "-u", "app", f"--ssl-ca={authority}"]
    words += ["--ssl-verify-server-cert", "-e", "SHOW STATUS LIKE 'Ssl_version'"]
    done = subprocess.run(
        in_namespace(WIRE, *words),
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/usr/sbin", "MYSQL_PWD": "secret-galera_app_password"},
    )
    assert "TLSv1.3" in done.stdout, done.stderr


def lose_the_writer(rig: Rig) -> None:
    """It has the address as well; no acknowledged row is lost, writes go on, and it does not get its part back."""
    dead = writer_of(rig)
    if holders(rig) != [dead]:
        for member in holders(rig):
            member.run("systemctl", "stop", "keepalived.service")
        for member in rig.members:
            if member is not dead:
                member.run("systemctl", "stop", "keepalived.service")
        rig.wait("the writer has the address", lambda: holders(rig) == [dead])
        for member in rig.members:
            assert member.run("systemctl", "start", "keepalived.service").returncode == 0
    with inserting(rig.client) as inserts:
        rig.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        inserts.longest = 0.0
        dead.cut_power()
        written = len(inserts.acknowledged)
        rig.wait("writes go on", lambda: len(inserts.acknowledged) > written + 50)
        print(f"the writer died: {inserts.longest:.1f} s between two rows")
        left = [member for member in rig.members if member is not dead]
        following = writer_of(rig)
        assert following in left and holders(rig)[0] in left
        assert bring_up(rig, dead).returncode == 0
        rig.wait(f"{dead.hostname} is synced", lambda: synced(dead))
        start_front(dead)
        written = len(inserts.acknowledged)
        rig.wait("writes go on", lambda: len(inserts.acknowledged) > written + 50)
        assert writer_of(rig) is following, "who comes back takes nothing away from whom it works with"
    assert set(inserts.acknowledged) <= rows(rig.client)


def bring_up(rig: Rig, member: Member) -> subprocess.CompletedProcess[str]:
    """As its agent does after a boot, when systemd has opened the sockets."""
    member.run("systemctl", "start", "galera-check.service")
    return rig.phase(member, CONFIGURE, PROVISIONER_BOOT="1", GALERA_VIEW_PATIENCE="15")


def bring_back(
    rig: Rig, members: list[Member], pool: ThreadPoolExecutor
) -> dict[str, subprocess.CompletedProcess[str]]:
    """Their agents bring them up as after a boot, all at once."""
    runs = {member.hostname: pool.submit(bring_up, rig, member) for member in members}
    return {name: run.result() for name, run in runs.items()}


def cut_the_power_of_all(rig: Rig, service: Service) -> None:
    with inserting(rig.client) as inserts:
        rig.wait("rows are written", lambda: len(inserts.acknowledged) > 50)
        # One falls back first, so that not all are as good as any.
        behind = next(member for member in rig.members if member is not writer_of(rig))
        behind.cut_power()
        written = len(inserts.acknowledged)
        rig.wait("writes go on", lambda: len(inserts.acknowledged) > written + 50)
        for member in rig.members:
            member.cut_power()
    with ThreadPoolExecutor(6) as pool:
        done = bring_back(rig, rig.members, pool)
    assert all(run.returncode == 0 for run in done.values()), [run.stdout for run in done.values()]
    assert ["begins again, fence" in run.stdout for run in done.values()].count(True) == 1
    assert "begins again, fence" not in done[behind.hostname].stdout
    come_back(rig, service, set(inserts.acknowledged))


def come_back(rig: Rig, service: Service, acknowledged: set[int]) -> None:
    for member in rig.members:
        rig.wait(f"{member.hostname} is synced", lambda member=member: synced(member))
        start_front(member)
        service.report(member.hostname)
    assert {member.status("wsrep_cluster_size") for member in rig.members} == {str(len(rig.members))}
    assert service.outage() is None
    rig.wait("the address answers", lambda: rig.client("SELECT 1").returncode == 0)
    assert acknowledged <= rows(rig.client)


def stop_in_order_and_lose_one(rig: Rig, service: Service) -> None:
    """The last one to go is the one that had come furthest. It is waited for, until it is given up or speaks."""
    with inserting(rig.client) as inserts:
        rig.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        last = writer_of(rig)
        others = [member for member in rig.members if member is not last]
        for member in others:
            member.run("systemctl", "stop", "mariadb.service")
            written = len(inserts.acknowledged)
            rig.wait("writes go on", lambda written=written: len(inserts.acknowledged) > written + 20)
    last.run("systemctl", "stop", "mariadb.service")
    for member in rig.members:
        member.cut_power()
    with ThreadPoolExecutor(6) as pool:
        back = pool.submit(bring_back, rig, others, pool)

        def said() -> int:
            found = service.outage()
            return 0 if found is None else sum(member.sequence is not None for member in found.members)

        rig.wait("both have spoken", lambda: said() == 2)
        found = service.outage()
        assert found is not None and found.leader is None and f"{last.hostname} on n-{last.hostname}" in found.why
        assert not any(synced(member) for member in others)
        late = pool.submit(bring_up, rig, last).result()
        assert "begins again, fence" in late.stdout, late.stdout + late.stderr
        assert all(run.returncode == 0 for run in back.result().values())
    come_back(rig, service, set(inserts.acknowledged))


def looks(member: Member) -> bool:
    return member.run("systemctl", "is-active", "mariadb.service").stdout.strip() == "activating"


def give_one_up(rig: Rig, service: Service) -> None:
    """It does not come back: the others go on without it when an operator says so, and it is made anew."""
    gone = writer_of(rig)
    others = [member for member in rig.members if member is not gone]
    before = rows(rig.client)
    for member in rig.members:
        member.cut_power()
    service.away = True  # its power was cut as well
    with ThreadPoolExecutor(6) as pool:
        back = pool.submit(bring_back, rig, others, pool)
        rig.wait("they look for each other", lambda: all(looks(member) for member in others))
        service.away = False
        rig.wait("somebody is waited for", lambda: service.outage() is not None)
        service.leave_out(gone.hostname)
        assert all(run.returncode == 0 for run in back.result().values())
    for member in others:
        rig.wait(f"{member.hostname} is synced", lambda member=member: synced(member))
        service.report(member.hostname)
        start_front(member)
    for path in (gone.folder / "data").iterdir():
        subprocess.run(["rm", "-r", path], check=True)
    assert bring_up(rig, gone).returncode == 0
    come_back(rig, service, before)


@pytest.mark.integration
def test_three_members(tmp_path: Path) -> None:
    with started_rig(tmp_path) as rig:
        service = Service(rig)
        try:
            begin_cluster(rig)
            check_encryption(rig)
            lose_the_writer(rig)
            cut_the_power_of_all(rig, service)
            stop_in_order_and_lose_one(rig, service)
            give_one_up(rig, service)
        finally:
            service.close()
