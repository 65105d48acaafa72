"""Work on several units at once, each after those that it comes after."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterator, Mapping

from provisioner_agent.instance.phases import PhaseResult

Ended = tuple[str, "PhaseResult | BaseException"]


def do_each(
    order: Mapping[str, Collection[str]], work: Callable[[str], PhaseResult], at_once: int
) -> Iterator[tuple[str, PhaseResult]]:
    """Work on each, at most ``at_once`` at a time; each is told with its result when it is done. After one that fails
    none is begun, and those that are under way are waited for.

    :param order: what each comes after, of which all stand before it. :param work: is called in other threads, unless
        it is one at a time. :raises BaseException: what ``work`` raised.
    """
    left = {name: set(before) for name, before in order.items()}
    running: set[str] = set()
    ended: queue.SimpleQueue[Ended] = queue.SimpleQueue()
    failed = False

    def run(name: str) -> None:
        try:
            ended.put((name, work(name)))
        except BaseException as error:
            ended.put((name, error))

    while left or running:
        free = [] if failed else [name for name, before in left.items() if not before]
        for name in free[: at_once - len(running)]:
            del left[name]
            running.add(name)
            if at_once == 1:
                run(name)
            else:
                threading.Thread(target=run, args=(name,), daemon=True).start()
        if not running:
            return
        name, result = ended.get()
        running.remove(name)
        if isinstance(result, BaseException):
            raise result
        for before in left.values():
            before.discard(name)
        failed = failed or result.code != 0
        yield name, result
