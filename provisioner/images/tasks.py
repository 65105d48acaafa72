"""Runs the parts of a build side by side, each as soon as those it needs are done."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass

GIVES_WAY = 10
"""Added to the niceness of what is not on the longest way: it fills the time that the longest way leaves."""


@dataclass(frozen=True)
class Task:
    """``needs``: names of tasks that come first. ``seconds``: how long it took the last time, or a guess."""

    name: str
    needs: tuple[str, ...]
    work: Callable[[], None]
    seconds: float = 1.0


def rank_tasks(tasks: Sequence[Task]) -> dict[str, float]:
    """Seconds from the begin of each task to the end of the longest way that leads on from it."""
    after: dict[str, list[Task]] = {task.name: [] for task in tasks}
    for task in tasks:
        for needed in task.needs:
            after[needed].append(task)
    ranks: dict[str, float] = {}

    def rank(task: Task) -> float:
        if task.name not in ranks:
            ranks[task.name] = task.seconds + max((rank(later) for later in after[task.name]), default=0.0)
        return ranks[task.name]

    for task in tasks:
        rank(task)
    return ranks


def run_tasks(tasks: Sequence[Task], workers: int, stop: Callable[[], None]) -> Mapping[str, Exception]:
    """Run all, at most ``workers`` at once, those with the longest way behind them first and at the higher priority.

    A task that fails takes those that need it with it; the others go on.

    :param stop: ends the work of the other threads at once; called when this is interrupted.
    :returns: what the failed ones raised, by name, in the order in which they failed.
    """
    ranks, usual = rank_tasks(tasks), os.getpriority(os.PRIO_PROCESS, 0)

    def work(task: Task, niceness: int) -> None:
        with suppress(PermissionError):  # only root may raise what an earlier task of this thread lowered
            os.setpriority(os.PRIO_PROCESS, 0, niceness)  # of this thread and of what it starts (setpriority(2))
        task.work()

    waiting = sorted(tasks, key=lambda task: (-ranks[task.name], task.name))
    running: dict[Future[None], Task] = {}
    done: set[str] = set()
    failed: dict[str, Exception] = {}
    with ThreadPoolExecutor(workers) as pool:
        try:
            while waiting or running:
                for task in [task for task in waiting if done.issuperset(task.needs)][: workers - len(running)]:
                    waiting.remove(task)
                    longest = max(ranks[other.name] for other in (task, *waiting, *running.values()))
                    niceness = usual if ranks[task.name] == longest else usual + GIVES_WAY
                    running[pool.submit(work, task, niceness)] = task
                if not running:
                    break  # what still waits needs something that failed
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    task = running.pop(future)
                    error = future.exception()
                    if error is None:
                        done.add(task.name)
                    elif isinstance(error, Exception):
                        failed[task.name] = error
                    else:
                        raise error
        except BaseException:
            stop()  # before the pool waits for its threads
            raise
    return failed
