"""Two plans made at the same time: only the first gets a name, and an address."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack, cloud

from provisioner.errors import GuardFailed
from provisioner.model.role import Desired


def named(desired: Desired, name: str) -> Desired:
    return desired.model_copy(update={"cloud": desired.cloud.model_copy(update={"cloud": name})})


def two(folder: Path) -> Rack:
    rack = Rack(folder, 2, cloud(1, nodes=("node1",)))
    rack.enroll()
    return rack


def test_a_name_is_given_out_once(tmp_path: Path) -> None:
    rack = two(tmp_path)
    first, second = rack.conductor.plan(rack.desired), rack.conductor.plan(cloud(1, nodes=("node2",)))
    rack.conductor.apply(first)
    with pytest.raises(GuardFailed) as failed:
        rack.conductor.apply(second)
    assert (failed.value.where, failed.value.cause) == ("node2", "web-0 of lab is on node1 meanwhile")
    rack.play()
    assert rack.states() == {"node1": "active", "node2": "available"}


def test_an_address_is_given_out_once_also_to_another_cloud(tmp_path: Path) -> None:
    rack = two(tmp_path)
    other = named(cloud(1, nodes=("node2",)), "other")
    first, second = rack.conductor.plan(rack.desired), rack.conductor.plan(other)
    rack.conductor.apply(first)
    with pytest.raises(GuardFailed, match="nothing was done") as failed:
        rack.conductor.apply(second)
    assert failed.value.cause == "10.77.0.20 is the address of web-0 of lab meanwhile"
    rack.conductor.apply(rack.conductor.plan(other))
    addresses = {one.placement.addresses[0].bare for one in rack.store.deployments.live()}
    assert addresses == {"10.77.0.20", "10.77.0.21"}
