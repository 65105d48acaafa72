"""What a change will touch: the files and units of each instance, as plan says it, and what is left after apply."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack, cloud, role

from provisioner.errors import ManifestError
from provisioner.model.plan import Configure, FileChange, Plan
from provisioner.model.role import Config, Desired
from provisioner.plan.text import render_plan

TREE = {
    "etc/web.conf": "size {{web.size}}\nfor {{node.hostname}}\n",
    "etc/web.conf.control": '{"services": {"web.service": "restart", "old.service": "phase"}}',
    "etc/peers": "{{#members.web}}{{^self}}{{address}} {{/self}}{{/members.web}}\n",
    "etc/peers.control": '{"services": {"web.service": "reload"}, "confirm": true}',
    "etc/all": "{{#members.web}}{{hostname}}\n{{/members.web}}",
    "etc/motd": "a server\n",
}
CONF = FileChange(path="/etc/web.conf", services={"web.service": "restart", "old.service": "phase"})
PEERS = FileChange(path="/etc/peers", services={"web.service": "reload"}, confirm=True)
ALL = FileChange(path="/etc/all")


def ready(folder: Path, count: int = 2, spare: int = 0, tree: dict[str, str] | None = TREE, **more: Any) -> Rack:
    desired = cloud(count, (role(**more),))
    rack = Rack(folder, count + spare, desired)
    if tree is not None:
        rack.images.trees["web"] = tree
    rack.enroll()
    rack.apply()
    rack.play()
    return rack


def files_of(plan: Plan) -> dict[str, tuple[FileChange, ...] | None]:
    configured = {action.node: action.files for action in plan.actions if isinstance(action, Configure)}
    return configured | {effect.node: effect.files for effect in plan.effects}


def test_a_changed_value_names_the_files_that_use_it_and_the_second_plan_is_empty(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    assert rack.conductor.plan(rack.desired).empty
    wanted = cloud(2, values={"web": {"size": 7}})
    plan = rack.conductor.plan(wanted)
    assert files_of(plan) == {"node1": (CONF,), "node2": (CONF,)}
    assert render_plan(plan).splitlines()[1:-1] == [
        "  ~ configure  web-0 on node1, web-1 on node2",
        "      web.size: 1 → 7",
        "      writes /etc/web.conf; lets a phase script see to old.service; restarts web.service",
        "  note: web: 1 at a time",
    ]
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    rack.conductor.apply(plan)
    assert rack.conductor.plan(wanted).empty


def test_a_value_that_no_template_uses_changes_no_file(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    plan = rack.conductor.plan(cloud(2, values={"web": {"word": "other"}}))
    assert files_of(plan) == {"node1": (), "node2": ()}
    assert "no file changes" in render_plan(plan)


def test_a_file_that_only_some_members_have_is_said_of_these(tmp_path: Path) -> None:
    """The first member has none, so what is said of it is not what is known of the first."""
    own = {"etc/own": "{{#node.index}}\n{{web.size}}\n{{/node.index}}\n", "etc/own.control": '{"allow_empty": false}'}
    rack = ready(tmp_path, tree=TREE | own)
    plan = rack.conductor.plan(cloud(2, values={"web": {"size": 7}}))
    assert files_of(plan) == {"node1": (CONF,), "node2": (FileChange(path="/etc/own"), CONF)}
    plan = rack.conductor.plan(cloud(2, values={"web": {"size": ""}}))
    assert files_of(plan) == {"node1": (CONF,), "node2": (CONF, FileChange(path="/etc/own", what="removed"))}


def test_who_joins_changes_files_of_those_who_are_there(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, spare=1)
    plan = rack.conductor.plan(cloud(3))
    assert [action.kind for action in plan.actions] == ["deploy"]
    assert files_of(plan) == {"node1": (ALL, PEERS), "node2": (ALL, PEERS)}
    assert render_plan(plan).splitlines()[2:-1] == [
        "  ~ also       web-0 on node1, web-1 on node2",
        "      writes /etc/all",
        "      writes /etc/peers; reloads web.service; taken back unless the server is heard again",
    ]
    rack.conductor.apply(plan)
    assert rack.conductor.plan(cloud(3)).empty


def test_who_leaves_and_a_value_together(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    plan = rack.conductor.plan(cloud(1, remove=("web-1",), values={"web": {"size": 7}}))
    assert [action.kind for action in plan.actions] == ["release", "configure"]
    assert files_of(plan) == {"node1": (ALL, PEERS, CONF)} and plan.effects == ()


def test_an_image_without_templates_is_noted_once(tmp_path: Path) -> None:
    rack = ready(tmp_path, 2, tree=None)
    plan = rack.conductor.plan(cloud(2, values={"web": {"size": 7}}))
    assert files_of(plan) == {"node1": None, "node2": None}
    order, note = plan.notes
    assert order == "web: 1 at a time"
    assert "2 instances of web-000000000000 cannot be said" in note and "provisioner image build" in note
    assert "no file changes" not in render_plan(plan)
    assert rack.conductor.plan(rack.desired).notes == ()


def test_a_value_that_templates_need_and_do_not_get_is_refused_with_line_and_instance(tmp_path: Path) -> None:
    rack = ready(tmp_path)
    before = [node.generation for node in rack.conductor.nodes()]
    with pytest.raises(ManifestError) as caught:
        rack.conductor.plan(cloud(2, values={"web": 5}))
    (problem,) = caught.value.problems
    assert problem.where == "web-000000000000: etc/web.conf:1:6"
    assert problem.what.startswith("the key web.size is not in the data") and "on web-0, web-1" in problem.what
    assert [node.generation for node in rack.conductor.nodes()] == before
    rack.conductor.plan(rack.desired)


def test_what_is_to_be_deployed_is_rendered_too(tmp_path: Path) -> None:
    rack = Rack(tmp_path, 8, cloud(8))
    rack.images.trees["web"] = {"etc/a": "{{nothing}}"}
    rack.enroll()
    with pytest.raises(ManifestError, match=r"web-000000000000: etc/a:1:1: .*on web-0, .*web-4 and maybe others"):
        rack.apply()
    assert set(rack.states().values()) == {"available"}


def test_a_secret_that_is_made_at_apply_is_known_to_differ(tmp_path: Path) -> None:
    tree = {"etc/secret": "{{#secrets.more?}}{{.}}{{/secrets.more}}{{secrets.web_password}}"}
    rack = ready(tmp_path, 1, tree=tree)
    wanted = cloud(1, (role(secrets=("web_password", "more")),))
    plan = rack.conductor.plan(wanted)
    assert files_of(plan) == {"node1": (FileChange(path="/etc/secret"),)}
    assert not plan.empty and [effect.hostname for effect in plan.effects] == ["web-0"]
    rack.conductor.apply(plan)
    assert rack.conductor.plan(wanted).empty


def test_a_plan_that_was_saved_before_files_were_said_is_read(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    plan = rack.conductor.plan(cloud(1, values={"web": {"size": 7}}))
    saved = plan.model_dump(mode="json")
    del saved["effects"]
    for action in saved["actions"]:
        del action["files"]
    old = Plan.model_validate(saved)
    assert files_of(old) == {"node1": None} and "web.size: 1 → 7" in render_plan(old)
    rack.conductor.apply(old)


def test_many_equal_ones_are_said_together(tmp_path: Path) -> None:
    rack = ready(tmp_path, 1)
    plan = rack.conductor.plan(cloud(1, values={"web": {"size": 7}}))
    (action,) = plan.actions
    assert isinstance(action, Configure)
    many = [action.model_copy(update={"hostname": f"web-{n}", "node": f"node{n}"}) for n in range(1000) if n != 7]
    odd = action.model_copy(update={"hostname": "db-1", "files": ()})
    lines = render_plan(plan.model_copy(update={"actions": (*many, odd)})).splitlines()
    assert lines[1:] == [
        "  ~ configure  web-0 … web-6, web-8 … web-999 (999)",
        "      web.size: 1 → 7",
        "      writes /etc/web.conf; lets a phase script see to old.service; restarts web.service",
        "  ~ configure  db-1 on node1",
        "      web.size: 1 → 7",
        "      no file changes",
        "0 to deploy, 1000 to configure, 0 to release.",
    ]


def test_values_are_what_instances_are_told_and_not_what_the_file_has(tmp_path: Path) -> None:
    """Maps come to an instance in the order of their keys."""
    values = {"web": {"size": 1, "map": {"b": 1, "a": 2}}}
    tree = {"etc/map": "{{web.map}} {{web.size}}"}
    rack = ready(tmp_path, 1, tree=tree, config=Config(values=values))
    wanted: Desired = cloud(1, (role(config=Config(values={"web": {"map": {"a": 2, "b": 1}, "size": 1, "new": 1}})),))
    assert files_of(rack.conductor.plan(wanted)) == {"node1": ()}
