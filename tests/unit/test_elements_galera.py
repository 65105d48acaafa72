"""The role galera: what its templates render to, and what its phase scripts decide, with stand-ins for the programs."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli.desired import read_source_roles
from provisioner.system.settings import Settings
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
ELEMENT = ROOT / "elements" / "galera"
CONFIG = "/etc/mysql/mariadb.conf.d/90-galera.cnf"
MEMBERS = "/etc/mysql/mariadb.conf.d/91-galera-members.cnf"


def metadata(count: int) -> dict[str, Any]:
    return {
        "generation": 1,
        "cloud": {"name": "lab"},
        "role": {"name": "galera", "count": count},
        "node": {"name": "node1", "hostname": "galera-0", "address": "127.0.0.1"},
        "members": {"galera": [{"address": f"127.0.0.{i + 1}", "self": i == 0} for i in range(count)]},
    }


def rendered(count: int) -> dict[str, RenderedFile]:
    top = ROOT / "templates" / "galera"
    files = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    role = read_source_roles(Settings(source_dir=ROOT))["galera"]
    given = {"values": role.config.values, "secrets": dict.fromkeys(role.secrets, "pass-word_1")}
    return render_tree(*split_tree(files), build_data(metadata(count) | given))


def test_templates_with_the_values_of_the_role() -> None:
    files = rendered(3)
    assert "wsrep_cluster_address = gcomm://127.0.0.2,127.0.0.3,\n" in files[MEMBERS].content
    assert "wsrep_cluster_name = lab-galera\n" in files[CONFIG].content
    assert "127.0.0.2" not in files[CONFIG].content, "new members would restart the old ones"
    sql = files["/etc/mysql/application.sql"]
    assert (sql.mode, sql.sensitive) == (0o600, True) and "IDENTIFIED BY 'pass-word_1'" in sql.content
    assert not any("pass-word_1" in file.content for file in files.values() if not file.sensitive)


def test_one_member_is_the_cluster() -> None:
    assert "wsrep_cluster_address = gcomm://\n" in rendered(1)[MEMBERS].content


class Member:
    """One member below a folder. ``running`` and ``status`` are what the stand-ins answer."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = folder / "log"
        self.record = folder / "galera-bootstrap.json"
        self.alone = folder / "alone"
        self.data = folder / "data"
        (self.data / "mysql").mkdir(parents=True)
        self.grastate = self.data / "grastate.dat"
        self.status: dict[str, str] = {}
        self.running = False
        self.fails = False
        self.port = 0
        for name in ("systemctl", "galera_new_cluster", "galera-status", "journalctl", "mariadb", "mariadb-install-db"):
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                f"#!/bin/sh\ncase \"$(basename $0) $1\" in\n'systemctl is-active') exit $INACTIVE;;\n"
                f'galera-status*) echo "$STATUS" | sed -n "s/^$1=//p"; exit;;\n'
                f"'systemctl reset-failed') exit 0;;\nesac\n"
                f'echo "$(basename $0) $*" >>{self.log}\n[ "$(basename $0)" = mariadb ] && cat >>{self.log}\n'
                f"exit $CODE\n"
            )
            path.chmod(0o755)

    def run(self, script: str, count: int, once: dict[str, Any] | None = None, **env: str) -> tuple[int, list[str]]:
        """Run a phase script; its exit code and the programs that it called."""
        self.log.write_text("")
        (self.folder / "metadata.json").write_text(json.dumps(metadata(count)))
        (self.folder / "permit.json").write_text(json.dumps({"once": once or {}}))
        base = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PROVISIONER_METADATA": str(self.folder / "metadata.json"),
            "PROVISIONER_PERMIT": str(self.folder / "permit.json"),
            "PROVISIONER_CHANGED": "",
            "GALERA_DATA": str(self.data),
            "GALERA_RECORD": str(self.record),
            "GALERA_ALONE": str(self.alone),
            "GALERA_PORT": str(self.port or 9),
            "INACTIVE": "0" if self.running else "3",
            "STATUS": "\n".join(f"{name}={value}" for name, value in self.status.items()),
            "CODE": "1" if self.fails else "0",
        }
        path = ELEMENT / "os-refresh-config" / script
        words = [sys.executable, str(path)] if script == CONFIGURE else ["sh", str(path)]
        done = subprocess.run(words, env=base | env, capture_output=True, text=True, timeout=30)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, self.log.read_text().splitlines()


CONFIGURE = "configure.d/50-galera"
APPLICATION = "post-configure.d/50-galera-application"
DO = {"galera-bootstrap": {"do": True, "fence": 4}}
DONE = {"galera-bootstrap": {"do": False, "fence": 4}}
JOIN = ["systemctl start mariadb.service"]
RESTART = ["systemctl restart mariadb.service"]
BOOTSTRAP = ["galera_new_cluster "]


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


@pytest.fixture
def peer(member: Member) -> Callable[[], socket.socket]:
    """Let another member listen."""
    opened = socket.socket()

    def listen() -> socket.socket:
        opened.bind(("127.0.0.2", 0))
        opened.listen()
        member.port = opened.getsockname()[1]
        return opened

    yield listen  # type: ignore[misc]
    opened.close()


@pytest.mark.parametrize("count", [1, 3])
def test_who_begins_the_cluster_makes_the_tables(member: Member, count: int) -> None:
    (member.data / "mysql").rmdir()
    code, called = member.run(CONFIGURE, count, DO, PROVISIONER_FIRST="1")
    assert code == 0 and len(called) == 2
    assert called[0].startswith(f"mariadb-install-db --user=mysql --datadir={member.data} ")


def test_tables_that_were_half_made_are_made_again(member: Member) -> None:
    (member.data / "mysql").rmdir()
    member.fails = True
    code, called = member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1")
    assert code == 1 and len(called) == 1, "no cluster begins on half a data folder"
    (member.data / "mysql").mkdir()
    (member.data / "mysql" / "half").touch()
    member.fails = False
    code, called = member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1")
    assert code == 0 and len(called) == 2
    assert list(member.data.iterdir()) == []


def test_who_joins_makes_no_tables(member: Member) -> None:
    (member.data / "mysql").rmdir()
    assert member.run(CONFIGURE, 3, DONE, PROVISIONER_FIRST="1") == (0, JOIN)


def test_the_servers_word_bootstraps_and_is_recorded(member: Member) -> None:
    assert member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1") == (0, BOOTSTRAP)
    assert json.loads(member.record.read_text()) == {"fence": 4}


@pytest.mark.parametrize("once", [DONE, {}, {"galera-bootstrap": {"do": "yes"}}])
def test_without_it_members_join(member: Member, once: dict[str, Any]) -> None:
    assert member.run(CONFIGURE, 3, once, PROVISIONER_FIRST="1") == (0, JOIN)
    assert not member.record.exists()


def test_a_record_of_the_bootstrap_forbids_another(member: Member) -> None:
    member.record.write_text('{"fence": 4}')
    assert member.run(CONFIGURE, 3, DO) == (0, JOIN)
    assert member.run(CONFIGURE, 3, {}, PROVISIONER_BOOT="1") == (0, JOIN)


def test_a_first_generation_that_was_interrupted_bootstraps_again(member: Member) -> None:
    """Nobody can have joined: the permit is held until this member is healthy."""
    member.record.write_text('{"fence": 4}')
    member.grastate.write_text("seqno: -1\nsafe_to_bootstrap: 0\n")
    assert member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1") == (0, BOOTSTRAP)
    assert member.grastate.read_text() == "seqno: -1\nsafe_to_bootstrap: 1\n"


def test_a_living_member_forbids_the_bootstrap(member: Member, peer: Callable[[], socket.socket]) -> None:
    peer()
    assert member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1") == (0, JOIN)


def test_a_failed_bootstrap_is_not_recorded(member: Member) -> None:
    member.fails = True
    code, called = member.run(CONFIGURE, 3, DO, PROVISIONER_FIRST="1")
    assert code == 1 and called[0] == BOOTSTRAP[0] and called[1].startswith("journalctl")
    assert not member.record.exists()


def test_joining_leaves_the_mark_of_safety_alone(member: Member) -> None:
    member.grastate.write_text("safe_to_bootstrap: 0\n")
    member.run(CONFIGURE, 3, DONE, PROVISIONER_BOOT="1")
    assert member.grastate.read_text() == "safe_to_bootstrap: 0\n"


def test_only_its_own_file_restarts_it(member: Member) -> None:
    member.running = True
    member.status = {"wsrep_cluster_status": "Primary", "wsrep_cluster_size": "3"}
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=MEMBERS) == (0, [])
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=f"{CONFIG}\n{MEMBERS}") == (0, RESTART)


def test_the_whole_cluster_restarts_as_that(member: Member, peer: Callable[[], socket.socket]) -> None:
    member.running = True
    member.status = {"wsrep_cluster_status": "Primary", "wsrep_cluster_size": "1"}
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=CONFIG) == (0, BOOTSTRAP)
    assert not member.alone.exists() and not member.record.exists()
    member.status["wsrep_cluster_status"] = "non-Primary"
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=CONFIG) == (0, RESTART)
    member.status["wsrep_cluster_status"] = "Primary"
    peer()
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=CONFIG) == (0, RESTART)


def test_the_whole_cluster_comes_back_after_a_bad_configuration(member: Member) -> None:
    member.running = member.fails = True
    member.status = {"wsrep_cluster_status": "Primary", "wsrep_cluster_size": "1"}
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=CONFIG)[0] == 1
    member.running = member.fails = False
    assert member.run(CONFIGURE, 3, PROVISIONER_CHANGED=CONFIG, PROVISIONER_ROLLBACK="1") == (0, BOOTSTRAP)


def test_a_cluster_of_one_starts_itself_after_a_crash(member: Member) -> None:
    member.grastate.write_text("safe_to_bootstrap: 0\n")
    assert member.run(CONFIGURE, 1, {}, PROVISIONER_BOOT="1") == (0, JOIN)
    assert member.grastate.read_text() == "safe_to_bootstrap: 1\n"


@pytest.mark.parametrize(
    ("count", "record", "env", "due"),
    [
        (3, True, {"PROVISIONER_FIRST": "1"}, True),
        (3, False, {"PROVISIONER_FIRST": "1"}, False),
        (1, False, {"PROVISIONER_FIRST": "1"}, True),
        (3, True, {}, False),
        (3, False, {"PROVISIONER_CHANGED": f"{CONFIG}\n/etc/mysql/application.sql"}, True),
    ],
)
def test_who_makes_the_applications_user(
    member: Member, count: int, record: bool, env: dict[str, str], due: bool
) -> None:
    member.status = {"wsrep_ready": "ON"}
    if record:
        member.record.write_text("{}")
    sql = member.folder / "application.sql"
    sql.write_text("STATEMENTS\n")
    code, called = member.run(APPLICATION, count, GALERA_SQL=str(sql), **env)
    assert code == 0 and ("STATEMENTS" in called) is due
