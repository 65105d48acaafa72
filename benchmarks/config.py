"""How soon a change of the cloud file is in force, what waiting for one costs, and the agent beside os-apply-config.

``tox -e bench-config``. A thousand simulated instances (``provisioner lab fleet``) and the real service share this
machine's processors. Ten minutes on two of them.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import yaml
from fleet import LIMIT as DEPLOY_LIMIT
from fleet import PROGRAM, run, started, wait_for, write_config
from table import Row, memory_of, say, show
from trees import plan_row

from provisioner_agent.instance.places import TEMPLATES
from provisioner_agent.protocol.messages import AGENT_CONFIG

SOURCE = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(SOURCE / "tests" / "unit"))
from agent_server import TOKEN, served  # noqa: E402  a server for one agent, of the unit tests

BIN = Path(sys.executable).parent
SETTLE, IDLE = 60.0, 60.0
CHANGES = 5
PAUSE = 3.0
"""Seconds between changes, after the one before is in force everywhere."""
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


def idle_share(service: subprocess.Popen[bytes]) -> float:
    """Percent of one core."""
    before = cpu_seconds(service.pid)
    time.sleep(IDLE)
    return (cpu_seconds(service.pid) - before) / IDLE * 100


@contextlib.contextmanager
def real_agent(folder: Path) -> Iterator[None]:
    """The real agent in the place of the last simulated one, with a template that shows each change."""
    template = folder / f"{TEMPLATES.lstrip('/')}/etc/setting"
    template.parent.mkdir(parents=True)
    template.write_text("setting = {{setting}}\n")
    log = (folder.parent / "agent.log").open("wb")
    argv = [BIN / "provisioner-agent", "run", "--root", folder]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


class Records:
    """Looks at the records beside the service: to ask it ten times a second for a thousand nodes would be its load."""

    def __init__(self, folder: Path) -> None:
        self._door = sqlite3.connect(f"file:{folder}/state/provisioner.db?mode=ro", uri=True)

    def generation(self) -> int:
        return int(self._door.execute("SELECT max(generation) FROM nodes").fetchone()[0])

    def behind(self) -> int:
        """Nodes that have not said that they have their newest generation."""
        return int(self._door.execute("SELECT count(*) FROM nodes WHERE heard < generation").fetchone()[0])

    def unapplied(self) -> int:
        """Nodes that have not said that they have their newest generation in force."""
        return int(self._door.execute("SELECT count(*) FROM nodes WHERE applied < generation").fetchone()[0])

    def applied(self, node: str) -> bool:
        query = "SELECT applied = generation AND healthy FROM nodes WHERE name = ?"
        return bool(self._door.execute(query, (node,)).fetchone()[0])


def change(config: Path, cloud: Path, records: Records, real: str, value: int) -> tuple[float, float]:
    """Seconds from a changed cloud file until (all have said that they have it, the real agent has it in force)."""
    change_value(cloud, value)
    before = records.generation()
    begun = time.monotonic()
    argv = [PROGRAM, "--config", str(config), "apply", str(cloud), "--no-wait"]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    heard = applied = 0.0
    while not (heard and applied):
        passed = time.monotonic() - begun
        if passed > LIMIT:
            raise SystemExit(f"{records.behind()} have not got a change within {LIMIT:.0f} s")
        if records.generation() > before:
            heard = heard or (passed if records.behind() == 0 else 0.0)
            applied = applied or (passed if records.applied(real) else 0.0)
        time.sleep(0.02)
    if process.wait() != 0:
        raise SystemExit("apply failed")
    while records.unapplied():
        if time.monotonic() - begun > LIMIT:
            raise SystemExit(f"{records.unapplied()} have not applied a change within {LIMIT:.0f} s")
        time.sleep(0.5)
    time.sleep(PAUSE)
    return heard, applied


def fleet_rows(folder: Path, count: int) -> list[Row]:
    config, manifests, root = write_config(folder), folder / "fleet", folder / "real"
    words = ["lab", "fleet", "--nodes", str(count + 1), "--folder", str(manifests), "--real", str(root)]
    cloud, real = manifests / "cloud.yaml", f"f{count + 1:05}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(started(config, *words))
        serving = contextlib.ExitStack()
        stack.enter_context(serving)
        service = serving.enter_context(started(config, "serve"))
        wait_for("the fleet", folder / "lab.log", b"Elsewhere")
        wait_for("the service", folder / "serve.log", b"serve.ready")
        run(config, "node", "enroll", str(manifests / "hardware.yaml"))
        applying = stack.enter_context(started(config, "apply", str(cloud), "--timeout", str(int(DEPLOY_LIMIT))))
        wait_for("the real instance", root / AGENT_CONFIG.lstrip("/"), b"token", DEPLOY_LIMIT)
        stack.enter_context(real_agent(root))
        if applying.wait(timeout=DEPLOY_LIMIT) != 0:
            raise SystemExit("the fleet was not deployed")
        say(f"{count} simulated and one real instance are active")
        time.sleep(SETTLE)
        after = memory_of(service.pid, "VmRSS")
        serving.close()
        service = serving.enter_context(started(config, "serve"))
        wait_for("the service", folder / "serve.log", b"serve.ready")
        time.sleep(SETTLE)
        share, memory = idle_share(service), memory_of(service.pid, "VmRSS")
        say(f"idle: {share:.1f} % of one core, {memory:.0f} MB; {after:.0f} MB after their deployment")
        plans, heard, applied = [], [], []
        records = Records(folder)
        for turn in range(1, CHANGES + 1):
            change_value(cloud, -turn)
            plans.append(run(config, "plan", str(cloud), codes=(2,)))
            told, done = change(config, cloud, records, real, turn)
            heard.append(told)
            applied.append(done)
            say(f"change {turn}: all have it after {told:.2f} s, the real agent applied it after {done:.2f} s")
    waiting = f"{count} agents that wait"
    return [
        Row(f"a change, fetched, proved and acknowledged by {count}", max(heard), 2, "s", spread(heard)),
        Row("the same change in force by a real agent beside them", max(applied), 2, "s", spread(applied)),
        Row(
            f"{waiting}: the service's memory",
            memory,
            150,
            "MB",
            f"started anew; {after:.0f} MB after their deployment",
        ),
        Row(f"{waiting}: the service's processor", share, 2, "%", "of one core"),
        Row(
            f"plan of a changed value for {count} nodes",
            statistics.median(plans),
            3,
            "s",
            "one file each, by the command",
        ),
    ]


def spread(seconds: list[float]) -> str:
    return f"the slowest of {len(seconds)}; median {statistics.median(seconds):.2f}"


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
