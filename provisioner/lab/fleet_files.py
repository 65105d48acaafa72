"""What an operator would have written for a fleet, and the two images that its nodes only pretend to take."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from time import time
from typing import Any

import yaml

from provisioner.images.catalogue import INDEX, TEMPLATES, Catalogue, describe_files
from provisioner.images.provenance import build_statement, builder
from provisioner.images.workshop import RAMDISK
from provisioner.lab.fleet import USER, FleetNode
from provisioner.model.image import Image, ImageIndex
from provisioner.system.files import write_file

ROLE = "fleet"
PASSWORD_FILE = "bmc-password"
TREE = {"etc/fleet.conf": "setting = {{setting}}\nhost = {{node.hostname}}\n"}
"""What a change of the setting touches, so that plan has files to name."""


def write_manifests(folder: Path, nodes: Sequence[FleetNode], ports: Sequence[int], password: str) -> tuple[Path, Path]:
    """(hardware file, cloud file); the role is beside the cloud file."""
    write_file(folder / PASSWORD_FILE, password + "\n", mode=0o600)
    credentials: dict[str, Any] = {"username": USER, "password": {"file": str(folder / PASSWORD_FILE)}}
    entries: list[dict[str, Any]] = [
        {
            "name": node.name,
            "bmc": {"address": "127.0.0.1", "port": port, **credentials},
            "ports": [{"mac": node.mac}],
            "firmware": "uefi",
        }
        for node, port in zip(nodes, ports, strict=True)
    ]
    hardware, cloud = folder / "hardware.yaml", folder / "cloud.yaml"
    write_file(hardware, yaml.safe_dump({"nodes": entries}, sort_keys=False))
    role = {
        "role": ROLE,
        "description": "a simulated server",
        "image": {"elements": ["base"]},
        "networks": ["main"],
        "change": {"at_a_time": max(1, len(nodes))},
        "config": {"values": {"setting": 0}},
        "health": {"wait": 300},
    }
    write_file(folder / "roles" / f"{ROLE}.yaml", yaml.safe_dump(role, sort_keys=False))
    networks = {"main": {"cidr": "10.64.0.0/16", "pool": "10.64.0.10-10.64.255.200"}}
    desired = {"cloud": ROLE, "networks": networks, "roles": {ROLE: {"count": len(nodes)}}}
    write_file(cloud, yaml.safe_dump(desired, sort_keys=False))
    return hardware, cloud


def publish_images(catalogue: Catalogue) -> None:
    """A ramdisk and an image of the role that hold nothing: no node fetches them. Existing ones of the names stay."""
    index = ImageIndex(size=1 << 30, chunks=()).model_dump_json()
    for name, files, kind in (
        (RAMDISK, {"kernel": "simulated", "initramfs": "simulated"}, "ramdisk"),
        (ROLE, {"root.zst": "simulated", INDEX: index, TEMPLATES: json.dumps(TREE)}, "root"),
    ):
        if catalogue.newest(name) is not None:
            continue
        with catalogue.workplace() as out:
            for file, text in files.items():
                write_file(out / file, text)
            ident, hashes, sizes = describe_files(name, out)
            image = Image(id=ident, name=name, files=hashes, sizes=sizes, kind=kind, test="skipped")
            catalogue.publish(image, out, build_statement(image, (), (), time(), time(), builder()))
