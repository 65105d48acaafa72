"""Parts of a build side by side."""

from __future__ import annotations

import os
import threading

import pytest

from provisioner.images.tasks import GIVES_WAY, Task, rank_tasks, run_tasks


def test_each_task_starts_when_those_it_needs_are_done_and_the_longest_way_first() -> None:
    order: list[str] = []

    def task(name: str, *needs: str, seconds: float = 1.0) -> Task:
        return Task(name, needs, lambda: order.append(name), seconds)

    tasks = [
        task("small"),
        task("base"),
        task("shared", "base"),
        task("big", "shared", seconds=9),
        task("other", "base"),
    ]
    assert run_tasks(tasks, 1, pytest.fail) == {}
    assert order == ["base", "shared", "big", "other", "small"]
    assert rank_tasks(tasks)["base"] == 11


def test_a_failure_stops_what_needs_it_and_nothing_else() -> None:
    ran: list[str] = []
    error = ValueError("no")

    def fail() -> None:
        raise error

    tasks = [
        Task("a", (), fail),
        Task("b", ("a",), lambda: ran.append("b")),
        Task("c", ("b",), lambda: ran.append("c")),
        Task("d", (), lambda: ran.append("d")),
    ]
    assert run_tasks(tasks, 2, pytest.fail) == {"a": error}
    assert ran == ["d"]


def test_independent_tasks_run_at_once() -> None:
    meeting = threading.Barrier(2)
    tasks = [Task(name, (), lambda: meeting.wait(timeout=10) and None) for name in "ab"]
    assert run_tasks(tasks, 2, pytest.fail) == {}


def test_the_longest_way_goes_before_what_runs_beside_it() -> None:
    meeting = threading.Barrier(2)
    found: dict[str, int] = {}
    usual = os.getpriority(os.PRIO_PROCESS, 0)

    def task(name: str, seconds: float) -> Task:
        def work() -> None:
            found[name] = os.getpriority(os.PRIO_PROCESS, 0) - usual
            meeting.wait(timeout=10)

        return Task(name, (), work, seconds)

    assert run_tasks([task("short", 1), task("long", 2)], 2, pytest.fail) == {}
    assert found == {"short": GIVES_WAY, "long": 0}
    assert os.getpriority(os.PRIO_PROCESS, 0) == usual


def test_an_interrupt_is_not_a_failure() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    stopped = threading.Event()

    def work() -> None:
        assert stopped.wait(timeout=10)

    with pytest.raises(KeyboardInterrupt):
        run_tasks([Task("a", (), interrupt), Task("b", (), work)], 2, stopped.set)
    assert stopped.is_set()
