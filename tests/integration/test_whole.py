"""An image that somebody brings as a whole disk: the real cloud-init makes it an instance, which says where it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import started_rack

PROBES = {
    "hostname": ("hostname", "visitor-0"),
    "address": ("ip -br addr show port0 | tr -s ' ' | cut -d' ' -f3", "10.77.0.20/24"),
    "gateway": ("ip route show default | cut -d' ' -f3", "10.77.0.1"),
    "root has grown": ("test $(findmnt -bno SIZE /) -gt 4000000000 && echo yes", "yes"),
    "file of the values": ("cat /etc/motd", "from the cloud file"),
    "command of the values": ("cat /run/told", "told"),
    "no agent of ours": ("ls /etc/provisioner-agent/agent.json 2>/dev/null | wc -l", "0"),
}
"""Name → (what is run in the instance, what it must print)."""
NETWORKS = {"rack": {"cidr": "10.77.0.0/24", "pool": "10.77.0.20-10.77.0.60", "gateway": "10.77.0.1"}}
ORIGIN = {"role": "origin", "image": {"elements": ["base", "cloud-init"], "templates": ["base"]}, "networks": ["rack"]}
VALUES = {
    "write_files": [{"path": "/etc/motd", "content": "from the role"}],
    "runcmd": [["sh", "-c", "echo told >/run/told"]],
}
VISITOR: dict[str, Any] = {
    "role": "visitor",
    "image": {"disk": "brought"},
    "networks": ["rack"],
    "config": {"values": VALUES},
    "health": {
        "wait": 300,
        "node": [
            {"name": name, "command": ["sh", "-c", command], "expect": expect}
            for name, (command, expect) in PROBES.items()
        ],
    },
}


def write_cloud(folder: Path, role: dict[str, Any], **values: Any) -> Path:
    """A cloud file that uses a role, which is beside it."""
    (folder / "roles").mkdir(parents=True, exist_ok=True)
    name = str(role["role"])
    (folder / "roles" / f"{name}.yaml").write_text(yaml.safe_dump(role))
    path = folder / f"{name}.yaml"
    cloud = {"cloud": "lab", "networks": NETWORKS, "roles": {name: {"count": 1, "values": values}}}
    path.write_text(yaml.safe_dump(cloud))
    return path


def larger_first(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """A larger disk that is found before the right one."""
    lab["nodes"][0]["disks"] = [{"serial": "wrong", "gib": 40, "before": True}]


@pytest.mark.integration
@pytest.mark.rack
@pytest.mark.parametrize("firmware", ["uefi", "bios"])
def test_a_disk_that_somebody_brought(tmp_path: Path, firmware: str) -> None:
    origin = write_cloud(tmp_path / "clouds", ORIGIN)
    motd = {"path": "/etc/motd", "content": "from the cloud file"}
    cloud = write_cloud(tmp_path / "clouds", VISITOR, write_files=[motd])

    def change(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
        larger_first(lab, hardware)
        lab["nodes"][0]["firmware"] = hardware["nodes"][0]["firmware"] = firmware

    with started_rack(tmp_path, 1, cloud=origin, change=change) as rack:
        rack.run("image", "export", "origin", str(tmp_path / "brought.qcow2"))
        rack.run("image", "import", str(tmp_path / "brought.qcow2"), "--name", "brought")
        rack.run("node", "enroll", str(tmp_path / "hardware.yaml"))
        rack.run("apply", str(cloud), "--wait")
        view = rack.json("node", "show", "node1")
        steps = {step["name"]: step["detail"] for step in view["deployment"]["steps"]}
        booted = steps["configure"]["root"].removeprefix("PARTUUID=")
        assert booted in steps["boot-loader"]["partitions"], "what runs is what was written"
        assert (rack.state / "lab" / "node1" / "disk-wrong.raw").stat().st_blocks == 0
        assert json.loads(rack.run("plan", str(cloud), "-o", "json"))["actions"] == []

        rack.run("node", "release", "node1")
        failed = rack.run("apply", str(cloud), "--wait", codes=(1,))
        assert "holds something and is not overwritten" in failed
