"""What nodes write to their consoles while they are worked on is kept, and shown when something failed."""

from __future__ import annotations

from pathlib import Path

import pytest
from conductor_rack import Rack

from provisioner.conductor.tapes import clean_line


def recorded(folder: Path) -> Rack:
    rack = Rack(folder, 1, record_consoles=True)
    rack.enroll()
    return rack


def test_the_last_lines_stay_with_an_inspection(tmp_path: Path) -> None:
    rack = recorded(tmp_path)
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.conductor.console_lines("node1") == ["login:"]
    assert [call for _, call in rack.bmcs.calls].count("console") == 1


def test_a_failure_names_the_last_line(tmp_path: Path) -> None:
    rack = recorded(tmp_path)
    rack.servers["node1"].fail_orders["inspect"] = "no"
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.states() == {"node1": "failed"})
    failure = rack.conductor.node("node1").node.failure
    assert failure is not None and "Last on its console: login:" in failure["cause"]


def test_an_abort_ends_the_recording(tmp_path: Path) -> None:
    rack = recorded(tmp_path)
    rack.conductor.inspect("node1")
    rack.play(until=lambda: rack.servers["node1"].running == "ramdisk")
    rack.conductor.verb("node1", "abort")
    rack.play(until=lambda: rack.states() == {"node1": "available"})
    assert rack.conductor._tapes._tapes == {}
    assert rack.conductor.console_lines("node1") == ["login:"]


def test_nothing_recorded_is_no_lines(tmp_path: Path) -> None:
    assert recorded(tmp_path).conductor.console_lines("node1") == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("plain", "plain"),
        ("\x1b[2J\x1b[01;01HBdsDxe: loading\x1b[0m", "BdsDxe: loading"),
        ("Command line: provisioner.token=abc.def quiet", "Command line: provisioner.token=*** quiet"),
        ("\x00\x07bell", "bell"),
        ("x" * 1000, "x" * 400),
    ],
)
def test_a_line_is_text_and_holds_no_token(line: str, kept: str) -> None:
    assert clean_line(line) == kept
