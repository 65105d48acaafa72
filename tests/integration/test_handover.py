"""The last mile of the seed: it deploys the undercloud over the network, gives it the duty, and is switched off; the
undercloud goes on to deploy another node, whose boot it answers itself."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import INSIDE, PROGRAM, ROOT, Rack, run_words, started_rack

SERVICE, UNDERCLOUD = "10.77.0.2", "10.77.0.20"
LISTEN = f"{UNDERCLOUD}:8443"
VALUES = {
    "undercloud": {
        "service": SERVICE,
        "dhcp_first": "10.77.0.100",
        "dhcp_last": "10.77.0.199",
        "operators_listen": LISTEN,
    }
}


def write_cloud(path: Path, *more: str) -> Path:
    cloud = yaml.safe_load((ROOT / "cloud-lab.yaml").read_text())
    cloud["roles"] = {"undercloud": {"count": 1, "nodes": ["node1"], "values": VALUES}}
    cloud["roles"] |= {name: {"count": 1} for name in more}
    path.write_text(yaml.safe_dump(cloud))
    return path


def larger(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """The second node needs little; both see the network of the controllers by way of their gateway."""
    lab["nodes"][1] |= {"memory_mib": 1024}
    hardware["nodes"][1] |= {"properties": {"memory_mib": 1024, "cpus": 1, "disk_gib": 8}}


class Elsewhere:
    """An operator of the undercloud, who reaches it over the rack's network."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        folder = rack.folder
        (folder / "token").write_text(rack.run("operator", "add", "test", "--role", "admin"))
        (folder / "site.crt").write_text(rack.run("operator", "ca"))
        self._env = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "PROVISIONER_SERVER": f"https://{LISTEN}",
            "PROVISIONER_TOKEN_FILE": str(folder / "token"),
            "PROVISIONER_CA": str(folder / "site.crt"),
        }

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        program = [*INSIDE, PROGRAM, "--config", str(self._rack.config)]
        return run_words(program, words, codes, 1800, self._env)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json"))


@pytest.mark.rack
def test_the_undercloud_takes_over_and_deploys_with_the_seed_off(tmp_path: Path) -> None:
    images = write_cloud(tmp_path / "images.yaml", "base")
    with started_rack(tmp_path, 2, images, larger, network=f"service = {SERVICE}") as rack:
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        rack.run("apply", str(write_cloud(tmp_path / "cloud.yaml")), "--wait")
        there = Elsewhere(rack)
        rack.wait("the node asks for the duty", lambda: began(rack), 300)
        said = rack.json("handover", "node1", "--resume")
        assert (said["state"], said["epoch"], said["node"]) == ("tombstone", 2, "node1")
        assert {"node1", "node2"} <= set(said["detail"]["checks"]["controllers"])
        assert "the master no more" in rack.run("node", "power", "node2", "on", codes=(1,))
        rack.stop()

        members = there.json("cloud", "status", "lab")["members"]
        assert [(member["hostname"], member["state"]) for member in members] == [("undercloud-0", "active")]
        assert "--self" in there.run("node", "power", "node1", "off", codes=(1,))
        there.run("apply", str(write_cloud(tmp_path / "cloud.yaml", "base")), "--wait")
        nodes = {node["spec"]["name"]: node for node in there.json("node", "list")}
        assert {name: node["state"] for name, node in nodes.items()} == {"node1": "active", "node2": "active"}
        assert all(node["healthy"] for node in nodes.values()), nodes
        kinds = [event["kind"] for event in there.json("events")]
        assert "site.handed-over" in kinds and "boot.script" in kinds[kinds.index("site.handed-over") :]
        there.run("apply", str(tmp_path / "cloud.yaml"), "--wait")
        assert "Nothing" in there.run("plan", str(tmp_path / "cloud.yaml"))


def began(rack: Rack) -> bool:
    rack.run("handover", "node1", "--no-wait", codes=(0, 1))
    return bool(rack.json("handover", "--status")["state"] != "master")
