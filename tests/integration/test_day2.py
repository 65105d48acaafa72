"""Day 2 in the virtual rack: a cluster gets a new image, one member after another, and then a member goes by name.

The data of each member lie on a volume that is kept, so what was written before is there without a copy from others.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml
from rack import ROOT, Rack, started_rack

WRITTEN = "SELECT word FROM app.light ORDER BY word"
SKIPPED = shutil.ignore_patterns(".git", ".tox", ".*_cache", "__pycache__")


def site(folder: Path) -> tuple[Path, Path]:
    """(a cloud file whose role galera keeps its data, a source folder whose image of it is another one)."""
    shutil.copytree(ROOT / "roles", folder / "roles")
    path = folder / "roles" / "galera.yaml"
    role = yaml.safe_load(path.read_text())
    role["storage"] = {
        "volumes": [
            {"name": "root", "disk": "root", "size": "4GiB", "mount": "/"},
            {"name": "data", "disk": "root", "filesystem": "ext4", "mount": "/var/lib/mysql", "keep": True},
        ]
    }
    role["change"] |= {"settle": 5}
    path.write_text(yaml.safe_dump(role))
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=SKIPPED)
    template = source / "templates" / "galera" / "etc" / "mysql" / "mariadb.conf.d" / "91-galera-members.cnf"
    template.write_text(f"# the second image\n{template.read_text()}")
    return folder / "cloud.yaml", source


def build_second(rack: Rack, source: Path) -> str:
    """Another image of galera, in the catalogue beside the first; its id."""
    config = rack.folder / "second.conf"
    config.write_text(rack.config.read_text().replace(f"source_dir = {ROOT}", f"source_dir = {source}"))
    before = {image["id"] for image in rack.json("image", "list")}
    rack.run("--config", str(config), "image", "build", "galera", "--no-test")
    (new,) = [image["id"] for image in rack.json("image", "list") if image["id"] not in before]
    return str(new)


def images(rack: Rack) -> list[str]:
    return [rack.json("node", "show", name)["deployment"]["placement"]["image"] for name in ("node1", "node2")]


def address(rack: Rack, hostname: str) -> str:
    return str(rack.member(hostname)["addresses"][0].partition("/")[0])


@pytest.mark.rack
def test_a_new_image_one_after_another_and_a_member_that_goes(tmp_path: Path) -> None:
    _, source = site(tmp_path)
    with started_rack(tmp_path, 2) as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        cloud = rack.cloud(count=2)
        rack.run("apply", str(cloud), "--wait")
        before = {name: rack.member(name)["addresses"] for name in ("galera-0", "galera-1")}
        rack.sql(address(rack, "galera-0"), "CREATE TABLE app.light (word VARCHAR(40))")
        rack.sql(address(rack, "galera-0"), "INSERT INTO app.light VALUES ('a')")
        first = set(images(rack))
        second = build_second(rack, source)

        said = rack.run("cloud", "rebuild", "lab", "galera", "--plan", codes=(2,))
        assert "2 to rebuild" in said and "drained first" in said and "keeps /var/lib/mysql" in said
        assert "canary galera-0 first" in said and set(images(rack)) == first
        said = rack.run("cloud", "rebuild", "lab", "galera")
        assert set(images(rack)) == {second}
        assert {name: rack.member(name)["addresses"] for name in before} == before
        for name in before:
            assert rack.sql(address(rack, name), WRITTEN) == "a"
            assert rack.sql(address(rack, name), "SHOW STATUS LIKE 'wsrep_cluster_size'").split()[1] == "2"
        events = [(event["kind"], event["node"]) for event in rack.json("events")]
        drained = [node for kind, node in events if kind == "departure.drain"]
        assert len(drained) == 2 and drained[0] != drained[1]
        active = [place for place, event in enumerate(events) if event == ("deployment.active", drained[0])]
        assert active[-1] < events.index(("departure.drain", drained[1])), "the first was well before the second began"
        assert "Nothing to change" in rack.run("cloud", "rebuild", "lab", "galera", "--plan")
        assert rack.member("galera-0")["generation"] == rack.member("galera-0")["applied"]

        refused = rack.run("plan", str(rack.cloud(count=1)), codes=(1,))
        assert "nothing says who goes" in refused and "remove: [galera-1]" in refused
        rack.run("apply", str(rack.cloud(count=1, remove=["galera-0"])), "--wait")
        assert [member["hostname"] for member in rack.json("cloud", "status", "lab")["members"]] == ["galera-1"]
        rack.sql(address(rack, "galera-1"), "INSERT INTO app.light VALUES ('b')")
        assert rack.sql(address(rack, "galera-1"), WRITTEN).split() == ["a", "b"]
        assert rack.sql(address(rack, "galera-1"), "SHOW STATUS LIKE 'wsrep_cluster_status'").split()[1] == "Primary"
        gone = "node1" if rack.member("galera-1")["node"] == "node2" else "node2"
        rack.wait("its node is free", lambda: rack.json("node", "show", gone)["node"]["state"] == "available", 120)
