"""MySQL Cluster (NDB): what the templates render to, what its programs say and do, with stand-ins for those of NDB."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import yaml
from members import Members

from provisioner.cli.desired import read_elements, read_source_roles
from provisioner.images.claims import check_claims
from provisioner.images.workshop import BuildSpec, Workshop
from provisioner.manifest.cloud import parse_desired, parse_roles
from provisioner.model.role import Desired, Role, RoleUse
from provisioner.plan.order import describe_order
from provisioner.system.settings import Settings
from provisioner_agent.render.tree import RenderedFile, build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
ELEMENTS = ROOT / "elements"
CASES = Path(__file__).parent / "cases" / "ndb"
SETTINGS = Settings(source_dir=ROOT)
CONFIG, NODE, SERVER = "/etc/ndb/config.ini", "/etc/ndb/node.env", "/etc/mysql/ndb.cnf"
NAMES = ("ndb-management", "ndb-data", "ndb-sql")
COUNTS = {"ndb-management": 2, "ndb-data": 2, "ndb-sql": 2}


def role_files() -> dict[str, str]:
    places = sorted([*(ROOT / "roles").glob("*.yaml"), *(ROOT / "roles" / "optional").glob("*.yaml")])
    return {str(path): path.read_text() for path in places}


def roles() -> dict[str, Role]:
    return parse_roles(role_files(), read_elements(SETTINGS))


def rendered(
    name: str, index: int, counts: dict[str, int] | None = None, moved: str = "", **values: Any
) -> dict[str, RenderedFile]:
    """The files of one member, without those of the elements that other roles have, too.

    :param moved: the address of ``ndb-data-1``, when it is not its first one.
    """
    role, counts = roles()[name], counts or COUNTS
    files: dict[str, str] = {}
    for tree in role.image.templates:
        top = ROOT / "templates" / tree
        if tree in ("ndb", "ndb-sql"):
            files |= {str(path.relative_to(top)): path.read_text() for path in top.rglob("*") if path.is_file()}
    members = {
        other: [
            {
                "hostname": f"{other}-{number}",
                "index": number,
                "address": f"10.0.{NAMES.index(other)}.{number + 1}",
                "self": (other, number) == (name, index),
            }
            for number in range(count)
        ]
        for other, count in counts.items()
    }
    if moved:
        members["ndb-data"][1]["address"] = moved
    document = {
        "cloud": {"name": "lab"},
        "role": {"name": name, "count": counts[name]},
        "node": {"hostname": f"{name}-{index}", "index": index, "address": f"10.0.{NAMES.index(name)}.{index + 1}"},
        "members": members,
        "values": {key: value | values.get(key, {}) for key, value in role.config.values.items()},
        "secrets": dict.fromkeys(role.secrets, "pass-word_1"),
    }
    return render_tree(*split_tree(files), build_data(document))


def nodes_of(text: str) -> list[str]:
    """The nodes of a config.ini: ``ndbd 10 ndb-data-0``."""
    found: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("["):
            found.append([line.strip("[]")])
        elif line.partition("=")[0] in ("NodeId", "HostName"):
            found[-1].append(line.partition("=")[2])
    return [" ".join(words) for words in found if not words[0].endswith("default")]


def check_config(folder: Path, text: str) -> tuple[int, list[str]]:
    path = folder / "config.ini"
    path.write_text(text)
    words = [sys.executable, str(ELEMENTS / "ndb" / "bin" / "ndb-check-config"), str(path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    return done.returncode, done.stderr.splitlines()


def cases(name: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((CASES / name).read_text())["cases"]
    return found


@pytest.mark.parametrize("data", [2, 4])
def test_all_nodes_get_the_same_configuration_and_the_checker_takes_it(tmp_path: Path, data: int) -> None:
    counts = COUNTS | {"ndb-data": data}
    texts = {rendered(name, index, counts)[CONFIG].content for name in NAMES for index in range(counts[name])}
    (text,) = texts
    assert nodes_of(text) == [
        "ndb_mgmd 30 ndb-management-0",
        "ndb_mgmd 31 ndb-management-1",
        *(f"ndbd 1{number} ndb-data-{number}" for number in range(data)),
        "mysqld 20 ndb-sql-0",
        "mysqld 21 ndb-sql-1",
        "api 40",
        "api 41",
    ]
    expected = (CASES / f"config-{data}.ini").read_text()
    assert text == expected
    assert check_config(tmp_path, text) == (0, [])


def test_an_id_stays_when_a_member_before_it_goes() -> None:
    """``members`` are those that there are, by their numbers."""
    before, after = (rendered("ndb-sql", 1, COUNTS | {"ndb-sql": count})[CONFIG].content for count in (2, 3))
    assert set(nodes_of(before)) < set(nodes_of(after))
    assert set(nodes_of(after)) - set(nodes_of(before)) == {"mysqld 22 ndb-sql-2"}


def test_who_moves_to_another_node_lets_nobody_start_again() -> None:
    """Its address is another one then. What is read at the start of a node is the same; its name leads there."""
    before, after = (rendered("ndb-sql", 0, moved=moved) for moved in ("10.0.1.2", "10.0.1.99"))
    different = {path for path, file in before.items() if file.content != after[path].content}
    assert different == {"/etc/hosts"} and "10.0.1.99 ndb-data-1\n" in after["/etc/hosts"].content
    assert "ndb-node.service" not in before["/etc/hosts"].services


def test_three_data_nodes_are_refused_by_the_checker(tmp_path: Path) -> None:
    code, said = check_config(tmp_path, rendered("ndb-management", 0, COUNTS | {"ndb-data": 3})[CONFIG].content)
    assert code == 1 and len(said) == 1 and "3 data nodes are no whole node groups of NoOfReplicas 2" in said[0]


@pytest.mark.parametrize(
    ("name", "last", "fits"),
    [
        ("ndb-data", 45, True),
        ("ndb-data", 46, False),
        ("ndb-sql", 56, True),
        ("ndb-sql", 57, False),
        ("ndb-management", 10, True),
        ("ndb-management", 11, False),
    ],
)
def test_how_many_members_have_an_id(tmp_path: Path, name: str, last: int, fits: bool) -> None:
    """As many as elements/ndb/README.rst says."""
    text = rendered(name, 0, COUNTS | {name: last})[CONFIG].content
    said = [line for line in check_config(tmp_path, text)[1] if "NodeId" in line]
    assert (said == []) is fits, said


@pytest.mark.parametrize("name", NAMES)
def test_the_files_of_an_image_that_is_tried_alone_are_good(tmp_path: Path, name: str) -> None:
    assert check_config(tmp_path, rendered(name, 0, {name: 1})[CONFIG].content) == (0, [])


def test_who_a_node_is() -> None:
    where = "ndb-management-0:1186,ndb-management-1:1186,"
    assert environment(rendered("ndb-management", 1)) == {
        "NDB_KIND": "management", "NDB_NODE_ID": "31", "NDB_CONNECTSTRING": where, "NDB_OTHER_MANAGEMENT": "30,",
    }  # fmt: skip
    data, sql = environment(rendered("ndb-data", 0)), environment(rendered("ndb-sql", 0))
    assert (data["NDB_KIND"], data["NDB_NODE_ID"], data["NDB_CONNECTSTRING"]) == ("data", "10", where)
    assert (sql["NDB_KIND"], sql["NDB_NODE_ID"]) == ("sql", "20")


def environment(files: dict[str, RenderedFile]) -> dict[str, str]:
    return dict(line.split("=", 1) for line in files[NODE].content.splitlines() if line and line[0] != "#")


def test_an_sql_node_reaches_the_cluster_and_its_secrets_are_hidden() -> None:
    files = rendered("ndb-sql", 1, ndb={"admin": True}, frontend={"address": "10.0.9.9"})
    server = files[SERVER].content
    assert "ndbcluster\n" in server and "disabled_storage_engines = InnoDB,MyISAM\n" in server
    assert "bind_address = 10.0.2.2\n" in server and files[SERVER].services == {"ndb-node.service": "phase"}
    assert files[SERVER].validate == ("mysqld", "--defaults-file={path}", "--validate-config")
    accounts = files["/etc/mysql/ndb-accounts.sql"].content
    assert "GRANT NDB_STORED_USER ON *.* TO 'cloud_admin'@'%';" in accounts
    assert not any("pass-word_1" in file.content for file in files.values() if not file.sensitive)
    proxy = files["/etc/haproxy/conf.d/ndb.cfg"].content
    assert "\nglobal\n    hard-stop-after 5m\n" in proxy, "a former process cuts no session when its node dies"
    assert "bind 10.0.9.9:3306\n" in proxy and "server ndb-sql-1 10.0.2.2:3306\n" in proxy
    without = rendered("ndb-sql", 1)
    assert "listen" not in without["/etc/haproxy/conf.d/ndb.cfg"].content
    assert "DROP USER IF EXISTS 'cloud_admin'@'%';" in without["/etc/mysql/ndb-accounts.sql"].content


@pytest.mark.parametrize("name", cases("config.yaml"))
def test_the_checker(tmp_path: Path, name: str) -> None:
    case = cases("config.yaml")[name]
    code, said = check_config(tmp_path, case["file"])
    assert said == case["says"] and code == (1 if said else 0)


class Host:
    """One node below a folder, with stand-ins for the programs that it calls; they write down how they were called."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log, self.show, self.environment = folder / "log", folder / "show", folder / "node.env"
        self.data, self.tables, self.record = folder / "ndb", folder / "mysql", folder / "state" / "started"
        for place in (self.data, self.tables, folder / "bin"):
            place.mkdir()
        self.show.write_text("")
        self.node("data", 10)
        self.running = False
        stand_in = (
            '#!/bin/sh\nname=$(basename "$0")\n'
            f'if [ "$name" = ndb_mgm ]; then cat {self.show}; exit 0; fi\n'
            f'echo "$name $*" >>{self.log}\n'
            'case "$name $*" in "systemctl is-active"*) exit $INACTIVE ;; esac\n'
            f'case "$*" in *--initialize-insecure*) mkdir {self.tables}/mysql; exit $CODE ;; esac\n'
            f'if [ "$name" = mysql ]; then case "$*" in *SHOW*) printf "$READY" ;; *) cat >>{self.log} ;; esac; fi\n'
            "exit 0\n"
        )
        for name in ("ndb_mgm", "ndb_mgmd", "ndbmtd", "mysqld", "mysql", "systemctl", "journalctl"):
            path = folder / "bin" / name
            path.write_text(stand_in)
            path.chmod(0o755)

    def node(self, kind: str, number: int) -> None:
        self.environment.write_text(
            f"# a remark\nNDB_KIND={kind}\nNDB_NODE_ID={number}\nNDB_CONNECTSTRING=10.0.0.1:1186,10.0.0.2:1186,\n"
            "NDB_OTHER_MANAGEMENT=31,\n"
        )

    def run(self, program: str, *words: str, **env: str) -> tuple[int, str, list[str]]:
        """Its exit code, what it said, and the programs that it called."""
        self.log.write_text("")
        path = ELEMENTS / program
        ours = [str(ELEMENTS / name / "bin") for name in ("ndb", "ndb-sql")]
        given = dict(line.split("=", 1) for line in self.environment.read_text().splitlines()[1:])
        base = given | {
            "PATH": ":".join([str(self.folder / "bin"), *ours, os.environ["PATH"]]),
            "NDB_ENVIRONMENT": str(self.environment),
            "NDB_DATA": str(self.data),
            "NDB_TABLES": str(self.tables),
            "NDB_RECORD": str(self.record),
            "NDB_RUNS_ON": str(self.folder / "run" / "runs-on"),
            "INACTIVE": "0" if self.running else "3",
            "CODE": "0",
            "READY": "",
        }
        done = subprocess.run([path, *words], env=base | env, capture_output=True, text=True, timeout=30)
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr, self.log.read_text().splitlines()


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


STATUS, START = "ndb/bin/ndb-status", "ndb/bin/ndb-start"
CONFIGURE, DRAIN = "ndb/os-refresh-config/configure.d/50-ndb", "ndb/os-refresh-config/drain.d/50-ndb"
ACCOUNTS = "ndb-sql/os-refresh-config/post-configure.d/50-ndb-accounts"
WELL = cases("show.yaml")["all is well"]["show"]
HALF = cases("show.yaml")["the other one of the node group is down"]["show"]


@pytest.mark.parametrize("name", cases("show.yaml"))
def test_how_the_cluster_is(host: Host, name: str) -> None:
    case = cases("show.yaml")[name]
    host.show.write_text(case["show"])
    host.node(case.get("kind", "data"), case["own"])
    if case.get("was_started", True):
        host.record.parent.mkdir()
        host.record.touch()
    asked = 0
    for verb in ("node", "may-stop"):
        if (expected := case.get(verb.replace("-", "_"))) is not None:
            code, said, _ = host.run(STATUS, verb)
            assert code == expected[0] and expected[1] in said, said
            asked += 1
    for kind in ("data", "management", "sql"):
        if kind in case:
            assert host.run(STATUS, kind)[:2] == (0, f"{case[kind]}\n")
            asked += 1
    assert asked, "the case says nothing"


def test_a_data_node_that_was_seen_started_is_remembered(host: Host) -> None:
    host.show.write_text(cases("show.yaml")["the first one of a new cluster does not hold up the next"]["show"])
    assert host.run(STATUS, "node")[0] == 0 and not host.record.exists()
    host.show.write_text(WELL)
    assert host.run(STATUS, "may-stop")[0] == 0 and not host.record.exists()
    assert host.run(STATUS, "node")[0] == 0 and host.record.exists()


DATA_NODE = "ndbmtd --nodaemon --ndb-nodeid=10 --ndb-connectstring=10.0.0.1:1186,10.0.0.2:1186"


def test_only_an_empty_data_folder_is_made_anew(host: Host) -> None:
    assert host.run(START)[2] == [f"{DATA_NODE} --initial"]
    (host.data / "ndb_10_fs").mkdir()
    assert host.run(START)[2] == [DATA_NODE]
    host.record.parent.mkdir()
    host.record.touch()
    assert host.run(START)[2] == [DATA_NODE]


def test_logs_are_no_data(host: Host) -> None:
    (host.data / "ndb_10_out.log").touch()
    assert host.run(START)[2] == [f"{DATA_NODE} --initial"]


def test_a_data_folder_that_lost_its_volume_is_not_made_anew(host: Host) -> None:
    host.record.parent.mkdir()
    host.record.touch()
    code, said, called = host.run(START)
    assert code == 1 and called == [] and "was started before" in said and "provisioner node rebuild" in said


def test_a_management_node_takes_the_file_and_waits_for_nobody(host: Host) -> None:
    host.node("management", 30)
    (called,) = host.run(START)[2]
    assert called == (
        "ndb_mgmd --nodaemon --ndb-nodeid=30 --config-file=/etc/ndb/config.ini "
        f"--configdir={host.data}/config --reload --nowait-nodes=31"
    )
    assert (host.data / "config").is_dir()


def test_an_sql_node_makes_its_system_tables_once(host: Host) -> None:
    host.node("sql", 20)
    made = f"mysqld --no-defaults --initialize-insecure --datadir={host.tables}"
    assert host.run(START, CODE="1")[2] == [made], "no server begins on half of its tables"
    assert (host.tables / ".unfinished").exists() and (host.tables / "mysql").exists()
    server = "mysqld --defaults-file=/etc/mysql/ndb.cnf --ndb-nodeid=20 --ndb-connectstring=10.0.0.1:1186,10.0.0.2:1186"
    assert host.run(START)[2] == [made, server]
    assert host.run(START)[2] == [server]


def test_a_node_of_no_cluster_says_so(host: Host) -> None:
    code, said, called = host.run(START, NDB_CONNECTSTRING=",")
    assert code == 1 and called == [] and "ndb-management" in said


ASKED = "systemctl is-active --quiet ndb-node.service"
RESTART = "systemctl restart ndb-node.service"
BEGIN = [ASKED, "systemctl reset-failed ndb-node.service", "systemctl start ndb-node.service"]


def test_a_node_is_started_and_left_alone(host: Host) -> None:
    assert host.run(CONFIGURE, PROVISIONER_FIRST="1")[2] == BEGIN
    host.running = True
    assert host.run(CONFIGURE, PROVISIONER_CHANGED="/etc/nftables.conf")[2] == [ASKED]


@pytest.mark.parametrize(
    ("show", "code", "called"), [(WELL, 0, [ASKED, RESTART]), (HALF, 1, [ASKED]), ("", 1, [ASKED])]
)
def test_a_data_node_is_not_stopped_when_the_other_one_is_down(
    host: Host, show: str, code: int, called: list[str]
) -> None:
    host.running = True
    host.show.write_text(show)
    assert host.run(CONFIGURE, PROVISIONER_CHANGED=f"{CONFIG}\n/etc/x")[::2] == (code, called)


def test_a_change_that_was_refused_is_taken_back_without_a_stop(host: Host) -> None:
    host.running = True
    host.show.write_text(HALF)
    assert host.run(CONFIGURE, PROVISIONER_CHANGED=CONFIG)[::2] == (1, [ASKED])
    assert host.run(CONFIGURE, PROVISIONER_CHANGED=CONFIG, PROVISIONER_ROLLBACK="1")[::2] == (0, [ASKED])
    assert host.run(CONFIGURE, PROVISIONER_CHANGED=CONFIG)[::2] == (1, [ASKED]), "a later change is asked for again"


def test_a_change_that_it_has_read_is_taken_back_by_a_restart(host: Host) -> None:
    host.running = True
    host.show.write_text(WELL)
    for rollback in ("", "1"):
        found = host.run(CONFIGURE, PROVISIONER_CHANGED=CONFIG, PROVISIONER_ROLLBACK=rollback)
        assert found[::2] == (0, [ASKED, RESTART])


@pytest.mark.parametrize(("kind", "number"), [("management", 30), ("sql", 20)])
def test_other_nodes_ask_nobody(host: Host, kind: str, number: int) -> None:
    host.running = True
    host.node(kind, number)
    assert host.run(CONFIGURE, PROVISIONER_CHANGED=CONFIG)[::2] == (0, [ASKED, RESTART])


@pytest.mark.parametrize(
    ("show", "ends", "code", "stops"), [(WELL, "", 0, True), (HALF, "", 1, False), (HALF, "1", 0, True)]
)
def test_a_data_node_leaves_when_another_one_has_its_data(
    host: Host, show: str, ends: str, code: int, stops: bool
) -> None:
    host.running = True
    host.show.write_text(show)
    found, _, called = host.run(DRAIN, PROVISIONER_ROLE_ENDS=ends)
    assert found == code and called == [ASKED, *(["systemctl stop ndb-node.service"] if stops else [])]


def test_accounts_are_made_when_the_data_nodes_are_there(host: Host) -> None:
    sql = host.folder / "accounts.sql"
    sql.write_text("STATEMENTS\n")
    given = {"NDB_SQL": str(sql), "NDB_TRIES": "1"}
    ready = "Ndb_number_of_ready_data_nodes\\t%s\\n"
    assert "STATEMENTS" in host.run(ACCOUNTS, PROVISIONER_FIRST="1", READY=ready % 2, **given)[2]
    changed = "/etc/mysql/ndb-accounts.sql"
    assert "STATEMENTS" in host.run(ACCOUNTS, PROVISIONER_CHANGED=changed, READY=ready % 2, **given)[2]
    assert host.run(ACCOUNTS, PROVISIONER_CHANGED=CONFIG, READY=ready % 2, **given)[::2] == (0, [])


@pytest.mark.parametrize(
    ("ready", "head"),
    [
        ("Ndb_number_of_ready_data_nodes\\t2\\n", "HTTP/1.1 200 OK"),
        ("Ndb_number_of_ready_data_nodes\\t0\\n", "HTTP/1.1 503 Service Unavailable"),
        ("", "HTTP/1.1 503 Service Unavailable"),
    ],
)
def test_what_the_front_is_told(host: Host, ready: str, head: str) -> None:
    ask = host.folder / "bin" / "ask"
    ask.write_text("#!/bin/sh\nprintf 'GET / HTTP/1.0\\r\\n\\r\\n' | ndb-answer\n")
    ask.chmod(0o755)
    said = host.run(str(ask), READY=ready)[1]
    assert said.startswith(f"{head}\n") and len(said.partition("\n\n")[2]) > 0


def desired() -> Desired:
    """The cloud of the page on the element."""
    page = (ELEMENTS / "ndb" / "README.rst").read_text()
    block = page.split("A cloud\n=======\n\n::\n\n", 1)[1].split("\n\n", 1)[0]
    files = {"cloud.yaml": textwrap.dedent(block)} | role_files()
    return parse_desired("cloud.yaml", files, elements=read_elements(SETTINGS))


def test_building_all_images_does_not_ask_for_packages_that_debian_does_not_have() -> None:
    assert not set(read_source_roles(SETTINGS)) & set(NAMES)
    assert set(NAMES) <= set(roles())


@pytest.mark.parametrize("name", NAMES)
def test_elements_and_templates_of_a_role_have_paths_of_their_own(tmp_path: Path, name: str) -> None:
    workshop = Workshop(ROOT, ROOT / "provisioner_agent", (), tmp_path / "state", tmp_path / "pool", None)
    check_claims(BuildSpec(name, roles()[name].image), workshop)


def test_in_which_order_the_nodes_come_and_change() -> None:
    found = desired().roles
    assert (found["ndb-data"].after, found["ndb-sql"].after) == (("ndb-management",), ("ndb-data",))
    for name in NAMES:
        policy = found[name].policy
        assert policy.width(4) == 1 and policy.apart == ("ndb",), "two data nodes may be a whole node group"
    said = [describe_order(desired(), name, [f"{name}-0", f"{name}-1"]) for name in NAMES]
    assert said == [
        "ndb-management: 1 at a time, apart from ndb-data, ndb-sql",
        "ndb-data: canary ndb-data-0 first, then 1 at a time, apart from ndb-management, ndb-sql, after ndb-management",
        "ndb-sql: canary ndb-sql-0 first, then 1 at a time, apart from ndb-management, ndb-data, after ndb-data",
    ]


def test_one_node_of_the_cluster_changes_at_a_time_and_in_order(tmp_path: Path) -> None:
    """On real records: of two data nodes, which are one node group, never both."""
    chosen = tuple(roles()[name].model_copy(update={"networks": ("main",), "firewall": None}) for name in NAMES)
    cloud = Members(tmp_path, chosen, count=2)
    uses = {name: RoleUse(count=2, values={"ndb": {"data_memory": "1G"}}) for name in NAMES}
    changed = cloud.desired.cloud.model_copy(update={"roles": uses})
    cloud.set_desired(cloud.desired.model_copy(update={"cloud": changed}))
    assert cloud.ask("ndb-data-0").startswith("ndb-management comes first: ")
    assert cloud.ask("ndb-management-0") == ""
    assert "keeps ndb-data apart from it" in cloud.ask("ndb-data-0")
    cloud.finish("ndb-management-0")
    assert cloud.ask("ndb-management-1") == ""
    cloud.finish("ndb-management-1")
    assert cloud.ask("ndb-data-0") == ""
    assert "ndb-data-0 on n-ndb-data-0 changes now" in cloud.ask("ndb-data-1")
    cloud.finish("ndb-data-0")
    assert "is not green for 30 s yet" in cloud.ask("ndb-data-1")
    cloud.sleep(31)
    cloud.sicken("ndb-data-0")
    assert cloud.ask("ndb-data-1").startswith("ndb-data-0 on n-ndb-data-0 is not healthy")
    cloud.sicken("ndb-data-0", well=True)
    cloud.sleep(31)
    assert cloud.ask("ndb-sql-0").startswith("ndb-data comes first: ")
    assert cloud.ask("ndb-data-1") == ""
    cloud.finish("ndb-data-1")
    assert cloud.ask("ndb-sql-0") == ""
