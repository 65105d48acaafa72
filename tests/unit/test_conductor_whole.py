"""An image that is a whole disk: its orders, its seed, the guard around it, and what is read once."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import DISK_TABLE, PARTITION, SIGNER, Rack, cloud, read_agent_config, role

from provisioner.conductor.cloudinit import MOST
from provisioner.conductor.order import SILENT
from provisioner.errors import ImageError
from provisioner.model.deployment import StepName, StepState
from provisioner.model.plan import Configure
from provisioner.model.role import Config, Desired, Health, ImageSpec, Probe

NAME = "noble"


VALUES = {"cloud_config": {"packages": ["htop"], "runcmd": [["true"]]}}
BARE, DRESSED = ImageSpec(disk=NAME), ImageSpec(disk=NAME, templates=("web",))
TREE = {"etc/web.conf": "port {{web.port}}\n", "etc/web.conf.control": '{"services": {"web.service": "restart"}}'}


def desired(image: ImageSpec = BARE, own: Mapping[str, Any] = VALUES, **more: Any) -> Desired:
    probe = Probe(name="synced", command=("true",))
    config, health = Config(values=dict(own)), Health(node=(probe,), wait=100.0)
    return cloud(1, (role(image=image, config=config, secrets=("word",), health=health),), **more)


def packages(*names: str) -> dict[str, Any]:
    """What the cloud file says of them."""
    return {"cloud_config": {"packages": list(names)}}


@pytest.fixture
def rack(tmp_path: Path) -> Rack:
    rack = Rack(tmp_path, 1, desired())
    rack.enroll()
    return rack


def user_data(rack: Rack, node: str = "node1") -> dict[str, Any]:
    text = rack.servers[node].files["/user-data"]
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
    hosts, app, config = user["write_files"]
    assert user["manage_etc_hosts"] is False and "10.77.0.20 web-0\n" in hosts["content"]
    assert zipfile.is_zipfile(io.BytesIO(base64.b64decode(app["content"]))) and config["permissions"] == "0600"
    known = json.loads(config["content"])
    assert known["signer"] == SIGNER.public_key_pem and known["node"] == "node1" and known["whole_disk"] is True
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
        (action,) = rack.conductor.plan(named := desired(wipe=("node1",))).actions
        assert action.kind == "retry" and action.why.endswith("; its disk may be overwritten")
        rack.apply(named)
        rack.play()
        assert rack.states() == {"node1": "active"}
        rack.desired = desired()


def test_cloud_config_is_read_once_and_the_plan_says_so_until_it_is_deployed_again(rack: Rack) -> None:
    rack.apply()
    rack.play()
    wanted = desired(values=packages("vim"))
    for _ in range(2):
        plan = rack.conductor.plan(wanted)
        assert plan.actions == () and "cloud-init has run, and now differ: cloud_config.packages" in "".join(plan.notes)
        rack.conductor.apply(plan)
        assert rack.settled() and rack.conductor.cloud_status("lab").ready, "no generation is waited for"
    rack.conductor.rebuild("node1")
    rack.play()
    assert rack.states() == {"node1": "active"} and user_data(rack)["packages"] == ["vim"]
    assert rack.conductor.plan(wanted).notes == ()


@pytest.fixture
def dressed(tmp_path: Path) -> Rack:
    """With templates of the role, a secret among the values, and a phase script."""
    values = {"web": {"port": 80}, "cloud_config": {"password": {"secret": "word"}, "packages": ["htop"]}}
    rack = Rack(tmp_path, 1, desired(DRESSED, values))
    rack.images.trees["web"], rack.images.scripts["web"] = dict(TREE), {"configure.d/50-web": "#!/bin/sh\n"}
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def test_templates_phase_scripts_and_secrets_come_with_the_seed(dressed: Rack) -> None:
    user = user_data(dressed)
    secrets = dressed.store.clouds.secrets("lab")
    assert user["password"] == secrets["word"]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(user["write_files"][1]["content"]))) as archive:
        script = archive.getinfo("files/usr/libexec/os-refresh-config/configure.d/50-web")
        assert script.external_attr >> 16 == 0o755
        text = archive.read("files/usr/libexec/provisioner-agent/templates/etc/web.conf").decode()
        assert text == TREE["etc/web.conf"]
    deployment = dressed.conductor.node("node1").deployment
    assert deployment is not None and deployment.placement.image == "web-000000000000"


def test_a_value_of_templates_reaches_the_instance_and_the_plan_names_the_file(dressed: Rack) -> None:
    wanted = dressed.desired.model_copy(deep=True)
    use = wanted.cloud.roles["web"].model_copy(update={"values": {"web": {"port": 81}} | packages("vim")})
    wanted = wanted.model_copy(update={"cloud": wanted.cloud.model_copy(update={"roles": {"web": use}})})
    plan = dressed.conductor.plan(wanted)
    (action,) = plan.actions
    assert isinstance(action, Configure) and [change.path for change in action.changes] == ["web.port"]
    assert action.files is not None
    (file,) = action.files
    assert (file.path, dict(file.services)) == ("/etc/web.conf", {"web.service": "restart"})
    assert "cloud_config.packages" in "".join(plan.notes)
    server = dressed.servers["node1"]
    orders, before = list(server.orders), server.applied
    dressed.apply(wanted)
    dressed.play()
    assert server.applied == before + 1 and server.orders == orders, "it was not deployed again"
    assert "port 81" in str(dressed.conductor.node_files("node1"))
    assert dressed.conductor.plan(wanted).actions == ()


def test_the_agent_of_a_release_before_is_gone_and_nobody_waits_for_it(dressed: Rack) -> None:
    deployment = dressed.conductor.node("node1").deployment
    assert deployment is not None
    report = dressed.store.clouds.report("node1", deployment.id)
    assert report is not None
    body = {key: value for key, value in report.body.items() if key != "services"}
    dressed.store.clouds.put_report("node1", deployment.id, body, dressed.clock.now())
    use = dressed.desired.cloud.roles["web"].model_copy(update={"values": {"web": {"port": 81}}})
    wanted = dressed.desired.model_copy(
        update={"cloud": dressed.desired.cloud.model_copy(update={"roles": {"web": use}})}
    )
    plan = dressed.conductor.plan(wanted)
    assert plan.actions == () and "whose agent does not stay, and now differ: web.port" in "".join(plan.notes)
    generation = dressed.conductor.node("node1").node.generation
    dressed.conductor.apply(plan)
    assert dressed.conductor.node("node1").node.generation == generation
    dressed.servers["node1"].running = "nothing"
    dressed.clock.sleep(SILENT + 20)
    assert dressed.conductor.cloud_status("lab").ready, "nothing is heard of it, and all the same it serves"


def test_cloud_config_that_is_corrected_while_it_waits_for_a_role_is_what_it_gets(tmp_path: Path) -> None:
    def wanted(**more: Any) -> Desired:
        web = desired().roles["web"].model_copy(update={"after": ("base",)})
        return cloud(1, (web, role("base")), **more)

    rack = Rack(tmp_path, 2, wanted())
    rack.enroll()
    rack.apply()
    nodes = {member.role: member.node for member in rack.conductor.cloud_status("lab").members}
    rack.servers[nodes["base"]].red = True

    def waits() -> bool:
        return any("waits until" in str(member.waiting) for member in rack.conductor.cloud_status("lab").members)

    rack.play(until=waits)
    changed = wanted(values=packages("vim"))
    rack.apply(changed)
    assert rack.conductor.plan(changed).empty
    rack.servers[nodes["base"]].red = False
    rack.play()
    assert user_data(rack, nodes["web"])["packages"] == ["vim"]


def test_an_image_without_what_the_agent_needs_is_told_with_the_way_on(rack: Rack) -> None:
    rack.apply()
    rack.play(lambda: rack.servers["node1"].running == "instance")
    ident = json.loads(read_agent_config(rack.servers["node1"]))["token"].partition(".")[0]
    error = {"summary": "the config agent cannot run in this image", "cause": "Python 3.6", "hint": "bring another"}
    rack.report(rack.servers["node1"], ident, rack.conductor.node("node1").node.generation, "failed", False, error)
    rack.surviving(rack.conductor.tick)
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and failure["where"] == "node1"
    assert failure["cause"].startswith("Python 3.6") and failure["hint"] == "bring another"


def test_an_image_without_cloud_init_is_told_when_nothing_was_heard(rack: Rack) -> None:
    rack.apply()
    rack.play(lambda: rack.servers["node1"].running == "instance")
    rack.servers["node1"].running = "nothing"
    rack.play(lambda: rack.states() == {"node1": "failed"}, rounds=1000)
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "was not heard within 1000 s" in failure["summary"]
    assert "has no cloud-init" in failure["cause"] and "node console node1" in failure["hint"]


def test_names_of_members_are_left_to_a_cloud_config_that_says_so(rack: Rack) -> None:
    rack.apply(desired(own={"cloud_config": {"manage_etc_hosts": "localhost"}}))
    rack.play()
    user = user_data(rack)
    assert user["manage_etc_hosts"] == "localhost"
    assert "/etc/hosts" not in [file["path"] for file in user["write_files"]]


def test_a_seed_that_does_not_fit_is_told(rack: Rack) -> None:
    values = {"cloud_config": {"write_files": [{"path": "/x", "content": "x" * MOST}]}}
    rack.apply(desired(own=values))
    rack.play()
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "does not fit in its volume" in failure["summary"]


def test_values_that_are_corrected_after_a_failure_are_those_of_the_next_try(rack: Rack) -> None:
    rack.servers["node1"].fail_orders["check-disk"] = "no loader"
    rack.apply()
    rack.play()
    rack.servers["node1"].fail_orders.clear()
    rack.apply(desired(values=packages("vim")))
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


@pytest.mark.parametrize("scripts", [1, 0, None])
def test_a_member_that_leaves_is_drained_as_any_other_unless_its_agent_is_gone(rack: Rack, scripts: int | None) -> None:
    server = rack.servers["node1"]
    server.drain_scripts = scripts
    rack.apply()
    rack.play()
    rack.conductor.release("node1")
    rack.play(lambda: rack.states()["node1"] == "available")
    assert server.drains == (["release"] if scripts else [])
