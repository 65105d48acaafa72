"""Plans for a cloud that runs: who goes, who gets another node, who is rebuilt. The cases are in cases/plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from casefile import parse_case, split_case
from test_plan_build import make_nodes, observe

from provisioner.errors import ManifestError
from provisioner.model.departure import Departure
from provisioner.model.deployment import Node
from provisioner.model.plan import Observed, Plan
from provisioner.model.role import Desired
from provisioner.plan.build import build_plan
from provisioner.plan.text import render_plan

CASES = sorted((Path(__file__).parent / "cases" / "plan").glob("*.case"))


def read_case(case: Path) -> tuple[Desired, Observed, str]:
    files = split_case(case.read_text())
    before, expected, rack = files.pop("before.yaml"), files.pop("expect"), yaml.safe_load(files.pop("rack.yaml"))
    then = parse_case(files | {"cloud.yaml": before})
    nodes, images = make_nodes(rack["nodes"]), {name: f"{name}-1" for name in ("ramdisk", "db", "web")}
    done = observe(build_plan(then, Observed(nodes=nodes, images=images)), nodes)
    found = {
        name: Node.model_validate(one.model_dump() | rack.get("found", {}).get(name, {})) for name, one in known(done)
    }
    departures = {one.deployment: one for one in departures_of(done, rack.get("leaving", {}))}
    changes = {"nodes": tuple(found.values()), "images": images | rack.get("images", {}), "departures": departures}
    return parse_case(files), done.model_copy(update=changes), expected


def known(observed: Observed) -> list[tuple[str, Node]]:
    return [(node.name, node) for node in observed.nodes]


def departures_of(observed: Observed, said: dict[str, dict[str, Any]]) -> list[Departure]:
    """``placement``: an image, with which the member is rebuilt."""
    found = []
    for deployment in observed.deployments.values():
        place = deployment.placement
        if place.hostname in said:
            fields = {"cloud": "c", "role": place.role, "index": place.index, "hostname": place.hostname}
            fields |= {"node": place.node, "deployment": deployment.id, "why": "a test", "asked": 0.0}
            fields |= said[place.hostname]
            if "placement" in fields:
                fields["placement"] = place.model_copy(update={"image": fields["placement"]})
            found.append(Departure.model_validate(fields))
    return found


def plan_or_problems(case: Path) -> str:
    try:
        desired, observed, _ = read_case(case)
        return render_plan(build_plan(desired, observed))
    except ManifestError as error:
        return "\n".join(map(str, error.problems))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    assert plan_or_problems(case) == split_case(case.read_text())["expect"].rstrip("\n")


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_a_saved_plan_is_the_same_plan(case: Path) -> None:
    try:
        desired, observed, _ = read_case(case)
        plan = build_plan(desired, observed)
    except ManifestError:
        return
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
