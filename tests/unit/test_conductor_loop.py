"""Which node is walked on when: what others record of it wakes it, what its own walk records does not."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from conductor_rack import Rack

from provisioner.conductor.loop import Loop

SECONDS = 20.0


class Bench:
    """Two nodes at work, and a walk that is given by the test."""

    def __init__(self, folder: Path) -> None:
        self.rack = Rack(folder, 2)
        self.rack.enroll()
        self.rack.apply()
        self.walked: Counter[str] = Counter()
        self.more = threading.Condition()
        self.answer: float | None = 3600.0
        self.during: Callable[[str], None] = lambda name: None
        self.loop = Loop(self.rack.store, self.walk, self.rack.conductor.at_work)

    def walk(self, name: str) -> float | None:
        self.during(name)
        with self.more:
            self.walked[name] += 1
            self.more.notify_all()
        return self.answer

    def wait(self, **times: int) -> None:
        with self.more:
            assert self.more.wait_for(lambda: all(self.walked[n] >= k for n, k in times.items()), SECONDS), self.walked

    def write(self, name: str) -> None:
        self.rack.store.nodes.set_waiting(name, f"{self.walked[name]}", self.walked[name])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_all_are_walked_on_at_the_start_and_then_only_who_is_written_about(bench: Bench) -> None:
    bench.loop.start()
    bench.wait(node1=1, node2=1)
    bench.write("node1")
    bench.wait(node1=2)
    bench.loop.stop()
    assert bench.walked == {"node1": 2, "node2": 1}


def test_a_deployment_is_its_nodes(bench: Bench) -> None:
    bench.loop.start()
    bench.wait(node1=1, node2=1)
    node = bench.rack.conductor.node("node2").node
    assert node.deployment is not None
    bench.rack.store.deployments.touch(node.deployment)
    bench.wait(node2=2)
    bench.loop.stop()
    assert bench.walked["node1"] == 1


def test_what_a_walk_writes_of_its_own_node_is_no_news_and_of_another_it_is(bench: Bench) -> None:
    def during(name: str) -> None:
        bench.write(name)
        if name == "node1" and bench.walked[name] == 0:
            bench.wait(node2=1)
            bench.write("node2")

    bench.during = during
    bench.loop.start()
    bench.wait(node1=1, node2=2)
    bench.loop.stop()
    assert bench.walked == {"node1": 1, "node2": 2}


def test_what_others_write_meanwhile_is_not_lost(bench: Bench) -> None:
    def during(name: str) -> None:
        if name == "node1" and bench.walked[name] == 0:
            other = threading.Thread(target=bench.write, args=(name,))
            other.start()
            other.join()

    bench.during = during
    bench.loop.start()
    bench.wait(node1=2)
    bench.loop.stop()


def test_a_walk_may_ask_for_another_at_once(bench: Bench) -> None:
    bench.answer = 0.0
    bench.loop.start()
    bench.wait(node1=3, node2=3)
    bench.loop.stop()


def test_a_walk_that_fails_is_not_the_last(bench: Bench) -> None:
    def during(name: str) -> None:
        if bench.walked[name] == 0:
            bench.walked[name] += 1
            raise RuntimeError("a fault")

    bench.during = during
    bench.loop.start()
    bench.wait(node1=2, node2=2)
    bench.loop.stop()
