"""The client against the real application on a real unix socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from served import FakeConductor, make_deploy, make_deployment, make_event, make_node, make_spec, make_status, served

from provisioner.client.client import Client
from provisioner.errors import Conflict, GuardFailed, NotFound, ProvisionerError, ServerUnreachable, UsageError
from provisioner.model.hardware import Power
from provisioner.model.image import Image
from provisioner.model.plan import Plan
from provisioner.model.role import Cloud, Desired, ImageSpec, Network, Role, RoleUse
from provisioner.model.states import NodeState
from provisioner.model.status import CloudStatus, EnrollItem


def make_desired() -> Desired:
    cloud = Cloud(
        cloud="lab",
        networks={"main": Network(cidr="10.77.0.0/24", pool="10.77.0.20-10.77.0.60")},
        roles={"galera": RoleUse(count=1)},
    )
    role = Role(role="galera", image=ImageSpec(elements=("galera",)), networks=("main",))
    return Desired(cloud=cloud, roles={"galera": role})


@pytest.fixture
def conductor() -> FakeConductor:
    return FakeConductor()


@pytest.fixture
def client(conductor: FakeConductor, tmp_path: Path) -> Iterator[Client]:
    image = Image(id="galera-0123456789ab", name="galera", files={}, sizes={})
    with served(conductor, tmp_path / "api.sock", [image]), Client(tmp_path / "api.sock") as client:
        yield client


def test_values_come_back_as_they_were(client: Client, conductor: FakeConductor) -> None:
    conductor.node_list = [make_node("node1"), make_node("node2", NodeState.ACTIVE, power=Power.ON)]
    conductor.deployments["node1"] = make_deployment()
    assert client.nodes() == conductor.node_list
    view = client.node("node1")
    assert view.node == conductor.node_list[0] and view.deployment == make_deployment()
    assert view.exits == ("inspect", "test", "erase", "forget")
    assert client.clouds() == ["lab"]
    conductor.statuses = [make_status(step="write-image", detail={"bytes": 5})]
    assert client.cloud_status("lab") == conductor.statuses[0]
    assert client.cloud_deployments("lab") == [make_deployment()]
    assert client.cloud_secret("lab", "galera_app_password") == "s3cret"
    assert [image.id for image in client.images()] == ["galera-0123456789ab"]
    assert client.status()["nodes"] == 2


def test_power_is_asked_or_changed(client: Client, conductor: FakeConductor) -> None:
    assert client.set_power("node1", None) is Power.OFF
    assert client.set_power("node1", "on") is Power.ON
    assert conductor.powers == [("node1", None), ("node1", "on")]
    with pytest.raises(UsageError, match="cannot be understood"):
        client.set_power("node1", "sideways")


def test_a_plan_goes_there_and_back_unchanged(client: Client, conductor: FakeConductor) -> None:
    conductor.actions = (make_deploy(),)
    plan = client.plan(make_desired())
    assert plan == Plan(cloud="lab", desired=make_desired(), actions=(make_deploy(),))
    assert client.apply(plan) == make_status(ready=True)
    assert conductor.applied == [plan]


def test_verbs_and_their_refusal(client: Client) -> None:
    assert client.verb("node1", "forget") == make_node()
    with pytest.raises(Conflict, match="not offered") as refused:
        client.verb("node1", "abort")
    assert refused.value.where == "node1" and "forget" in str(refused.value.hint)


def test_errors_arrive_as_they_were_raised(tmp_path: Path) -> None:
    class Guarded(FakeConductor):
        def apply(self, plan: Plan) -> CloudStatus:
            raise GuardFailed(
                "the node has changed since the plan", where="node1", cause="it is active", hint="plan again"
            )

    with served(Guarded(), tmp_path / "api.sock"), Client(tmp_path / "api.sock") as client:
        with pytest.raises(GuardFailed) as failed:
            client.apply(Plan(cloud="lab", desired=make_desired()))
        assert (failed.value.where, failed.value.cause, failed.value.hint) == ("node1", "it is active", "plan again")
        with pytest.raises(NotFound) as missing:
            client.node("no such?node")
        assert missing.value.where == "no such?node"


@pytest.mark.filterwarnings("ignore")
def test_a_fault_of_the_service_does_not_say_what_it_held(tmp_path: Path) -> None:
    class Broken(FakeConductor):
        def clouds(self) -> list[str]:
            raise RuntimeError("the password is hunter2")

    with served(Broken(), tmp_path / "api.sock"), Client(tmp_path / "api.sock") as client:
        with pytest.raises(ProvisionerError) as failed:
            client.clouds()
        assert "hunter2" not in str(failed.value.to_dict())
        assert failed.value.cause == "RuntimeError"


def test_enrolled_nodes_come_one_by_one(client: Client, conductor: FakeConductor) -> None:
    conductor.may_go_on.clear()
    items = [EnrollItem(spec=make_spec(name), password="s3cret") for name in ("node1", "node2", "node3")]
    conductor.wrong_passwords = {"node2"}
    results = client.enroll(items)
    assert next(results).node == "node1"
    assert [item.spec.name for item in conductor.enrolled] == ["node1"]
    conductor.may_go_on.set()
    second, third = results
    assert (second.result, third.result) == ("failed", "enrolled")
    assert second.error is not None and second.error["error"] == "BmcRefused"
    assert [item.password for item in conductor.enrolled] == ["s3cret"] * 3


def test_a_wrong_enroll_request_does_not_repeat_the_password(client: Client) -> None:
    broken = EnrollItem.model_construct(spec=make_spec(), password=["hunter2"])
    with pytest.warns(UserWarning), pytest.raises(UsageError) as refused:
        list(client.enroll([broken]))
    assert "hunter2" not in str(refused.value.to_dict())
    assert "password" in str(refused.value.cause)


def test_events_wait_for_what_comes(client: Client, conductor: FakeConductor) -> None:
    assert client.events() == []
    event = make_event(1, "it answers", "node1")
    conductor.event_list.append(event)
    assert client.events(0, wait=30) == [event]
    assert client.events(1) == []


def test_a_service_that_is_not_there(tmp_path: Path) -> None:
    with Client(tmp_path / "api.sock") as client, pytest.raises(ServerUnreachable) as failed:
        client.nodes()
    assert failed.value.hint == "start it: provisioner serve"
    with Client(tmp_path / "api.sock") as client, pytest.raises(ServerUnreachable):
        list(client.enroll([]))


def test_nodes_come_in_pages(client: Client, conductor: FakeConductor) -> None:
    conductor.node_list = [make_node(f"n{number:04}") for number in range(250)]
    page, after = client.node_page()
    assert [node.name for node in page] == [f"n{number:04}" for number in range(100)] and after == "n0099"
    page, after = client.node_page("n0199", 100)
    assert len(page) == 50 and after is None
    assert [node.name for node in client.nodes()] == [node.name for node in conductor.node_list]
