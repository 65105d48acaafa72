"""Runs in an instance: the server of its config agent, beside it. Offers one change after another, and tells on the
second serial port what became of each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from agent_server import AgentServer  # noqa: E402  beside this file, in the instance

AGENT = "provisioner-agent.service"
WATCH = "provisioner-agent-watch.service"
UNITS = ("web.service", "other.service", "ssh.service", AGENT)
JOURNAL = Path("/var/lib/provisioner-agent/journal/journal.json")
SECONDS = 240.0


def run(*argv: str) -> str:
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout.strip()


def log(unit: str) -> str:
    return run("journalctl", "--no-pager", "-o", "short-monotonic", "-u", unit)


def pids() -> dict[str, str]:
    return {unit: run("systemctl", "show", "-P", "MainPID", unit) for unit in UNITS}


def watch() -> str:
    """How the watch is, once it has ended."""
    end = time.monotonic() + SECONDS
    while run("systemctl", "is-active", WATCH) in ("active", "deactivating"):
        if time.monotonic() > end:
            return "still runs"
        time.sleep(0.5)
    return " ".join(run("systemctl", "show", "-P", name, WATCH) for name in ("ActiveState", "Result"))


class Story:
    """``values``: those of the newest generation that came into force."""

    def __init__(self, server: AgentServer, metadata: dict[str, Any]) -> None:
        self.server = server
        self.metadata = metadata
        self.values = dict(metadata["values"])
        self.generation = 0
        self.applied = 0

    def offer(self, **values: str) -> None:
        self.generation += 1
        self.server.offer(self.metadata | {"generation": self.generation, "values": self.values | values})

    def end(self, state: str, **values: str) -> dict[str, Any]:
        """Wait until the change is ``applied`` or ``rolled-back``; the report that says so, and what runs then."""
        if state == "applied":
            self.values |= values
            self.applied = self.generation
        return {"report": self._report(state), "pids": pids()}

    def _report(self, state: str) -> dict[str, Any]:
        def said() -> list[dict[str, Any]]:
            wanted = {"state": state, "generation": self.generation, "applied": self.applied, "healthy": True}
            return [report for report in self.server.reports if wanted.items() <= report.items()]

        with self.server.changed:
            assert self.server.changed.wait_for(said, SECONDS), f"no {state} in {self.server.reports}"
            return said()[0]

    def change(self, state: str, **values: str) -> dict[str, Any]:
        self.offer(**values)
        return self.end(state, **values)


def wait_until_unconfirmed() -> None:
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        if JOURNAL.exists() and json.loads(JOURNAL.read_text())["state"] == "unconfirmed":
            return
        time.sleep(0.1)
    raise AssertionError("no change was unconfirmed")


def tell(found: dict[str, Any]) -> None:
    given = json.loads((HERE / "given.json").read_text())
    run("ip", "addr", "add", f"{given['address']}/32", "dev", "lo")
    server = AgentServer((given["address"], given["port"]))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    story = Story(server, given["metadata"])
    found["first"] = story.change("applied")
    found["port"] = story.change("applied", port="81", banner="two")
    found["bad"] = story.change("rolled-back", port="bad")
    found["drop-in"] = story.change("applied", colour="blue") | {
        "env": run("systemctl", "show", "-P", "Environment", UNITS[0])
    }
    found["cut"] = story.change("rolled-back", cut="yes")
    found["own"] = story.change("applied", own="two") | {
        "watch": watch(),
        "stops": log(AGENT).count(f"Stopping {AGENT}"),
    }
    story.offer(cut="yes")
    wait_until_unconfirmed()
    run("systemctl", "kill", "--signal=KILL", AGENT)
    found["killed"] = story.end("rolled-back") | {"cut": Path("/etc/cut.conf").read_text(), "watch": watch()}
    found["no-start"] = story.change("rolled-back", start="/bin/false") | {
        "unit": run("systemctl", "cat", AGENT),
        "watch": watch(),
    }
    found["watch log"] = log(WATCH)
    found["reports"] = len(server.reports)


if __name__ == "__main__":
    results: dict[str, Any] = {}
    try:
        tell(results)
    except Exception:
        results["error"] = traceback.format_exc()
    results["log"] = log(AGENT)
    with Path("/dev/ttyS1").open("w") as port:
        port.write(json.dumps(results) + "\n")
    run("systemctl", "poweroff", "--force", "--force")
