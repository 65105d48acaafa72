"""A simulated fleet and a real service: all that has no fault gets active, and what has one is named."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from fleet_site import Site

NODES = 24
QUICK = ("--boot-seconds", "0.5", "--image-seconds", "0.5", "--start-seconds", "0.5")


@pytest.mark.integration
def test_a_fleet_with_every_fault(tmp_path: Path) -> None:
    site = Site(tmp_path, network="prove_by_bmc = true")
    with site.fleet(NODES, *QUICK, "--fail", "disk=20", "--fail", "silent=10"):
        site.run("node", "enroll", str(site.manifests / "hardware.yaml"), codes=(0, 1))
        enrolled = len(site.nodes())
        assert 0 < enrolled < NODES, "the silent are not taken on record"
        cloud = site.manifests / "cloud.yaml"
        cloud.write_text(cloud.read_text().replace(f"count: {NODES}", f"count: {enrolled}"))
        site.run("apply", str(cloud), "--no-wait")
        site.wait("all have come to rest", lambda: {n["state"] for n in site.nodes()} <= {"active", "failed"})
        states = Counter(node["state"] for node in site.nodes())
        assert states["failed"] > 0 and states["active"] > enrolled / 2
        reasons = {node["failure"]["summary"] for node in site.nodes() if node["failure"]}
        proved = [event for event in json.loads(site.run("events", "-o", "json")) if event["kind"] == "ramdisk.proved"]
        assert len(proved) == enrolled, "each by its own controller"
        assert all("does not keep what is written" in reason for reason in reasons), reasons
