"""Boot tests: what makes a copy of an image an instance, and what is read from what it says."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from provisioner.cli.desired import read_source_roles
from provisioner.lab import trial
from provisioner.lab.trial import BUSES, MAC, NICS, build_document, build_instance, build_placement
from provisioner.model.role import Role
from provisioner.system.settings import Settings
from provisioner_agent.instance.document import Document
from provisioner_agent.render.tree import build_data, render_tree, split_tree

ROOT = Path(__file__).resolve().parents[2]
FIRMWARE = "\x1b[2JBdsDxe: loading Boot0001\r\n"
ROLES = read_source_roles(Settings(source_dir=ROOT))


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
def test_each_roles_templates_render_in_a_cloud_of_one(role: Role) -> None:
    document = build_document(role, build_placement(role))
    texts = {
        str(path.relative_to(ROOT / "templates" / name)): path.read_text()
        for name in role.image.templates
        for path in (ROOT / "templates" / name).rglob("*")
        if path.is_file()
    }
    render_tree(*split_tree(texts), build_data(document))
    own = (*role.health.node, *role.health.role) if role.image.alone else ()
    wanted = {probe.name for probe in (*role.image.checks, *own)}
    assert {probe.name for probe in Document(1, document).probes} == wanted


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES)
def test_the_instance_knows_its_name_its_networks_and_its_metadata(role: Role) -> None:
    files = {path: data.decode() for path, (data, mode) in build_instance(role).items()}
    assert files["/etc/hostname"] == "trial\n" and "trial" in files["/etc/hosts"]
    assert MAC % 0 in files["/etc/systemd/network/10-port0.network"]
    assert json.loads(files["/provisioner-trial/metadata.json"])["role"]["name"] == role.role
    assert json.loads(files["/provisioner-trial/words.json"]) == ([] if role.image.alone else ["--files"])
    ast.parse(files["/provisioner-trial/run.py"])
    assert files[trial.SERVICE].count("/provisioner-trial/run.py") == 1


def said(**changed: Any) -> str:
    found = {
        "system": "running",
        "failed": [],
        "jobs": "",
        "journal": {},
        "log": "",
        "report": {"healthy": True, "error": None, "probes": {"synced": {"ok": True, "output": "Synced"}}},
    }
    return FIRMWARE + json.dumps(found | changed) + "\n"


def test_a_healthy_instance() -> None:
    finding = trial.read_instance(said())
    assert (finding.problems, finding.checked) == ((), ("boot", "synced"))


def report(**changed: Any) -> dict[str, Any]:
    return {"healthy": False, "error": None, "probes": {}} | changed


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        (
            {"system": "degraded", "failed": ["ssh.service"], "journal": {"ssh.service": "first\nno host keys\n"}},
            "the unit ssh.service failed: no host keys",
        ),
        ({"system": "starting", "jobs": "12 slow.service start running"}, "slow.service"),
        ({"report": report(probes={"synced": {"ok": False, "output": "Joined"}})}, "the probe synced said 'Joined'"),
        ({"report": report(error={"summary": "no template", "cause": "a.cnf:3"})}, "no template: a.cnf:3"),
        ({"report": report(), "log": "Traceback\nKeyError: 'x'\n"}, "KeyError: 'x'"),
        ({"report": {}, "log": ""}, "the config agent did not get through: it said nothing"),
    ],
)
def test_what_is_wrong_is_named(changed: dict[str, Any], problem: str) -> None:
    (found,) = trial.read_instance(said(**changed)).problems
    assert problem in found


def test_an_image_without_a_config_agent_only_has_to_boot() -> None:
    text = FIRMWARE + json.dumps({"system": "running", "failed": [], "jobs": "", "journal": {}})
    assert trial.read_instance(text).problems == ()


@pytest.mark.parametrize("text", ["", FIRMWARE, FIRMWARE + '{"system": "run'])
def test_an_instance_that_did_not_get_so_far(text: str) -> None:
    with pytest.raises(ValueError):
        trial.read_instance(text)


def test_a_ramdisk_must_find_every_kind_of_disk_and_interface() -> None:
    hardware = {
        "disks": [{"serial": name} for name in BUSES if name != "nvme"],
        "nics": [{"mac": MAC % at} for at in range(len(NICS) - 1)],
        "disk_test": {"verdict": "passed", "summary": ""},
    }
    problems = trial.read_hardware(FIRMWARE + json.dumps(hardware)).problems
    assert problems == ("no disk found at the controller nvme", f"no interface found of the kind {NICS[-1]}")


def test_a_ramdisk_must_read_the_health_of_disks_that_tell_it() -> None:
    def problems(verdict: str, summary: str) -> tuple[str, ...]:
        disks = [{"name": f"d{at}", "serial": name} for at, name in enumerate(BUSES)]
        nics = [{"mac": MAC % at} for at in range(len(NICS))]
        said = {"disks": disks, "nics": nics, "disk_test": {"verdict": verdict, "summary": summary}}
        return trial.read_hardware(FIRMWARE + json.dumps(said)).problems

    nvme = f"d{list(BUSES).index('nvme')}"
    assert problems("passed", f"{nvme}: reads at 9 MB/s; d0: it does not tell of its health (no SMART)") == ()
    (found,) = problems("passed", f"{nvme}: it does not tell of its health (no SMART)")
    assert "nvme" in found
    (found,) = problems("failed", f"{nvme}: it cannot be opened: no such file")
    assert "cannot be opened" in found
