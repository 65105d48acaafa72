"""What a service refuses: everything that writes where it is not the master, and what would take its own node away."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from handover_pair import Pair
from served import FakeConductor, make_deploy, make_desired

from provisioner.model.duty import Duty, DutyState
from provisioner.model.plan import Guard, Move, Plan, Rebuild
from provisioner.model.role import Cloud, Desired, Network, RoleUse
from provisioner.model.states import NodeState
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk
from provisioner.server.fence import Fence, handover_app
from provisioner.server.operators import operator_app

OWN = Duty(epoch=2, node="node1", detail={"own_node": "node1"})


def asked(tmp_path: Path, duty: Duty, *requests: tuple[str, str, Any]) -> list[httpx.Response]:
    conductor = FakeConductor()
    handover = Pair(tmp_path).seed.handover

    async def run() -> list[httpx.Response]:
        desk, changes = Desk(), Changes(conductor)
        app = Fence(operator_app(conductor, list, {}, desk, changes), handover_app(handover, desk), duty)
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as http:
            answers = [await http.request(method, path, json=body) for method, path, body in requests]
        desk.close()
        return answers

    return asyncio.run(run())


@pytest.mark.parametrize("state", [state for state in DutyState if not state.in_force])
def test_who_is_not_the_master_changes_nothing_and_says_who_is(tmp_path: Path, state: DutyState) -> None:
    duty = Duty(epoch=2, state=state, node="node7", handover="h")
    posts = ["/v1/nodes/node1/power", "/v1/apply", "/v1/nodes/enroll", "/v1/clouds/lab/secrets/x", "/v1/nodes/sweep"]
    answers = asked(tmp_path, duty, *(("POST", path, {}) for path in posts), ("DELETE", "/v1/operators/x", None))
    assert {answer.status_code for answer in answers} == {409}
    assert all("node7" in answer.text for answer in answers)
    (looked, status) = asked(tmp_path / "2", duty, ("GET", "/v1/nodes", None), ("GET", "/v1/handover", None))
    assert looked.status_code == status.status_code == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("power", {"want": "off"}),
        ("power", {"want": "cycle"}),
        ("boot-device", {"device": "pxe"}),
        *(
            (verb, {})
            for verb in ("release", "rebuild", "rescue", "erase", "inspect", "test", "abort", "retry", "forget")
        ),
    ],
)
def test_the_node_that_the_service_runs_on_is_taken_away_by_name_only(
    tmp_path: Path, path: str, body: dict[str, Any]
) -> None:
    target = f"/v1/nodes/node1/{path}"
    refused, meant, other = asked(
        tmp_path,
        OWN,
        ("POST", target, body),
        ("POST", f"{target}?self=1", body),
        ("POST", target.replace("1/", "2/"), body),
    )
    assert refused.status_code == 409 and "--self" in refused.text and "service itself runs on" in refused.text
    for answer in (meant, other):
        assert "service itself runs on" not in answer.text


def test_its_power_may_be_asked_for(tmp_path: Path) -> None:
    (answer,) = asked(tmp_path, OWN, ("POST", "/v1/nodes/node1/power", {"want": None}))
    assert answer.status_code == 200 and answer.json()["node"] == "node1"


def test_a_plan_that_writes_it_anew_is_refused_and_another_is_not(tmp_path: Path) -> None:
    network = Network(cidr="10.77.0.0/24", pool="10.77.0.20-10.77.0.60")
    desired = Desired(
        cloud=Cloud(cloud="lab", networks={"main": network}, roles={"galera": RoleUse(count=1)}), roles={}
    )
    plan = Plan(cloud="lab", desired=desired, actions=(make_deploy(),)).model_dump(mode="json")
    elsewhere = Duty(epoch=2, node="node2", detail={"own_node": "node2"})
    refused, meant = asked(tmp_path, OWN, ("POST", "/v1/apply", plan), ("POST", "/v1/apply?self=1", plan))
    assert refused.status_code == 409 and "apply would take the service away" in refused.text
    (other,) = asked(tmp_path / "2", elsewhere, ("POST", "/v1/apply", plan))
    assert meant.status_code == other.status_code == 200


@pytest.mark.parametrize("at", ["node1", "node7"])
def test_so_is_one_that_rebuilds_it_or_gives_its_member_another_node(tmp_path: Path, at: str) -> None:
    deploy, guard = make_deploy(), Guard(state=NodeState.ACTIVE)
    here = deploy.placement.model_copy(update={"node": at})
    away = deploy.placement.model_copy(update={"node": "node9"})
    rebuild = Rebuild(placement=here, before="galera-0", guard=guard, why="it runs galera-0")
    move = Move(node=at, placement=away, guard=guard, target=guard, why="it is replaced")
    plans = [
        Plan(cloud="lab", desired=make_desired(), actions=(one,)).model_dump(mode="json") for one in (rebuild, move)
    ]
    answers = asked(tmp_path, OWN, *(("POST", "/v1/apply", plan) for plan in plans))
    assert ["apply would take the service away" in answer.text for answer in answers] == [at == "node1"] * 2


def test_a_handover_is_begun_looked_at_and_cancelled_over_the_api(tmp_path: Path) -> None:
    duty = Duty()
    looked, begun, cancelled = asked(
        tmp_path,
        duty,
        ("GET", "/v1/handover", None),
        ("POST", "/v1/handover", {"node": "node0"}),
        ("POST", "/v1/handover", {"cancel": True}),
    )
    assert looked.json()["state"] == "master" and looked.json()["epoch"] == 1
    assert begun.status_code == 409 and "does not ask" in begun.text
    assert cancelled.status_code == 409 and "no handover is under way" in cancelled.text
