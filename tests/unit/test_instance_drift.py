"""A file that somebody changes by hand is told with its diff, and put back where the role says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_world import CONF, SECRET, World

from provisioner_agent.instance import places
from provisioner_agent.instance.drift import LOOK_SECONDS
from provisioner_agent.instance.host import FileState, Killed, LinuxHost
from provisioner_agent.instance.main import run_command

REPAIRED = {"name": "web", "count": 3, "once": ["first"], "at_a_time": 1, "drift": "repair"}


def active(**more: object) -> World:
    world = World()
    world.offer(1, **more)
    world.start()
    world.go()
    return world


def later(world: World) -> None:
    world.host.sleep(LOOK_SECONDS)
    world.agent.turn()


def change(world: World, path: str, text: str) -> None:
    state = world.host.files[path]
    world.host.files[path] = FileState(text.encode(), state.mode, state.owner, state.group)


def test_a_change_by_hand_is_told_with_its_diff_and_when_it_is_over() -> None:
    world = active()
    assert world.reports[-1]["drift"] == {}
    change(world, CONF, "port=99\n")
    later(world)
    told = world.reports[-1]["drift"]
    assert list(told) == [CONF] and "-port=99" in told[CONF] and "+port=80" in told[CONF]
    assert world.text(CONF) == "port=99\n", "it is only told"
    change(world, CONF, "port=80\n")
    later(world)
    assert world.reports[-1]["drift"] == {}


def test_what_is_sensitive_is_not_told() -> None:
    world = active()
    change(world, SECRET, "stolen-key")
    later(world)
    assert world.reports[-1]["drift"] == {SECRET: f"{SECRET}: the content differs (sensitive)"}


def test_a_role_may_have_it_put_back_by_its_phases() -> None:
    world = active(role=REPAIRED)
    world.scripts.clear()
    change(world, CONF, "port=99\n")
    later(world)
    assert world.text(CONF) == "port=80\n"
    assert [env["PROVISIONER_CHANGED"] for _, env, _ in world.scripts][:1] == [CONF]
    assert world.reports[-1]["drift"] == {} and world.reports[-1]["healthy"] is True


def test_a_kill_at_any_write_of_a_repair_leaves_units_with_the_files_in_force() -> None:
    kills = 0
    while True:
        world = World()
        world.control(CONF, '{"services": {"web.service": "restart"}}')
        world.unit("web.service")
        world.offer(1, role=REPAIRED)
        world.start()
        world.go()
        change(world, CONF, "port=99\n")
        world.units["web.service"].read = "port=99\n"
        world.host.kill_before = kills
        try:
            later(world)
            break
        except Killed:
            world.host.kill_before = None
            world.start()
            for _ in range(3):
                world.go()
                later(world)
        assert world.text(CONF) == world.units["web.service"].read == "port=80\n", f"killed before {kills}"
        record = world.agent.record
        assert (record.applied, record.refused, record.state) == (1, 0, "applied"), f"killed before {kills}"
        kills += 1
    assert kills > 10


def test_a_new_generation_takes_it_back_as_well() -> None:
    world = active()
    change(world, CONF, "port=99\n")
    world.offer(2, 81)
    world.go()
    assert world.text(CONF) == "port=81\n" and world.reports[-1]["drift"] == {}


def test_why_a_file_is_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    world = active()
    world.control(CONF, '{"services": {"web.service": "reload"}, "confirm": true}')
    host = LinuxHost(tmp_path)
    for path, state in world.host.files.items():
        if path.startswith((places.TEMPLATES, "/var/lib/provisioner-agent/", "/etc/")):
            host.write(path, FileState(state.data, state.mode))
    words = ["--root", str(tmp_path)]
    assert run_command(["why", CONF, *words]) in (0, 2)
    said = capsys.readouterr().out
    assert f"template {places.TEMPLATES}{CONF}, generation 1" in said
    assert "when it changes: web.service, reload" in said and "unless the server is heard again" in said
    (tmp_path / CONF.lstrip("/")).write_text("port=99\n")
    assert run_command(["why", CONF, *words]) == 2
    assert "+port=80" in capsys.readouterr().out
    assert run_command(["why", "/etc/passwd", *words]) == 1
    assert "is not the agent's" in capsys.readouterr().out
