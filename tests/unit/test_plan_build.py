"""Plans: what is missing, what differs, what is over, and why something cannot be."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import GuardFailed, ImageError, ManifestError
from provisioner.manifest.cloud import parse_desired
from provisioner.manifest.values import Values
from provisioner.metadata.build import build_metadata, build_role
from provisioner.model.deployment import Deployment, DeploymentState, Node
from provisioner.model.hardware import BmcAddress, Disk, Firmware, HardwareReport, Nic, NodeSpec, Port, SecretRef
from provisioner.model.plan import Configure, Deploy, Observed, Plan, Release
from provisioner.model.policy import Policy
from provisioner.model.role import Desired, Match
from provisioner.model.states import NodeState
from provisioner.plan.build import build_plan
from provisioner.plan.guard import check_guard
from provisioner.plan.text import render_plan
from provisioner.plan.values import diff_values

IMAGES = {"db": "db-1", "web": "web-1", "ramdisk": "ramdisk-1"}
ROLES = {
    "roles/db.yaml": "role: db\nimage: {elements: [e]}\nnetworks: [main]\nsecrets: [password]\nonce: [bootstrap]\n"
    "match: {properties: {memory_mib: 1024}}\nconfig: {values: {db: {connections: 100, size: 1M}}}\n",
    "roles/web.yaml": "role: web\nimage: {elements: [e]}\nnetworks: [main]\n",
}


def make_desired(roles: str = "{db: {count: 2}}", pool: str = "10.0.0.20-10.0.0.60") -> Desired:
    cloud = f"cloud: c\nnetworks:\n  main: {{cidr: 10.0.0.0/24, pool: {pool}}}\nroles: {roles}\n"
    return parse_desired("cloud.yaml", {"cloud.yaml": cloud} | ROLES)


def make_node(name: str, **changes: object) -> Node:
    number = int("".join(filter(str.isdigit, name)) or 0)
    spec = NodeSpec(
        name=name,
        bmc=BmcAddress(address=f"192.0.2.{number}", username="u", password=SecretRef(env="P")),
        ports=(Port(mac=f"52:54:00:00:00:{number:02x}"),),
        properties={"memory_mib": 2048},
    )
    return Node(uuid=f"uuid-{name}", spec=spec, state=NodeState.AVAILABLE).model_copy(update=changes)


def make_nodes(count: int) -> tuple[Node, ...]:
    return tuple(make_node(f"n{number}") for number in range(1, count + 1))


def observe(plan: Plan, nodes: tuple[Node, ...], **changes: object) -> Observed:
    """What is on record after a plan's deployments have become active."""
    deployments, known, values = {}, {node.name: node for node in nodes}, {}
    for action in plan.actions:
        assert isinstance(action, Deploy)
        name = action.placement.node
        deployments[f"d-{name}"] = Deployment(
            id=f"d-{name}", placement=action.placement, state=DeploymentState.ACTIVE, created=0.0
        )
        update = {"state": NodeState.ACTIVE, "deployment": f"d-{name}", "generation": 1}
        known[name] = known[name].model_copy(update=update)
        values[name] = build_metadata(plan.desired, action.placement, [], "u", {}, 1)
    observed = Observed(nodes=tuple(known.values()), deployments=deployments, images=IMAGES, metadata=values)
    return observed.model_copy(update=changes)


def test_empty_slots_get_nodes_in_natural_order_with_addresses_of_their_own() -> None:
    nodes = (make_node("n10"), make_node("n2"), make_node("n1"))
    plan = build_plan(make_desired(), Observed(nodes=nodes, images=IMAGES))
    placements = [action.placement for action in plan.actions if isinstance(action, Deploy)]
    assert [(p.hostname, p.node, p.addresses[0].address) for p in placements] == [
        ("db-0", "n1", "10.0.0.20/24"),
        ("db-1", "n2", "10.0.0.21/24"),
    ]
    assert placements[0].image == "db-1" and placements[0].addresses[0].mac == "52:54:00:00:00:01"
    assert render_plan(plan).splitlines()[-1] == "2 to deploy, 0 to configure, 0 to release."


@given(st.integers(1, 6), st.integers(0, 3))
def test_a_plan_that_was_done_leaves_nothing_to_do(count: int, spare: int) -> None:
    desired, nodes = make_desired(f"{{db: {{count: {count}}}}}"), make_nodes(count + spare)
    plan = build_plan(desired, Observed(nodes=nodes, images=IMAGES))
    again = build_plan(desired, observe(plan, nodes))
    assert again.empty
    assert render_plan(again).endswith("Nothing to change.")
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_a_changed_value_is_shown_exactly() -> None:
    nodes = make_nodes(2)
    done = observe(build_plan(make_desired(), Observed(nodes=nodes, images=IMAGES)), nodes)
    plan = build_plan(make_desired("{db: {count: 2, values: {db: {connections: 321}}}}"), done)
    assert [action.kind for action in plan.actions] == ["configure", "configure"]
    assert isinstance(plan.actions[0], Configure)
    assert [change.model_dump() for change in plan.actions[0].changes] == [
        {"path": "db.connections", "old": 100, "new": 321, "place": "cloud.yaml:4"}
    ]
    assert "db.connections: 100 → 321" in render_plan(plan)
    assert diff_values({"a": {"b": 1}}, {"a": {}})[0].new is None


def test_a_changed_probe_reaches_instances_too() -> None:
    nodes = make_nodes(1)
    desired = make_desired("{db: {count: 1}}")
    done = observe(build_plan(desired, Observed(nodes=nodes, images=IMAGES)), nodes)
    role = desired.roles["db"]
    slower = role.model_copy(update={"health": role.health.model_copy(update={"wait": 30.0})})
    (action,) = build_plan(desired.model_copy(update={"roles": {"db": slower}}), done).actions
    assert isinstance(action, Configure)
    assert [(c.path, c.old, c.new) for c in action.changes] == [("health.wait", 600.0, 30.0)]


def test_what_the_cloud_does_not_use_is_released_and_its_address_is_not_given_away_at_once() -> None:
    nodes = make_nodes(3)
    done = observe(build_plan(make_desired(), Observed(nodes=nodes, images=IMAGES)), nodes)
    plan = build_plan(make_desired("{db: {count: 1, remove: [db-1]}, web: {count: 1}}"), done)
    release, deploy = plan.actions
    assert isinstance(release, Release) and (release.node, release.hostname) == ("n2", "db-1")
    assert isinstance(deploy, Deploy) and deploy.placement.node == "n3"
    assert deploy.placement.addresses[0].address == "10.0.0.22/24"
    assert "release    db-1 from n2: the cloud file removes it; drained first" in render_plan(plan)


def test_too_few_nodes_are_refused_at_the_line_with_the_reason_of_each() -> None:
    small = make_node("n2")
    small = small.model_copy(update={"spec": small.spec.model_copy(update={"properties": {"memory_mib": 512}})})
    silent = make_node("n3")
    silent = silent.model_copy(update={"spec": silent.spec.model_copy(update={"properties": {}})})
    nodes = (make_node("n1"), small, silent, make_node("n4", state=NodeState.FAILED))
    with pytest.raises(ManifestError) as caught:
        build_plan(make_desired("{db: {count: 4}}"), Observed(nodes=nodes, images=IMAGES))
    (problem,) = caught.value.problems
    assert problem.where == "cloud.yaml:4"
    assert "needs 4 nodes, 1 match" in problem.what
    assert "n2: its memory_mib is 512, the role needs 1024" in problem.what
    assert "n3: nothing says its memory_mib" in problem.what
    assert "n4: it is failed" in problem.what
    assert problem.instead is not None and "at most 1" in problem.instead


@pytest.mark.parametrize(
    ("tried", "why"),
    [
        (None, "n1: no inspection has tried KVM on it; provisioner node inspect n1"),
        (False, "n1: its kvm is False, the role needs True"),
        (True, ""),
    ],
)
def test_kvm_is_what_an_inspection_has_tried_and_no_hardware_file_says(tried: bool | None, why: str) -> None:
    report = HardwareReport(cpus=2, memory_mib=4096, firmware=Firmware.UEFI, virtualisation=True, kvm=tried)
    node = make_node("n1", hardware=report)
    node = node.model_copy(update={"spec": node.spec.model_copy(update={"properties": {"kvm": True}})})
    desired = make_desired("{web: {count: 1}}")
    role = desired.roles["web"].model_copy(update={"match": Match(properties={"kvm": True})})
    desired, observed = desired.model_copy(update={"roles": {"web": role}}), Observed(nodes=(node,), images=IMAGES)
    if not why:
        assert len(build_plan(desired, observed).actions) == 1
        return
    with pytest.raises(ManifestError) as raised:
        build_plan(desired, observed)
    assert why in raised.value.problems[0].what


def test_what_the_ramdisk_saw_counts_where_the_hardware_file_is_silent() -> None:
    node = make_node("n1")
    report = HardwareReport(cpus=2, memory_mib=4096, firmware=Firmware.UEFI, disks=(Disk(name="sda", size=8 << 30),))
    node = node.model_copy(update={"spec": node.spec.model_copy(update={"properties": {}}), "hardware": report})
    assert len(build_plan(make_desired("{db: {count: 1}}"), Observed(nodes=(node,), images=IMAGES)).actions) == 1


def test_a_disk_that_held_something_is_noted_before_anything_boots() -> None:
    disk = Disk(name="sda", size=8 << 30, signatures=("gpt", "ext4"))
    nic = Nic(name="eth0", mac="52:54:00:00:00:01")
    report = HardwareReport(cpus=2, memory_mib=4096, firmware=Firmware.UEFI, disks=(disk,), nics=(nic,))
    observed = Observed(nodes=(make_node("n1", hardware=report),), images=IMAGES)
    (note,) = build_plan(make_desired("{db: {count: 1}}"), observed).notes
    assert "n1: its disk sda held gpt, ext4" in note and "wipe" in note
    assert build_plan(make_desired("{db: {count: 1, wipe: [n1]}}"), observed).notes == ()
    both = report.model_copy(update={"disks": (disk, disk)})
    observed = Observed(nodes=(make_node("n1", hardware=both),), images=IMAGES)
    assert build_plan(make_desired("{db: {count: 1}}"), observed).notes == ()


def test_a_port_without_a_link_is_noted_before_anything_boots() -> None:
    nic = Nic(name="eth0", mac="52:54:00:00:00:01", link=False)
    report = HardwareReport(cpus=2, memory_mib=4096, firmware=Firmware.UEFI, nics=(nic,))
    observed = Observed(nodes=(make_node("n1", hardware=report),), images=IMAGES)
    assert build_plan(make_desired("{db: {count: 1}}"), observed).notes == (
        "n1: port 52:54:00:00:00:01 (eth0): no link",
    )


def test_named_nodes_are_taken_first_and_unknown_ones_are_refused() -> None:
    observed = Observed(nodes=make_nodes(2), images=IMAGES)
    plan = build_plan(make_desired("{db: {count: 1}, web: {count: 1, nodes: [n1], wipe: [n1]}}"), observed)
    placed = {a.placement.hostname: (a.placement.node, a.placement.wipe) for a in plan.actions if isinstance(a, Deploy)}
    assert placed == {"web-0": ("n1", True), "db-0": ("n2", False)}
    with pytest.raises(ManifestError, match=r"there is no node 'n11' on record \(did you mean 'n1'"):
        build_plan(make_desired("{web: {count: 1, nodes: [n11]}}"), observed)


def test_an_image_that_is_missing_is_named_with_the_command_that_builds_it() -> None:
    with pytest.raises(ImageError) as caught:
        build_plan(make_desired("{db: {count: 1}}"), Observed(nodes=make_nodes(1), images={"ramdisk": "ramdisk-1"}))
    assert caught.value.hint == "provisioner image build db"


def test_a_pool_that_is_used_up_is_refused() -> None:
    nodes = make_nodes(3)
    pool = "10.0.0.20-10.0.0.21"
    done = observe(build_plan(make_desired(pool=pool), Observed(nodes=nodes, images=IMAGES)), nodes)
    other = done.deployments["d-n1"].placement.model_copy(update={"cloud": "other"})
    foreign = {"d-n1": done.deployments["d-n1"].model_copy(update={"placement": other})} | {
        "d-n2": done.deployments["d-n2"]
    }
    with pytest.raises(ManifestError, match="no free address"):
        build_plan(make_desired(pool=pool), done.model_copy(update={"deployments": foreign}))


def test_notes_name_newer_images() -> None:
    nodes = make_nodes(2)
    done = observe(
        build_plan(make_desired(), Observed(nodes=nodes, images=IMAGES)), nodes, images=IMAGES | {"db": "db-2"}
    )
    plan = build_plan(make_desired(), done)
    assert plan.empty and "db-1 runs db-1; db-2 is newer" in plan.notes


def kinds(plan: Plan) -> list[tuple[str, str]]:
    return [(action.kind, "" if isinstance(action, Deploy) else action.node) for action in plan.actions]


def test_a_deployment_that_failed_begins_again_with_new_values_too() -> None:
    nodes = make_nodes(2)
    done = observe(build_plan(make_desired(), Observed(nodes=nodes, images=IMAGES)), nodes)
    broken = done.nodes[0].model_copy(update={"state": NodeState.FAILED})
    failed = done.deployments["d-n1"].model_copy(update={"state": DeploymentState.FAILED})
    done = done.model_copy(
        update={"nodes": (broken, *done.nodes[1:]), "deployments": done.deployments | {"d-n1": failed}}
    )
    assert kinds(build_plan(make_desired(), done)) == [("retry", "n1")]
    changed = make_desired("{db: {count: 2, values: {db: {connections: 7}}}}")
    assert kinds(build_plan(changed, done)) == [
        ("configure", "n1"),
        ("configure", "n2"),
        ("retry", "n1"),
    ]


def test_a_plan_says_in_which_order_a_change_goes() -> None:
    nodes, desired = make_nodes(5), make_desired("{db: {count: 3}, web: {count: 2}}")
    done = observe(build_plan(desired, Observed(nodes=nodes, images=IMAGES)), nodes)

    changed = make_desired("{db: {count: 3, values: {db: {connections: 7}}}, web: {count: 2}}")

    def notes(observed: Observed, **policies: Policy) -> tuple[str, ...]:
        roles = {
            name: role.model_copy(update={"change": policies.get(name, Policy())})
            for name, role in changed.roles.items()
        }
        return build_plan(changed.model_copy(update={"roles": roles}), observed).notes

    assert notes(done) == ("db: 1 at a time",), "nothing of web changes"
    assert "  note: db: 1 at a time" in render_plan(build_plan(changed, done)).splitlines()
    assert notes(done, db=Policy(at_a_time="100%")) == ()
    first, kept = Policy(canary=1, apart=("quorum",)), Policy(apart=("quorum",))
    assert notes(done, db=first, web=kept) == (
        "db: canary db-0 first, then 1 at a time, apart from web",
        "web: 1 at a time, apart from db",
    )
    two = Policy(at_a_time=2, canary=2, after=("web",))
    assert notes(done, db=two)[0] == "db: canaries db-0, db-1 first, then 2 at a time, after web"
    resting = done.nodes[0].model_copy(update={"maintenance": {"reason": "a fan"}})
    assert resting.name == "n1"
    resting_rack = done.model_copy(update={"nodes": (resting, *done.nodes[1:])})
    assert notes(resting_rack, db=first)[0] == "db: canary db-1 first, then 1 at a time"


def test_what_a_role_says_of_changes_is_in_its_metadata_and_the_usual_is_not() -> None:
    desired = make_desired()
    plain = build_role(desired, Values(desired).of("db"), ())["role"]
    assert "change" not in plain and plain["at_a_time"] == 1
    role = desired.roles["db"].model_copy(update={"change": Policy(at_a_time="50%", canary=1)})
    changed = desired.model_copy(update={"roles": {"db": role}})
    told = build_role(changed, Values(changed).of("db"), ())["role"]
    assert (told["at_a_time"], told["change"]) == ("50%", {"canary": 1})


@pytest.mark.parametrize(
    "change", [{"state": NodeState.FAILED}, {"deployment": "d2"}, {"generation": 5}], ids=["state", "deployment", "gen"]
)
def test_a_guard_holds_until_the_node_changes(change: dict[str, object]) -> None:
    node = make_node("n1")
    plan = build_plan(make_desired("{db: {count: 1}}"), Observed(nodes=(node,), images=IMAGES))
    check_guard(plan.actions[0], node)
    with pytest.raises(GuardFailed, match="n1"):
        check_guard(plan.actions[0], node.model_copy(update=change))


def test_metadata_tells_an_instance_of_itself_and_its_peers() -> None:
    desired = make_desired("{db: {count: 2, values: {db: {connections: 7}}}, web: {count: 1}}")
    plan = build_plan(desired, Observed(nodes=make_nodes(3), images=IMAGES))
    placements = [action.placement for action in plan.actions if isinstance(action, Deploy)]
    document = build_metadata(desired, placements[0], placements[::-1], "u-1", {"password": "x"}, 4)
    assert document["generation"] == 4
    assert document["node"]["address"] == "10.0.0.20" and document["node"]["hostname"] == "db-0"
    assert document["values"] == {"db": {"connections": 7, "size": "1M"}}
    assert [(m["hostname"], m["self"]) for m in document["members"]["db"]] == [("db-0", True), ("db-1", False)]
    assert [m["address"] for m in document["members"]["web"]] == ["10.0.0.22"]
    role = {"name": "db", "count": 2, "once": ["bootstrap"], "at_a_time": 1, "drift": "report", "confirm": 120}
    assert document["role"] == role
    assert document == build_metadata(desired, placements[0], placements, "u-1", {"password": "x"}, 4)


@pytest.mark.parametrize(("old", "new"), [(1, True), (0, False), (1, 1.0), ([1], [True]), ({"a": [0]}, {"a": [False]})])
def test_a_value_of_another_kind_is_another_value(old: object, new: object) -> None:
    assert diff_values({"x": old}, {"x": old}) == ()
    (change,) = diff_values({"x": old}, {"x": new})
    assert json.dumps([change.old, change.new]) != json.dumps([change.new, change.old])
