"""Networks as data: from a role, a cloud and a node's ports to the files of the instance."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from casefile import split_case

from provisioner.conductor.cloudinit import build_network
from provisioner.conductor.network import NETWORKS, build_networks
from provisioner.errors import ManifestError
from provisioner.manifest.cloud import parse_desired
from provisioner.manifest.hardware import parse_hardware
from provisioner.model.deployment import Node
from provisioner.model.plan import Deploy, Observed
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan

CASES = sorted((Path(__file__).parent / "cases" / "network").glob("*.case"))


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_case(case: Path) -> None:
    files = split_case(case.read_text())
    desired = parse_desired("cloud.yaml", {name: files.pop(name) for name in ("role.yaml", "cloud.yaml")})
    (spec,) = parse_hardware({"hardware.yaml": files.pop("hardware.yaml")})
    node = Node(uuid="u", spec=spec, state=NodeState.AVAILABLE)
    observed = Observed(nodes=(node,), images={"r": "r-1", "ramdisk": "ramdisk-1"})
    try:
        (action,) = build_plan(desired, observed).actions
    except ManifestError as error:
        assert files.pop("refused").strip() in str(error)
    else:
        assert isinstance(action, Deploy)
        if "cloud-init" in files:
            assert build_network(action.placement) == yaml.safe_load(files.pop("cloud-init"))
        found = build_networks(action.placement)
        assert {path.removeprefix(f"{NETWORKS}/"): text for path, text in found.items()} == files
        carriers = {interface.name for interface in action.placement.interfaces}
        assert {address.interface for address in action.placement.addresses} <= carriers


def test_there_are_cases() -> None:
    assert len(CASES) > 4
