"""An image that is a whole disk: its orders, its seed, the guard around it, and values that are read once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import DISK_TABLE, PARTITION, Rack, cloud, role

from provisioner.errors import ImageError
from provisioner.model.deployment import StepName, StepState
from provisioner.model.role import Config, Desired, Health, ImageSpec, Probe

NAME = "noble"


def desired(**more: Any) -> Desired:
    values = {"packages": ["htop"], "runcmd": [["true"]]}
    probe = Probe(name="synced", command=("true",))
    config, health = Config(values=values), Health(node=(probe,), wait=100.0)
    return cloud(1, (role(image=ImageSpec(disk=NAME), config=config, secrets=(), health=health),), **more)


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    rack = Rack(tmp_path, 1, desired())
    rack.enroll()
    return rack


def user_data(rack: Rack) -> dict[str, Any]:
    text = rack.servers["node1"].files["/user-data"]
    assert text.startswith("#cloud-config\n")
    found: dict[str, Any] = json.loads(text.partition("\n")[2])
    return found


def test_from_power_off_to_an_agent_that_says_it_runs_from_that_disk(rack: Rack) -> None:
    rack.apply()
    rack.play()
    server = rack.servers["node1"]
    assert server.orders == ["clear-disk", "write-image", "seed-disk", "check-disk"]
    body = server.order_bodies["write-image"]
    assert body["root"] == "/dev/sda" and body["grow"] is False, "what grows is the image's own business"
    deployment = rack.conductor.node("node1").deployment
    assert deployment is not None and deployment.placement.image.startswith(f"{NAME}-")
    meta = json.loads(server.files["/meta-data"])
    assert meta == {"instance-id": deployment.id, "local-hostname": "web-0"}
    user = user_data(rack)
    assert user["packages"] == ["htop"] and user["runcmd"][0] == ["true"] and len(user["runcmd"]) == 2
    assert all(file["permissions"] == "0600" for file in user["write_files"])
    configure = next(step for step in deployment.steps if step.name is StepName.CONFIGURE)
    assert configure.detail["root"] == f"PARTUUID={PARTITION}"


def test_one_that_runs_from_another_disk_is_found_out(rack: Rack) -> None:
    rack.servers["node1"].root = "PARTUUID=another"
    rack.apply()
    rack.play()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "did not boot from the disk that was written" in failure["summary"]


def test_what_a_deployment_wrote_itself_is_not_in_its_way(rack: Rack) -> None:
    server = rack.servers["node1"]
    server.fail_orders["seed-disk"] = "no room"
    rack.apply()
    rack.play()
    assert rack.states() == {"node1": "failed"} and server.disk_guid == DISK_TABLE
    server.fail_orders.clear()
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"}


def test_what_an_instance_left_is_in_the_way_although_it_calls_itself_alike(rack: Rack) -> None:
    rack.apply()
    rack.play()
    for _ in range(2):  # the second time there is a deployment that failed between
        rack.conductor.release("node1")
        rack.play(lambda: rack.states() == {"node1": "available"})
        rack.apply()
        rack.play()
        failure = rack.conductor.node("node1").node.failure
        assert failure is not None and "holds something and is not overwritten" in failure["summary"]
        rack.conductor.verb("node1", "retry")
        rack.play()
        assert rack.states() == {"node1": "failed"}
        rack.conductor.verb("node1", "abort")
        rack.play(lambda: rack.states() == {"node1": "available"})
        rack.apply(desired(wipe=("node1",)))
        rack.play()
        assert rack.states() == {"node1": "active"}
        rack.desired = desired()


def test_values_are_read_once_and_the_plan_says_so(rack: Rack) -> None:
    rack.apply()
    rack.play()
    plan = rack.conductor.plan(desired(values={"packages": ["vim"]}))
    assert plan.actions == () and "now differ: packages" in "".join(plan.notes)
    rack.conductor.apply(plan)
    assert rack.settled() and rack.conductor.cloud_status("lab").ready, "no generation is waited for"


def test_values_that_are_corrected_after_a_failure_are_those_of_the_next_try(rack: Rack) -> None:
    rack.servers["node1"].fail_orders["check-disk"] = "no loader"
    rack.apply()
    rack.play()
    rack.apply(desired(values={"packages": ["vim"]}))
    rack.servers["node1"].fail_orders.clear()
    rack.conductor.verb("node1", "retry")
    rack.play()
    assert rack.states() == {"node1": "active"} and user_data(rack)["packages"] == ["vim"]


def test_it_is_not_begun_on_a_disk_with_other_sectors(rack: Rack) -> None:
    rack.images.known[NAME] = rack.images.known[NAME].model_copy(update={"sector": 4096})
    rack.apply()
    rack.play()
    view = rack.conductor.node("node1")
    assert view.node.failure is not None and "sectors of 4096 bytes" in view.node.failure["summary"]
    assert view.deployment is not None
    states = {step.name: step.state for step in view.deployment.steps}
    assert states[StepName.STORAGE] is StepState.WAITING, "nothing was written"


@pytest.mark.parametrize("kind", ["root", None])
def test_another_kind_of_image_is_not_taken_for_it(rack: Rack, kind: str | None) -> None:
    image = rack.images.known.pop(NAME)
    if kind:
        rack.images.known[NAME] = image.model_copy(update={"kind": kind})
    with pytest.raises(ImageError, match=NAME) as caught:
        rack.conductor.plan(desired())
    assert caught.value.hint == f"provisioner image import FILE --name {NAME}"
