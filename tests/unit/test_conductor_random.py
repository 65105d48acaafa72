"""Whatever is asked, refused, switched off or killed, in whatever order: no node is lost, and none is stuck."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack, cloud
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from provisioner.errors import BmcError, Conflict, ProvisionerError
from provisioner.model.deployment import DeploymentState, EraseLevel
from provisioner.model.states import EXITS, NodeState

EXAMPLES = int(os.environ.get("EXAMPLES", "15"))
"""Enough for half a minute, always the same ones; with another number, other ones each time."""
STEPS = 30
NAMES = ("node1", "node2")
VERBS = ("retry", "abort", "release", "rebuild", "inspect", "test", "erase", "maintenance", "over", "rescue", "back")
ORDERS = ("storage", "write-image", "boot-loader", "inspect", "erase", "test-cpu")
AT_REST = {NodeState.AVAILABLE, NodeState.ACTIVE}
ROUNDS = 80

names = st.sampled_from(NAMES)


class Life(RuleBasedStateMachine):
    """Two servers, a cloud of both, and every fault there is; in the end all faults are mended, and nobody leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory(prefix="rack-")
        self.rack = Rack(Path(self.folder.name), len(NAMES), cloud(len(NAMES), wipe=NAMES))
        first = self.rack.images.known["web"]
        self.known = (first, first.model_copy(update={"id": "web-" + "1" * 12}))
        self.rack.images.known["web again"] = self.known[1]
        for server in self.rack.servers.values():
            server.drain_scripts = 1
        self.rack.enroll()

    @initialize()
    def apply_first(self) -> None:
        self.ask(self.rack.apply)

    def ask(self, call: Any, *words: Any, **more: Any) -> None:
        """As an operator does: a refusal is an answer, one that the program says itself."""
        try:
            self.rack.surviving(lambda: call(*words, **more))
        except (Conflict, BmcError, ProvisionerError) as error:
            assert error.summary

    @rule(name=names, verb=st.sampled_from(VERBS), stays=st.booleans(), level=st.sampled_from(EraseLevel))
    def operator(self, name: str, verb: str, stays: bool, level: EraseLevel) -> None:
        conductor = self.rack.conductor
        if verb == "release":
            self.ask(conductor.release, name, level if stays else None, stays=stays)
        elif verb == "erase":
            self.ask(conductor.erase, name, level, stays=stays)
        elif verb == "inspect":
            self.ask(conductor.inspect, name, stays=stays)
        elif verb == "test":
            self.ask(conductor.test, name, (), 1.0, stays=stays)
        elif verb == "rebuild":
            self.ask(conductor.rebuild, name)
        elif verb == "rescue":
            self.ask(conductor.rescue, name, ())
        elif verb == "back":
            self.ask(conductor.end_rescue, name)
        elif verb in ("maintenance", "over"):
            self.ask(conductor.maintenance, name, "a test" if verb == "maintenance" else None)
        else:
            self.ask(conductor.verb, name, verb)

    @rule()
    def apply(self) -> None:
        self.ask(self.rack.apply)

    @rule(newest=st.sampled_from((0, 1)))
    def rebuild_the_role(self, newest: int) -> None:
        image = self.known[newest].id
        self.ask(lambda: self.rack.conductor.apply(self.rack.conductor.plan_rebuild("lab", "web", image)))

    @rule(number=st.sampled_from((0, 1)), name=names, what=st.sampled_from(("remove", "lost", "named")))
    def one_member_less_or_elsewhere(self, number: int, name: str, what: str) -> None:
        uses: dict[str, Any] = {"wipe": (name,) if what == "named" else NAMES}
        uses |= {"remove": {"remove": (f"web-{number}",)}, "lost": {"lost": (name,)}, "named": {"nodes": (name,)}}[what]
        self.ask(lambda: self.rack.conductor.apply(self.rack.conductor.plan(cloud(1, **uses))))

    @rule(name=names, what=st.sampled_from(("resume", "without", "abort", "leave")))
    def departures(self, name: str, what: str) -> None:
        if what == "resume":
            self.ask(self.rack.conductor.resume, "lab")
        elif what == "without":
            self.ask(self.rack.conductor.resume, "lab", (name,))
        elif what == "abort":
            self.ask(self.rack.conductor.abort_departures, "lab")
        else:
            self.ask(self.rack.conductor.release, name, drain=False)

    @rule(name=names, how=st.sampled_from(("drained", "failed", "never")), knows=st.booleans())
    def drain(self, name: str, how: str, knows: bool) -> None:
        self.rack.servers[name].drain = how
        self.rack.servers[name].drain_scripts = 1 if knows else None

    @rule(name=names, want=st.sampled_from(("on", "off", "cycle")))
    def switch(self, name: str, want: str) -> None:
        self.ask(self.rack.conductor.set_power, name, want)

    @rule(rounds=st.integers(1, 12))
    def let_live(self, rounds: int) -> None:
        for _ in range(rounds):
            self.rack.surviving(self.rack.conductor.tick)
            for server in self.rack.servers.values():
                self.rack.surviving(lambda server=server: self.rack.live(server))  # type: ignore[misc]
            self.rack.clock.sleep(3)

    @rule(seconds=st.sampled_from((60.0, 700.0, 5000.0, 20_000.0)))
    def let_time_pass(self, seconds: float) -> None:
        self.rack.clock.sleep(seconds)

    @rule(commit=st.integers(1, 12))
    def kill(self, commit: int) -> None:
        self.rack.kill_at(commit)

    @rule(name=names, step=st.sampled_from(ORDERS), how=st.sampled_from(("fails", "deaf", "well")))
    def ramdisk(self, name: str, step: str, how: str) -> None:
        server = self.rack.servers[name]
        server.fail_orders.pop(step, None)
        server.deaf_to.discard(step)
        if how == "fails":
            server.fail_orders[step] = "a test"
        elif how == "deaf":
            server.deaf_to.add(step)

    @rule(name=names, silent=st.booleans())
    def controller(self, name: str, silent: bool) -> None:
        address = self.rack.servers[name].spec.bmc.address
        (self.rack.bmcs.silent.add if silent else self.rack.bmcs.silent.discard)(address)

    @rule(name=names, red=st.booleans())
    def instance(self, name: str, red: bool) -> None:
        self.rack.servers[name].red = red

    @rule(name=names)
    def power_fails(self, name: str) -> None:
        self.rack.servers[name].switch("off")

    @invariant()
    def every_node_is_on_record_in_a_state_with_an_exit(self) -> None:
        nodes = {node.name: node for node in self.rack.conductor.nodes()}
        assert set(nodes) == set(NAMES)
        for node in nodes.values():
            view = self.rack.conductor.node(node.name)
            assert view.exits, node.state
            if node.deployment is not None:
                deployment = self.rack.store.deployments.get(node.deployment)
                assert deployment.placement.node == node.name
                assert deployment.state is not DeploymentState.ENDED
            if node.state is NodeState.FAILED:
                assert node.failure is not None and node.failure["summary"] and node.failure["hint"]

    @invariant()
    def every_place_in_the_cloud_is_one_nodes(self) -> None:
        live = self.rack.store.deployments.live("lab")
        places = [deployment.placement.hostname for deployment in live]
        assert len(places) == len(set(places))
        runs = [node.deployment for node in self.rack.conductor.nodes() if node.deployment is not None]
        held = {*runs, *(self.rack.store.deployments.get(run).placement.rescues for run in runs)}
        assert {deployment.id for deployment in live} <= held, "no deployment without its node"
        leaving = {departure.deployment for departure in self.rack.store.departures.all()}
        assert leaving <= {deployment.id for deployment in live}, "nobody leaves who is not there"

    def teardown(self) -> None:
        try:
            self.mend()
            for _ in range(6):
                if self.rack.store.departures.all():
                    self.ask(self.rack.conductor.abort_departures, "lab")
                self.let_live(ROUNDS)
                for node in self.rack.conductor.nodes():
                    if node.maintenance is not None:
                        self.ask(self.rack.conductor.maintenance, node.name, None)
                    elif node.state is NodeState.RESCUE:
                        self.ask(self.rack.conductor.end_rescue, node.name)
                    elif node.state is NodeState.FAILED:
                        assert "retry" in EXITS[node.state]
                        self.ask(self.rack.conductor.verb, node.name, "retry")
                if {node.state for node in self.rack.conductor.nodes()} <= AT_REST:
                    break
            states = self.rack.states()
            assert set(states.values()) <= {str(state) for state in AT_REST}, (states, self.rack.events()[-12:])
            self.ask(self.rack.apply)
            self.let_live(ROUNDS)
            assert set(self.rack.states().values()) == {"active"}, self.rack.events()[-12:]
            assert self.rack.store.departures.all() == []
        finally:
            self.rack.store.close()
            self.folder.cleanup()

    def mend(self) -> None:
        self.rack.on_commit = None
        self.rack.bmcs.silent.clear()
        for server in self.rack.servers.values():
            server.fail_orders.clear()
            server.deaf_to.clear()
            server.red = False
            server.drain, server.drain_scripts = "drained", 1


@pytest.mark.timeout(1800)
def test_no_node_is_lost_or_stuck() -> None:
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        derandomize="EXAMPLES" not in os.environ,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(Life, settings=options)  # type: ignore[no-untyped-call]
