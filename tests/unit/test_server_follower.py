"""The thread that follows the records, and the log's lines."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Sequence

from provisioner.errors import HostError
from provisioner.events import Event, RecordingObserver
from provisioner.server.follower import Follower, Tail
from provisioner.server.log import Log, LogHandler
from provisioner.store.events import EventRecord
from provisioner.system.clock import FakeClock


class Recorded:
    def __init__(self, count: int) -> None:
        self.records = [EventRecord(i + 1, 5.0, Event("a", f"message {i + 1}")) for i in range(count)]

    def since(self, since: int, limit: int) -> Sequence[EventRecord]:
        return [record for record in self.records if record.id > since][:limit]


def test_the_tail_begins_at_the_end_and_misses_nothing() -> None:
    recorded, seen = Recorded(2500), RecordingObserver()
    tail = Tail(recorded, seen)
    tail()
    assert seen.events == []
    recorded.records += [EventRecord(i, 6.0, Event("b", f"new {i}")) for i in range(2501, 4001)]
    tail()
    tail()
    assert [event.message for event in seen.events] == [f"new {i}" for i in range(2501, 4001)]


def test_work_is_done_after_a_change_and_a_last_time_at_the_end() -> None:
    callbacks: list[Callable[[frozenset[str]], None]] = []
    done = threading.Semaphore(0)
    times: list[int] = []

    def work() -> None:
        times.append(1)
        done.release()

    def listen(callback: Callable[[frozenset[str]], None]) -> Callable[[], None]:
        callbacks.append(callback)
        return callbacks.clear

    follower = Follower(listen, [work], RecordingObserver())
    follower.start()
    callbacks[0](frozenset())
    assert done.acquire(timeout=10)
    before = len(times)
    follower.stop()
    assert len(times) > before
    assert callbacks == []


def test_work_that_fails_is_said_once_and_keeps_no_other_from_working() -> None:
    broken = True
    times: list[int] = []

    def fail() -> None:
        if broken:
            raise HostError("dnsmasq ended", hint="read its log")

    seen = RecordingObserver()
    follower = Follower(lambda callback: lambda: None, [fail, lambda: times.append(1)], seen)
    follower.do_work()
    follower.do_work()
    assert len(times) == 2
    assert [event.message for event in seen.events] == ["dnsmasq ended"]
    broken = False
    follower.do_work()
    broken = True
    follower.do_work()
    assert len(seen.events) == 2
    follower.stop()


def test_a_fault_in_the_work_does_not_end_the_thread() -> None:
    logged: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.append(record)

    def fail() -> None:
        raise ZeroDivisionError

    keep = Keep()
    logger = logging.getLogger("provisioner.server.follower")
    logger.addHandler(keep)
    try:
        follower = Follower(lambda callback: lambda: None, [fail], RecordingObserver())
        follower.do_work()
        follower.do_work()
    finally:
        logger.removeHandler(keep)
    assert len(logged) == 1 and logged[0].exc_info is not None


def test_log_lines_are_one_line_each_with_time_kind_node_and_data() -> None:
    stream = io.StringIO()
    log = Log(FakeClock(1_700_000_000.25), stream)
    log(Event("step.done", "written\nand\x1b[2Jread", node="node1", data={"seconds": 2.5, "id": "a b"}))
    log(Event("step.progress", "every second", node="node1"))
    log(Event("serve.ready", "ready"))
    assert stream.getvalue().splitlines() == [
        '2023-11-14T22:13:20.250Z step.done node1 written | and [2Jread seconds=2.5 id="a b"',
        "2023-11-14T22:13:20.250Z serve.ready - ready",
    ]


def test_warnings_of_libraries_are_lines_of_the_same_log() -> None:
    stream = io.StringIO()
    logger = logging.Logger("library")
    logger.addHandler(LogHandler(Log(FakeClock(), stream)))
    logger.info("chatter")
    logger.warning("two\nlines")
    kinds = [line.split(" ", 1)[1] for line in stream.getvalue().splitlines()]
    assert kinds == ["log.warning - library: two", "log.warning - library: lines"]
