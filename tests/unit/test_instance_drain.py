"""A member is drained when it is asked to, once, whatever interrupts it; and let back in when it stays after all."""

from __future__ import annotations

import os
import select
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_world import CONF, World, applied_world, metadata

from provisioner.images.elements import find_elements
from provisioner.model.policy import Policy
from provisioner_agent.instance import places
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.drain import run_drain
from provisioner_agent.instance.host import Finished, Killed, LinuxHost
from provisioner_agent.instance.phases import ASKED, TIME_LIMIT
from provisioner_agent.instance.report import status_text

ROOT = Path(__file__).resolve().parents[2]

DRAINS = ("drain.d/10-guests", "drain.d/20-stop")


def drainable() -> World:
    world = applied_world()
    for name in (*DRAINS, "undrain.d/50-start"):
        world.script(name)
    return world


def ask(world: World, generation: int, ident: str = "a", port: int = 80, **order: Any) -> None:
    world.offer(generation, port, drain={"id": ident, "for": "rebuild", "role_ends": False, **order})


def last(world: World) -> dict[str, Any]:
    return dict(world.reports[-1]["drain"])


def test_each_report_says_how_many_scripts_there_are() -> None:
    world = applied_world()
    world.node = "down"
    world.agent.probe_due = 0.0
    world.go()
    assert last(world) == {"scripts": 0}
    drained = drainable()
    drained.offer(2, 81)
    drained.go()
    assert last(drained) == {"scripts": 2}


def test_the_scripts_run_in_order_once_and_nothing_of_the_generation_comes_into_force() -> None:
    world = drainable()
    ask(world, 2, port=81)
    world.go()
    assert world.ran() == list(DRAINS)
    _, env, _ = world.scripts[0]
    assert (env["PROVISIONER_DRAIN"], env["PROVISIONER_PHASE"]) == ("rebuild", "drain")
    assert "PROVISIONER_ROLE_ENDS" not in env and env["PROVISIONER_METADATA"].endswith("metadata.json")
    assert world.text(CONF) == "port=80\n" and world.reports[-1]["applied"] == 1
    said = [(one["drain"].get("state"), one["drain"].get("script")) for one in world.reports]
    assert (
        said[:3] == [("running", None), ("running", "10-guests"), ("running", "20-stop")] and said[-1][0] == "drained"
    )
    assert last(world)["id"] == "a" and [one["script"] for one in last(world)["phases"]] == ["10-guests", "20-stop"]
    assert world.permits == [], "its permit is the server's business"
    world.go()
    world.start()
    world.go()
    assert world.ran() == list(DRAINS), "not again after a start of the agent"


def test_a_drain_that_was_cut_off_is_begun_again_and_so_is_one_before_a_boot() -> None:
    world = drainable()
    ask(world, 2, role_ends=True)
    world.failing["drain.d/20-stop"] = -1
    with pytest.raises(Killed):
        world.go()
    world.failing.clear()
    world.forget()
    world.start()
    world.go()
    assert world.ran() == list(DRAINS) and world.scripts[0][1]["PROVISIONER_ROLE_ENDS"] == "1"
    world.forget()
    world.reboot()
    world.go()
    assert world.ran() == list(DRAINS), "what the boot started is drained, and nothing is brought up"
    assert world.text(CONF) == "port=80\n"


def test_a_script_that_fails_ends_the_drain_and_another_order_begins_it_again() -> None:
    world = drainable()
    world.script("error.d/10-hook")
    world.failing["drain.d/10-guests"] = 3
    ask(world, 2)
    world.go()
    world.go()
    assert world.ran() == ["drain.d/10-guests"], "the hooks of the phases are not about this"
    said = last(world)
    assert (said["state"], said["script"]) == ("failed", "10-guests")
    assert "drain.d/10-guests ended with code 3" in said["error"]["summary"] and "last word" in said["error"]["cause"]
    assert world.reports[-1]["state"] == "applied", "the generation in force is what it was"
    world.failing.clear()
    ask(world, 3, "b")
    world.go()
    assert last(world)["state"] == "drained"


def test_what_a_script_says_is_told_without_secrets() -> None:
    world = drainable()
    world.script("drain.d/05-says")
    told = f"{places.PHASES}/drain.d/05-says"
    world.host.programs[told] = lambda argv, env: Finished(1, "user app, password a-long-secret\n")
    world.offer(2, secrets={"key": "a-long-secret"}, drain={"id": "a", "for": "release"})
    world.go()
    assert "password" in last(world)["error"]["cause"] and "a-long-secret" not in str(world.reports)


def test_a_drain_after_a_boot_does_not_say_that_it_is_healthy_before_it_has_looked() -> None:
    world = drainable()
    ask(world, 2)
    world.go()
    world.node = "down"
    world.reboot()
    world.forget()
    world.go()
    assert len(world.reports) > 1 and not any(report["healthy"] for report in world.reports)


def test_who_stays_is_let_back_in_and_brought_up_as_after_a_boot() -> None:
    world = drainable()
    ask(world, 2)
    world.go()
    world.forget()
    world.offer(3, 82)
    world.go()
    assert world.ran()[0] == "undrain.d/50-start"
    ups = [env for name, env, _ in world.scripts if name == "configure.d/10-a"]
    assert ups[0]["PROVISIONER_BOOT"] == "1" and "PROVISIONER_BOOT" not in ups[1], "then what is new, as any change"
    assert world.text(CONF) == "port=82\n"
    assert last(world) == {"scripts": 2} and world.reports[-1]["applied"] == 3 and world.reports[-1]["healthy"]


def test_who_cannot_be_let_back_in_is_broken_and_it_is_tried_again() -> None:
    world = drainable()
    ask(world, 2)
    world.go()
    world.failing["undrain.d/50-start"] = 1
    world.forget()
    world.offer(3)
    world.go()
    assert world.reports[-1]["state"] == "broken" and "undrain.d/50-start" in world.reports[-1]["error"]["summary"]
    assert world.ran() == ["undrain.d/50-start"]
    world.go()
    assert world.ran() == ["undrain.d/50-start"], "not at once"
    world.failing.clear()
    world.host.sleep(60.0)
    world.go()
    assert world.reports[-1]["state"] == "applied" and world.reports[-1]["healthy"]


def test_nothing_is_repaired_while_it_is_drained() -> None:
    world = drainable()
    ask(world, 2)
    world.go()
    world.put(CONF, "by hand")
    world.host.sleep(3600.0)
    world.go()
    assert world.text(CONF) == "by hand" and world.reports[-1]["drift"] == {}


def test_its_status_says_where_it_is() -> None:
    world = drainable()
    world.failing["drain.d/20-stop"] = 1
    ask(world, 2)
    world.go()
    status = world.reports[-1] | {"waiting": None, "refused": 0}
    assert "drain: failed at 20-stop" in status_text(status)


def script(root: Path, name: str, text: str) -> None:
    path = root / f"{places.PHASES}/{name}".lstrip("/")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


def test_real_scripts_within_their_time(tmp_path: Path) -> None:
    script(tmp_path, "drain.d/10-says", 'echo "$PROVISIONER_DRAIN" >"$(dirname "$PROVISIONER_METADATA")/said"')
    script(tmp_path, "drain.d/20-hangs", "# time-limit: 3\nsleep 300 & echo $! >&2; wait")
    script(tmp_path, "drain.d/30-never", "touch /nowhere")
    host, seen = LinuxHost(tmp_path), []
    document = Document(2, metadata(2, drain={"id": "a", "for": "release"}))
    found = run_drain(host, document, lambda state: seen.append(state.get("script")))
    assert (tmp_path / "run/provisioner-agent/said").read_text() == "release\n"
    assert seen == [None, "10-says", "20-hangs"]
    assert (found["state"], found["script"]) == ("failed", "20-hangs")
    assert "did not end in time" in found["error"]["summary"]
    child = int(found["error"]["cause"].split()[0])
    with suppress(ProcessLookupError):
        handle = os.pidfd_open(child)
        ended, _, _ = select.select([handle], [], [], 30)
        os.close(handle)
        assert ended, "nothing that it began goes on"


@pytest.mark.parametrize("path", sorted((ROOT / "roles").rglob("*.yaml")), ids=lambda path: path.stem)
def test_a_role_gives_its_scripts_the_time_that_they_ask_for(path: Path) -> None:
    role = yaml.safe_load(path.read_text())
    folders = find_elements(role["image"]["elements"], [ROOT / "elements"]).values()
    scripts = [script for folder in folders for script in folder.glob("os-refresh-config/drain.d/*")]
    asked = [ASKED.search(script.read_bytes()) for script in scripts]
    limits = [float(found[1]) if found else TIME_LIMIT for found in asked]
    assert sum(limits) <= Policy(**role.get("change", {})).drain
