"""A database cluster in the virtual rack under an application that writes: its writer's node dies, power fails for all
members, all are shut down, one is lost for good, and all get another image. No row that was acknowledged is missing
afterwards."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from inserts import TABLE, Client, inserting, rows
from rack import INSIDE, ROOT, Rack, started_rack

WAIT = 1800.0
"""Seconds for what an emulated processor does; it is the limit of a hang, no bar."""
ANSWER = 15
"""Seconds without an answer until the application takes its connection for dead: of a server that lost its power and is
up again it would hear nothing for hours."""
COUNT = 3


def one_more(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """A fourth node, which stays free until a member loses its own."""
    last = dict(lab["nodes"][-1])
    lab["nodes"].append(last | {"name": "node4", "bmc": "10.77.1.14", "mac": "52:54:00:77:00:04"})
    last = dict(hardware["nodes"][-1])
    hardware["nodes"].append(
        last | {"name": "node4", "bmc": {"address": "10.77.1.14"}, "ports": [{"mac": "52:54:00:77:00:04"}]}
    )


def write_role(folder: Path, *elements: str) -> Path:
    """A cloud file, the role beside it: what the members hold outlives their images. :param elements: more of them."""
    role = yaml.safe_load((ROOT / "roles" / "galera.yaml").read_text())
    role["image"]["elements"] += elements
    role["storage"] = {
        "volumes": [
            {"name": "root", "disk": "root", "size": "5GiB", "mount": "/"},
            {"name": "data", "disk": "root", "filesystem": "ext4", "mount": "/var/lib/mysql", "keep": True},
        ]
    }
    (folder / "roles").mkdir(exist_ok=True)
    (folder / "roles" / "galera.yaml").write_text(yaml.safe_dump(role))
    cloud = folder / "images.yaml"
    cloud.write_text((ROOT / "cloud-lab.yaml").read_text())
    return cloud


def make_client(rack: Rack, cloud: Path) -> Client:
    """An application's, which has its password once and knows the cluster by its address."""
    address = yaml.safe_load(cloud.read_text())["roles"]["galera"]["values"]["frontend"]["address"]
    env = {"PATH": os.environ["PATH"], "MYSQL_PWD": rack.run("cloud", "secret", "lab", "galera_app_password").strip()}

    def client(statement: str, timeout: int) -> subprocess.CompletedProcess[str]:
        words = ["timeout", str(ANSWER), "mariadb", "--no-defaults", "-NB", "-h", address, "-u", "app"]
        words += [f"--connect-timeout={timeout}", "-e", statement]
        return subprocess.run([*INSIDE, *words], capture_output=True, text=True, env=env, timeout=WAIT)

    return client


def configured_pause() -> str:
    """What detection and failover are set to, in seconds: ``elements/galera/README.rst`` says what counts."""
    values: dict[str, Any] = {}
    for element in ("galera", "frontend"):
        shape = yaml.safe_load((ROOT / "elements" / element / "values.yaml").read_text())["properties"][element]
        values |= {name: said.get("default") for name, said in shape["properties"].items()}
    suspect = float(values["suspect_timeout"].strip("PTS"))
    check = float(values["check_interval"].removesuffix("s")) * (values["fall"] + 1)
    advert = 3 * float(values["advert_interval"])
    return f"{suspect:g} + {check:g} + {advert:g} = {suspect + check + advert:g} s"


class Database:
    """The cluster, as its application and its operator see it."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack
        rack.run("node", "enroll", str(rack.folder / "hardware.yaml"))
        self.cloud = rack.cloud(count=COUNT)
        rack.run("apply", str(self.cloud), "--wait", timeout=2 * WAIT)
        self.client = make_client(rack, self.cloud)
        self.wait("the address answers", lambda: self.client("SELECT 1", 5).returncode == 0)
        assert self.client(TABLE, 5).returncode == 0

    def wait(self, what: str, holds: Callable[[], bool]) -> float:
        """How many seconds it took."""
        began = time.monotonic()
        self.rack.wait(what, holds, WAIT)
        return time.monotonic() - began

    def nodes(self) -> dict[str, str]:
        return self.rack.nodes("lab")

    def writer(self) -> str:
        done = self.client("SELECT @@wsrep_node_name", 5)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def whole(self) -> bool:
        done = self.client("SHOW STATUS LIKE 'wsrep_cluster_size'", 5)
        return done.stdout.split()[1:] == [str(COUNT)] and bool(self.rack.json("cloud", "status", "lab")["ready"])

    def power(self, node: str, *want: str) -> str:
        """What it is afterwards."""
        return str(self.rack.json("node", "power", node, *want)["power"])


def lose_the_writer(database: Database) -> None:
    dead = database.nodes()[before := database.writer()]
    with inserting(database.client) as inserts:
        database.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        inserts.longest = 0.0
        database.power(dead, "off")
        written = len(inserts.acknowledged)
        database.wait("writes go on", lambda: len(inserts.acknowledged) > written + 20)
        print(f"the writer's node died: {inserts.longest:.1f} s between two rows; configured: {configured_pause()}")
        assert (following := database.writer()) != before
        database.power(dead, "on")
        database.wait("all three are a cluster", database.whole)
        assert database.writer() == following, "who comes back takes nothing away from whom it works with"
    assert set(inserts.acknowledged) <= rows(database.client)


def come_back(database: Database, what: str, stop: Callable[[str], object]) -> None:
    """All members are stopped while rows are written, and started: without a hand they are a cluster again."""
    with inserting(database.client) as inserts:
        database.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        for node in database.nodes().values():
            stop(node)
        written = len(inserts.acknowledged)
        database.wait("the cloud has noticed it", lambda: not database.rack.json("cloud", "status", "lab")["ready"])
        for node in database.nodes().values():
            database.power(node, "on")
        seconds = database.wait("all three are a cluster", database.whole)
        print(f"{what}: a whole cluster {seconds:.0f} s after power came back")
        database.wait("rows are written again", lambda: len(inserts.acknowledged) > written + 20)
    assert set(inserts.acknowledged) <= rows(database.client)


def cut_the_power_of_all(database: Database) -> None:
    come_back(database, "power failed", lambda node: database.power(node, "off"))


def shut_all_down(database: Database) -> None:
    def stop(node: str) -> None:
        database.power(node, "soft")
        database.wait(f"{node} is off", lambda: database.power(node) == "off")

    come_back(database, "shut down", stop)


def replace_the_writer(database: Database) -> None:
    """Its node is gone for good; one command gives the member another one, under its name."""
    name, before = database.writer(), database.nodes()
    address = database.rack.member(name)["addresses"]
    with inserting(database.client) as inserts:
        database.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        database.power(before[name], "off")
        cloud = database.rack.cloud(count=COUNT, lost=[before[name]])
        planned = database.rack.run("plan", str(cloud), codes=(2,))
        assert f"{name} from {before[name]} to node4" in planned, planned
        database.rack.run("apply", str(cloud), "--wait", timeout=2 * WAIT)
        assert database.nodes() == before | {name: "node4"}
        assert database.rack.member(name)["addresses"] != address, "the old node may come back with that one"
        database.wait("all three are a cluster", database.whole)
        written = len(inserts.acknowledged)
        database.wait("writes go on", lambda: len(inserts.acknowledged) > written + 20)
    assert set(inserts.acknowledged) <= rows(database.client)
    assert "Nothing to change" in database.rack.run("plan", str(cloud))


def images(database: Database) -> set[str]:
    """Of which the members were deployed."""
    nodes = database.nodes().values()
    return {str(database.rack.json("node", "show", node)["deployment"]["placement"]["image"]) for node in nodes}


def rebuild_all(database: Database) -> None:
    """Another image of the role, one member after another; what they hold stays where it is."""
    rack = database.rack
    lost = yaml.safe_load(database.cloud.read_text())["roles"]["galera"].get("lost", [])
    (before,) = images(database)
    rack.run("image", "build", "--cloud", str(write_role(rack.folder, "marked")), "--no-test")
    cloud = rack.cloud(count=COUNT, lost=lost, image="newest")
    planned = rack.run("plan", str(cloud), codes=(2,))
    assert planned.count("keeps /var/lib/mysql") == COUNT, planned
    with inserting(database.client) as inserts:
        database.wait("rows are written", lambda: len(inserts.acknowledged) > 20)
        inserts.longest = 0.0
        rack.run("apply", str(cloud), "--wait", timeout=3 * WAIT)
        database.wait("all three are a cluster", database.whole)
        print(f"all members got another image: {inserts.longest:.1f} s between two rows at most")
    assert set(inserts.acknowledged) <= rows(database.client)
    (after,) = images(database)
    assert after != before
    for node in database.nodes().values():
        steps = {step["name"]: step for step in rack.json("node", "show", node)["deployment"]["steps"]}
        assert "data" not in steps["storage"]["detail"]["made"], "it is kept"


@pytest.mark.rack
def test_no_acknowledged_row_is_lost_whatever_happens_to_the_nodes(tmp_path: Path) -> None:
    with started_rack(tmp_path, COUNT, write_role(tmp_path), change=one_more) as rack:
        database = Database(rack)
        lose_the_writer(database)
        cut_the_power_of_all(database)
        shut_all_down(database)
        replace_the_writer(database)
        rebuild_all(database)
