"""How fast a rack's controllers are enrolled, asked and found dead, beside ipmitool over the same ones, in one run.

``tox -e bench-bmc``. A thousand ``ipmi_sim`` on the loopback, of which each is a program of its own: 8 GB of memory,
five minutes on two processors. No root.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml
from table import Row, memory_of, say, show

from provisioner.bmc.sweep import Sweeper
from provisioner.errors import BmcError
from provisioner.lab.controller import EMULATION
from provisioner.model.hardware import BmcAddress, SecretRef

BIN = Path(sys.executable).parent
FIRST_PORT = 20_000
ENROLLED, SWEPT, DEAD = 200, 1000, 100
IPMITOOL_WORKERS = 8
"""What Ironic asks all BMCs with."""
PASSWORD = "S3cret-of-the-bench"
LIMIT = 60.0
LAN = """name "bench"
set_working_mc 0x20
  startlan 1
    addr 127.0.0.1 {port}
    priv_limit admin
    allowed_auths_admin none md2 md5 straight
    guid a123456789abcdefa1234567{port:08x}
  endlan
  user 2 true "admin" "{password}" admin 10 none md2 md5 straight
"""
PING = bytes.fromhex("0600ff06000011be80000000")  # ASF presence ping


class Simulators:
    """``count`` ipmi_sims, at UDP ports that follow each other."""

    def __init__(self, folder: Path, count: int) -> None:
        self.processes = []
        for port in range(FIRST_PORT, FIRST_PORT + count):
            place = folder / str(port)
            (place / "state").mkdir(parents=True)
            (place / "lan.conf").write_text(LAN.format(port=port, password=PASSWORD))
            (place / "emulation").write_text(EMULATION)
            words = ["ipmi_sim", "-n", "-c", "lan.conf", "-f", "emulation", "-s", "state"]
            quiet = subprocess.DEVNULL
            self.processes.append(subprocess.Popen(words, cwd=place, stdin=quiet, stdout=quiet, stderr=quiet))
        for port in range(FIRST_PORT, FIRST_PORT + count):
            _wait_for(port)

    def kill(self, numbers: range) -> None:
        for number in numbers:
            self.processes[number].kill()
            self.processes[number].wait()

    def close(self) -> None:
        self.kill(range(len(self.processes)))


def _wait_for(port: int) -> None:
    end = time.monotonic() + LIMIT
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(0.1)
        probe.connect(("127.0.0.1", port))
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                probe.send(PING)
                probe.recv(100)
                return
            time.sleep(0.02)
    raise SystemExit(f"ipmi_sim at port {port} does not answer")


def bmcs(numbers: range) -> dict[str, tuple[BmcAddress, str]]:
    """Address and password of simulators, for a sweep."""
    ref = SecretRef(env="UNUSED")
    return {
        str(number): (
            BmcAddress(address="127.0.0.1", port=FIRST_PORT + number, username="admin", password=ref),
            PASSWORD,
        )
        for number in numbers
    }


def sweep(sweeper: Sweeper, numbers: range, living: int) -> float:
    """Seconds until the last of the ``living`` has answered."""
    start, last, seen = time.monotonic(), 0.0, 0
    for batch in sweeper.sweep(bmcs(numbers), 8.0):
        answered = sum(not isinstance(answer, BmcError) for answer in batch.values())
        if answered:
            seen, last = seen + answered, time.monotonic() - start
    if seen != living:
        raise SystemExit(f"{seen} of {living} controllers answered")
    return last


def ipmitool_seconds(count: int, password_file: Path) -> float:
    """Seconds for each node with :data:`IPMITOOL_WORKERS` at once."""

    def ask(number: int) -> int:
        port = str(FIRST_PORT + number)
        words = ["ipmitool", "-I", "lanplus", "-C", "3", "-H", "127.0.0.1", "-p", port, "-U", "admin"]
        words += ["-f", str(password_file), "chassis", "power", "status"]
        return subprocess.run(words, capture_output=True, timeout=LIMIT, check=False).returncode

    start = time.monotonic()
    with ThreadPoolExecutor(IPMITOOL_WORKERS) as workers:
        if any(workers.map(ask, range(count))):
            raise SystemExit("ipmitool failed")
    return (time.monotonic() - start) / count


@contextlib.contextmanager
def service(folder: Path) -> Iterator[list[str]]:
    """A real ``provisioner serve``; gives the command line of its client."""
    config = folder / "provisioner.conf"
    config.write_text(f"[DEFAULT]\nstate_dir = {folder}/state\nrun_dir = {folder}/run\n[hardware]\nsweep_seconds = 0\n")
    client = [str(BIN / "provisioner"), "--config", str(config)]
    with (folder / "serve.log").open("wb") as log:
        process = subprocess.Popen([*client, "serve"], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            end = time.monotonic() + LIMIT
            while (
                not (folder / "run" / "api.sock").exists() or b"serve.ready" not in (folder / "serve.log").read_bytes()
            ):
                if time.monotonic() > end or process.poll() is not None:
                    raise SystemExit(f"the service did not start: {(folder / 'serve.log').read_text()}")
                time.sleep(0.05)
            yield client
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=LIMIT)


def hardware_file(path: Path, password_file: Path) -> None:
    nodes = [
        {
            "name": f"n{number:04}",
            "bmc": {"address": "127.0.0.1", "port": FIRST_PORT + number},
            "ports": [{"mac": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"}],
        }
        for number in range(ENROLLED)
    ]
    defaults = {"bmc": {"username": "admin", "password": {"file": str(password_file)}}}
    path.write_text(yaml.safe_dump({"defaults": defaults, "nodes": nodes}))


def run(argv: list[str], codes: tuple[int, ...] = (0,)) -> tuple[float, str]:
    start = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT * 3, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{argv} ended with code {done.returncode}: {done.stdout[-2000:]} {done.stderr[-2000:]}")
    return time.monotonic() - start, done.stdout


def service_rows(folder: Path, simulators: Simulators, password_file: Path) -> list[Row]:
    """Through the command line and the daemon, as an operator does it."""
    hardware_file(folder / "rack.yaml", password_file)
    with service(folder) as client:
        enroll, out = run([*client, "node", "enroll", str(folder / "rack.yaml"), "-o", "json"])
        if [row["result"] for row in json.loads(out)] != ["enrolled"] * ENROLLED:
            raise SystemExit("not all were enrolled")
        say(f"enrolled {ENROLLED}: {enroll:.2f} s")
        again, out = run([*client, "node", "enroll", str(folder / "rack.yaml"), "-o", "json"])
        if [row["result"] for row in json.loads(out)] != ["unchanged"] * ENROLLED:
            raise SystemExit("enrolling again changed something")
        run([*client, "node", "sweep"])
        simulators.kill(range(1))
        dead, out = run([*client, "node", "sweep", "-o", "json"], codes=(1,))
        errors = [row for row in json.loads(out) if row["error"]]
        if [row["node"] for row in errors] != ["n0000"]:
            raise SystemExit("the dead one was not named")
        say(f"a dead one of {ENROLLED} is named: {dead:.1f} s")
    return [
        Row(f"enroll and verify {ENROLLED} ipmi_sim BMCs", enroll, 3, "s", f"again, nothing changes: {again:.2f} s"),
        Row(
            "until a dead BMC is reported",
            dead,
            10,
            "s",
            f"{errors[0]['error']['summary']}: {errors[0]['error']['cause']}",
        ),
    ]


def sweep_rows(simulators: Simulators, password_file: Path, rounds: int) -> list[Row]:
    sweeper = Sweeper()
    try:
        everyone, living = range(SWEPT), range(DEAD, SWEPT)
        first = sweep(sweeper, everyone, SWEPT)
        say(f"first sweep of {SWEPT}, with logging in: {first:.2f} s")
        live, tool = [], []
        for _ in range(rounds):
            live.append(sweep(sweeper, everyone, SWEPT))
            tool.append(ipmitool_seconds(ENROLLED, password_file))
            say(f"live sweep of {SWEPT}: {live[-1]:.3f} s; ipmitool for each: {tool[-1] * 1000:.1f} ms")
        pid = sweeper.pid()
        assert pid is not None
        memory = memory_of(pid, "VmRSS")
        simulators.kill(range(DEAD))
        sweep(sweeper, everyone, len(living))  # its dead sessions are found dead here, once
        without, among = [], []
        for _ in range(rounds):
            among.append(sweep(sweeper, everyone, len(living)))
            sweep(sweeper, living, len(living))  # the first after a change carries the list of all
            without.append(sweep(sweeper, living, len(living)))
            sweep(sweeper, everyone, len(living))
            say(f"{len(living)} among {DEAD} dead: {among[-1]:.3f} s; alone: {without[-1]:.3f} s")
    finally:
        sweeper.close()
    ours, theirs = statistics.median(live) / SWEPT, statistics.median(tool)
    return [
        Row(
            f"sweep of {SWEPT} live sessions ÷ ipmitool with {IPMITOOL_WORKERS} workers, each node",
            ours / theirs,
            1 / 50,
            "",
            f"{ours * 1e6:.0f} µs ÷ {theirs * 1e6:.0f} µs, {theirs / ours:.0f} × faster; with logging in {first:.2f} s",
        ),
        Row(
            f"sweep of {len(living)} among {DEAD} dead ÷ without the dead",
            statistics.median(among) / statistics.median(without),
            1.5,
            "",
            f"{statistics.median(among):.3f} s ÷ {statistics.median(without):.3f} s",
        ),
        Row(f"memory of the poller at {SWEPT} sessions", memory, 150, "MB", "VmRSS"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often each sweep is repeated")
    parser.add_argument("--results", type=Path, help="also write the table there, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-bmc.") as name:
        folder = Path(name)
        password_file = folder / "password"
        password_file.write_text(PASSWORD + "\n")
        password_file.chmod(0o600)
        say(f"starting {SWEPT} simulators")
        simulators = Simulators(folder / "bmcs", SWEPT)
        try:
            rows = sweep_rows(simulators, password_file, given.rounds)
        finally:
            simulators.close()
        simulators = Simulators(folder / "again", ENROLLED)
        try:
            rows = service_rows(folder, simulators, password_file) + rows
        finally:
            simulators.close()
    show(rows, given.results)


if __name__ == "__main__":
    main()
