"""What is kept of what an instance tells, and what of it is news."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from conductor_rack import Rack
from test_conductor_permits import instance, once_rack

from provisioner.conductor.told import split_report
from provisioner.errors import NotFound

DIFF = "--- /etc/x\n+++ /etc/x\n-1\n+2"
CHECKS = [{"path": "/etc/x", "command": "check {path}", "code": 0, "said": "", "seconds": 0.1}]


def active(tmp_path: Path) -> Rack:
    rack = once_rack(tmp_path, 1)
    rack.apply()
    rack.play()
    return rack


def tell(rack: Rack, **more: Any) -> dict[str, Any]:
    said = {"generation": 1, "applied": 1, "state": "applied", "healthy": True, "probes": {}} | more
    return rack.conductor.report(instance(rack, "node1"), said)


def told(rack: Rack, kind: str) -> list[str]:
    return [event.partition(f"{kind}")[2] for event in rack.events() if f"instance.{kind}" in event]


def test_diff_and_validators_stay_while_the_reports_after_them_have_none(tmp_path: Path) -> None:
    rack = active(tmp_path)
    tell(rack, diff=DIFF, validators=CHECKS)
    tell(rack)
    found = rack.conductor.instance_report("node1")
    assert found.detail == {"generation": 1, "diff": DIFF, "validators": CHECKS}
    assert "diff" not in found.body and found.body["state"] == "applied"
    assert (found.node, found.hostname, found.newest, found.at) == ("node1", "web-0", 1, rack.clock.now())
    tell(rack, generation=2, state="rolled-back")
    assert rack.conductor.instance_report("node1").detail == {}, "that was another generation's"


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    rack = active(tmp_path)
    tell(rack, diff=DIFF, services={"web.service": "failed (exit-code)", "db.service": "active"})
    (found,) = rack.conductor.cloud_reports("lab")
    assert (found.hostname, found.failed, found.body, found.detail) == ("web-0", ("web.service",), {}, {})


def test_a_clock_that_is_off_is_told_once_and_when_it_is_right(tmp_path: Path) -> None:
    rack = active(tmp_path)
    for ahead in (0.5, 3.0, 3.5, 3.5, 0.5, 0.5):
        tell(rack, clock=rack.clock.now() + ahead)
    found = rack.conductor.instance_report("node1")
    assert (found.skew, found.off) == (0.5, False) and "clock" not in found.body
    assert told(rack, "clock") == [": its clock is off by +3.0 s", "-over: its clock is right"]


def test_one_message_that_was_long_on_its_way_says_nothing_about_the_clock(tmp_path: Path) -> None:
    rack = active(tmp_path)
    tell(rack, clock=rack.clock.now())
    tell(rack, clock=rack.clock.now() - 9)
    assert rack.conductor.instance_report("node1").skew == 0
    assert told(rack, "clock") == []
    tell(rack, clock=rack.clock.now() - 9)
    assert told(rack, "clock") == [": its clock is off by -9.0 s"]


def test_a_message_without_a_clock_says_nothing_about_it(tmp_path: Path) -> None:
    rack = active(tmp_path)
    for more in ({"clock": rack.clock.now() + 9},) * 2 + ({"state": "unconfirmed", "confirming": 1},):
        tell(rack, **more)
    tell(rack, clock=rack.clock.now() + 9)
    assert told(rack, "clock") == [": its clock is off by +9.0 s"]


def test_an_agent_of_an_older_image_has_no_clock(tmp_path: Path) -> None:
    rack = active(tmp_path)
    tell(rack)
    found = rack.conductor.instance_report("node1")
    assert (found.skew, found.off, found.failed, found.detail) == (None, False, (), {})


def test_units_that_fail_are_told_once_and_when_it_is_over(tmp_path: Path) -> None:
    rack = active(tmp_path)
    for state in ("failed (oom-kill)", "failed (signal)", "active", "active"):
        tell(rack, services={"web.service": state, "log.service": "active"})
    assert told(rack, "units") == [": failed: web.service", "-over: no unit of its files has failed any more"]


def test_who_asks_to_be_confirmed_is_answered(tmp_path: Path) -> None:
    rack = active(tmp_path)
    answer = tell(rack, generation=2, state="unconfirmed", healthy=False, confirming=2)
    assert answer == {"heard": 2}
    node = rack.conductor.node("node1").node
    assert (node.applied, node.healthy, node.failure) == (1, False, None)
    assert tell(rack) == {}


def test_what_has_another_shape_is_not_kept() -> None:
    body, detail = split_report({"generation": 1, "diff": ["x"], "validators": "y", "clock": True}, None, 5.0)
    assert (body, detail) == ({"generation": 1}, {})
    body, _ = split_report({"generation": 1, "clock": float("nan"), "skew": "a lie", "skew_seen": 1}, None, 5.0)
    assert body == {"generation": 1}
    _, detail = split_report({"generation": 1, "diff": "x" * 100_000, "validators": [{}] * 1000}, None, 5.0)
    assert detail is not None and len(detail["diff"]) == 16_000 and len(detail["validators"]) == 100


def test_a_node_without_an_instance_has_no_report(tmp_path: Path) -> None:
    rack = once_rack(tmp_path, 1)
    with pytest.raises(NotFound, match="no instance of this node has reported"):
        rack.conductor.instance_report("node1")
