"""A trial: a generation in force without a server."""

from __future__ import annotations

import json

from agent_world import CONF, World, metadata

from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.trial import run_trial, try_files


def test_a_trial_does_all_that_a_generation_does_and_reports_it() -> None:
    world = World(away=True)
    report = run_trial(world.host, Document(1, metadata(1)))
    assert world.host.files[CONF].data == b"port=80\n"
    assert [name for name, _, _ in world.scripts] == [
        "pre-configure.d/10-stop",
        "configure.d/10-a",
        "configure.d/20-b",
        "post-configure.d/10-start",
    ]
    assert json.loads(world.text(places.RUN_PERMIT))["once"] == {"first": {"do": True, "fence": 1}}
    assert report["healthy"] and report["state"] == "applied" and report["probes"]["up"]["ok"]


def test_a_trial_that_fails_says_what() -> None:
    world = World(node="down")
    report = run_trial(world.host, Document(1, metadata(1)))
    assert not report["healthy"] and "not healthy after 60 s" in report["error"]["summary"]
    world = World(failing={"configure.d/10-a": 3})
    report = run_trial(world.host, Document(1, metadata(1)))
    assert not report["healthy"] and report["error"]["script"] == "10-a"


def test_where_only_the_files_are_tried_nothing_is_written_and_nothing_runs() -> None:
    world = World(away=True)
    before = dict(world.host.files)
    report = try_files(world.host, Document(1, metadata(1)))
    assert report["healthy"] and report["error"] is None and report["probes"]["up"]["ok"]
    assert world.host.files == before and world.scripts == []
    assert not try_files(World(node="down").host, Document(1, metadata(1)))["healthy"]


def test_a_file_that_its_validator_refuses_is_named() -> None:
    world = World(bad_port="80")
    report = try_files(world.host, Document(1, metadata(1)))
    assert not report["healthy"] and CONF in report["error"]["cause"]
