"""A node in maintenance is left alone in every state, and goes on afterwards; a rebuild keeps its place and volumes."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import DISK_TABLE, Rack, cloud, role
from test_conductor_rescue import KEY, is_open

from provisioner.errors import Conflict, ManifestError, NotFound, UsageError
from provisioner.model.deployment import StepName
from provisioner.model.hardware import Power
from provisioner.model.role import Config, ImageSpec
from provisioner.model.states import NodeState
from provisioner.model.storage import Storage, Volume

WHY = "memory is replaced"


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    made = Rack(tmp_path, 1)
    made.enroll()
    return made


def play(rack: Rack, rounds: int) -> None:
    """So many rounds, whatever happens."""
    left = [rounds]

    def over() -> bool:
        left[0] -= 1
        return left[0] < 0

    rack.play(until=over, rounds=rounds + 1)


@pytest.mark.parametrize("rounds", range(0, 24, 3))
def test_whatever_it_was_doing_goes_on_where_it_stood(rack: Rack, rounds: int) -> None:
    rack.apply()
    play(rack, rounds)
    rack.conductor.maintenance("node1", WHY)
    before = rack.conductor.node("node1")
    calls = len(rack.bmcs.calls)
    rack.clock.sleep(100_000)  # longer than any deadline
    play(rack, 3)
    after = rack.conductor.node("node1")
    assert after.node.state is before.node.state and len(rack.bmcs.calls) == calls
    assert after.exits[0] == "maintenance --off"
    rack.conductor.maintenance("node1", None)
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_no_plan_takes_it_and_no_plan_takes_it_away(rack: Rack) -> None:
    rack.conductor.maintenance("node1", WHY)
    with pytest.raises(ManifestError, match=f"it is in maintenance: {WHY}"):
        rack.conductor.plan(cloud(1))
    rack.conductor.maintenance("node1", None)
    rack.apply()
    rack.play()
    rack.conductor.maintenance("node1", WHY)
    other = cloud(1, (role("other"),))
    rack.images.known["other"] = rack.images.known["web"]
    with pytest.raises(ManifestError):
        rack.conductor.plan(other)
    assert rack.states() == {"node1": "active"}


def test_its_power_is_the_operators_and_nothing_else_is_offered(rack: Rack) -> None:
    rack.apply()
    play(rack, 6)
    with pytest.raises(Conflict):
        rack.conductor.set_power("node1", "off")
    rack.conductor.maintenance("node1", WHY)
    assert rack.conductor.set_power("node1", "off") is Power.OFF
    with pytest.raises(Conflict, match="in maintenance") as caught:
        rack.conductor.verb("node1", "abort")
    assert caught.value.cause == WHY and "--off" in str(caught.value.hint)


def test_it_may_be_forgotten_where_it_may_otherwise(rack: Rack) -> None:
    rack.conductor.maintenance("node1", WHY)
    assert rack.conductor.node("node1").exits == ("maintenance --off", "forget")
    rack.conductor.verb("node1", "forget")
    assert rack.states() == {}


def test_no_change_is_permitted_to_its_instance(rack: Rack) -> None:
    rack.apply()
    rack.play()
    rack.conductor.maintenance("node1", WHY)
    rack.apply(cloud(1, values={"web": {"size": 2}}))
    play(rack, 5)
    assert rack.servers["node1"].applied == 1
    rack.conductor.maintenance("node1", None)
    rack.play()
    assert rack.servers["node1"].applied == 2


def test_ending_it_twice_is_told_once(rack: Rack) -> None:
    for reason in (WHY, None, None):
        rack.conductor.maintenance("node1", reason)
    assert len([line for line in rack.events() if "node.maintenance" in line]) == 2


def kept() -> Storage:
    return Storage(
        volumes=(
            Volume(name="root", disk="root", size="3GiB", mount="/"),
            Volume(name="srv", disk="root", filesystem="ext4", mount="/srv", keep=True),
        )
    )


def test_a_rebuild_takes_the_newest_image_in_the_same_place(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2, cloud(2, (role(storage=kept()),)))
    rack.enroll()
    rack.apply()
    rack.play()
    before = rack.conductor.node("node1").deployment
    assert before is not None
    body = rack.servers["node1"].order_bodies["storage"]
    rack.images.known["web"] = rack.images.known["web"].model_copy(update={"id": "web-111111111111"})
    assert rack.conductor.rebuild("node1").state is NodeState.DEPLOYING
    rack.play()
    after = rack.conductor.node("node1").deployment
    assert after is not None and after.id != before.id
    assert after.placement.image == "web-111111111111" and after.placement.rebuilds == before.id
    assert after.placement.addresses == before.placement.addresses
    assert after.placement.hostname == before.placement.hostname
    again = rack.servers["node1"].order_bodies["storage"]
    parts = [{part["name"]: part["guid"] for part in found["disks"][0]["partitions"]} for found in (body, again)]
    assert parts[0]["srv"] == parts[1]["srv"] and parts[0]["root"] != parts[1]["root"]
    assert ("10.77.1.1", "soft") in rack.bmcs.calls, "what it had in memory is on its disk"
    assert rack.states() == {"node1": "active", "node2": "active"}


def test_a_failed_instance_is_rebuilt_too_and_a_whole_disk(tmp_path: Path) -> None:
    spec = role(image=ImageSpec(disk="noble"), config=Config(), secrets=())
    rack = Rack(tmp_path, 1, cloud(1, (spec,)))
    rack.enroll()
    rack.apply()
    rack.play()
    assert rack.servers["node1"].disk_guid == DISK_TABLE
    rack.conductor.rebuild("node1")
    rack.servers["node1"].fail_orders["write-image"] = "no"
    rack.play()
    assert rack.states() == {"node1": "failed"}
    rack.servers["node1"].fail_orders.clear()
    rack.conductor.rebuild("node1")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_what_is_not_its_own_is_not_overwritten_by_a_rebuild(rack: Rack) -> None:
    rack.apply()
    rack.play()
    rack.servers["node1"].disk_guid = "11111111-2222-3333-4444-555555555555"
    rack.conductor.rebuild("node1")
    rack.play()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "holds something and is not overwritten" in failure["summary"]
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None
    assert [step.name for step in deployment.steps if step.state == "failed"] == [StepName.CHOOSE_DISK]


def test_a_rebuild_that_cannot_be_changes_nothing(rack: Rack) -> None:
    with pytest.raises(Conflict):
        rack.conductor.rebuild("node1")
    rack.apply()
    rack.play()
    with pytest.raises(NotFound):
        rack.conductor.rebuild("node1", "web-nothing")
    with pytest.raises(UsageError):
        rack.conductor.rebuild("node1", rack.images.known["ramdisk"].id)
    assert rack.states() == {"node1": "active"} and rack.settled()


def test_after_a_rescue_what_is_kept_is_shut_down_first_as_ever(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1, (role(storage=kept()),)))
    rack.enroll()
    rack.apply()
    rack.play()
    said = []
    for _ in range(2):
        rack.bmcs.calls.clear()
        rack.conductor.rescue("node1", [KEY])
        rack.play(until=lambda: is_open(rack))
        said.append([call for _, call in rack.bmcs.calls if call in ("soft", "off")])
        rack.conductor.end_rescue("node1")
        rack.play()
    assert said == [["soft"], ["soft"]]
