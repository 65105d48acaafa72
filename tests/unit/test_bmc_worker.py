"""The worker process from outside: hangs, crashes and garbage end in a clear error, and the next call works."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from provisioner.bmc.worker import BmcWorker, ipmitool
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.events import RecordingObserver
from provisioner.model.hardware import BmcAddress, BootDevice, Power, SecretRef

FAKE = (sys.executable, str(Path(__file__).with_name("bmc_fake_worker.py")))
LONG = 20.0
SHORT = 0.6


def bmc(address: str, driver: str = "ipmi", username: str = "admin") -> BmcAddress:
    return BmcAddress.model_validate(
        {"driver": driver, "address": address, "username": username, "password": SecretRef(env="UNUSED")}
    )


def wait_until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "did not come true"
        time.sleep(0.01)


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def worker(observer: RecordingObserver) -> Iterator[BmcWorker]:
    door = BmcWorker(observer, FAKE)
    yield door
    door.close()


def test_every_verb_goes_through(worker: BmcWorker, observer: RecordingObserver) -> None:
    assert worker.verify(bmc("a"), "right", LONG)["power"] == "off"
    assert worker.set_power(bmc("a"), "right", "on", LONG) is Power.ON
    assert worker.power(bmc("a"), "right", LONG) is Power.ON
    assert worker.power(bmc("b"), "right", LONG) is Power.OFF
    worker.set_boot_device(bmc("a"), "right", BootDevice.PXE, True, LONG)
    assert observer.events == []


def test_a_session_is_kept_for_the_next_call(worker: BmcWorker) -> None:
    first, second = (worker.verify(bmc("a"), "right", LONG) for _ in range(2))
    assert (second["pid"], second["calls"]) == (first["pid"], 2)


def test_a_changed_password_is_proved_anew(worker: BmcWorker) -> None:
    worker.power(bmc("a"), "right", LONG)
    with pytest.raises(BmcRefused):
        worker.power(bmc("a"), "changed", LONG)
    assert worker.power(bmc("a"), "right", LONG) is Power.OFF


def test_a_session_that_is_not_used_is_logged_out() -> None:
    door = BmcWorker(command=(*FAKE, "0.05"))
    try:
        pid = door.verify(bmc("a"), "right", LONG)["pid"]
        wait_until(lambda: not runs(pid))
        assert door.verify(bmc("a"), "right", LONG)["pid"] != pid
    finally:
        door.close()


@pytest.mark.parametrize("address", ["hangs", "hangs-hard", "hangs-later"])
def test_a_controller_that_hangs_is_silent(worker: BmcWorker, address: str) -> None:
    with pytest.raises(BmcSilent) as caught:
        worker.verify(bmc(address), "right", SHORT)
    assert caught.value.where == f"{address}:623"
    assert "-f PASSWORD_FILE" in (caught.value.hint or "")


def test_a_controller_that_hangs_holds_up_no_other(worker: BmcWorker) -> None:
    caught: list[BmcError] = []

    def hang() -> None:
        try:
            worker.power(bmc("hangs"), "right", LONG)
        except BmcError as error:
            caught.append(error)

    thread = threading.Thread(target=hang)
    thread.start()
    child = worker.verify(bmc("a"), "right", LONG)["pid"]
    assert worker.set_power(bmc("b"), "right", "on", LONG) is Power.ON
    assert worker.verify(bmc("a"), "right", LONG)["pid"] == child
    assert thread.is_alive(), "the others were answered only after the one that hangs was given up"
    worker.close()
    thread.join()
    assert [type(error) for error in caught] == [BmcError]


def test_the_process_of_a_controller_that_hangs_is_killed(worker: BmcWorker) -> None:
    pid = worker.verify(bmc("a"), "right", LONG)["pid"]
    with pytest.raises(BmcSilent):
        worker.power(bmc("hangs-hard"), "right", SHORT)
    parent = worker.pid()
    children = Path(f"/proc/{parent}/task/{parent}/children")
    wait_until(lambda: children.read_text().split() == [str(pid)])


def test_a_crash_is_told_and_hurts_only_its_own_controller(worker: BmcWorker) -> None:
    pid = worker.verify(bmc("a"), "right", LONG)["pid"]
    with pytest.raises(BmcError) as caught:
        worker.set_power(bmc("crashes"), "right", "on", LONG)
    assert "not known" in (caught.value.cause or "")
    assert worker.power(bmc("crashes"), "right", LONG) is Power.OFF
    assert worker.verify(bmc("a"), "right", LONG)["pid"] == pid


def test_a_worker_that_was_killed_is_replaced(worker: BmcWorker) -> None:
    worker.power(bmc("a"), "right", LONG)
    pid = worker.pid()
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    try:
        worker.power(bmc("a"), "right", LONG)  # whether its end was noticed by now or not
    except BmcError as error:
        assert "code -9" in (error.cause or "")
    assert worker.power(bmc("a"), "right", LONG) is Power.OFF
    assert worker.pid() != pid


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("import sys; sys.stdin.readline(); print('[hello'); sys.stdin.read()", "not an answer"),
        ("import sys; sys.stdin.readline(); print('[1]', flush=True); sys.stdin.read()", "not an answer"),
        ("import sys; sys.exit('no such library')", "no such library"),
    ],
)
def test_a_worker_that_talks_nonsense_is_an_error_with_its_last_words(program: str, words: str) -> None:
    door = BmcWorker(command=(sys.executable, "-u", "-c", program))
    try:
        with pytest.raises(BmcError) as caught:
            door.power(bmc("a"), "right", LONG)
        assert words in (caught.value.cause or "")
    finally:
        door.close()


def test_a_driver_that_is_not_there_is_refused_by_name(worker: BmcWorker) -> None:
    with pytest.raises(BmcError, match="redfish") as caught:
        worker.verify(bmc("a", "redfish"), "right", LONG)
    assert "ipmi" in (caught.value.hint or "")


def test_a_refusal_names_address_cause_and_a_command_without_the_password(worker: BmcWorker) -> None:
    with pytest.raises(BmcRefused) as caught:
        worker.verify(bmc("a", username="o'neil"), "wr0ng", LONG)
    error = caught.value.to_dict()
    assert (error["where"], error["cause"]) == ("a:623", "the fake knows")
    assert error["hint"].count("ipmitool -I lanplus -H a -U 'o'\"'\"'neil' -f PASSWORD_FILE") == 2
    assert "user list 1" in error["hint"]
    assert "wr0ng" not in str(error)


def test_words_of_a_library_are_not_passed_on(worker: BmcWorker) -> None:
    with pytest.raises(BmcError) as caught:
        worker.verify(bmc("fails"), "right", LONG)
    assert "words" not in str(caught.value.to_dict())
    assert "RuntimeError" in (caught.value.cause or "")


def test_a_controller_that_cannot_say_its_boot_device_is_noted(worker: BmcWorker, observer: RecordingObserver) -> None:
    worker.set_boot_device(bmc("forgetful"), "right", BootDevice.DISK, False, LONG)
    assert observer.kinds() == ["bmc.unconfirmed"]


def test_many_threads_share_the_door_and_each_controller_is_served_in_turn(worker: BmcWorker) -> None:
    seen: dict[str, list[int]] = {f"c{number}": [] for number in range(4)}

    def ask(address: str) -> None:
        seen[address].append(worker.verify(bmc(address), "right", LONG)["calls"])

    threads = [threading.Thread(target=ask, args=(address,)) for address in seen for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {address: sorted(calls) for address, calls in seen.items()} == {address: [*range(1, 9)] for address in seen}


def test_the_password_is_in_no_command_line_and_no_environment(worker: BmcWorker) -> None:
    child = worker.verify(bmc("a"), "right", LONG)["pid"]
    for pid in (child, worker.pid()):
        for name in ("cmdline", "environ"):
            assert b"right" not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_closing_leaves_no_process_and_the_next_call_starts_again(worker: BmcWorker) -> None:
    pids = [worker.verify(bmc(address), "right", LONG)["pid"] for address in ("a", "b")]
    pids.append(worker.pid())
    worker.close()
    wait_until(lambda: not any(runs(pid) for pid in pids))
    assert worker.power(bmc("a"), "right", LONG) is Power.OFF


def test_the_operators_command_names_port_only_when_it_is_unusual() -> None:
    assert ipmitool(bmc("a")) == "ipmitool -I lanplus -H a -U admin -f PASSWORD_FILE chassis power status"
    unusual = bmc("a").model_copy(update={"port": 6230})
    assert " -H a -p 6230 -U " in ipmitool(unusual)
