"""What one seed carries: a thousand simulated servers from enrolling to active, and a list of ten thousand.

``tox -e bench-fleet``. The servers are a program (``provisioner lab fleet``), the service is the real one; both share
this machine's processors. A quarter of an hour on two of them; root for the one node that is really booted.
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
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from table import Row, memory_of, say, show

from provisioner.client.client import Client
from provisioner.model.hardware import BmcAddress, Disk, Firmware, HardwareReport, Nic, NodeSpec, Port, Power, SecretRef
from provisioner.store.store import Store
from provisioner.trust.keys import SiteKeys

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "integration"))
from rack import started_rack  # noqa: E402  the rack of the integration tests

PROGRAM = str(Path(sys.executable).parent / "provisioner")
LIMIT = 1500.0
LISTED = 10_000
LOOKS = 20


def free_port() -> int:
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def write_config(folder: Path) -> Path:
    config = folder / "provisioner.conf"
    config.write_text(
        f"[DEFAULT]\nstate_dir = {folder}/state\nrun_dir = {folder}/run\nsource_dir = {SOURCE}\n"
        f"[network]\ninterface = lo\naddress = 127.0.0.1/8\nhttp_port = {free_port()}\nhttps_port = {free_port()}\n"
        "[hardware]\nsweep_seconds = 0\n"
    )
    return config


@contextlib.contextmanager
def started(config: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    log = config.parent / f"{words[0]}.log"
    with log.open("wb") as file:
        argv = [PROGRAM, "--config", str(config), *words]
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def wait_for(what: str, path: Path, text: bytes, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not path.exists() or text not in path.read_bytes():
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds:.0f} s: {what}")
        time.sleep(0.05)


def run(config: Path, *words: str, codes: tuple[int, ...] = (0,)) -> float:
    """Seconds that a command took, which ended with one of these codes."""
    start = time.monotonic()
    argv = [PROGRAM, "--config", str(config), *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT, check=False)
    if done.returncode not in codes:
        raise SystemExit(f"{words} ended with code {done.returncode}: {done.stdout[-3000:]} {done.stderr[-2000:]}")
    return time.monotonic() - start


def fleet_rows(folder: Path, count: int) -> list[Row]:
    config = write_config(folder)
    manifests = folder / "fleet"
    words = ["lab", "fleet", "--nodes", str(count), "--folder", str(manifests)]
    with started(config, *words), started(config, "serve") as service:
        wait_for("the fleet", folder / "lab.log", b"Elsewhere")
        wait_for("the service", folder / "serve.log", b"serve.ready")
        begun = time.monotonic()
        enrolled = run(config, "node", "enroll", str(manifests / "hardware.yaml"))
        say(f"enrolled {count}: {enrolled:.1f} s")
        run(config, "apply", str(manifests / "cloud.yaml"), "--wait", "--timeout", str(int(LIMIT)))
        seconds = time.monotonic() - begun
        memory = memory_of(service.pid, "VmHWM")
        say(f"{count} active after {seconds:.1f} s")
        argv = [PROGRAM, "--config", str(config), "node", "list", "-o", "json"]
        states = Counter(node["state"] for node in json.loads(subprocess.check_output(argv)))
    if states != {"active": count}:
        raise SystemExit(f"not all are active: {dict(states)}")
    return [
        Row(f"{count} simulated nodes, enrolled → active", seconds, 300, "s", f"of it enrolling {enrolled:.1f} s"),
        Row(f"memory of the service at {count} nodes", memory, 300, "MB", "the most it had (VmHWM)"),
    ]


def fill(folder: Path, count: int) -> None:
    """Nodes as inspections leave them, straight into the records."""
    store = Store(f"sqlite:///{folder / 'state' / 'provisioner.db'}", SiteKeys.ensure(folder / "state" / "keys"))
    disks = tuple(Disk(name=f"sd{letter}", size=960 * 10**9, model="SSD", serial=f"s-{letter}") for letter in "abcd")
    with store.transaction():
        for number in range(count):
            name, mac = f"n{number:05}", f"52:54:02:{number >> 16 & 255:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
            password = SecretRef(file="/nowhere")
            bmc = BmcAddress(address=f"10.9.{number >> 8}.{number & 255}", username="admin", password=password)
            spec = NodeSpec(name=name, bmc=bmc, ports=(Port(mac=mac),))
            facts = {"manufacturer": "simulated"}
            store.nodes.add(str(uuid.uuid4()), spec, "x", power=Power.OFF, facts=facts, pool=(), now=1.0)
            nics = (Nic(name="eth0", mac=mac),)
            report = HardwareReport(cpus=64, memory_mib=262_144, firmware=Firmware.UEFI, disks=disks, nics=nics)
            store.nodes.set_hardware(name, report, 1.0)
    store.close()


def list_row(folder: Path) -> Row:
    config = write_config(folder)
    fill(folder, LISTED)
    say(f"{LISTED} nodes on record")
    with started(config, "serve"):
        wait_for("the service", folder / "serve.log", b"serve.ready")
        with Client(folder / "run" / "api.sock") as client:
            took = []
            for _ in range(LOOKS):
                start = time.monotonic()
                page, after = client.node_page()
                took.append((time.monotonic() - start) * 1000)
            if len(page) != 100 or after is None:
                raise SystemExit(f"a page has {len(page)} nodes")
            start = time.monotonic()
            everything = len(client.nodes())
            whole = time.monotonic() - start
    detail = f"the first time {took[0]:.0f} ms; all {everything} take {whole:.1f} s"
    return Row(f"node list of {LISTED}, first page, through the API", statistics.median(took), 200, "ms", detail)


def lab_row() -> Row:
    """One node of the virtual rack, with QEMU, from power-off to a healthy member: what of its time was ours."""
    say("one node of a virtual rack is deployed")
    with tempfile.TemporaryDirectory() as work, started_rack(Path(work), 1) as rack:
        rack.run("node", "enroll", f"{work}/hardware.yaml")
        rack.run("apply", str(rack.cloud(count=1)), "--wait")
        report = rack.json("deployment", "report", "node1")
    shares = report["shares"]
    whole = ", ".join(f"{share} {seconds:.1f} s" for share, seconds in shares.items())
    slowest = sorted((s for s in report["steps"] if s["seconds"]), key=lambda step: -step["seconds"])
    ours = [
        f"{s['step']} {s['seconds']:.1f}" for s in slowest if s["step"] not in ("hello", "write-image", "configure")
    ]
    return Row("our own share of one deployment in the lab", shares["ours"], 5, "s", f"{whole}; {', '.join(ours[:6])}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000, help="how many servers are deployed")
    parser.add_argument("--no-lab", dest="lab", action="store_false", help="leave the virtual rack out (it needs root)")
    parser.add_argument("--results", type=Path, help="also write the table there, as JSON")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-fleet-") as folder:
        (Path(folder) / "deploy").mkdir()
        (Path(folder) / "list").mkdir()
        rows = [list_row(Path(folder) / "list"), *fleet_rows(Path(folder) / "deploy", given.nodes)]
        if given.lab:
            rows.append(lab_row())
    show(rows, given.results)
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
