"""The role galera: what its templates render to, and what its phase scripts decide, with stand-ins for the programs."""

from __future__ import annotations

import json
import os
import pwd
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
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
        "members": {
            "galera": [{"hostname": f"galera-{i}", "address": f"127.0.0.{i + 1}", "self": i == 0} for i in range(count)]
        },
    }


def rendered(count: int, address: str = "", certificates: dict[str, Any] | None = None) -> dict[str, RenderedFile]:
    top = ROOT / "templates" / "galera"
    files = {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    role = read_source_roles(Settings(source_dir=ROOT))["galera"]
    values = dict(role.config.values)
    if address:
        values["frontend"] = values["frontend"] | {"address": address}
    given: dict[str, Any] = {"values": values, "secrets": dict.fromkeys(role.secrets, "pass-word_1")}
    if certificates is not None:
        given |= {"certificates": certificates, "cloud": {"name": "lab", "authority": "AUTHORITY"}}
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


def test_one_member_takes_all_connections_and_the_others_are_its_backup() -> None:
    proxy = rendered(3, "10.0.0.9")["/etc/haproxy/conf.d/galera.cfg"].content
    assert "\nglobal\n    hard-stop-after 5m\n" in proxy, "a former process cuts no session when the writer dies"
    assert "bind 10.0.0.9:3306\n" in proxy and "default-server backup " in proxy
    assert [line.split() for line in proxy.splitlines() if line.split()[:1] == ["server"]] == [
        ["server", f"galera-{i}", f"127.0.0.{i + 1}:3306"] for i in range(3)
    ]
    assert "listen" not in rendered(3)["/etc/haproxy/conf.d/galera.cfg"].content, "there is no address to listen at"


def test_members_talk_tls_when_they_have_certificates() -> None:
    files = rendered(3, certificates={"galera": {"certificate": "CERTIFICATE", "key": "KEY"}})
    tls = {name: files[f"/etc/mysql/tls/{name}"] for name in ("member.pem", "member.key", "authority.pem")}
    assert [tls[name].content for name in tls] == ["CERTIFICATE", "KEY", "AUTHORITY"]
    assert (tls["member.key"].mode, tls["member.key"].sensitive) == (0o640, True)
    assert "socket.ssl_cert=/etc/mysql/tls/member.pem" in files[CONFIG].content
    assert "ssl-mode = VERIFY_CA\n" in files[CONFIG].content and "socket.dynamic" not in files[CONFIG].content
    assert "ssl" not in rendered(3)[CONFIG].content


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
        self.owner = pwd.getpwuid(os.getuid()).pw_name
        self.said = ""
        self.refused = 0
        """How often MariaDB does not start."""
        self.port = 0
        self.recovers = False
        self.state = "inactive"
        self.check_port = 9
        self.unsure = 2.0
        self.answers: list[dict[str, Any] | None] = []
        """What the server says when it is asked who begins again, one after the other; None: it is away."""
        self.recovered = ""
        for name in (
            "systemctl", "galera_new_cluster", "galera-status", "journalctl", "mariadb", "mariadb-install-db",
            "provisioner-agent", "galera_recovery", "chown",
        ):  # fmt: skip
            path = folder / "bin" / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(
                f"#!/bin/sh\ncase \"$(basename $0) $1\" in\n'systemctl is-active') echo $STATE; exit $INACTIVE;;\n"
                f'galera-status*) echo "$STATUS" | sed -n "s/^$1=//p"; exit;;\n'
                f"'systemctl reset-failed') exit 0;;\n"
                f"journalctl*) printf '%s\\n' 'the [ERROR] of it' 1 2 3 4 5 6 7 8 9 10; exit 0;;\n"
                f"'systemctl start') echo \"$(basename $0) $*\" >>{self.log}; read -r left <{folder}/refused\n"
                f"echo $((left - 1)) >{folder}/refused; [ $left -gt 0 ] && exit 1; exit $CODE;;\n"
                f'provisioner-agent*) echo "$(basename $0) $*" >>{self.log}\n'
                f"read -r line <{folder}/answers || exit 75\n"
                f'sed -i 1d {folder}/answers; [ "$line" = null ] && exit 75; echo "$line"; exit 0;;\n'
                f"galera_recovery*) cat {folder}/recovered; exit 0;;\nesac\n"
                f'echo "$(basename $0) $*" >>{self.log}\n[ "$(basename $0)" = mariadb ] && cat >>{self.log}\n'
                f"exit $CODE\n"
            )
            path.chmod(0o755)

    def run(self, script: str, count: int, once: dict[str, Any] | None = None, **env: str) -> tuple[int, list[str]]:
        """Run a phase script; its exit code and the programs that it called."""
        self.log.write_text("")
        told = metadata(count)
        told["role"]["recover"] = self.recovers
        (self.folder / "metadata.json").write_text(json.dumps(told))
        (self.folder / "answers").write_text("".join(json.dumps(answer) + "\n" for answer in self.answers))
        (self.folder / "recovered").write_text(self.recovered)
        (self.folder / "refused").write_text(f"{self.refused}\n")
        (self.folder / "permit.json").write_text(json.dumps({"once": once or {}}))
        base = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PROVISIONER_METADATA": str(self.folder / "metadata.json"),
            "PROVISIONER_PERMIT": str(self.folder / "permit.json"),
            "PROVISIONER_CHANGED": "",
            "GALERA_DATA": str(self.data),
            "GALERA_OWNER": self.owner,
            "GALERA_RECORD": str(self.record),
            "GALERA_ALONE": str(self.alone),
            "GALERA_PORT": str(self.port or 9),
            "GALERA_CHECK_PORT": str(self.check_port),
            "GALERA_PATIENCE": "0",
            "GALERA_VIEW_PATIENCE": "0",
            "GALERA_UNSURE": str(self.unsure),
            "STATE": self.state,
            "INACTIVE": "0" if self.running else "3",
            "STATUS": "\n".join(f"{name}={value}" for name, value in self.status.items()),
            "CODE": "1" if self.fails else "0",
        }
        path = ELEMENT / "os-refresh-config" / script
        words = [sys.executable, str(path)] if script == CONFIGURE else ["sh", str(path)]
        done = subprocess.run(words, env=base | env, capture_output=True, text=True, timeout=30)
        assert "Traceback" not in done.stderr, done.stderr
        self.said = done.stdout
        return done.returncode, self.log.read_text().splitlines()


CONFIGURE = "configure.d/50-galera"
APPLICATION = "post-configure.d/50-galera-application"
DO = {"galera-bootstrap": {"do": True, "fence": 4}}
DONE = {"galera-bootstrap": {"do": False, "fence": 4}}
OTHER = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.getuid())
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


@pytest.fixture
def checked(member: Member) -> Callable[..., None]:
    """Let another member say by its check whether it is in the primary component: one answer after the other."""
    servers: list[HTTPServer] = []

    def start(*answers: bool | None) -> None:
        left = list(answers)

        class Check(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                primary = left.pop(0) if len(left) > 1 else left[0]
                body = json.dumps({"primary": primary}).encode()
                self.send_response(200 if primary else 503)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: Any) -> None:
                """Nobody reads it."""

        server = HTTPServer(("127.0.0.2", 0), Check)
        servers.append(server)
        member.check_port = server.server_address[1]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    yield start  # type: ignore[misc]
    for server in servers:
        server.shutdown()
        server.server_close()


HISTORY = "6f1d0a9e-0000-11f0-8000-000000000001"
ASKED = f"provisioner-agent recover --wait 10 -- {HISTORY}"
LOOK = "systemctl start --no-block mariadb.service"
LEAD = {"verdict": "lead", "why": "it had come furthest", "fence": 2}
TO_JOIN = {"verdict": "join", "why": "galera is up again", "fence": 2}
TO_WAIT = {"verdict": "wait", "why": "galera-1 has said nothing", "fence": 0}


@pytest.fixture
def fallen(member: Member) -> Member:
    """It was a member when the power was cut."""
    member.recovers = True
    member.grastate.write_text(f"version: 2.1\nuuid:    {HISTORY}\nseqno:   -1\nsafe_to_bootstrap: 0\n")
    member.recovered = f"--wsrep_start_position={HISTORY}:17\n"
    (member.data / "gvwstate.dat").touch()
    return member


def test_who_is_named_begins_again_from_what_it_has(fallen: Member) -> None:
    fallen.answers = [LEAD]
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, [f"{ASKED} 17", *BOOTSTRAP])
    assert "safe_to_bootstrap: 1" in fallen.grastate.read_text()
    assert not (fallen.data / "gvwstate.dat").exists(), "the members of the last view would be waited for"
    assert not fallen.record.exists(), "that is about the beginning of the cluster's life"


def test_who_is_not_named_joins_when_another_one_is_up(fallen: Member) -> None:
    fallen.answers = [TO_JOIN]
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, [f"{ASKED} 17", *JOIN])
    assert "safe_to_bootstrap: 0" in fallen.grastate.read_text()


def test_who_waits_too_long_says_for_what(fallen: Member) -> None:
    fallen.answers = [TO_WAIT]
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (1, [f"{ASKED} 17"])


def test_without_the_server_members_find_their_last_view_by_themselves(fallen: Member) -> None:
    fallen.state = "active"
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, [f"{ASKED} 17", LOOK])
    assert (fallen.data / "gvwstate.dat").exists()


def test_when_they_do_not_the_server_is_asked_again(fallen: Member) -> None:
    fallen.state = "failed"
    fallen.answers = [None, LEAD]
    code, called = fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1", GALERA_PATIENCE="60")
    assert code == 0 and called[:2] == [f"{ASKED} 17", LOOK]
    assert called[-2:] == [f"{ASKED} 17", *BOOTSTRAP]


def test_a_member_that_is_up_is_joined_and_nobody_is_asked(fallen: Member, checked: Callable[..., None]) -> None:
    checked(True)
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, JOIN)


def test_a_member_that_has_no_quorum_is_not_up(
    fallen: Member, checked: Callable[..., None], peer: Callable[[], socket.socket]
) -> None:
    checked(False)
    peer()
    fallen.answers = [LEAD]
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1")[1] == [f"{ASKED} 17", *BOOTSTRAP]


def test_a_member_that_is_too_busy_to_say_is_asked_again(fallen: Member, checked: Callable[..., None]) -> None:
    checked(None, None, True)
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, JOIN)


def test_a_member_that_never_says_is_not_up(fallen: Member, checked: Callable[..., None]) -> None:
    checked(None)
    fallen.unsure, fallen.answers = 0, [LEAD]
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1")[1] == [f"{ASKED} 17", *BOOTSTRAP]


def test_a_member_of_an_older_image_is_up_when_it_listens(fallen: Member, peer: Callable[[], socket.socket]) -> None:
    peer()
    assert fallen.run(CONFIGURE, 3, PROVISIONER_BOOT="1") == (0, JOIN)


@pytest.mark.parametrize(
    ("state", "recovered", "said"),
    [
        ("", "", " -1"),
        ("uuid: 00000000-0000-0000-0000-000000000000\nseqno: -1\n", "", " -1"),
        (f"uuid: {HISTORY}\nseqno: 40\n", "", f"{HISTORY} 40"),
        (f"uuid: {HISTORY}\nseqno: -1\n", f"--wsrep_start_position={HISTORY}:12\n", f"{HISTORY} 12"),
        (f"uuid: {HISTORY}\nseqno: -1\n", "", f"{HISTORY} -1"),
    ],
)
def test_how_far_a_member_had_come(fallen: Member, state: str, recovered: str, said: str) -> None:
    """Of one that never had data, that was cut off while it was copied, that was stopped, that crashed."""
    fallen.grastate.write_text(state)
    fallen.recovered = recovered
    fallen.answers = [TO_WAIT]
    assert fallen.run(CONFIGURE, 3)[1] == [f"provisioner-agent recover --wait 10 -- {said}"]


def test_new_certificates_are_read_without_a_restart(member: Member) -> None:
    member.running = True
    code, called = member.run(CONFIGURE, 3, PROVISIONER_CHANGED="/etc/mysql/tls/member.pem")
    assert code == 0 and "FLUSH SSL; SET GLOBAL" in called[0] and "systemctl" not in called[0]


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


def test_data_of_an_image_in_which_the_user_had_another_number_are_given_to_him(member: Member) -> None:
    member.owner = OTHER
    own = f"chown -R {OTHER}:{OTHER} {member.data}"
    assert member.run(CONFIGURE, 3, DONE) == (0, [own, *JOIN])
    assert member.run(CONFIGURE, 3, DO) == (0, [own, *BOOTSTRAP])
    member.running = True
    assert member.run(CONFIGURE, 3, DONE) == (0, []), "of a server that runs they are its own"


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
    assert (code, called) == (1, BOOTSTRAP)
    assert "the [ERROR] of it\n1\n" in member.said and not member.record.exists()


@pytest.mark.parametrize(("refused", "ends"), [(1, 0), (2, 1)])
def test_a_member_that_does_not_join_tries_once_more(member: Member, refused: int, ends: int) -> None:
    """The one that gave it the data may be lost in the middle."""
    member.refused = refused
    assert member.run(CONFIGURE, 3, DONE, PROVISIONER_FIRST="1") == (ends, JOIN * 2)
    assert member.said.count("the [ERROR] of it") == refused


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


WELL = {
    "wsrep_ready": "ON", "wsrep_cluster_status": "Primary", "wsrep_local_state": "4",
    "wsrep_local_state_comment": "Synced", "wsrep_sst_method": "mariabackup", "read_only": "OFF",
}  # fmt: skip


@pytest.mark.parametrize(
    ("said", "writable", "primary"),
    [
        ({}, True, True),
        ({"wsrep_local_state": "2", "wsrep_local_state_comment": "Donor/Desynced"}, True, True),
        ({"wsrep_local_state": "2", "wsrep_sst_method": "rsync"}, False, True),
        ({"wsrep_local_state": "1", "wsrep_local_state_comment": "Joining"}, False, True),
        ({"wsrep_cluster_status": "non-Primary"}, False, False),
        ({"wsrep_ready": "OFF"}, False, False),
        ({"read_only": "ON"}, False, True),
        ("not up", False, False),
        ("silent", False, None),
    ],
)
def test_which_member_may_be_written_to(said: dict[str, str] | str, writable: bool, primary: bool | None) -> None:
    check = types.ModuleType("galera_check")
    exec((ELEMENT / "bin" / "galera-check").read_text(), check.__dict__)
    found = {"not up": {}, "silent": None}[said] if isinstance(said, str) else WELL | said
    assert check.judge(found)[:2] == (writable, primary)


SLOW_CLIENT = """#!/bin/sh
echo started >>{folder}/log
while read -r line; do case "$line" in
*STATUS*) at=$((${{at:-0}} + 1)); read -r word <{folder}/gate$at; [ "$word" != end ] || exit 1;;
*end*) echo said >>{folder}/log; printf 'wsrep_local_state\\t%s\\nend\\tend\\n' "$word";;
esac; done
"""


def test_a_client_that_is_slow_is_not_begun_anew_and_what_it_says_late_does_not_count(tmp_path: Path) -> None:
    check = types.ModuleType("galera_check")
    exec((ELEMENT / "bin" / "galera-check").read_text(), check.__dict__)
    client = tmp_path / "mariadb"
    client.write_text(SLOW_CLIENT.format(folder=tmp_path))
    client.chmod(0o755)
    gates = [tmp_path / f"gate{at}" for at in (1, 2, 3)]
    """One for each question, at which the client waits for what to say."""
    for gate in gates:
        os.mkfifo(gate)
    vars(check).update(CLIENT=[str(client)], PATIENCE=0.0, FRESH=0.0)
    server = check.Server()
    assert [server.ask() for _ in range(3)] == [None] * 3
    gates[0].write_text("1\n")
    vars(check).update(PATIENCE=30.0)
    threading.Thread(target=gates[1].write_text, args=("4\n",)).start()
    assert server.ask()["wsrep_local_state"] == "4"
    assert (tmp_path / "log").read_text().split() == ["started", "said", "said"]
    threading.Thread(target=gates[2].write_text, args=("end\n",)).start()
    assert server.ask() == {} and server.client is None
    vars(check).update(PATIENCE=0.0, LOST=0.0)
    assert server.ask() is None and server.client is None, "it is given up at last"


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
