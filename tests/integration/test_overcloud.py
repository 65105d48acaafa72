"""From powered-off nodes to a guest: Galera, a controller, a compute node, and what a user of the cloud does there."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import INSIDE, ROOT, Rack, started_rack

CLOUD = ROOT / "cloud-overcloud.yaml"
INSIDE_SCRIPT = Path(__file__).with_name("overcloud_inside.py")
WAIT = 1800.0
"""Seconds for what an emulated processor does; it is the limit of a hang, no bar."""


def as_shipped(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """The rack of the overcloud in the place of the one of the lab."""
    lab["nodes"] = yaml.safe_load((ROOT / "seed" / "overcloud-lab.yaml").read_text())["nodes"]
    hardware |= yaml.safe_load((ROOT / "hardware" / "overcloud-lab.yaml").read_text())


class Phases:
    """How long each phase took; printed at the end of the run, also of one that fails."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._began = time.monotonic()

    def done(self, name: str) -> None:
        self.seconds[name] = time.monotonic() - self._began
        self._began = time.monotonic()

    def __str__(self) -> str:
        return "\n".join(f"{name:32} {seconds:8.1f} s" for name, seconds in self.seconds.items())


def use_cloud(rack: Rack, cloud: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What a user does; each phase by its name."""
    ca = rack.folder / "cloud.crt"
    ca.write_text(rack.run("cloud", "authority", cloud["cloud"]))
    ramdisk = rack.state / "images" / (rack.state / "images" / "ramdisk.newest").read_text().strip()
    given = {
        "url": f"https://{cloud['values']['openstack']['address']}",
        "password": rack.run("cloud", "secret", cloud["cloud"], "openstack_admin_password").strip(),
        "ca": str(ca),
        "kernel": str(ramdisk / "kernel"),
        "ramdisk": str(ramdisk / "initramfs"),
        "wait": WAIT,
    }
    done = subprocess.run(
        [*INSIDE, sys.executable, str(INSIDE_SCRIPT)],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        timeout=4 * WAIT,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {phase["phase"]: phase for phase in map(json.loads, done.stdout.splitlines())}


@pytest.mark.overcloud
def test_from_powered_off_nodes_to_a_guest(tmp_path: Path) -> None:
    phases = Phases()
    cloud = yaml.safe_load(CLOUD.read_text())
    try:
        with started_rack(tmp_path, nodes=3, cloud=CLOUD, change=as_shipped) as rack:
            phases.done("images, rack, service")
            rack.run("node", "enroll", str(rack.folder / "hardware.yaml"))
            refused = rack.run("plan", str(CLOUD), codes=(1,))
            assert "node15: no inspection has tried KVM on it; provisioner node inspect node15" in refused
            rack.run("node", "inspect", "node15")
            phases.done("enrolled, KVM tried")
            rack.run("apply", str(CLOUD), "--wait", timeout=4 * WAIT)
            phases.done("cloud ready")
            said = use_cloud(rack, cloud)
            assert said["console"]["hypervisor"] == "kvm"
            phases.seconds |= {name: phase["seconds"] for name, phase in said.items()}
            assert rack.run("plan", str(CLOUD)).rstrip().endswith("Nothing to change.")
    finally:
        print(f"\n{phases}")
