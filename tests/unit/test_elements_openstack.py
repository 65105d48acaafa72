"""The roles controller and compute: what their templates render to, what their checker finds, and what their phase
scripts decide, with stand-ins for the programs, the database and Keystone."""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from stand_in_api import JsonHandler, serving

from provisioner.cli.desired import read_source_roles
from provisioner.system.settings import Settings
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
ROLES = read_source_roles(Settings(source_dir=ROOT))
SCRIPTS = ROOT / "elements" / "controller" / "os-refresh-config" / "configure.d"
CHECK = ROOT / "elements" / "openstack" / "bin" / "openstack-check-config"
CASES = yaml.safe_load((Path(__file__).parent / "cases" / "openstack-options.yaml").read_text())


def metadata(role: str, controllers: int, **values: Any) -> dict[str, Any]:
    config = dict(ROLES[role].config.values)
    for name, changed in values.items():
        config[name] = {**config.get(name, {}), **changed}
    members = [
        {"hostname": f"controller-{at}", "node": f"n{at}", "index": at, "address": f"10.0.0.{at}", "self": not at}
        for at in range(controllers)
    ]
    return {
        "generation": 1,
        "cloud": {"name": "lab", "authority": "an authority\n"},
        "certificates": {
            name: {"certificate": "a certificate\n", "key": "secret-key\n"} for name in ROLES[role].certificates
        },
        "role": {"name": role, "count": controllers},
        "node": {"name": "n0", "hostname": f"{role}-0", "index": 0, "address": "10.0.0.0"},
        "members": {"controller": members},
        "secrets": {name: f"secret-{name}" for name in ROLES[role].secrets},
        "values": config,
    }


def rendered(role: str, controllers: int = 1, **values: Any) -> dict[str, RenderedFile]:
    files = {
        str(path.relative_to(ROOT / "templates" / tree)): path.read_text()
        for tree in ROLES[role].image.templates
        for path in (ROOT / "templates" / tree).rglob("*")
        if path.is_file()
    }
    return render_tree(*split_tree(files), build_data(metadata(role, controllers, **values)))


@pytest.mark.parametrize("role", ["controller", "compute"])
def test_secrets_are_in_sensitive_files_that_others_cannot_read(role: str) -> None:
    for path, file in rendered(role, 3).items():
        if "secret-" in file.content:
            assert file.sensitive and not file.mode & 0o007, path


def test_keystone_remembers_within_a_request_and_not_beyond() -> None:
    group = rendered("controller")["/etc/keystone/keystone.conf"].content.partition("[cache]\n")[2].partition("\n\n")[0]
    assert group.splitlines() == ["enabled = true", "backend = dogpile.cache.null"]


def test_services_wait_for_a_database_that_is_not_up_yet() -> None:
    """After a power cut of all it takes its time until a cluster has found together again."""
    for path, file in rendered("controller").items():
        assert file.content.count("mysql+pymysql") == file.content.count("max_retries = -1"), path


def test_nova_fails_and_does_not_leave_out_guests_that_it_cannot_look_up() -> None:
    """A compute node with no guest is rebuilt."""
    nova = configparser.RawConfigParser()
    nova.read_string(rendered("controller")["/etc/nova/nova.conf"].content)
    assert not nova.getboolean("api", "list_records_by_skipping_down_cells", fallback=True)


@pytest.mark.parametrize("role", ["controller", "compute"])
def test_who_waits_on_an_address_that_moved_is_told_before_anything_connects(role: str) -> None:
    path = "/etc/sysctl.d/60-openstack.conf"
    set_to = dict(re.findall(r"(?m)^net\.ipv4\.tcp_keepalive_(\w+) = (\d+)$", rendered(role)[path].content))
    assert int(set_to["time"]) + int(set_to["intvl"]) * int(set_to["probes"]) <= 60
    script = ROOT / "elements/openstack/os-refresh-config/pre-configure.d/10-sysctl"
    assert path in script.read_text() and script.stat().st_mode & 0o111


def test_a_compute_node_has_no_way_into_databases() -> None:
    assert set(ROLES["compute"].secrets) == {"nova_password", "rabbitmq_password"}
    assert not any("mysql" in file.content for file in rendered("compute").values())


def test_guests_migrate_over_tls_between_nodes_of_the_role_alone() -> None:
    files = rendered("compute")
    assert '"CN=compute-*"' in files["/etc/libvirt/libvirtd.conf"].content
    nova = files["/etc/nova/nova.conf"].content
    assert "live_migration_with_native_tls = true" in nova and "live_migration_inbound_addr = 10.0.0.0\n" in nova
    for path in ("/etc/pki/CA/cacert.pem", "/etc/pki/qemu/ca-cert.pem"):
        assert files[path].content == "an authority\n"
    assert files["/etc/pki/qemu/server-key.pem"].group == "libvirt-qemu", "QEMU reads it, and is not root"


def test_libvirt_is_told_all_three_files_since_with_one_of_them_it_takes_none_by_default() -> None:
    files = rendered("compute")
    conf = files["/etc/libvirt/libvirtd.conf"].content
    said = dict(re.findall(r'^(ca_file|cert_file|key_file) = "(.*)"$', conf, re.M))
    assert {key: files[path].content for key, path in said.items()} == {
        "ca_file": "an authority\n",
        "cert_file": "a certificate\n",
        "key_file": "secret-key\n",
    }


def test_every_service_knows_all_nodes_of_rabbitmq() -> None:
    user = "openstack:secret-rabbitmq_password@10.0.0"
    for role, path in (("controller", "nova/nova"), ("controller", "neutron/neutron"), ("compute", "nova/nova")):
        content = rendered(role, 3)[f"/etc/{path}.conf"].content
        (url,) = re.findall(r"(?m)^transport_url = rabbit://(.*)/$", content)
        assert sorted(filter(None, url.split(","))) == [f"{user}.0:5672", f"{user}.1:5672", f"{user}.2:5672"]
        # Nova's cells cannot read a comma at the end; a compute node has none, and may have one.
        assert role == "compute" or not url.endswith(",")


def test_new_members_restart_no_rabbitmq() -> None:
    one, three = rendered("controller", 1), rendered("controller", 3)
    changed = [path for path in one if one[path] != three[path] and "rabbitmq" in path]
    assert changed == ["/etc/rabbitmq/conf.d/90-members.conf"] and not one[changed[0]].services
    assert "nodes.controller-2 = rabbit@10.0.0.2\n" in three[changed[0]].content


def test_apis_listen_at_the_nodes_own_address_and_the_front_at_its() -> None:
    files = rendered("controller", 3, frontend={"address": "10.0.0.99"}, openstack={"address": "10.0.0.99"})
    front = files["/etc/haproxy/conf.d/openstack.cfg"].content
    ports = set(re.findall(r"bind 10\.0\.0\.99:(\d+)\n", front))
    for name, file in files.items():
        if name.endswith("-uwsgi.ini") and "metadata" not in name:
            port = re.search(r"http-socket = 10\.0\.0\.0:(\d+)\n", file.content)
            assert port and port[1] in ports, name
            assert f"server controller-2 10.0.0.2:{port[1]}\n" in front
    assert "listen" not in rendered("controller")["/etc/haproxy/conf.d/openstack.cfg"].content


def test_apis_with_green_threads_have_one_thread_and_several_processes() -> None:
    """With more, a request of Neutron's never ends whose semaphore is given back in another one's thread."""
    files = rendered("controller", 3)
    found = {path: file.content for path, file in files.items() if path.endswith("-uwsgi.ini")}
    green = {path for path in found if "/nova" in path or "/neutron" in path}
    assert len(green) == 3
    for path, content in found.items():
        threads = re.findall(r"^threads = (\d+)$", content, re.MULTILINE)
        (processes,) = re.findall(r"^processes = (\d+)$", content, re.MULTILINE)
        assert (threads == []) is (path in green), path
        assert path not in green or int(processes) > 1, path


def test_with_tls_all_ask_by_https_and_know_who_has_signed() -> None:
    given: dict[str, Any] = {"frontend": {"address": "10.0.0.99"}, "openstack": {"address": "10.0.0.99", "tls": True}}
    for role in ("controller", "compute"):
        files = rendered(role, 3, **given)
        assert files["/etc/ssl/openstack-authority.pem"].content == "an authority\n"
        for path, file in files.items():
            assert "http://10.0.0.99" not in file.content, path
        groups = [
            group for group in re.split(r"(?m)^(?=\[)", files["/etc/nova/nova.conf"].content) if "region" in group
        ]
        assert all("cafile" in group for group in groups)
    # Where Keystone is asked, there it says that it is; a service finds the front in the catalog, and must know its CA.
    for path in ("glance/glance-api", "neutron/neutron", "placement/placement"):
        group = rendered("controller", 3, **given)[f"/etc/{path}.conf"].content.partition("[keystone_authtoken]")[2]
        assert "cafile = " in group.partition("\n[")[0], path
    assert "10.0.0.99" not in rendered("controller", 3, **given)["/etc/keystone/keystone.conf"].content
    front = rendered("controller", 3, **given)["/etc/haproxy/conf.d/openstack.cfg"].content
    binds = re.findall(r"(?m)^ *bind .*$", front)
    assert len(binds) == 7 and all(line.endswith(" ssl crt /etc/haproxy/openstack.pem") for line in binds)
    assert "10.0.0.99:443 " in front and "10.0.0.99:80" not in front


def test_the_providers_network_is_there_only_with_an_interface() -> None:
    agent, server = "/etc/neutron/plugins/ml2/openvswitch_agent.ini", "/etc/neutron/plugins/ml2/ml2_conf.ini"
    without, files = rendered("controller"), rendered("controller", openstack={"provider_interface": "port1"})
    assert "bridge_mappings" not in without[agent].content and "flat_networks = \n" in without[server].content
    assert "bridge_mappings = provider:br-provider\n" in files[agent].content
    assert "flat_networks = provider\n" in files[server].content


@pytest.mark.parametrize("name", CASES["cases"])
def test_what_the_checker_finds(name: str, tmp_path: Path) -> None:
    case = CASES["cases"][name]
    (tmp_path / "demo.json").write_text(json.dumps(CASES["options"]))
    (tmp_path / "demo.conf").write_text(case["file"])
    done = subprocess.run(
        [sys.executable, str(CHECK), "demo", str(tmp_path / "demo.conf")],
        env={"OPENSTACK_OPTIONS": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr.splitlines()) == (int(bool(case["says"])), case["says"])


class Controller:
    """One controller below a folder. Programs say on the log that they were called; ``versions`` by package."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.database = folder, folder / "log", folder / "database.json"
        self.versions = {f"python3-{name}": "1.0" for name in ("keystone", "glance", "placement", "nova", "neutron")}
        self.document = metadata("controller", 3)
        self.fails = ""
        (folder / "etc" / "keystone").mkdir(parents=True)
        (folder / "pymysql.py").write_text(PYMYSQL)
        fails = '[ "$*" = "$FAILS" ] && echo "no such column" && exit 3'
        self.stand_in("runuser", f'shift 3; echo "$*" >>{self.log}; {fails}')
        self.stand_in("dpkg-query", "eval printf %s \\$$(echo $4 | tr - _)")
        self.stand_in("dpkg", '[ "$(printf "%s\\n" "$2" "$4" | sort -V | head -1)" = "$2" ] && [ "$2" != "$4" ]')

    def stand_in(self, name: str, text: str) -> None:
        path = self.folder / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\nexit 0\n" if name != "dpkg" else f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def run(self, script: str, once: dict[str, Any] | None = None, **env: str) -> tuple[int, str, list[str]]:
        """:returns: exit code, what it said, the programs that it called."""
        self.log.write_text("")
        (self.folder / "metadata.json").write_text(json.dumps(self.document))
        (self.folder / "permit.json").write_text(json.dumps({"once": once or {}}))
        base = {
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder),
            "PROVISIONER_METADATA": str(self.folder / "metadata.json"),
            "PROVISIONER_PERMIT": str(self.folder / "permit.json"),
            "OPENSTACK_ETC": str(self.folder / "etc"),
            "OPENSTACK_KEY_OWNER": "root" if os.geteuid() == 0 else os.environ.get("USER", "nobody"),
            "OPENSTACK_DATABASE_WAIT": "0",
            "DATABASE": str(self.database),
            "FAILS": self.fails,
            **{package.replace("-", "_"): version for package, version in self.versions.items()},
        }
        words = [sys.executable, str(SCRIPTS / script)]
        done = subprocess.run(words, env=base | env, capture_output=True, text=True, timeout=60)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, self.log.read_text().splitlines()


PYMYSQL = '''
"""Stands for the database: what it was told is kept in a file."""
import json, os, pathlib, re

class err:
    class OperationalError(Exception): pass

class connections:
    class Connection: pass

PATH = pathlib.Path(os.environ["DATABASE"])

def connect(**words):
    if "down" in os.environ:
        raise err.OperationalError(2003, "refused")
    return Connection()

class Connection:
    rows = ()
    def __enter__(self): return self
    def __exit__(self, *error): pass
    def ping(self, reconnect): pass
    def cursor(self): return self
    def fetchall(self): return self.rows
    def execute(self, statement, words):
        known = json.loads(PATH.read_text()) if PATH.exists() else {"databases": [], "done": {}, "said": []}
        known["said"].append(statement)
        if statement.startswith("SHOW DATABASES"):
            self.rows = [(name,) for name in known["databases"] if name == words[0]]
        elif found := re.match("CREATE DATABASE IF NOT EXISTS ([a-z0-9_]+)", statement):
            known["databases"] = sorted({*known["databases"], found[1]})
        elif statement.startswith("SELECT value"):
            self.rows = [(known["done"][words[0]][0],)] if words[0] in known["done"] else []
        elif statement.startswith("REPLACE"):
            known["done"][words[0]] = words[1:]
        PATH.write_text(json.dumps(known))
'''
DATABASES = "50-openstack-databases"
DO = {"openstack-begin": {"do": True, "fence": 4}}
DONE = {"openstack-begin": {"do": False, "fence": 4}}


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


def test_one_controller_makes_databases_tables_administrator_and_cell(controller: Controller) -> None:
    code, said, called = controller.run(DATABASES, DO)
    assert code == 0, said
    known = json.loads(controller.database.read_text())
    assert {"keystone", "glance", "placement", "nova", "nova_api", "nova_cell0", "neutron"} < set(known["databases"])
    assert called.index("nova-manage api_db sync") < called.index("nova-manage db sync")
    assert {"keystone-manage db_sync", "glance-manage db_sync", "placement-manage db sync"} < set(called)
    assert called[-1] == "nova-manage cell_v2 create_cell --name cell1" and "keystone-manage bootstrap" in called
    assert known["done"]["nova-schema"][:3] == ["1.0", "controller-0", 4]
    assert "secret-" not in said + "\n".join(called), "others see the arguments of a program"


def test_all_others_find_it_done(controller: Controller) -> None:
    controller.run(DATABASES, DO)
    code, _, called = controller.run(DATABASES, DONE)
    assert (code, called) == (0, [])


def test_an_empty_database_is_begun_only_by_the_one_who_is_told_to(controller: Controller) -> None:
    for once in (DONE, {}):
        code, said, called = controller.run(DATABASES, once)
        assert (code, called) == (1, []) and "the database holds no cloud" in said
    assert json.loads(controller.database.read_text())["databases"] == []


def test_newer_packages_migrate_once_and_older_ones_are_refused(controller: Controller) -> None:
    controller.run(DATABASES, DO)
    controller.versions["python3-nova"] = "1.10"
    assert controller.run(DATABASES, DONE)[2] == [
        "nova-manage api_db sync",
        "nova-manage cell_v2 map_cell0 --database_connection {scheme}://{username}:{password}@{hostname}:{port}/nova_cell0",
        "nova-manage db sync",
    ]
    assert controller.run(DATABASES, DONE)[2] == []
    controller.versions["python3-nova"] = "1.9"
    code, said, called = controller.run(DATABASES, DONE)
    assert (code, called) == (1, []) and "nova 1.9 is older than 1.10" in said


def test_a_migration_that_fails_is_not_on_record(controller: Controller) -> None:
    controller.fails = "nova-manage db sync"
    code, said, _ = controller.run(DATABASES, DO)
    assert code == 1 and "nova-manage db sync ended with code 3\nno such column" in said
    controller.fails = ""
    code, _, called = controller.run(DATABASES, DO)
    assert code == 0 and "nova-manage db sync" in called and "keystone-manage db_sync" not in called


def test_a_new_password_reaches_the_database(controller: Controller) -> None:
    controller.run(DATABASES, DO)
    controller.document["secrets"]["glance_database_password"] = "another"
    before = len(json.loads(controller.database.read_text())["said"])
    assert controller.run(DATABASES, DONE)[0] == 0
    said = json.loads(controller.database.read_text())["said"][before:]
    assert "ALTER USER 'glance'@'%%' IDENTIFIED BY %s" in said and not any("'nova'" in line for line in said)


def test_users_of_a_mysql_cluster_are_on_all_of_its_sql_nodes(controller: Controller) -> None:
    values = controller.document["values"]
    values["database"] = {**values["database"], "ndb": True}
    assert controller.run(DATABASES, DO)[0] == 0
    said = json.loads(controller.database.read_text())["said"]
    users = [line.split("'")[1] for line in said if line.startswith("GRANT NDB_STORED_USER ON *.* TO ")]
    assert users == ["keystone", "glance", "placement", "nova", "neutron"]


def test_of_another_database_nothing_is_said_of_that(controller: Controller) -> None:
    controller.run(DATABASES, DO)
    assert "NDB" not in controller.database.read_text()


def test_what_asks_for_innodb_may_become_a_table_of_ndb() -> None:
    plain = rendered("controller")
    off, cluster = (rendered("controller", database={"ndb": on}) for on in (False, True))
    assert plain == off and not any("mysql_sql_mode" in file.content for file in plain.values())
    known = [file.content for file in cluster.values() if "connection = mysql+pymysql:" in file.content]
    assert len(known) == 5
    for text in known:
        assert text.count("mysql_sql_mode = STRICT_TRANS_TABLES,") == text.count("connection = mysql+pymysql:")
        assert "NO_ENGINE_SUBSTITUTION" not in text


def test_a_new_member_is_told_to_the_cell_by_one_controller(controller: Controller) -> None:
    controller.run(DATABASES, DO)
    controller.stand_in("runuser", f'shift 3; echo "$*" >>{controller.log}; echo "| cell1 | 0-1 | rabbit |"')
    controller.document["members"]["controller"].pop()
    update = "nova-manage cell_v2 update_cell --cell_uuid 0-1"
    assert controller.run(DATABASES, DONE)[2] == ["nova-manage cell_v2 list_cells", update]
    controller.document["members"]["controller"].reverse()
    assert controller.run(DATABASES, DONE)[2] == []


def test_a_boot_waits_for_the_database_and_asks_nothing_of_it(controller: Controller) -> None:
    away = "the database at galera-0:3306 does not let cloud_admin in: refused"
    code, said, _ = controller.run(DATABASES, {}, PROVISIONER_BOOT="1", down="yes")
    assert code == 1 and away in said
    code, said, called = controller.run(DATABASES, {}, PROVISIONER_BOOT="1")
    assert (code, called) == (0, []) and "the node was only booted" in said
    changed = {"PROVISIONER_BOOT": "1", "PROVISIONER_CHANGED": "/etc/nova/nova.conf", "down": "yes"}
    assert controller.run(DATABASES, {}, **changed)[0] == 1
    code, said, _ = controller.run(DATABASES, DO, PROVISIONER_BOOT="1", PROVISIONER_FIRST="1", down="yes")
    assert code == 1 and away in said


def test_keys_are_the_same_on_all_controllers(tmp_path: Path) -> None:
    keys = []
    for name in ("one", "two"):
        one = Controller(tmp_path / name)
        one.run(DATABASES, DO)
        top = one.folder / "etc" / "keystone"
        keys.append({str(path.relative_to(top)): path.read_bytes() for path in top.rglob("*") if path.is_file()})
        assert all(path.stat().st_mode & 0o777 == 0o600 for path in top.rglob("*") if path.is_file())
    assert keys[0] == keys[1] and set(keys[0]) == {"fernet-keys/0", "fernet-keys/2", "credential-keys/2"}
    assert len(set(keys[0].values())) == 3 and all(len(key) == 44 for key in keys[0].values())


def test_what_was_written_with_the_former_key_is_valid_after_a_rotation(controller: Controller) -> None:
    top, secrets = controller.folder / "etc" / "keystone" / "fernet-keys", controller.document["secrets"]

    def keys() -> dict[str, bytes]:
        assert controller.run(DATABASES, DO)[0] == 0
        return {path.name: path.read_bytes() for path in top.iterdir()}

    first = keys()
    secrets |= {"keystone_token_key": secrets["keystone_token_key_next"], "keystone_token_key_next": "another"}
    second = keys()
    assert (second["2"], second["1"]) == (first["0"], first["2"]) and second["0"] not in first.values()
    assert keys() == second, "nothing changes when nothing has changed"
    for number in ("1", "2"):  # as if it had been killed before it came to the next one
        (top / "0").write_bytes(first["0"])
        (top / number).write_bytes(first["2"])
        (top / "2").write_bytes(first["2"] if number == "1" else second["2"])
        (top / "1").write_bytes(first["2"])
        assert keys() == second
    for path in top.iterdir():
        path.unlink()
    (top / "0").write_bytes(second["0"])
    (top / "1").write_bytes(second["2"])
    assert keys() == {"0": second["0"], "2": second["2"]}, "numbers of an older image"


@pytest.mark.parametrize("role", ["controller", "compute"])
def test_a_new_secret_changes_a_file(role: str) -> None:
    """Else no phase script would be run with it."""
    text = "".join(file.content for file in rendered(role, 3, controller={"swift": True}).values())
    unread = {name for name in ROLES[role].secrets if f"secret-{name}" not in text}
    assert unread <= {"galera_admin_password"}, "the controllers only log in with that, whenever they need to"


class Keystone(ThreadingHTTPServer):
    """Version 3 of its API, as far as the script needs it. ``changes``: all that was not only looked at."""

    def __init__(self) -> None:
        self.kept: dict[str, list[dict[str, Any]]] = {
            kind: [] for kind in ("users", "projects", "services", "endpoints", "roles")
        }
        self.kept["roles"] = [{"id": "r1", "name": "admin"}]
        self.passwords = {"admin": "secret-openstack_admin_password"}
        self.changes: list[str] = []
        super().__init__(("127.0.0.1", 0), Answer)


class Answer(JsonHandler):
    server: Keystone

    def _do(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        path, _, query = self.path.removeprefix("/v3").partition("?")
        kind, wanted = path.strip("/").split("/")[0], dict(word.split("=") for word in query.split("&") if word)
        if path == "/auth/tokens":
            user = body["auth"]["identity"]["password"]["user"]
            good = self.server.passwords.get(user["name"]) == user["password"]
            return self.answer(201 if good else 401, {})
        if self.command != "GET":
            self.server.changes.append(f"{self.command} {kind}")
        if self.command == "GET":
            rows = self.server.kept.get(kind, [])
            rows = [row for row in rows if all(row.get(key) == value for key, value in wanted.items())]
            return self.answer(200, {kind: rows})
        if self.command == "PUT":
            self.server.changes.pop()
            return self.answer(204, None)
        (given,) = body.values()
        if self.command == "POST":
            row = {"id": f"{kind}{len(self.server.kept[kind])}", **given}
            self.server.kept[kind].append(row)
        else:
            row = next(row for row in self.server.kept[kind] if row["id"] == path.rpartition("/")[2])
            row.update(given)
        if "password" in given:
            self.server.passwords[row["name"]] = row.pop("password")
        return self.answer(201, {kind[:-1]: row})

    do_GET = do_POST = do_PUT = do_PATCH = _do


@pytest.fixture
def keystone() -> Iterator[Keystone]:
    with serving(Keystone()) as server:
        yield server


def catalog(controller: Controller, keystone: Keystone, **env: str) -> tuple[int, str, list[str]]:
    """:returns: exit code, what it said, what it changed."""
    keystone.changes.clear()
    url = f"http://127.0.0.1:{keystone.server_port}/v3"
    controller.stand_in("systemctl", f'echo "systemctl $*" >>{controller.log}')
    code, said, called = controller.run(
        "60-openstack-catalog", OPENSTACK_KEYSTONE=url, OPENSTACK_KEYSTONE_WAIT="0", **env
    )
    boots = env.get("PROVISIONER_BOOT") == "1" and not env.get("PROVISIONER_FIRST")
    verb = "restart" if "/etc/keystone/keystone.conf" in env.get("PROVISIONER_CHANGED", "") else "start"
    assert called == ([] if boots else [f"systemctl {verb} keystone.service"])
    return code, said, list(keystone.changes)


def test_keystone_is_asked_when_it_has_its_new_files(controller: Controller, keystone: Keystone) -> None:
    """With the former ones it may not get into the database any more."""
    for changed in ("/etc/nova/nova.conf", "/etc/nova/nova.conf\n/etc/keystone/keystone.conf"):
        assert catalog(controller, keystone, PROVISIONER_CHANGED=changed)[0] == 0


def test_the_catalog_is_made_once(controller: Controller, keystone: Keystone) -> None:
    code, said, changes = catalog(controller, keystone)
    assert code == 0, said
    assert sorted(set(changes)) == ["POST endpoints", "POST projects", "POST services", "POST users"]
    assert {user["name"] for user in keystone.kept["users"]} == {"glance", "placement", "nova", "neutron"}
    urls = {end["url"] for end in keystone.kept["endpoints"]}
    assert "http://controller-0:8774/v2.1" in urls and len(urls) == 5
    assert catalog(controller, keystone) == (0, "", [])


def test_a_new_address_moves_the_endpoints(controller: Controller, keystone: Keystone) -> None:
    catalog(controller, keystone)
    made = len(keystone.kept["endpoints"])
    controller.document["values"]["openstack"]["address"] = "192.0.2.9"
    assert set(catalog(controller, keystone)[2]) == {"PATCH endpoints"}
    assert len(keystone.kept["endpoints"]) == made
    assert all("//192.0.2.9:" in end["url"] for end in keystone.kept["endpoints"])


def test_a_boot_asks_keystone_nothing(controller: Controller, keystone: Keystone) -> None:
    assert catalog(controller, keystone, PROVISIONER_BOOT="1")[::2] == (0, [])
    assert catalog(controller, keystone, PROVISIONER_BOOT="1", PROVISIONER_FIRST="1")[2]


def test_a_service_gets_its_new_password(controller: Controller, keystone: Keystone) -> None:
    catalog(controller, keystone)
    controller.document["secrets"]["nova_password"] = "another"
    assert catalog(controller, keystone) == (0, "catalog: nova has a new password\n", ["PATCH users"])
    assert keystone.passwords["nova"] == "another"


def test_a_keystone_that_lets_nobody_in_is_named(controller: Controller, keystone: Keystone) -> None:
    keystone.passwords.clear()
    code, said, changes = catalog(controller, keystone)
    assert (code, changes) == (1, []) and "POST" in said and "401" in said


def test_a_keystone_that_does_not_start_says_why(controller: Controller) -> None:
    controller.stand_in("systemctl", "exit 1")
    controller.stand_in("journalctl", "echo no configuration of $8")
    code, said, _ = controller.run("60-openstack-catalog")
    assert code == 1 and "no configuration of keystone.service" in said


NETWORK = '''
"""Stands for the network: who is reached is in the environment."""
import os
import socket

def reach(where, timeout=None):
    if "%s:%s" % where not in os.environ["REACHED"].split():
        raise ConnectionRefusedError("nobody is there")
    return socket.socket()

socket.create_connection = reach
'''


def rabbitmq(controller: Controller, *, runs: bool, nodes: list[str], **env: str) -> tuple[int, list[str]]:
    """:returns: exit code, the programs that it called."""
    code, said, called = rabbitmq_says(controller, runs=runs, nodes=nodes, **env)
    assert ("conductor gets no copy here: error: not now" in said) == (code != 0)
    return code, called


def rabbitmq_says(
    controller: Controller, *, runs: bool, nodes: list[str], known: list[str] | None = None, **env: str
) -> tuple[int, str, list[str]]:
    """:param known: the nodes of the cluster that it was in; None: its disk is empty."""
    log, status = controller.log, {"disk_nodes": nodes, "running_nodes": [n for n in nodes if n in MEMBERS]}
    (controller.folder / "sitecustomize.py").write_text(NETWORK)
    disk = controller.folder / "mnesia" / f"rabbit@{controller.document['node']['address']}"
    if known is not None:
        disk.mkdir(parents=True, exist_ok=True)
        names = ",".join(f"'{name}'" for name in known)
        (disk / "cluster_nodes.config").write_text(f"{{[{names}],[{names}]}}.\n")
    active = f"is-active) exit {0 if runs else 3};;"
    starts = f'start|restart) [ $(grep -cE "systemctl (re)?start" {log}) -gt $FAILING ]; exit;;'
    controller.stand_in("systemctl", f'echo "systemctl $*" >>{log}; case $1 in {active} {starts} esac')
    controller.stand_in("journalctl", "true")
    controller.stand_in("rabbitmq-diagnostics", "exit $PAUSED")
    united = f'case $(grep -c " start_app" {log}) in 0) echo "$STATUS";; *) echo "$UNITED";; esac'
    theirs, own = (
        '*"-n "*cluster_status*) [ "$THEIRS" != no ] && echo "$THEIRS"; exit;;',
        f"*cluster_status*) {united};;",
    )
    knows = f'case "$*" in *authenticate_user*) grep -qx "$KNOWN"; exit;; {theirs} {own} esac'
    controller.stand_in("rabbitmqctl", f'echo "rabbitmqctl $*" >>{log}; {knows}')
    asked = f'echo "rabbitmq-queues $*" >>{log}; [ $(grep -c queues {log}) -gt $REFUSED ] && echo "[]"'
    controller.stand_in("rabbitmq-queues", f'{asked} || echo "$REFUSAL"')
    refusal = [{"name": "conductor", "result": "error: not now"}]
    words = {"KNOWN": "secret-rabbitmq_password", "STATUS": json.dumps(status), "UNITED": ""}
    words["THEIRS"] = words["STATUS"]
    words |= {"REFUSED": "0", "REFUSAL": json.dumps(refusal), "FAILING": "0", "PAUSED": "0", "REACHED": ""}
    words |= {"RABBITMQ_MNESIA": str(controller.folder / "mnesia")} | env
    code, said, called = controller.run("40-rabbitmq", **words)
    assert not any("secret-" in line for line in called), "others see the arguments of a program"
    return code, said, [line for line in called if "is-active" not in line and "reset-failed" not in line]


MEMBERS = ["rabbit@10.0.0.0", "rabbit@10.0.0.1", "rabbit@10.0.0.2"]
ASKED = ["rabbitmqctl -q cluster_status --formatter json", "rabbitmqctl -q authenticate_user openstack"]
SHARED = "rabbitmq-queues -q grow rabbit@10.0.0.0 all --formatter json"
UNIT = "rabbitmq-server.service"


def test_rabbitmq_is_started_and_restarted_only_for_its_own_files(controller: Controller) -> None:
    assert rabbitmq(controller, runs=False, nodes=MEMBERS) == (0, [f"systemctl start {UNIT}", *ASKED, SHARED])
    assert rabbitmq(controller, runs=True, nodes=MEMBERS) == (0, [*ASKED, SHARED])
    for path, calls in (("/etc/nova/nova.conf", []), ("/etc/rabbitmq/rabbitmq.conf", [f"systemctl restart {UNIT}"])):
        assert rabbitmq(controller, runs=True, nodes=MEMBERS, PROVISIONER_CHANGED=path) == (0, [*calls, *ASKED, SHARED])


def test_a_node_that_is_not_alone_takes_copies_of_the_queues_that_are_there(controller: Controller) -> None:
    """Also after a boot: it may have been reset, by a departure that was aborted."""
    for env in ({}, {"PROVISIONER_BOOT": "1"}, {"PROVISIONER_BOOT": "1", "PROVISIONER_FIRST": "1"}):
        assert SHARED in rabbitmq(controller, runs=False, nodes=MEMBERS, **env)[1]
    controller.document = metadata("controller", 1)
    assert SHARED not in rabbitmq(controller, runs=True, nodes=MEMBERS[:1])[1]


def test_a_copy_that_was_refused_is_asked_for_again(controller: Controller) -> None:
    """RabbitMQ lets a queue have one new member at a time, and ends with 0 when it refuses."""
    for times, code, asked in ((1, 0, 2), (1000, 1, 60)):
        said = rabbitmq(controller, runs=True, nodes=MEMBERS, REFUSED=str(times), RABBITMQ_SHARE_PAUSE="0")
        assert said == (code, [*ASKED, *[SHARED] * asked])
    for first, code in (("0", 0), ("1", 1)):
        words = {"PROVISIONER_BOOT": "1", "PROVISIONER_FIRST": first, "REFUSED": "1000", "RABBITMQ_SHARE_PAUSE": "0"}
        ended, said, _ = rabbitmq_says(controller, runs=True, nodes=MEMBERS, **words)
        assert ended == code and "conductor gets no copy here: error: not now" in said, "what comes after it must run"


def test_rabbitmq_gets_a_new_password_and_forgets_who_is_gone(controller: Controller) -> None:
    code, called = rabbitmq(controller, runs=True, nodes=[*MEMBERS, "rabbit@10.0.0.9"], KNOWN="the-old-one")
    forget, change = "rabbitmqctl -q forget_cluster_node rabbit@10.0.0.9", "rabbitmqctl -q change_password openstack"
    assert (code, called) == (0, [*ASKED, change, forget, SHARED]), "members that are only down are kept"
    few = [MEMBERS[0], "rabbit@10.0.0.8", "rabbit@10.0.0.9"]
    assert forget not in rabbitmq(controller, runs=True, nodes=few)[1], "its queues could not give up their copies"


START, STOP, FORCE = f"systemctl start {UNIT}", f"systemctl stop {UNIT}", "rabbitmqctl -q force_boot"
WITHOUT = "2 of 3 members are up and none runs RabbitMQ: it begins without controller-"


@pytest.mark.parametrize(
    ("own", "reached", "calls"),
    [
        (0, "10.0.0.1:4369", [START, STOP, FORCE, START]),
        (0, "10.0.0.1:4369 10.0.0.2:4369", [START, STOP, FORCE, START]),
        (1, "10.0.0.2:4369", [START, STOP, FORCE, START]),
        (1, "10.0.0.0:4369", [START, STOP, START]),
    ],
)
def test_a_rabbitmq_that_waits_for_the_dead_begins_when_it_is_the_first_of_a_majority(
    controller: Controller, own: int, reached: str, calls: list[str]
) -> None:
    controller.document["node"] |= {"index": own, "address": f"10.0.0.{own}"}
    words = {"PROVISIONER_BOOT": "1", "FAILING": "1", "REACHED": reached}
    code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, known=MEMBERS, **words)
    assert (code, called) == (0, [*calls, *ASKED, SHARED.replace("10.0.0.0", f"10.0.0.{own}")]), said
    assert ("none runs RabbitMQ: it begins without " in said) == (FORCE in calls)
    assert (f"{WITHOUT}{2 if own == 0 else 0}\n" in said) == (FORCE in calls and reached.count("4369") == 1)


def test_the_next_rabbitmq_begins_where_the_first_cannot(controller: Controller) -> None:
    controller.document["node"] |= {"index": 1, "address": "10.0.0.1"}
    words = {"FAILING": "1000", "REACHED": "10.0.0.0:4369"}
    code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, known=MEMBERS, **words)
    assert (code, called) == (1, [START, STOP, START, STOP, *[FORCE, START, STOP] * 4])
    assert said.splitlines()[-1].startswith("rabbitmq: RabbitMQ does not start here; next: ")


def test_no_rabbitmq_begins_without_a_majority(controller: Controller) -> None:
    words = {"FAILING": "1000", "known": MEMBERS}
    code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, **words)  # type: ignore[arg-type]
    assert (code, called) == (1, [START, STOP])
    assert said == (
        "rabbitmq: 1 of 3 members are up, 2 are needed: it waits for controller-1, controller-2; "
        "if none of them comes back: lost: [n1, n2] of this role in the cloud file, then provisioner apply\n"
    )
    words["known"] = None
    controller.document = metadata("controller", 1)
    code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, FAILING="1000", known=MEMBERS[:1])
    assert (code, said, called) == (1, "", [START]), "one that was always alone waits for nobody"


def test_a_rabbitmq_that_paused_is_brought_back_by_a_majority_only(controller: Controller) -> None:
    """Its user cannot be asked for while it pauses: that is no wrong password."""
    paused = {"runs": True, "nodes": MEMBERS, "known": MEMBERS, "PAUSED": "1"}
    code, said, called = rabbitmq_says(controller, **paused)  # type: ignore[arg-type]
    assert (code, called) == (1, []) and "1 of 3 members are up, 2 are needed" in said
    code, _, called = rabbitmq_says(controller, **paused, REACHED="10.0.0.2:4369")  # type: ignore[arg-type]
    assert (code, called) == (0, [f"systemctl restart {UNIT}", *ASKED, SHARED])


def test_a_rabbitmq_most_of_whose_cluster_was_removed_begins_anew(controller: Controller) -> None:
    controller.document = metadata("controller", 1)
    for reached, anew in (("", True), ("10.0.0.2:5672", False)):
        words = {"PAUSED": "1", "REACHED": reached}
        code, said, called = rabbitmq_says(controller, runs=True, nodes=MEMBERS[:1], known=MEMBERS, **words)
        assert (code, called) == (0, [*([STOP, START] if anew else [f"systemctl restart {UNIT}"]), *ASKED])
        assert ("it begins anew, without what was in the queues" in said) == anew
        assert (controller.folder / "mnesia" / MEMBERS[0]).exists() != anew


def test_a_rabbitmq_most_of_whose_cluster_was_replaced_begins_anew(controller: Controller) -> None:
    """Whether the others are there yet, or run already."""
    old = [MEMBERS[0], "rabbit@10.0.0.8", "rabbit@10.0.0.9"]
    for reached in ("", "10.0.0.1:4369 10.0.0.1:5672"):
        words = {"PROVISIONER_BOOT": "1", "REACHED": reached}
        code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, known=old, **words)
        assert (code, called) == (0, [STOP, START, *ASKED, SHARED]), said
        assert "it begins anew" in said


def status_of(*nodes: str) -> str:
    return json.dumps({"disk_nodes": nodes, "running_nodes": nodes})


THEIRS = ASKED[0].replace("-q", "-q -n rabbit@10.0.0.1")


@pytest.mark.parametrize(
    ("old", "theirs", "joins"),
    [
        ([MEMBERS[2], "rabbit@10.0.0.9"], MEMBERS[1:], True),
        ([MEMBERS[2], "rabbit@10.0.0.9"], MEMBERS, True),
        (MEMBERS[1:], MEMBERS[1:2], True),
        (MEMBERS[1:], MEMBERS, False),
        (MEMBERS[1:], None, False),
    ],
)
def test_a_rabbitmq_without_which_members_run_joins_them(
    controller: Controller, old: list[str], theirs: list[str] | None, joins: bool
) -> None:
    """Members that it did not know, or that have nothing left of the cluster they were in; not where one is silent."""
    words = {"PROVISIONER_BOOT": "1", "FAILING": "1", "REACHED": "10.0.0.1:4369 10.0.0.1:5672"}
    words["THEIRS"] = status_of(*theirs) if theirs is not None else "no"
    code, said, called = rabbitmq_says(controller, runs=False, nodes=MEMBERS, known=[MEMBERS[0], *old], **words)
    asked = [THEIRS] if MEMBERS[1] in old else []
    assert (code, called) == (0, [START, STOP, *asked, START, *ASKED, SHARED]), said
    assert ("members run a cluster without this node" in said) == joins
    assert [path.name for path in (controller.folder / "mnesia").iterdir()] == ([] if joins else [MEMBERS[0]])


@pytest.mark.parametrize(
    ("here", "there", "leaves"),
    [
        (MEMBERS[:1], MEMBERS[1:], MEMBERS[:1]),
        ([MEMBERS[0], MEMBERS[2]], MEMBERS[1:2], MEMBERS[1:2]),
        (MEMBERS[:1], MEMBERS[1:2], MEMBERS[1:2]),
    ],
)
def test_two_clusters_of_members_become_one(
    controller: Controller, here: list[str], there: list[str], leaves: list[str]
) -> None:
    words = {"REACHED": "10.0.0.1:5672", "THEIRS": status_of(*there), "UNITED": status_of(*MEMBERS)}
    code, said, called = rabbitmq_says(controller, runs=True, nodes=here, **words)
    seed = there[0] if leaves == here else MEMBERS[0]
    joining = ["stop_app", "reset", f"join_cluster {seed}", "start_app"]
    moved = [f"rabbitmqctl -q -n {node} {word}" for node in leaves for word in joining]
    assert (code, called) == (0, [ASKED[0], THEIRS, *moved, *ASKED, SHARED]), said
    assert said.count("without what was in its queues") == len(leaves)
    code, said, called = rabbitmq_says(controller, runs=True, nodes=here, **words | {"UNITED": status_of(*here)})
    assert code == 1 and "rabbit@10.0.0.1 is in another cluster still; next: " in said and SHARED not in called


def test_a_rabbitmq_that_leaves_for_good_gives_its_copies_away(controller: Controller) -> None:
    log, status = controller.log, {"disk_nodes": MEMBERS, "running_nodes": MEMBERS}
    script = str(SCRIPTS.parent / "drain.d" / "40-rabbitmq")
    controller.stand_in("rabbitmq-diagnostics", "exit $PAUSED")
    failing = 'case "$*" in *"$REFUSED") exit 70;; *cluster_status*) echo "$STATUS";; esac'
    controller.stand_in("rabbitmqctl", f'echo "rabbitmqctl $*" >>{log}; {failing}')
    controller.stand_in("rabbitmq-queues", f'echo "rabbitmq-queues $*" >>{log}; echo "$QUEUES"')
    base = {"STATUS": json.dumps(status), "PAUSED": "0", "REFUSED": "-", "QUEUES": "[]", "RABBITMQ_SHARE_PAUSE": "0"}
    base["PROVISIONER_DRAIN"] = "release"
    given = [
        "rabbitmqctl -q cluster_status --formatter json",
        "rabbitmq-queues -q grow rabbit@10.0.0.1 all --formatter json",
        "rabbitmq-queues -q grow rabbit@10.0.0.2 all --formatter json",
        "rabbitmq-queues -q shrink rabbit@10.0.0.0 --formatter json",
    ]
    left = ["rabbitmqctl -q stop_app", "rabbitmqctl -q reset"]
    assert controller.run(script, **base)[::2] == (0, [*given, *left])
    for why in ({"PROVISIONER_DRAIN": "rebuild"}, {"PROVISIONER_ROLE_ENDS": "1"}, {"PAUSED": "1"}):
        assert controller.run(script, **base | why)[::2] == (0, []), why
    code, _, called = controller.run(script, **base | {"REFUSED": "reset"})
    assert (code, called) == (1, [*given, *left, "rabbitmqctl -q start_app", SHARED]), "it has its copies again"
    code, _, called = controller.run(script, **base | {"REFUSED": "stop_app"})
    assert (code, called) == (1, [*given, left[0], "rabbitmqctl -q start_app", SHARED]), (
        "it may be stopped all the same"
    )
    kept = json.dumps([{"name": "conductor", "result": "error: not now"}])
    code, said, called = controller.run(script, **base | {"QUEUES": kept})
    assert (code, len(called)) == (1, 61) and "the queue conductor: error: not now" in said
    dead = {"STATUS": json.dumps(status | {"running_nodes": MEMBERS[:2]})}
    code, said, called = controller.run(script, **base | dead)
    assert (code, called) == (1, given[:1]) and "of 2 nodes that stay 1 run" in said
    removed = {"disk_nodes": [*MEMBERS[:2], "rabbit@10.0.0.9"], "running_nodes": MEMBERS[:2]}
    code, said, called = controller.run(script, **base | {"STATUS": json.dumps(removed)})
    forget = "rabbitmqctl -q forget_cluster_node rabbit@10.0.0.9"
    assert (code, called) == (0, [given[0], forget, *given[1::2], *left])
    refused = {"STATUS": json.dumps(removed), "REFUSED": "forget_cluster_node rabbit@10.0.0.9"}
    code, said, called = controller.run(script, **base | refused)
    assert (code, called) == (
        1,
        [given[0], forget, given[0]],
    ) and "rabbit@10.0.0.9, which is no member any more" in said


ANSWERS = ROOT / "elements" / "controller" / "bin" / "openstack-answers"


def answers(path: Path, port: int, main: int, limit: int = 20) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "MAINPID": str(main), "OPENSTACK_ANSWERS_LIMIT": str(limit)}
    return subprocess.run([str(ANSWERS), str(path), str(port)], env=env, capture_output=True, text=True)


class Refusing(JsonHandler):
    def do_GET(self) -> None:
        self.answer(401, {})


@pytest.mark.parametrize("line", ["http-socket = 127.0.0.1:5000", "bind_host = 127.0.0.1"])
def test_an_api_is_up_when_it_answers_whatever_it_says(tmp_path: Path, line: str) -> None:
    path = tmp_path / "api.conf"
    path.write_text(f"# an API\n[x]\n{line}\n")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), Refusing)) as server:
        assert answers(path, server.server_address[1], os.getpid()).returncode == 0


def test_an_api_whose_process_has_ended_is_waited_for_no_longer(tmp_path: Path) -> None:
    path = tmp_path / "api.conf"
    path.write_text("http-socket = 127.0.0.1:5000\n")
    ended = subprocess.Popen(["true"])
    ended.wait()
    done = answers(path, 5000, ended.pid, limit=1000)
    assert (done.returncode, done.stderr) == (1, "nothing answers at 127.0.0.1:5000\n")


def test_an_api_is_asked_where_its_file_says(tmp_path: Path) -> None:
    """What the image's units ask must be in the files that the templates make."""
    units = (ROOT / "elements" / "controller" / "install.d" / "72-controller-units").read_text()
    asked = [line.split() for line in units.partition("<<'END'\n")[2].partition("END\n")[0].splitlines()]
    files = rendered("controller")
    assert len(asked) == 5
    for name, owner, port in asked:
        assert f"\nhttp-socket = 10.0.0.0:{port}\n" in files[f"/etc/{owner}/{name}-uwsgi.ini"].content
    assert "\nbind_host = 10.0.0.0\nbind_port = 9292\n" in files["/etc/glance/glance-api.conf"].content


STATUS = ROOT / "elements" / "controller" / "bin" / "openstack-status"
BRIDGE = ROOT / "elements" / "openstack" / "os-refresh-config" / "configure.d" / "30-openvswitch"


def status(controller: Controller, word: str) -> tuple[int, str]:
    env = {"PATH": f"{controller.folder / 'bin'}:{os.environ['PATH']}", "OPENSTACK_ETC": str(controller.folder / "etc")}
    done = subprocess.run([sys.executable, str(STATUS), word], env=env, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stdout.strip()


@pytest.mark.parametrize(
    ("running", "known", "said"), [(3, 3, "ok"), (2, 3, "ok"), (1, 3, "1 of 3 nodes of RabbitMQ run"), (1, 1, "ok")]
)
def test_messages_pass_while_a_majority_of_nodes_runs(
    controller: Controller, running: int, known: int, said: str
) -> None:
    told = json.dumps({"disk_nodes": MEMBERS[:known], "running_nodes": MEMBERS[:running]})
    controller.stand_in("rabbitmqctl", f"echo '{told}'")
    assert status(controller, "messages") == (int(said != "ok"), said)


def test_a_unit_that_does_not_run_is_named(controller: Controller) -> None:
    controller.stand_in("systemctl", "shift; for unit; do echo active; done")
    assert status(controller, "units") == (0, "ok")
    controller.stand_in(
        "systemctl", "shift; for unit; do case $unit in nova-c*) echo failed;; *) echo active;; esac; done"
    )
    assert status(controller, "units") == (1, "nova-conductor.service is failed")


def test_a_rabbitmq_that_does_not_answer_is_not_well(controller: Controller) -> None:
    controller.stand_in("rabbitmqctl", "echo 'Error: unable to connect'; exit 69")
    assert status(controller, "messages") == (1, "Error: unable to connect")


def test_an_interface_that_is_named_no_more_leaves_the_providers_bridge(controller: Controller) -> None:
    kinds = "case $3 in phy*) echo patch;; *) echo '\"\"';; esac"
    looks = f"list-ports) echo port0 phy-br-provider port1;; get) {kinds};;"
    controller.stand_in("ovs-vsctl", f'case $1 in {looks} *) echo "ovs-vsctl $*" >>{controller.log};; esac')
    controller.stand_in("ip", "true")
    controller.document = metadata("controller", 1, openstack={"provider_interface": "port1"})
    code, said, called = controller.run(str(BRIDGE))
    assert code == 0, said
    assert called[0] == "ovs-vsctl --if-exists del-port br-provider port0" and len(called) == 2


@pytest.mark.parametrize("interface", [None, "port1"])
def test_the_providers_bridge_has_the_interface_that_is_named(controller: Controller, interface: str | None) -> None:
    for name in ("ovs-vsctl", "ip"):
        controller.stand_in(name, f'[ "$1" = list-ports ] || echo "{name} $*" >>{controller.log}')
    if interface:
        controller.document = metadata("controller", 1, openstack={"provider_interface": interface})
    code, said, called = controller.run(str(BRIDGE))
    assert code == 0, said
    assert called == (
        []
        if interface is None
        else [
            "ovs-vsctl --may-exist add-br br-provider -- --may-exist add-port br-provider port1",
            "ip link set dev port1 up",
        ]
    )
