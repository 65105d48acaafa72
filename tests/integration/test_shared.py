"""Conductors that share a PostgreSQL: the same tests of the records, and a fleet of which one conductor is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from fleet_site import Site
from postgresql import postgresql
from rack import ROOT

NODES = int(os.environ.get("NODES", "40"))
"""Enough for both to have some; a thousand take ten minutes."""
PACE = ("--boot-seconds", "3", "--image-seconds", "4", "--start-seconds", "2")
SAME = (
    *("test_store_records.py", "test_conductor_shared.py", "test_conductor_permits.py", "test_server_upgrade.py"),
    *("test_conductor_order.py", "test_conductor_order_random.py"),
)
"""Of the unit tests, those that are about what is on record."""


@pytest.mark.integration
def test_the_same_tests_on_postgresql() -> None:
    with postgresql() as url:
        quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestUnraisableExceptionWarning")
        files = [f"tests/unit/{name}" for name in SAME]
        words = [sys.executable, "-m", "pytest", "-n", "2", *quiet, "-W", "ignore::ResourceWarning", *files]
        env = {**os.environ, "TEST_DATABASE": url}
        done = subprocess.run(words, cwd=ROOT, env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-5000:]


def at_work(site: Site) -> set[str]:
    """Conductors that have some nodes at least."""
    listed = json.loads(site.run("conductor", "list", "-o", "json"))
    return {conductor["name"] for conductor in listed if conductor["nodes"] > 3}


def events(site: Site) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while page := json.loads(site.run("events", "--since", str(found[-1]["id"] if found else 0), "-o", "json")):
        found += page
    return found


@pytest.mark.integration
def test_a_site_moves_from_sqlite_to_postgresql_and_back(tmp_path: Path) -> None:
    here = Site(tmp_path / "here")
    with here.fleet(2, *PACE):
        here.run("node", "enroll", str(here.manifests / "hardware.yaml"))
        before = here.nodes()
    here.run("backup", "create", str(tmp_path / "one.backup"))
    with postgresql() as url:
        there = Site(tmp_path / "there", database=url, name="seed-1")
        there.run("backup", "restore", str(tmp_path / "one.backup"))
        assert "not overwritten" in there.run(
            "backup", "restore", str(tmp_path / "one.backup"), codes=(1,), errors=True
        )
        with there.started("serve"):
            there.wait("it answers", there.answers)
            assert [node["spec"] for node in there.nodes()] == [node["spec"] for node in before]
        there.run("backup", "create", str(tmp_path / "two.backup"))
    again = Site(tmp_path / "again")
    assert "2" in again.run("backup", "show", str(tmp_path / "two.backup"))
    again.run("backup", "restore", str(tmp_path / "two.backup"))


@pytest.mark.integration
def test_one_of_two_conductors_is_killed_and_the_other_ends_its_work(tmp_path: Path) -> None:
    with postgresql() as url:
        first = Site(tmp_path / "first", database=url, name="first")
        second = Site(tmp_path / "second", database=url, name="second", like=first)
        fleet = ("--nodes", str(NODES), "--folder", str(first.manifests), "--service", second.url, *PACE)
        with first.started("lab", "fleet", *fleet), first.started("serve") as killed, second.started("serve"):
            first.wait("the fleet is up", lambda: (first.manifests / "cloud.yaml").exists())
            first.wait("both answer", lambda: first.answers() and second.answers())
            first.run("node", "enroll", str(first.manifests / "hardware.yaml"))
            listed = json.loads(second.run("conductor", "list", "-o", "json"))
            assert {conductor["name"] for conductor in listed if conductor["alive"]} == {"first", "second"}
            first.run("apply", str(first.manifests / "cloud.yaml"), "--no-wait")
            first.wait("both are at work", lambda: {"first", "second"} <= at_work(second))
            killed.send_signal(signal.SIGKILL)
            killed.wait(timeout=30)
            second.wait(
                "all are active", lambda: Counter(n["state"] for n in second.nodes()) == {"active": NODES}, 240 + NODES
            )
            reserved: dict[str, list[str]] = {}
            for event in events(second):
                if event["kind"] == "step.started":
                    reserved.setdefault(event["node"], []).append(event["data"]["conductor"])
        assert len(reserved) == NODES
        for name, who in reserved.items():
            assert who == sorted(who), f"{name}: after the second has begun, the first commands nothing: {who}"
        assert {"first", "second"} <= {one for who in reserved.values() for one in who}
