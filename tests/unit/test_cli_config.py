"""``config status`` and ``config report`` against a service with a fake conductor."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from served import FakeConductor, served
from test_cli_apply import Bench

from provisioner.model.status import CloudStatus, InstanceReport, MemberStatus


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    conductor = FakeConductor()
    with served(conductor, tmp_path / "api.sock"):
        yield Bench(conductor, tmp_path)


def member(number: int, **more: Any) -> MemberStatus:
    fields = {"role": "web", "state": "active", "generation": number + 1, "applied": number + 1} | more
    return MemberStatus(node=f"n{number}", hostname=f"web-{number}", **fields)


def show(bench: Bench, *members: MemberStatus) -> None:
    bench.conductor.statuses[:] = [CloudStatus(cloud="lab", ready=False, failed=False, members=members)]


def test_those_behind_are_counted_by_their_reason(bench: Bench) -> None:
    def rolled_back(number: int) -> MemberStatus:
        failure = {"summary": f"generation {number + 1} rolled-back: the node is not healthy after 60 s"}
        return member(number, applied=number, failure=failure)

    waits = member(1, applied=1, waiting="permit: web-9 changes")
    show(bench, member(0), waits, *(rolled_back(number) for number in range(2, 9)))
    said = bench.call("config", "status", "lab")
    assert said.exit_code == 0
    lines = said.output.splitlines()
    assert lines[0] == "1 of 9 have their newest generation in force"
    assert lines[3].split("  ")[0] == "7"
    assert "rolled-back: the node is not healthy after 60 s" in lines[3] and "web-2, web-3" in lines[3]
    assert "web-6 and 2 more" in lines[3] and "generation" not in lines[3]
    assert "it waits: permit: web-9 changes" in lines[4] and "web-1" in lines[4]
    found = json.loads(bench.call("config", "status", "lab", "-o", "json").output)
    assert (found["members"], found["current"], len(found["behind"])) == (9, 1, 8)
    assert found["behind"][1]["why"].startswith("generation 3 rolled-back")


def test_clocks_and_units_are_named(bench: Bench) -> None:
    show(bench, member(0), member(1))
    bench.conductor.instances = [
        InstanceReport(node="n0", hostname="web-0", skew=-3.25, off=True, failed=("web.service",)),
        InstanceReport(node="n1", hostname="web-1", skew=0.1, failed=("web.service", "db.service")),
    ]
    said = bench.call("config", "status", "lab").output
    assert said.splitlines() == [
        "2 of 2 have their newest generation in force",
        "the clock of web-0 is 3.2 s behind",
        "db.service has failed on web-1",
        "web.service has failed on web-0, web-1",
    ]
    found = json.loads(bench.call("config", "status", "lab", "-o", "json").output)
    assert found["clocks"] == [{"node": "n0", "hostname": "web-0", "seconds": -3.25}]
    assert found["units"][1] == {"node": "n1", "hostname": "web-1", "failed": ["web.service", "db.service"]}


BODY = {
    "generation": 7,
    "applied": 6,
    "state": "rolled-back",
    "healthy": True,
    "error": {"summary": "systemctl restart web.service ended with code 1", "cause": "no such port", "hint": "look"},
    "seconds": {"render": 0.25, "probes": 12.0},
    "phases": [{"phase": "services", "script": "restart web.service", "seconds": 0.5, "code": 1}],
    "services": {"web.service": "failed (exit-code)"},
    "probes": {"up": {"ok": False, "output": "down\x1b[2J", "scope": "node"}},
    "drift": {"/etc/hand": "-a\n+b"},
    "warnings": ["the server was away"],
}
DETAIL = {
    "generation": 7,
    "diff": "--- /etc/web.conf\n-port=80\n+port=81",
    "validators": [{"path": "/etc/web.conf", "command": "check {path}", "code": 0, "said": "good"}],
}


def test_a_report_is_shown_whole(bench: Bench) -> None:
    report = InstanceReport(
        node="n0", hostname="web-0", newest=7, at=1.7e9, skew=2.5, off=True, body=BODY, detail=DETAIL
    )
    bench.conductor.instances = [report]
    said = bench.call("config", "report", "n0")
    assert said.exit_code == 0
    for words in (
        "n0 (web-0)", "generation 6 of 7, healthy", "generation 7: rolled-back", "ended with code 1", "no such port",
        "2.5 s ahead, which is too much", "render", "12.0", "restart web.service", "failed (exit-code)", "down",
        "check {path}", "good", "changed by hand: /etc/hand\n-a\n+b", "the server was away",
        "generation 7 changed:\n--- /etc/web.conf\n-port=80",
    ):  # fmt: skip
        assert words in said.output, f"{words} is not in\n{said.output}"
    assert "\x1b" not in said.output
    assert json.loads(bench.call("config", "report", "n0", "-o", "json").output) == report.model_dump(mode="json")


def test_a_report_of_an_older_agent_is_shown(bench: Bench) -> None:
    body = {"generation": 1, "state": "applied", "healthy": True, "applied": 1, "phases": None, "error": "?"}
    bench.conductor.instances = [InstanceReport(node="n0", hostname="web-0", newest=1, at=1.7e9, body=body)]
    said = bench.call("config", "report", "n0").output
    assert "generation 1 of 1, healthy" in said and "clock" not in said and "steps" not in said


def test_a_node_that_has_said_nothing(bench: Bench) -> None:
    said = bench.call("config", "report", "n0")
    assert said.exit_code == 1 and "no instance of this node has reported" in said.output
