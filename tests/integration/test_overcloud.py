"""From powered-off nodes to a guest: Galera, a controller, compute nodes, what a user of the cloud does, and day 2.

Each phase but the last is kept when it is done, with all machines' memory. ``OVERCLOUD_FROM=PHASE`` begins after PHASE
with what an earlier run has kept (``.tox/rack``), and with the images of then.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import INSIDE, ROOT, Rack, started_rack
from shell import Shell

CLOUD = ROOT / "cloud-overcloud.yaml"
INSIDE_SCRIPT = Path(__file__).with_name("overcloud_inside.py")
WAIT = 1800.0
"""Seconds for what an emulated processor does; it is the limit of a hang, no bar."""
APPLY = 4 * WAIT


def as_shipped(lab: dict[str, Any], hardware: dict[str, Any]) -> None:
    """The rack of the overcloud in the place of the one of the lab."""
    lab["nodes"] = yaml.safe_load((ROOT / "seed" / "overcloud-lab.yaml").read_text())["nodes"]
    hardware |= yaml.safe_load((ROOT / "hardware" / "overcloud-lab.yaml").read_text())


class Overcloud:
    """``seconds``: how long each phase took, by name."""

    def __init__(self, rack: Rack) -> None:
        self.rack = rack
        self.file = yaml.safe_load(CLOUD.read_text())
        self.file["values"]["base"] = {"authorized_keys": [self.shell("").public]}
        self.seconds: dict[str, float] = {}

    def apply(self, *roles: str, **compute: Any) -> None:
        """:param roles: of the file, in place of all. :param compute: what the file says of that role."""
        cloud = self.file | {"roles": {name: self.file["roles"][name] for name in roles or self.file["roles"]}}
        if roles == ("galera",):
            cloud["values"] = {"base": self.file["values"]["base"]}  # the rest is what the others read
        if "compute" in cloud["roles"]:
            cloud["roles"]["compute"] = cloud["roles"]["compute"] | compute
        path = self.rack.folder / "cloud.yaml"
        path.write_text(yaml.safe_dump(cloud))
        self.rack.run("apply", str(path), "--wait", "--timeout", str(int(APPLY)), timeout=APPLY + 60)
        assert "Nothing to change" in self.rack.run("plan", str(path))

    def ask(self, what: str) -> dict[str, Any]:
        """What a user of the cloud does (``overcloud_inside.py``): what it found, and how long each part took."""
        name = self.file["cloud"]
        ca = self.rack.folder / "cloud.crt"
        ca.write_text(self.rack.run("cloud", "authority", name))
        images = self.rack.state / "images"
        ramdisk = images / (images / "ramdisk.newest").read_text().strip()
        given = {
            "do": what,
            "url": f"https://{self.file['values']['openstack']['address']}",
            "password": self.rack.run("cloud", "secret", name, "openstack_admin_password").strip(),
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
        print(done.stderr, end="", flush=True)
        said: dict[str, Any] = {}
        for part in map(json.loads, done.stdout.splitlines()):
            self.seconds[f"  {part.pop('part')}"] = part.pop("seconds")
            said |= part
        return said

    def shell(self, address: str) -> Shell:
        """As an operator, whose key is kept with the rack."""
        folder = self.rack.state / "operator"
        folder.mkdir(exist_ok=True)
        return Shell(folder, address)

    def run(self, member: str, command: str) -> str:
        address = self.rack.member(member, self.file["cloud"])["addresses"][0].partition("/")[0]
        return self.shell(address).run(command)

    def domains(self, member: str) -> list[str]:
        """How libvirt runs the guests there. What Nova says of that is only what it was told to do."""
        virsh = "virsh --connect qemu:///system"
        said = self.run(member, f"for name in $({virsh} list --name); do {virsh} dumpxml $name | head -n 1; done")
        return [line.split()[1] for line in said.splitlines()]

    def nodes(self) -> dict[str, str]:
        return self.rack.nodes(self.file["cloud"])

    def ready(self) -> bool:
        return bool(self.rack.json("cloud", "status", self.file["cloud"])["ready"])


def inspect(over: Overcloud) -> None:
    over.rack.run("node", "enroll", str(over.rack.folder / "hardware.yaml"))
    refused = over.rack.run("plan", str(CLOUD), codes=(1,))
    assert "node15: no inspection has tried KVM on it; provisioner node inspect node15" in refused
    for node in ("node15", "node16"):
        over.rack.run("node", "inspect", node)


def make_database(over: Overcloud) -> None:
    over.apply("galera")
    assert over.run("galera-1", "galera-status wsrep_local_state_comment") == "Synced"


def make_control(over: Overcloud) -> None:
    over.apply("galera", "controller")
    assert over.run("controller-0", "openstack-status units") == "ok"
    said = over.run("controller-0", "provisioner-agent why /etc/keystone/keystone.conf")
    assert said.endswith("as the agent wrote it")


def make_compute(over: Overcloud) -> None:
    over.apply()
    assert over.run("compute-0", "compute-status kvm") == "kvm"


def use(over: Overcloud) -> None:
    said = over.ask("make")
    assert said["hypervisor"] == "kvm" and said["host"] == "compute-0"
    assert over.domains("compute-0") == ["type='kvm'"]
    assert said["shown"] is True and said["screen"].startswith("RFB 003")


def cut_power(over: Overcloud) -> None:
    nodes = over.nodes().values()
    for node in nodes:
        over.rack.run("node", "power", node, "off")
    for node in nodes:
        over.rack.run("node", "power", node, "on")
    over.rack.wait("the cloud has noticed it", lambda: not over.ready(), WAIT)
    over.rack.wait("the cloud is ready", over.ready, 2 * WAIT)
    assert over.ask("look")["hypervisor"] == "kvm" and over.domains("compute-0") == ["type='kvm'"]


def move_a_guest(over: Overcloud) -> None:
    """A second compute node comes; the first goes by name, and its guest runs on."""
    over.apply(count=2)
    assert set(over.nodes()) >= {"compute-0", "compute-1"}
    over.apply(count=1, remove=["compute-0"])
    said = over.ask("moved")
    assert (said["host"], said["state"], said["hypervisor"]) == ("compute-1", "running", "kvm")
    assert over.domains("compute-1") == ["type='kvm'"]
    assert len(said["hosts"]) == 1, "Nova knows the one that went no more"

    def is_free() -> bool:
        return bool(over.rack.json("node", "show", "node15")["node"]["state"] == "available")

    over.rack.wait("its node is free", is_free, WAIT)  # the cloud is ready before it is clean


PHASES: dict[str, Callable[[Overcloud], None]] = {
    "inspected": inspect,
    "database": make_database,
    "control": make_control,
    "compute": make_compute,
    "guest": use,
    "power": cut_power,
    "day2": move_a_guest,
}


@pytest.mark.overcloud
def test_from_powered_off_nodes_to_a_guest_and_on(tmp_path: Path) -> None:
    kept = os.environ.get("OVERCLOUD_FROM", "")
    names = list(PHASES)
    names = names[names.index(kept) + 1 :] if kept else names
    over, began = None, time.monotonic()
    try:
        with started_rack(tmp_path, nodes=3, cloud=CLOUD, change=as_shipped, kept=kept) as rack:
            over = Overcloud(rack)
            over.seconds["rack"] = time.monotonic() - began
            for name in names:
                began = time.monotonic()
                over.seconds[name] = 0.0
                PHASES[name](over)
                over.seconds[name] = time.monotonic() - began
                print(f"{name}: {over.seconds[name]:.1f} s", flush=True)
                if name != names[-1]:
                    rack.keep(name)
    finally:
        for name, seconds in over.seconds.items() if over else ():
            print(f"{name:32} {seconds:8.1f} s")
