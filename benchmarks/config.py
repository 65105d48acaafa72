"""How soon a change of the cloud file is in force, what waiting for one costs, and the agent beside os-apply-config.

``tox -e bench-config``. A thousand simulated instances (``provisioner lab fleet``) and the real service share this
machine's processors. Ten minutes on two of them.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml
from fleet import PROGRAM, run, started, wait_for, write_config
from table import Row, memory_of, say, show
from trees import plan_row

from provisioner.client.client import Client

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "unit"))
from agent_server import TOKEN, served  # noqa: E402  a server for one agent, of the unit tests

BIN = Path(sys.executable).parent
IDLE = 60.0
CHANGES = 5
TURNS = 9
LIMIT = 120.0
TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """Of a process, its children not counted (proc(5))."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / TICKS


def change_value(cloud: Path, value: int) -> None:
    desired = yaml.safe_load(cloud.read_text())
    desired["roles"]["fleet"]["values"] = {"setting": value}
    cloud.write_text(yaml.safe_dump(desired, sort_keys=False))


def fleet_rows(folder: Path, count: int) -> list[Row]:
    config, manifests = write_config(folder), folder / "fleet"
    words = ["lab", "fleet", "--nodes", str(count), "--folder", str(manifests)]
    cloud = manifests / "cloud.yaml"
    with started(config, *words), started(config, "serve") as service, Client(folder / "run" / "api.sock") as client:
        wait_for("the fleet", folder / "lab.log", b"Elsewhere")
        wait_for("the service", folder / "serve.log", b"serve.ready")
        run(config, "node", "enroll", str(manifests / "hardware.yaml"))
        run(config, "apply", str(cloud), "--wait", "--timeout", "1500")
        say(f"{count} are active")
        time.sleep(10)
        before = cpu_seconds(service.pid)
        time.sleep(IDLE)
        share = (cpu_seconds(service.pid) - before) / IDLE * 100
        memory = memory_of(service.pid, "VmRSS")
        say(f"idle: {share:.1f} % of one core, {memory:.0f} MB")
        plans, took = [], []
        for turn in range(1, CHANGES + 1):
            change_value(cloud, turn)
            plans.append(run(config, "plan", str(cloud), codes=(2,)))
            begun = time.monotonic()
            run(config, "apply", str(cloud))
            while any(member.applied < member.generation for member in client.cloud_status("fleet").members):
                if time.monotonic() - begun > LIMIT:
                    raise SystemExit(f"a change was not everywhere within {LIMIT:.0f} s")
                time.sleep(0.1)
            took.append(time.monotonic() - begun)
            say(f"change {turn}: {took[-1]:.2f} s, its plan {plans[-1]:.2f} s")
    waiting = f"{count} agents that wait"
    return [
        Row(f"a change, applied and acknowledged by {count} agents", statistics.median(took), 2, "s", "with apply"),
        Row(f"{waiting}: the service's memory", memory, 150, "MB", "after their deployment"),
        Row(f"{waiting}: the service's processor", share, 2, "%", "of one core"),
        Row(
            f"plan of a changed value for {count} nodes",
            statistics.median(plans),
            3,
            "s",
            "one file each, by the command",
        ),
    ]


def agent_row(folder: Path) -> Row:
    """The real agent, waiting for a change of a server that answers."""
    root = folder / "root"
    (root / "etc/provisioner-agent").mkdir(parents=True)
    with served() as server:
        agent = {"url": server.url, "token": TOKEN, "node": "n1", "hostname": "n1"}
        (root / "etc/provisioner-agent/agent.json").write_text(json.dumps(agent))
        process = subprocess.Popen([BIN / "provisioner-agent", "run", "--root", root], stdout=subprocess.DEVNULL)
        time.sleep(8)
        memory = memory_of(process.pid, "VmRSS")
        process.terminate()
        process.wait()
    return Row("the agent at rest", memory, 25, "MB", "resident")


def render_row(folder: Path) -> Row:
    tree, data = folder / "tree", folder / "data.json"
    tree.mkdir(parents=True)
    for number in range(100):
        text = (
            "{{#services}}\nlisten {{name}}\n{{#nodes}}\n  server {{name}} {{ip}}:{{port}}\n{{/nodes}}\n{{/services}}\n"
        )
        (tree / f"file-{number}").write_text(f"{text}option {number} {{{{option.a}}}}\n")
    nodes = [{"name": f"n{number}", "ip": f"10.0.0.{number}"} for number in range(5)]
    services = [{"name": f"s{number}", "port": number, "nodes": nodes} for number in range(10)]
    data.write_text(json.dumps({"services": services, "option": {"a": 1}}))
    times: dict[str, list[float]] = {"ours": [], "theirs": []}
    programs = {"ours": [BIN / "provisioner-agent", "apply"], "theirs": [BIN / "os-apply-config"]}
    for turn in range(TURNS):
        for name, program in programs.items():
            out = folder / f"{name}-{turn}"
            begun = time.monotonic()
            subprocess.run([*program, "-m", data, "-t", tree, "-o", out], capture_output=True, check=True)
            times[name].append(time.monotonic() - begun)
    ours, theirs = (statistics.median(times[name]) for name in ("ours", "theirs"))
    return Row(
        "a fresh tree of 100 templates ÷ os-apply-config", ours / theirs, 1, "", f"{ours:.2f} s ÷ {theirs:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000, help="how many instances wait for a change")
    parser.add_argument("--results", type=Path, help="also write the table there, as JSON")
    given = parser.parse_args()
    print(f"with {PROGRAM}", file=sys.stderr)
    with tempfile.TemporaryDirectory(prefix="bench-config-") as name:
        folder = Path(name)
        rows = [render_row(folder), agent_row(folder), plan_row(folder / "plan", given.nodes)]
        rows += fleet_rows(folder, given.nodes)
    show(rows, given.results)
    sys.exit(0 if all(row.holds for row in rows) else 1)


if __name__ == "__main__":
    main()
