"""The disk that the service keeps its records on is full for a while, in the middle of deployments."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_site import Site

NODES = 6
SLOW = ("--boot-seconds", "3", "--image-seconds", "3", "--start-seconds", "3")
MIB = 1 << 20


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Its state is on a disk of its own."""
    state = tmp_path / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "none", str(state)], check=True)
    try:
        yield Site(tmp_path)
    finally:
        subprocess.run(["umount", "--lazy", str(state)], check=True)


def fill(path: Path) -> None:
    """Not a byte is left on its disk."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(MIB))
        except OSError:
            pass


@pytest.mark.integration
def test_no_deployment_fails_for_a_full_disk_of_the_seed(tmp_path: Path, site: Site) -> None:
    ballast = tmp_path / "state" / "ballast"
    log = tmp_path / "serve.log"
    with site.fleet(NODES, *SLOW):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"))
        site.run("apply", str(site.manifests / "cloud.yaml"), "--no-wait")
        site.wait("a deployment has begun", lambda: any(n["deployment"] for n in site.nodes()))
        name = site.nodes()[0]["spec"]["name"]
        fill(ballast)
        site.wait("it is noticed", lambda: "the records cannot be read or written" in log.read_text())
        said = site.run("node", "maintenance", name, "--reason", "a test", codes=(1,), errors=True)
        assert "the records cannot be read or written" in said and "disk is full" in said, said
        assert "a service that runs goes on by itself" in said, said
        ballast.unlink()
        site.wait("all are active", lambda: {node["state"] for node in site.nodes()} == {"active"})
        assert not [node["failure"] for node in site.nodes() if node["failure"]]
        assert not [e for e in json.loads(site.run("events", "-o", "json")) if e["kind"].endswith("failed")]
