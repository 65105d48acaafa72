"""``cloud rebuild``, ``resume`` and ``abort``, and ``--without-drain``: what is asked, shown and refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from served import FakeConductor, make_node, make_placement, make_status, served

from provisioner.cli.main import main
from provisioner.cli.options import Options
from provisioner.model.departure import Departure, DepartureState
from provisioner.model.plan import Guard, Rebuild, Release
from provisioner.model.states import NodeState
from provisioner.model.status import NodeView
from provisioner.system.clock import FakeClock


class Bench:
    def __init__(self, conductor: FakeConductor, folder: Path) -> None:
        self.conductor = conductor
        self.config = folder / "provisioner.conf"
        self.config.write_text(f"[DEFAULT]\nrun_dir = {folder}\nstate_dir = {folder}\nsource_dir = {folder}\n")

    def call(self, *words: str) -> Result:
        return CliRunner().invoke(main, ["--config", str(self.config), *words], obj=Options(clock=FakeClock()))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    conductor = FakeConductor()
    with served(conductor, tmp_path / "api.sock"):
        yield Bench(conductor, tmp_path)


def make_rebuild() -> Rebuild:
    guard = Guard(state=NodeState.ACTIVE, deployment="d1")
    return Rebuild(placement=make_placement(), before="galera-old", kept=("/var/lib/mysql",), guard=guard, why="a test")


def make_departure(**fields: object) -> Departure:
    place = {"cloud": "lab", "role": "galera", "index": 0, "hostname": "galera-0", "node": "node1", "deployment": "d1"}
    return Departure.model_validate({**place, "why": "a test", "asked": 0.0, **fields})


def test_a_rebuild_is_shown_with_what_is_kept_and_then_done(bench: Bench) -> None:
    bench.conductor.actions = (make_rebuild(),)
    shown = bench.call("cloud", "rebuild", "lab", "galera", "--plan", "--image", "galera-9")
    assert shown.exit_code == 2 and bench.conductor.applied == []
    assert "rebuild    galera-0 on node1: galera-old → galera-0123456789ab" in shown.stdout
    assert "drained first; it starts anew, and its disk is written anew; keeps /var/lib/mysql" in shown.stdout
    assert "0 to deploy, 0 to configure, 0 to release, 1 to rebuild." in shown.stdout
    assert bench.conductor.rebuilt == [("lab galera", "galera-9")]
    done = bench.call("cloud", "rebuild", "lab", "galera")
    assert done.exit_code == 0, done.output
    (plan,) = bench.conductor.applied
    assert plan.actions == (make_rebuild(),) and "cloud lab is ready" in done.stdout
    told = json.loads(bench.call("cloud", "rebuild", "lab", "galera", "--plan", "-o", "json").stdout)
    assert told["actions"][0]["kind"] == "rebuild"
    bench.conductor.actions = ()
    nothing = bench.call("cloud", "rebuild", "lab", "galera", "--plan")
    assert nothing.exit_code == 0 and "Nothing to change" in nothing.stdout


def test_a_node_whose_instance_is_not_drained_is_named(bench: Bench) -> None:
    bench.conductor.actions = (make_rebuild(),)
    assert bench.call("cloud", "rebuild", "lab", "galera", "--without-drain", "node1").exit_code == 0
    (action,) = bench.conductor.applied[0].actions
    assert isinstance(action, Rebuild) and not action.drain
    wrong = bench.call("cloud", "rebuild", "lab", "galera", "--without-drain", "node2")
    assert wrong.exit_code == 64 and "takes no instance away from node2" in wrong.stderr and "node1" in wrong.stderr
    assert len(bench.conductor.applied) == 1


def test_a_saved_plan_may_be_applied_without_a_drain(bench: Bench, tmp_path: Path) -> None:
    guard = Guard(state=NodeState.ACTIVE, deployment="d1")
    bench.conductor.actions = (Release(node="node1", hostname="galera-0", guard=guard, why="a test"),)
    plan = bench.conductor.plan_rebuild("lab", "galera", None)
    path = tmp_path / "friday.json"
    path.write_text(plan.model_dump_json())
    done = bench.call("apply", str(path), "--without-drain", "node1")
    assert done.exit_code == 0, done.output
    assert "drained first" not in done.stdout
    (action,) = bench.conductor.applied[0].actions
    assert isinstance(action, Release) and not action.drain


def test_what_has_stopped_goes_on_or_is_given_up(bench: Bench) -> None:
    done = bench.call("cloud", "resume", "lab", "--without-drain", "node1", "--without-drain", "node2")
    assert done.exit_code == 0 and "provisioner cloud status lab" in done.stdout
    done = bench.call("cloud", "abort", "lab", "galera-0")
    assert done.exit_code == 0, done.output
    assert bench.conductor.asked == [("resume", ("node1", "node2")), ("abort", ("galera-0",))]
    assert json.loads(bench.call("cloud", "abort", "lab", "-o", "json").stdout)["cloud"] == "lab"


def test_verbs_drain_unless_the_node_is_named_again(bench: Bench) -> None:
    bench.conductor.node_list = [make_node(state=NodeState.ACTIVE)]
    bench.call("node", "release", "node1", "--no-wait")
    bench.call("node", "release", "node1", "--no-wait", "--without-drain", "node1")
    bench.call("node", "rebuild", "node1", "--no-wait", "--without-drain", "node1")
    assert bench.conductor.drained == [("node1", True), ("node1", False), ("node1", False)]
    wrong = bench.call("node", "rebuild", "node1", "--without-drain", "node2")
    assert wrong.exit_code == 64 and "--without-drain names node2" in wrong.stderr


def test_a_release_is_watched_while_the_instance_is_drained(bench: Bench) -> None:
    node = make_node(state=NodeState.ACTIVE)
    bench.conductor.node_list = [node]
    seen = [
        NodeView(node=node, departure=make_departure()),
        NodeView(node=node, departure=make_departure(state=DepartureState.DRAINING)),
        NodeView(node=node.model_copy(update={"state": NodeState.AVAILABLE})),
    ]
    bench.conductor.node = lambda name: seen.pop(0)  # type: ignore[method-assign]
    done = bench.call("node", "release", "node1")
    assert "node1 is available" in done.stdout and "draining before it is released" in done.stderr


def test_who_leaves_is_said_and_is_not_missed(bench: Bench) -> None:
    leaving = make_status(state="active").model_copy(update={"leaving": {"galera-0": "is released"}})
    bench.conductor.statuses = [
        leaving,
        leaving,
        leaving.model_copy(update={"members": (), "leaving": {}, "ready": True}),
    ]
    bench.conductor.actions = (make_rebuild(),)
    done = bench.call("cloud", "rebuild", "lab", "galera")
    assert done.exit_code == 0, done.output
    assert "to leave: galera-0 is released" in done.stdout and "to leave: nobody any more" in done.stdout
    bench.conductor.statuses = [leaving]
    assert "to leave: galera-0 is released" in bench.call("cloud", "status", "lab").stdout


def test_a_node_says_what_becomes_of_its_instance(bench: Bench) -> None:
    node = make_node(state=NodeState.ACTIVE)
    departure = make_departure(state=DepartureState.DRAINING)
    bench.conductor.node = lambda name: NodeView(node=node, departure=departure)  # type: ignore[method-assign]
    assert "galera-0 is released: draining; a test" in bench.call("node", "show", "node1").stdout
