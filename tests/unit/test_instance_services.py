"""A change restarts the units whose files it writes or removes, each once, and no other."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import replace

import pytest
from agent_world import CONF, SECRET, World, applied_world

from provisioner_agent.instance import places
from provisioner_agent.instance.host import FileState, Finished, Killed
from provisioner_agent.instance.record import read_record

EXTRA = "/etc/extra.conf"
DROP_IN = "/etc/systemd/system/web.service.d/port.conf"
STEPS = ["pre-configure.d/10-stop", "configure.d/10-a", "configure.d/20-b", "post-configure.d/10-start"]


def controlled(**services: str) -> World:
    """Generation 1 is in force; a change of CONF is about these units (``_`` stands for the dot)."""
    world = World()
    named = {name.replace("_", "."): how for name, how in services.items()}
    world.control(CONF, json.dumps({"services": named}))
    world.offer(1)
    for name in named:
        world.unit(name)
    world.start()
    world.go()
    assert world.agent.record.applied == 1
    world.forget()
    return world


def change(world: World, port: object = 81, generation: int = 2) -> None:
    world.offer(generation, port, secrets={"key": "key-1"})
    world.go()


def test_only_the_units_of_changed_files_are_touched() -> None:
    world = controlled(web_service="restart", log_service="reload")
    world.unit("other.service", SECRET)
    world.control(SECRET, '{"mode": "0600", "services": {"other.service": "restart"}}')
    change(world)
    assert world.systemctl == ["reload-or-restart log.service", "restart web.service"]
    assert world.units["web.service"].read == "port=81\n"
    assert world.reports[-1]["state"] == "applied"


def test_units_are_touched_in_the_order_that_systemd_has_them() -> None:
    world = controlled(api_service="restart", back_service="restart", call_service="restart", disk_service="restart")
    world.units["api.service"].after = "network.target back.service disk.service"
    world.units["back.service"].after = "disk.service"
    change(world)
    assert world.systemctl == [f"restart {name}.service" for name in ("call", "disk", "back", "api")]
    assert world.reports[-1]["state"] == "applied"


def test_after_a_boot_they_start_in_that_order_and_a_ring_of_them_in_any() -> None:
    world = controlled(api_service="restart", back_service="restart", call_service="restart")
    world.units["api.service"].after = "call.service"
    world.reboot()
    world.go()
    assert world.systemctl == [f"start {name}.service" for name in ("back", "call", "api")]
    world.forget()
    world.units["call.service"].after = "api.service"
    world.reboot()
    world.go()
    assert sorted(world.systemctl) == [f"start {name}.service" for name in ("api", "back", "call")]


def test_as_many_units_start_at_once_as_there_are_processors() -> None:
    """Each of two waits, within its own start, for the other's."""
    world = controlled(api_service="restart", back_service="restart", last_service="restart")
    world.units["last.service"].after = "api.service back.service"
    world.host.processors = 2
    both, run, ended = threading.Barrier(2), world.host.programs["systemctl"], threading.Event()

    def together(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        if argv[1:] in (("restart", "api.service"), ("restart", "back.service")):
            both.wait(timeout=30)
        if argv[1:] == ("restart", "api.service"):
            assert ended.wait(timeout=30)
        done = run(argv, env)
        if argv[1:] == ("restart", "back.service"):
            ended.set()
        return done

    world.host.programs["systemctl"] = together
    change(world)
    report, order = world.reports[-1], ["api", "back", "last"]
    assert world.systemctl == [f"restart {name}.service" for name in ("back", "api", "last")]
    told = [phase["script"] for phase in report["phases"] if phase["phase"] == "services"]
    assert told == [f"restart {name}.service" for name in order] and report["state"] == "applied"


def test_what_starts_beside_a_unit_that_fails_is_waited_for_and_nothing_else_begun() -> None:
    world = controlled(api_service="restart", back_service="restart", last_service="restart")
    world.host.processors = 2
    world.units["api.service"].bad = "81"
    failed, run = threading.Event(), world.host.programs["systemctl"]

    def later(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        if argv[1:] == ("restart", "back.service") and not failed.is_set():
            assert failed.wait(timeout=30)
        done = run(argv, env)
        if done.code != 0:
            failed.set()
        return done

    world.host.programs["systemctl"] = later
    change(world)
    assert world.systemctl[:2] == ["restart api.service", "restart back.service"]
    back = [f"restart {name}.service" for name in ("api", "back", "last")]
    assert sorted(world.systemctl[2:]) == back, "with the files of before"
    report = world.reports[-1]
    assert report["error"]["summary"] == "systemctl restart api.service ended with code 1"
    assert {unit.read for unit in world.units.values()} == {"port=80\n"}


def test_of_those_that_take_long_one_that_is_still_waited_for_is_told() -> None:
    world = controlled(api_service="restart", back_service="restart")
    world.host.processors = 2
    world.host.slow |= {("systemctl", "restart", "api.service"), ("systemctl", "restart", "back.service")}
    begun, never, run, seen = threading.Event(), threading.Event(), world.host.programs["systemctl"], set[object]()

    def later(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        if argv[1:] == ("restart", "back.service"):
            assert begun.wait(timeout=30)
        if argv[1:] == ("restart", "api.service"):
            begun.set()
            for _ in range(3000):  # until back has ended, and it is told what is left
                seen.add(world.reports[-1]["doing"])
                ended = "restart back.service" in world.systemctl
                if (ended and world.reports[-1]["doing"].endswith("api.service")) or never.wait(timeout=0.01):
                    break
            else:
                raise AssertionError(f"told was {world.reports[-1]['doing']}")
        return run(argv, env)

    world.host.programs["systemctl"] = later
    change(world)
    assert world.reports[-1]["state"] == "applied" and "waits for systemctl restart api.service" in seen


@pytest.mark.parametrize("processors", [1, 2])
def test_what_is_gone_is_stopped_before_anything_starts(processors: int) -> None:
    """The unit that comes in its place may want the same port."""
    world = controlled(api_service="restart")
    world.host.processors = processors
    world.units["api.service"].found = False
    world.control(CONF, json.dumps({"services": {"later.service": "restart"}}))
    world.unit("later.service")
    run, begun, taken = world.host.programs["systemctl"], threading.Event(), list[bool]()

    def slow(argv: tuple[str, ...], env: Mapping[str, str]) -> Finished:
        if argv[1:] == ("stop", "api.service"):
            begun.wait(timeout=0.2)  # for whoever starts beside it
            world.systemctl.append("stop api.service")
            world.units["api.service"].active = "inactive"
            return Finished(0, "")
        if argv[1:] == ("restart", "later.service"):
            begun.set()
            taken.append(world.units["api.service"].active == "active")
        return run(argv, env)

    world.host.programs["systemctl"] = slow
    change(world)
    assert taken == [False] and world.systemctl == ["stop api.service", "restart later.service"]


def test_a_unit_that_a_script_has_started_meanwhile_is_not_started_again() -> None:
    world = controlled(api_service="restart", back_service="reload", call_service="restart", dead_service="restart")
    world.units["back.service"].begun = 7  # long ago
    run = world.host.run

    def starts(argv: list[str], **more: object) -> object:
        if argv[0].endswith("configure.d/20-b"):
            for name in ("api", "dead"):
                world.units[f"{name}.service"].begun = int((world.host.monotonic() + 1) * 1e6)
            world.units["dead.service"].active = "failed"
        return run(argv, **more)  # type: ignore[arg-type]

    world.host.run = starts  # type: ignore[method-assign,assignment]
    change(world)
    assert world.systemctl == ["reload-or-restart back.service", "restart call.service", "restart dead.service"]
    assert world.reports[-1]["state"] == "applied"


def test_units_come_between_configure_and_post_configure() -> None:
    world = controlled(web_service="restart")
    order: list[str] = []
    run = world.host.run

    def watched(argv: list[str], **more: object) -> object:
        if argv[0] == "systemctl" and argv[1] == "restart":
            order.append("restart")
        elif argv[0].startswith(places.PHASES):
            order.append(argv[0].removeprefix(f"{places.PHASES}/"))
        return run(argv, **more)  # type: ignore[arg-type]

    world.host.run = watched  # type: ignore[method-assign,assignment]
    change(world)
    assert order == [*STEPS[:3], "restart", STEPS[3]]
    told = [(item["phase"], item["script"], item["code"]) for item in world.reports[-1]["phases"]]
    assert ("services", "restart web.service", 0) in told


@pytest.mark.parametrize(
    ("first", "second", "done"),
    [
        ("reload", "restart", ["restart web.service"]),
        ("restart", "reload", ["restart web.service"]),
        ("restart", "phase", []),
        ("phase", "reload", []),
    ],
)
def test_a_unit_of_two_files_is_touched_once(first: str, second: str, done: list[str]) -> None:
    world = World()
    world.put(f"{places.TEMPLATES}{EXTRA}", "extra={{port}}\n")
    world.control(CONF, json.dumps({"services": {"web.service": first}}))
    world.control(EXTRA, json.dumps({"services": {"web.service": second}}))
    world.unit("web.service")
    world.offer(1)
    world.start()
    world.go()
    world.forget()
    change(world)
    assert world.systemctl == done


def test_what_is_left_to_a_phase_is_only_watched() -> None:
    world = controlled(web_service="phase")
    world.units["web.service"].active = "failed"
    change(world)
    report = world.reports[-1]
    assert world.systemctl == []
    assert (report["state"], report["error"]["summary"]) == ("broken", "web.service did not stay up")
    world = controlled(web_service="phase")
    change(world)
    assert world.systemctl == [] and world.reports[-1]["state"] == "applied"


def test_systemd_reads_a_changed_drop_in_before_anything_is_started() -> None:
    world = World()
    world.put(f"{places.TEMPLATES}{DROP_IN}", "[Service]\nEnvironment=PORT={{port}}\n")
    world.control(DROP_IN, '{"services": {"web.service": "restart"}}')
    world.unit("web.service", DROP_IN)
    world.offer(1)
    world.start()
    world.go()
    world.forget()
    change(world)
    assert world.systemctl == ["daemon-reload", "restart web.service"]
    assert world.units["web.service"].read.endswith("PORT=81\n")


def test_a_unit_that_does_not_restart_takes_the_files_back() -> None:
    world = controlled(web_service="restart")
    world.units["web.service"].bad = "81"
    world.script("error.d/10-tell")
    change(world)
    report = world.reports[-1]
    assert (report["state"], report["generation"], report["applied"], report["healthy"]) == ("rolled-back", 2, 1, True)
    assert report["error"]["summary"] == "systemctl restart web.service ended with code 1"
    assert "web.service: no such port" in report["error"]["cause"]
    assert world.systemctl == ["restart web.service"] * 2
    assert world.units["web.service"].read == world.text(CONF) == "port=80\n"
    assert world.ran() == [*STEPS[:3], "error.d/10-tell", *STEPS]


def test_a_unit_that_systemd_starts_again_has_that_try_too() -> None:
    """What it needs may have moved just now: a database that fails over takes its connections along."""
    world = controlled(web_service="restart")
    world.units["web.service"].misses, world.units["web.service"].again = 1, True
    change(world)
    assert world.reports[-1]["state"] == "applied"
    assert world.systemctl == ["restart web.service", "start web.service"]


def test_a_unit_that_systemd_starts_again_in_vain_is_told_once() -> None:
    world = controlled(web_service="restart")
    world.units["web.service"].bad, world.units["web.service"].again = "81", True
    change(world)
    report = world.reports[-1]
    assert report["state"] == "rolled-back"
    assert report["error"]["summary"] == "systemctl restart web.service ended with code 1"
    assert world.systemctl == ["restart web.service", "start web.service", "restart web.service"]


def test_a_unit_that_dies_after_its_start_takes_the_files_back_at_once() -> None:
    world = controlled(web_service="restart")
    world.units["web.service"].dies = "81"
    before = world.host.time
    change(world)
    report = world.reports[-1]
    assert report["state"] == "rolled-back" and world.units["web.service"].active == "active"
    assert report["error"]["summary"] == "web.service did not stay up"
    assert report["error"]["cause"] == "web.service is failed (signal)\nweb.service: no such port"
    assert world.host.time == before, "nothing is waited for"


def test_the_units_of_a_removed_file_are_known_after_a_restart_of_the_agent() -> None:
    world = controlled(web_service="restart")
    world.control(CONF, "{}")
    del world.host.files[f"{places.TEMPLATES}{CONF}"], world.host.files[f"{places.TEMPLATES}{CONF}.control"]
    world.start()
    change(world)
    assert world.text(CONF) == "" and world.systemctl == ["restart web.service"]
    assert world.agent.record.units == {}


def test_a_unit_whose_own_file_goes_is_stopped() -> None:
    own = "/etc/systemd/system/web.service"
    world = World()
    world.put(f"{places.TEMPLATES}{own}", "[Service]\nExecStart=/bin/web {{port}}\n")
    world.control(own, '{"services": {"web.service": "restart"}}')
    unit = world.unit("web.service", own)
    world.offer(1)
    world.start()
    world.go()
    world.forget()
    del world.host.files[f"{places.TEMPLATES}{own}"], world.host.files[f"{places.TEMPLATES}{own}.control"]
    world.units["web.service"] = replace(unit, found=False)
    run = world.host.programs["systemctl"]

    def stops(argv: tuple[str, ...], env: dict[str, str]) -> object:
        if argv[1] == "stop":
            world.units["web.service"].found = True  # it is still loaded, so it can be stopped
        return run(argv, env)

    world.host.programs["systemctl"] = stops  # type: ignore[assignment]
    change(world, 80)
    assert world.systemctl == ["daemon-reload", "stop web.service"]
    assert world.reports[-1]["state"] == "applied"


def test_first_generation_and_boot_start_what_does_not_run() -> None:
    world = World()
    world.put(EXTRA, "as the image has it\n")
    world.put(f"{places.TEMPLATES}{EXTRA}", "as the image has it\n")
    world.control(
        EXTRA, '{"services": {"extra.service": "reload", "once.service": "restart", "mine.service": "phase"}}'
    )
    world.control(CONF, '{"services": {"web.service": "restart"}}')
    world.unit("web.service", active="inactive")
    world.unit("extra.service", active="inactive")
    world.unit("once.service", active="inactive", kind="oneshot")
    world.unit("mine.service")
    world.offer(1)
    world.start()
    world.go()
    assert world.systemctl == ["restart web.service", "start extra.service"]
    world.forget()
    world.away = True
    world.reboot()
    world.units["mine.service"].active = "active"
    world.go()
    assert world.systemctl == ["start extra.service", "start web.service"]
    assert world.agent.record.boot_id == world.host.boot
    world.forget()
    world.units["web.service"].active = "inactive"
    world.put(CONF, "port=99\n")
    world.reboot()
    world.units["extra.service"].active = world.units["mine.service"].active = "active"
    world.go()
    assert world.systemctl == ["restart web.service"], "its file was changed by hand, and was put back"


def test_where_systemd_does_not_run_nothing_is_restarted() -> None:
    world = controlled(web_service="restart")
    world.host.has_units = False
    change(world)
    assert world.systemctl == [] and world.reports[-1]["state"] == "applied"


def test_a_unit_that_there_is_not_fails_the_change() -> None:
    world = controlled(web_service="restart")
    del world.units["web.service"]
    change(world)
    assert "Unit web.service not found." in world.reports[-1]["error"]["cause"]


def test_what_an_older_agent_remembers_is_read() -> None:
    world = applied_world()
    old = json.loads(world.text(places.STATE))
    for name in ("units", "confirm", "account"):
        del old[name]
    world.host.files[places.STATE] = FileState(json.dumps(old | {"of a newer one": 1}).encode(), 0o600)
    assert read_record(world.host) == replace(world.agent.record, units={}, confirm=(), account={})
    world.start()
    world.control(CONF, '{"services": {"web.service": "restart"}}')
    world.unit("web.service")
    change(world)
    assert world.systemctl == ["restart web.service"]


def test_the_agents_own_unit_comes_last_and_once() -> None:
    world = controlled(web_service="restart")
    world.control(CONF, '{"services": {"web.service": "restart", "provisioner-agent.service": "restart"}}')
    world.unit("provisioner-agent.service")
    world.offer(2, 81, secrets={"key": "key-1"})
    with pytest.raises(Killed):
        world.go()
    world.start()
    world.go()
    assert world.systemctl == ["restart web.service", "restart --no-block provisioner-agent.service"]
    assert (world.reports[-1]["state"], world.agent.record.applied) == ("applied", 2)


def test_a_kill_at_any_call_of_systemctl_leaves_units_with_the_files_in_force() -> None:
    """Each unit runs with the files as they are in the end, and none was touched more than once after the kill."""
    kills = 0
    while True:
        world = controlled(web_service="restart", log_service="reload", zoo_service="restart")
        world.host.programs["probe-node"] = _red_with("82", world)
        for port, good in ((81, True), (82, False)):
            world.forget()
            world.kill_in_systemctl = kills
            generation = port - 79
            world.offer(generation, port, secrets={"key": "key-1"})
            try:
                world.go()
            except Killed:
                world.kill_in_systemctl = None
                world.start()
                for _ in range(3):
                    world.go()
                assert len(set(world.systemctl)) == 3
                assert len(world.systemctl) == (3 if good else 6), f"killed before call {kills}: {world.systemctl}"
            assert world.text(CONF) == "port=81\n"
            assert {unit.read for unit in world.units.values()} == {"port=81\n"}, f"killed before call {kills}"
            assert world.agent.record.applied == 2
        if world.kill_in_systemctl is not None:
            break
        kills += 1
    assert kills == 6


def _red_with(word: str, world: World) -> object:
    real = world.host.programs["probe-node"]

    def probe(argv: tuple[str, ...], env: dict[str, str]) -> object:
        done = real(argv, env)
        return replace(done, output="down") if word in world.text(CONF) else done

    return probe
