"""Values by zone and node on their way to the instances, secrets that somebody brings, and where values come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import PASSWORD, Rack, cloud, role

from provisioner.errors import Conflict, ManifestError, NotFound, UsageError
from provisioner.model.plan import Configure, Plan
from provisioner.model.role import Config, Desired
from provisioner.model.status import EnrollItem
from provisioner.model.values import NodeUse, Origin, Zone
from provisioner.plan.text import render_plan
from provisioner_agent.protocol.parts import join_parts
from provisioner_agent.render.tree import build_data


def layered(count: int = 2, **web: Any) -> Desired:
    """The lab's cloud, whose role has the values ``web``, with a zone east and a value of node2 alone."""
    made = role(config=Config(values={"web": {"size": 1, "word": "plain"} | web}))
    desired = cloud(count, (made,))
    whole = desired.cloud.model_copy(update={"nodes": {"node2": NodeUse(values={"web": {"word": "of node2"}})}})
    return desired.model_copy(
        update={
            "cloud": whole,
            "zones": {"east": Zone(zone="east", values={"web": {"size": 5}})},
            "origins": {"zone east": Origin(file="zones/east.yaml", lines={"web": 3, "web.size": 4})},
        }
    )


def put_in_zone(rack: Rack, name: str, zone: str) -> None:
    rack.servers[name].zone = zone
    if rack.store.nodes.all():
        items = [EnrollItem(spec=rack.servers[name].spec, password=PASSWORD)]
        assert [result.result for result in rack.conductor.enroll(items)] == ["updated"]


def told(rack: Rack, name: str) -> dict[str, Any]:
    """The newest metadata of a node."""
    generation = rack.store.clouds.newest(name)
    assert generation is not None
    return rack.store.clouds.document(generation)


def test_each_node_is_told_the_values_of_its_zone_and_its_own(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 3, layered(3))
    put_in_zone(rack, "node3", "east")
    rack.enroll()
    rack.apply()
    rack.play()
    values = {name: told(rack, name)["values"]["web"] for name in rack.servers}
    assert values == {
        "node1": {"size": 1, "word": "plain"},
        "node2": {"size": 1, "word": "of node2"},
        "node3": {"size": 5, "word": "plain"},
    }
    assert rack.conductor.plan(rack.desired).empty


def test_another_zone_is_a_change_that_the_plan_shows_with_its_place(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2, layered())
    rack.enroll()
    rack.apply()
    rack.play()
    assert rack.conductor.plan(rack.desired).empty
    put_in_zone(rack, "node1", "east")
    plan = rack.conductor.plan(rack.desired)
    assert [action.node for action in plan.actions if isinstance(action, Configure)] == ["node1"]
    assert "web.size: 1 → 5 (zones/east.yaml:4)" in render_plan(plan)
    rack.conductor.apply(Plan.model_validate_json(plan.model_dump_json()))
    rack.play()
    assert told(rack, "node1")["values"]["web"]["size"] == 5 and rack.servers["node1"].applied == 2
    assert rack.servers["node2"].applied == 1
    found = rack.conductor.explain("node1")
    assert (found.zone, found.role, found.hostname) == ("east", "web", "web-0")
    size = next(one for one in found.values if one.key == "web.size")
    assert [(said.layer, said.place, said.value, said.counts) for said in size.said] == [
        ("role web", "", 1, False),
        ("zone east", "zones/east.yaml:4", 5, True),
    ]


def test_nodes_that_are_nowhere_are_refused(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 2, layered())
    for name in rack.servers:
        put_in_zone(rack, name, "eats")
    rack.enroll()
    unknown = rack.desired.cloud.model_copy(update={"nodes": {"node9": NodeUse()}})
    desired = rack.desired.model_copy(update={"cloud": unknown, "places": {"nodes.node9": "cloud.yaml:9"}})
    with pytest.raises(ManifestError) as caught:
        rack.conductor.plan(desired)
    assert [str(problem) for problem in caught.value.problems] == [
        "cloud.yaml:9: there is no node 'node9' on record (did you mean 'node2'?)",
        "node node1: there is no file of its zone 'eats', and 1 more nodes are in it (did you mean 'east'? Correct "
        "location.zone in the hardware file and enroll again)",
    ]
    without = desired.model_copy(update={"cloud": rack.desired.cloud, "zones": {}})
    assert not rack.conductor.plan(without).empty, "where no zone has values, a zone is a word like rack"


def test_a_secret_that_somebody_brings(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, layered(1, word={"secret": "brought"}, size=3).model_copy(update={"zones": {}}))
    put = rack.desired.cloud.model_copy(update={"nodes": {}})
    rack.desired = rack.desired.model_copy(update={"cloud": put})
    rack.enroll()
    with pytest.raises(ManifestError, match=r"web: web\.word refers to no secret 'brought' .*--set-file FILE"):
        rack.apply()
    with pytest.raises(NotFound):
        rack.conductor.cloud_secret("lab", "brought")
    assert rack.conductor.store_secret("lab", "brought", "0pen sesame") is False
    assert rack.conductor.cloud_secret("lab", "brought") == "0pen sesame"
    rack.apply()
    rack.play()
    assert build_data(told(rack, "node1"))["web"] == {"word": "0pen sesame", "size": 3}
    assert rack.conductor.plan(rack.desired).empty

    assert rack.conductor.store_secret("lab", "brought", "another") is True
    rack.play()
    document = told(rack, "node1")
    assert document["generation"] == 2 == rack.servers["node1"].applied
    assert build_data(document)["web"]["word"] == "another"
    assert rack.conductor.plan(rack.desired).empty, "what differs is the secret, of which a plan knows nothing"
    changed = cloud(1, (role(config=Config(values={"web": {"size": 4, "word": {"secret": "brought"}}})),))
    shown = rack.conductor.plan(changed).model_dump_json() + rack.conductor.explain("node1").model_dump_json()
    shown += json.dumps(rack.conductor.events(0, 10_000))
    generation = rack.store.clouds.newest("node1")
    assert generation is not None
    shown += "".join(rack.store.parts.text(ident) for ident in generation.parts)
    assert "another" not in shown and "brought" in shown
    assert join_parts(document, ())["secrets"]["brought"] == "another"


def test_a_changed_reference_is_shown_by_its_name(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1, cloud(1))
    rack.enroll()
    rack.apply()
    rack.play()
    changed = cloud(1, (role(config=Config(values={"web": {"size": 1, "word": {"secret": "web_password"}}})),))
    assert 'web.word: "plain" → (secret web_password)' in render_plan(rack.conductor.plan(changed))


def test_what_is_no_name_or_has_no_place(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 1)
    for names in (("lab", "two words"), ("../lab", "word"), ("lab", "")):
        with pytest.raises(UsageError, match="not a name"):
            rack.conductor.store_secret(*names, "x")
    rack.enroll()
    with pytest.raises(Conflict, match="no place in a cloud"):
        rack.conductor.explain("node1")
    with pytest.raises(NotFound):
        rack.conductor.explain("node7")
