"""The driver ``ipmi`` against OpenIPMI's ``ipmi_sim``, a code base of its own, on the loopback; no root needed."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from provisioner.bmc.worker import BmcWorker
from provisioner.errors import BmcError, BmcRefused, BmcSilent
from provisioner.events import RecordingObserver
from provisioner.lab.controller import EMULATION
from provisioner.model.hardware import BmcAddress, BootDevice, Power, SecretRef

pytestmark = pytest.mark.integration

PASSWORD = "S3cret-of-the-bench"
DEADLINE = 8.0
PROMISE = 10.0
"""Seconds within which a wrong password and a silent controller are named."""
PING = bytes.fromhex("0600ff06000011be80000000")  # ASF presence ping
CHASSIS = """#!/bin/sh
folder=$1 verb=$2
shift 2
if [ "$verb" = get ]; then
    for word; do
        echo "$word:$(cat "$folder/$word")"
    done
else
    echo "$*" >> "$folder/log"
    case $1 in power | boot) echo "$2" > "$folder/$1" ;; esac
fi
"""
LAN = """name "bench"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa1234567{port:08x}
  endlan
  chassis_control "{folder}/chassis {folder}"
  {sol}
  user 2 true "admin" "{password}" admin 10 none md2 md5 straight
"""


class Simulator:
    """One ipmi_sim; its folder holds ``power`` and ``boot``, and in ``log`` what it was told."""

    def __init__(self, folder: Path, port: int, password: str = PASSWORD, serial: int | None = None) -> None:
        self.folder = folder
        self.port = port
        folder.mkdir()
        (folder / "state").mkdir()
        (folder / "power").write_text("0")
        (folder / "boot").write_text("default")
        (folder / "log").touch()
        (folder / "chassis").write_text(CHASSIS)
        (folder / "chassis").chmod(0o755)
        sol = f'sol "telnet:127.0.0.1:{serial}" 115200' if serial else ""
        (folder / "lan.conf").write_text(LAN.format(port=port, folder=folder, password=password, sol=sol))
        (folder / "emulation").write_text(EMULATION)
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            ["ipmi_sim", "-n", "-c", "lan.conf", "-f", "emulation", "-s", "state"],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 20
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.settimeout(0.1)
            probe.connect(("127.0.0.1", self.port))
            while True:
                try:
                    probe.send(PING)
                    probe.recv(100)
                    return
                except OSError:
                    assert time.monotonic() < end, "ipmi_sim does not answer"
                    time.sleep(0.02)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def bmc(self) -> BmcAddress:
        return bmc(self.port)

    def told(self) -> list[str]:
        return (self.folder / "log").read_text().splitlines()


def bmc(port: int, username: str = "admin") -> BmcAddress:
    return BmcAddress(address="127.0.0.1", port=port, username=username, password=SecretRef(env="UNUSED"))


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


@contextmanager
def responder(answer: Callable[[bytes], bytes | None]) -> Iterator[int]:
    """A UDP port that answers each packet with what ``answer`` makes of it, or not at all."""
    door = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    door.bind(("127.0.0.1", 0))
    door.settimeout(0.1)
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                packet, sender = door.recvfrom(4096)
            except TimeoutError:
                continue
            reply = answer(packet)
            if reply is not None:
                door.sendto(reply, sender)

    thread = threading.Thread(target=serve)
    thread.start()
    yield int(door.getsockname()[1])
    stop.set()
    thread.join()
    door.close()


@pytest.fixture(scope="module")
def simulators(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Simulator]]:
    folder = tmp_path_factory.mktemp("bmcs")
    started: list[Simulator] = []
    try:
        for number in range(3):
            started.append(Simulator(folder / str(number), free_port()))
        yield started
    finally:
        for simulator in started:
            simulator.stop()


@pytest.fixture
def observer() -> RecordingObserver:
    return RecordingObserver()


@pytest.fixture
def worker(observer: RecordingObserver) -> Iterator[BmcWorker]:
    door = BmcWorker(observer)
    yield door
    door.close()


def test_a_controller_says_who_it_is(worker: BmcWorker, simulators: list[Simulator]) -> None:
    facts = worker.verify(simulators[0].bmc, PASSWORD, DEADLINE)
    assert facts["guid"] == f"a123456789abcdefa1234567{simulators[0].port:08x}"
    assert (facts["ipmi_version"], facts["firmware"]) == ("2.0", "9.08")
    assert (facts["manufacturer_id"], facts["product_id"]) == (0x1291, 0xF02)
    assert (facts["privilege"], facts["power"]) == ("administrator", "off")


def test_power_goes_on_through_reset_and_off_and_nothing_is_sent_twice(
    worker: BmcWorker, simulators: list[Simulator]
) -> None:
    simulator = simulators[0]
    start = len(simulator.told())
    for want in ("on", "on", "reset", "off", "off", "reset", "off"):
        power = worker.set_power(simulator.bmc, PASSWORD, want, DEADLINE)  # type: ignore[arg-type]
        assert power is (Power.OFF if want == "off" else Power.ON)
        assert (simulator.folder / "power").read_text().strip() == ("0" if want == "off" else "1")
    assert simulator.told()[start:] == ["power 1", "reset 1", "power 0", "power 1", "power 0"]
    assert worker.power(simulator.bmc, PASSWORD, DEADLINE) is Power.OFF


def test_the_boot_device_arrives_and_is_read_back(
    worker: BmcWorker, simulators: list[Simulator], observer: RecordingObserver
) -> None:
    simulator = simulators[0]
    for device, word in ((BootDevice.PXE, "pxe"), (BootDevice.DISK, "default")):
        worker.set_boot_device(simulator.bmc, PASSWORD, device, True, DEADLINE)
        assert (simulator.folder / "boot").read_text().strip() == word
    assert observer.events == []


def test_a_sweep_of_the_rack_is_not_held_up_by_what_is_dead(worker: BmcWorker, simulators: list[Simulator]) -> None:
    with ThreadPoolExecutor(4) as pool:
        dead = pool.submit(worker.power, bmc(free_port()), PASSWORD, DEADLINE)
        answers = [pool.submit(worker.power, simulator.bmc, PASSWORD, DEADLINE) for simulator in simulators]
        assert [answer.result() for answer in answers] == [Power.OFF] * 3
        assert not dead.done(), "the others were answered only after the dead one was given up"
        assert isinstance(dead.exception(), BmcSilent)


def test_a_wrong_password_and_an_unknown_user_are_told_apart(worker: BmcWorker, simulators: list[Simulator]) -> None:
    simulator = simulators[1]
    for address, password, words in (
        (simulator.bmc, "S3cret-of-another", "the password is wrong"),
        (bmc(simulator.port, "nobody"), PASSWORD, "the user is unknown"),
    ):
        start = time.monotonic()
        with pytest.raises(BmcRefused) as caught:
            worker.verify(address, password, DEADLINE)
        assert time.monotonic() - start < PROMISE
        assert caught.value.summary == words
        assert caught.value.where == f"127.0.0.1:{simulator.port}"
        assert "S3cret" not in str(caught.value.to_dict())
    assert worker.power(simulator.bmc, PASSWORD, DEADLINE) is Power.OFF


def test_the_command_of_a_hint_works_when_run_by_hand(
    worker: BmcWorker, simulators: list[Simulator], tmp_path: Path
) -> None:
    with pytest.raises(BmcRefused) as caught:
        worker.verify(simulators[1].bmc, "S3cret-of-another", DEADLINE)
    file = tmp_path / "password"
    file.write_text(PASSWORD)
    command = (caught.value.hint or "").partition("by hand: ")[2].replace("PASSWORD_FILE", str(file))
    done = subprocess.run(shlex.split(command), capture_output=True, text=True, timeout=30)
    assert done.stdout == "Chassis Power is off\n", done.stderr


NOISE: dict[str, Callable[[bytes], bytes | None]] = {
    "silence": lambda packet: None,
    "echo": lambda packet: packet,
    "zeros": lambda packet: bytes(64),
    "noise": lambda packet: os.urandom(80),
    "header and noise": lambda packet: b"\x06\x00\xff\x07\x06" + os.urandom(60),
    "half a header": lambda packet: b"\x06\x00\xff\x07\x06",
}


@pytest.mark.parametrize("kind", sorted(NOISE))
def test_what_is_not_a_controller_is_named_in_time(worker: BmcWorker, simulators: list[Simulator], kind: str) -> None:
    with responder(NOISE[kind]) as port:
        start = time.monotonic()
        with pytest.raises(BmcError) as caught:
            worker.verify(bmc(port), PASSWORD, 60.0)
        assert time.monotonic() - start < PROMISE
    assert kind != "silence" or isinstance(caught.value, BmcSilent)
    assert caught.value.where == f"127.0.0.1:{port}"
    assert caught.value.cause and "None" not in caught.value.cause
    assert f"ipmitool -I lanplus -H 127.0.0.1 -p {port} -U admin -f PASSWORD_FILE" in (caught.value.hint or "")


def test_a_controller_that_stops_after_the_users_name_is_named_in_time(
    worker: BmcWorker, simulators: list[Simulator]
) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as behind:
        behind.connect(("127.0.0.1", simulators[2].port))

        def up_to_the_name(packet: bytes) -> bytes | None:
            if packet[4] == 6 and packet[5] & 0x3F == 0x12:  # RMCP+, RAKP message 1
                return None
            behind.send(packet)
            return behind.recv(4096)

        with responder(up_to_the_name) as port:
            start = time.monotonic()
            with pytest.raises(BmcSilent) as caught:
                worker.verify(bmc(port), PASSWORD, DEADLINE)
            assert time.monotonic() - start < PROMISE
    assert "do not know the user" in (caught.value.cause or "")


def test_a_session_that_the_controller_forgot_is_opened_again(worker: BmcWorker, simulators: list[Simulator]) -> None:
    simulator = simulators[2]
    assert worker.set_power(simulator.bmc, PASSWORD, "on", DEADLINE) is Power.ON
    simulator.stop()
    simulator.start()
    assert worker.set_power(simulator.bmc, PASSWORD, "off", DEADLINE) is Power.OFF


def test_a_controller_that_dies_with_a_session_open_is_silent_in_time(
    worker: BmcWorker, simulators: list[Simulator]
) -> None:
    simulator = simulators[2]
    worker.power(simulator.bmc, PASSWORD, DEADLINE)
    simulator.stop()
    try:
        start = time.monotonic()
        with pytest.raises(BmcSilent):
            worker.set_power(simulator.bmc, PASSWORD, "on", DEADLINE)
        assert time.monotonic() - start < PROMISE
    finally:
        simulator.start()


def test_the_password_is_in_no_command_line_and_no_environment(worker: BmcWorker, simulators: list[Simulator]) -> None:
    for simulator in simulators:
        worker.power(simulator.bmc, PASSWORD, DEADLINE)
    parent = worker.pid()
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert len(children) == 3
    for pid in (parent, *children):
        for name in ("cmdline", "environ"):
            assert PASSWORD.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()


def test_light_log_sensors_and_inventory(worker: BmcWorker, simulators: list[Simulator]) -> None:
    """What was set is confirmed by the simulator's own record, and the log by ipmitool, which put an event into it."""
    simulator = simulators[2]
    start = len(simulator.told())
    worker.identify(simulator.bmc, PASSWORD, 30, DEADLINE)
    worker.identify(simulator.bmc, PASSWORD, None, DEADLINE)
    worker.identify(simulator.bmc, PASSWORD, 0, DEADLINE)
    assert simulator.told()[start:] == ["identify 30 0", "identify 0 1", "identify 0 0"]
    assert worker.read(simulator.bmc, PASSWORD, "log", 30.0) == []
    words = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", str(simulator.port), "-U", "admin"]
    hot = [
        "0x0a",
        "0x44",
        "0",
        "0",
        "0x02",
        "0",
        "0",
        "0",
        "0",
        "0x20",
        "0",
        "0x04",
        "0x01",
        "0x30",
        "0x01",
        "0x59",
        "0x64",
        "0x5a",
    ]  # 31.6: a temperature, too high
    subprocess.run([*words, "-P", PASSWORD, "raw", *map(str, hot)], check=True, capture_output=True, timeout=30)
    (entry,) = worker.read(simulator.bmc, PASSWORD, "log", 30.0)
    assert "pper critical" in entry["event"] and "48" in entry["sensor"]
    assert worker.read(simulator.bmc, PASSWORD, "sensors", 30.0) == []
    assert isinstance(worker.read(simulator.bmc, PASSWORD, "inventory", 30.0), dict)


def test_a_soft_end_and_a_cycle(worker: BmcWorker, simulators: list[Simulator]) -> None:
    simulator = simulators[2]
    worker.set_power(simulator.bmc, PASSWORD, "on", DEADLINE)
    start = len(simulator.told())
    with pytest.raises(BmcError, match="did not turn off"):  # this chassis has no operating system that would obey
        worker.set_power(simulator.bmc, PASSWORD, "soft", 2.0)
    assert simulator.told()[start:] == ["shutdown 1"]


def test_a_password_is_changed_proved_and_else_set_back(worker: BmcWorker, tmp_path: Path) -> None:
    """This simulator keeps 16 of 20 bytes and says nothing of it, as some controllers do."""
    simulator = Simulator(tmp_path / "bmc", free_port(), "the-first-S3cret")
    try:
        for old, new in (("the-first-S3cret", "another-S3cret"), ("another-S3cret", "a-S3cret-of-16-b")):
            worker.change_password(simulator.bmc, old, new, DEADLINE)
            assert worker.power(simulator.bmc, new, DEADLINE) is Power.OFF
            with pytest.raises(BmcRefused, match="password is wrong"):
                worker.power(simulator.bmc, old, DEADLINE)
        with pytest.raises(BmcError, match="does not keep the new password"):
            worker.change_password(simulator.bmc, "a-S3cret-of-16-b", "a-S3cret-of-20-bytes", DEADLINE)
        assert worker.power(simulator.bmc, "a-S3cret-of-16-b", DEADLINE) is Power.OFF
    finally:
        simulator.stop()


def test_the_audit_finds_what_this_simulator_is_known_for(worker: BmcWorker, simulators: list[Simulator]) -> None:
    """It takes cipher suite 0 with any password and has no SHA-256; ipmitool is the witness for the first."""
    simulator = simulators[0]
    found = {finding["check"]: finding for finding in worker.audit(simulator.bmc, PASSWORD, 60.0)}
    assert {"cipher-zero", "no-suite-17"} <= set(found)
    assert "default-password" not in found and "null-user" not in found
    assert f"-p {simulator.port}" in found["cipher-zero"]["mend"]
    words = ["ipmitool", "-I", "lanplus", "-C", "0", "-H", "127.0.0.1", "-p", str(simulator.port), "-U", "admin"]
    witness = subprocess.run(
        [*words, "-P", "not-the-one", "power", "status"], capture_output=True, timeout=30, check=False
    )
    assert witness.returncode == 0


def greet(node: socket.socket, stop: threading.Event) -> None:
    """What a node writes before the console's session is there is not shown, so it writes again."""
    while not stop.wait(0.2):
        node.sendall(b"login: ")


def test_a_serial_console_carries_bytes_both_ways_and_ends(worker: BmcWorker, tmp_path: Path) -> None:
    """The node's serial port is a socket, as QEMU's is in the lab."""
    with socket.create_server(("127.0.0.1", 0)) as serial:
        serial.settimeout(20)
        simulator = Simulator(tmp_path / "bmc", free_port(), serial=serial.getsockname()[1])
        console = worker.console(simulator.bmc, PASSWORD)
        try:
            node, _ = serial.accept()
            node.settimeout(20)
            with node:
                stop = threading.Event()
                thread = threading.Thread(target=lambda: greet(node, stop))
                thread.start()
                shown = b""
                while b"login:" not in shown:
                    shown += console.read()
                stop.set()
                thread.join()
                console.write(b"root\r")
                typed = b""
                while b"root\r" not in typed:
                    typed += node.recv(100)
            console.close()
            while console.read():
                pass
        finally:
            console.close()
            simulator.stop()


def test_a_console_that_cannot_be_had_says_why(worker: BmcWorker, simulators: list[Simulator]) -> None:
    wrong = worker.console(simulators[0].bmc, "not-the-one")
    with pytest.raises(BmcRefused, match="the password is wrong"):
        wrong.read()
    wrong.close()
    without = worker.console(simulators[0].bmc, PASSWORD)
    with pytest.raises(BmcRefused, match="gives no console"):
        without.read()
    without.close()
    redfish = BmcAddress(driver="redfish", address="127.0.0.1", username="admin", password=SecretRef(env="UNUSED"))
    with pytest.raises(BmcRefused, match="by IPMI only"):
        worker.console(redfish, PASSWORD)
