"""The classic bootstrap: a seed in a virtual machine on a bridge of the host. It deploys a node of the rack, is ended
and booted again, and goes on with what it knew."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from rack import INSIDE, PROGRAM, ROOT, Rack, run_words, started_rack
from shell import Shell

ADDRESS = "10.77.0.3"


class Machine:
    """The seed. ``shell``: in it."""

    def __init__(self, rack: Rack) -> None:
        self._rack = rack
        self.folder = rack.folder / "seed-vm"
        self.shell = Shell(rack.folder, ADDRESS)

    def call(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        env = {"PATH": os.environ["PATH"], "HOME": "/root", "PROVISIONER": PROGRAM}
        program = [*INSIDE, str(ROOT / "seed" / "boot-seed-vm")]
        return run_words(program, [*words, "--folder", str(self.folder)], codes, 1800, env)

    def boot(self) -> str:
        words = {
            "bridge": "rack0",
            "address": f"{ADDRESS}/24",
            "dhcp": "10.77.0.100-10.77.0.199",
            "gateway": "10.77.0.1",  # by which it reaches the controllers of the nodes
            "key": str(self.shell.key.with_suffix(".pub")),
            "config": str(self._rack.config),
        }
        return self.call(*(word for name, value in words.items() for word in (f"--{name}", value)))

    def run(self, *words: str, codes: tuple[int, ...] = (0,)) -> str:
        """A command of the program."""
        return self.shell.run(" ".join(("provisioner", *words)), codes, 1800)

    def json(self, *words: str) -> Any:
        return json.loads(self.run(*words, "-o", "json"))

    def take(self, image: str) -> None:
        """What it cannot build."""
        file = self._rack.folder / f"{image}.tar"
        said = self._rack.json("image", "export", image, str(file))
        self.shell.put(file, f"/root/{image}.tar")
        self.run("image", "import", f"/root/{image}.tar", "--trust", said["key"])


def write_cloud(path: Path, **more: Any) -> Path:
    cloud = yaml.safe_load((ROOT / "cloud-lab.yaml").read_text())
    path.write_text(yaml.safe_dump(cloud | {"roles": {"base": {"count": 1}, **more}}))
    return path


def write_files(rack: Rack) -> dict[str, Path]:
    """What an operator brings with him, by name."""
    password = rack.state / "lab" / "bmc-password"
    hardware = rack.folder / "brought-hardware.yaml"
    hardware.write_text((rack.folder / "hardware.yaml").read_text().replace(str(password), "/root/bmc-password"))
    return {"bmc-password": password, "hardware.yaml": hardware, "cloud.yaml": write_cloud(rack.folder / "cloud.yaml")}


@pytest.mark.rack
def test_a_seed_in_a_machine_deploys_a_node_and_goes_on_after_its_end(tmp_path: Path) -> None:
    # Its own image is built with the others: on the rack's wire there is no mirror.
    values = {"undercloud": {"service": "10.77.0.2", "dhcp_first": "10.77.0.100", "dhcp_last": "10.77.0.199"}}
    images = write_cloud(tmp_path / "images.yaml", undercloud={"count": 1, "values": values})
    with started_rack(tmp_path, 1, images) as rack:
        rack.stop()  # the duty is the machine's
        seed = Machine(rack)
        try:
            assert "the seed answers at" in seed.boot()
            assert seed.json("node", "list") == []
            for image in ("ramdisk", "base"):
                seed.take(image)
            for name, file in write_files(rack).items():
                seed.shell.put(file, f"/root/{name}")
            seed.run("node", "enroll", "/root/hardware.yaml")
            seed.run("apply", "/root/cloud.yaml", "--wait")
            assert "the machine runs" in seed.boot(), "what is there is not done again"

            assert "with all records, stays" in seed.call("--down")
            assert "Power down" in (seed.folder / "console.log").read_text(errors="replace"), "it was not shut down"
            assert "the disk is there" in seed.boot()
            (node,) = seed.json("node", "list")
            assert node["state"] == "active"
            rack.wait("its agent has come back", lambda: bool(seed.json("node", "list")[0]["healthy"]), 600)
            assert "Nothing to change" in seed.run("plan", "/root/cloud.yaml")
        finally:
            seed.call("--down", "--remove")
        assert not seed.folder.exists()
