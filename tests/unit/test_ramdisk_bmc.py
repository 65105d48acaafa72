"""The address of the node's own controller, as it says inside."""

from __future__ import annotations

from pathlib import Path

import pytest

from provisioner_agent.protocol.auth import build_record
from provisioner_agent.ramdisk.bmc import read_bmc_address, write_record
from provisioner_agent.ramdisk.fakehost import FakeHost

INFO, PARAMETERS = (0x06, 0x42), (0x0C, 0x02)
LAN, SERIAL = b"\0\1\4\1\x80", b"\0\2\5\1\x80"


def address(channel: int, *octets: int) -> tuple[tuple[int, int, bytes], bytes]:
    return (*PARAMETERS, bytes((channel, 3, 0, 0))), b"\0\x11" + bytes(octets)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        (None, ""),
        ({}, ""),
        (dict([((*INFO, b"\1"), LAN), address(1, 10, 0, 4, 11)]), "10.0.4.11"),
        (dict([((*INFO, b"\1"), SERIAL), ((*INFO, b"\3"), LAN), address(3, 10, 0, 4, 12)]), "10.0.4.12"),
        (dict([((*INFO, b"\1"), LAN), address(1, 0, 0, 0, 0)]), ""),
        ({(*INFO, b"\1"): LAN, (*PARAMETERS, b"\1\3\0\0"): b"\xc1"}, ""),
        ({(*INFO, b"\1"): LAN, (*PARAMETERS, b"\1\3\0\0"): b"\0\x11\x0a"}, ""),
    ],
    ids=["no controller", "refuses all", "first channel", "third channel", "none set", "refused", "cut short"],
)
def test_the_first_network_channel_with_an_address_counts(
    tmp_path: Path, answers: dict[tuple[int, int, bytes], bytes] | None, expected: str
) -> None:
    host = FakeHost(tmp_path)
    host.bmc = answers
    assert read_bmc_address(host) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (b"\0\x05\x01", 0x0105),
        (b"\xc1", "its controller takes no record into its event log (completion code 0xc1)"),
        (None, "the server has no controller that answers from inside"),
    ],
)
def test_a_record_is_added_to_the_event_log(tmp_path: Path, answer: bytes | None, expected: int | str) -> None:
    host, record = FakeHost(tmp_path), build_record("s" * 43)
    assert len(record) == 14 and record[0] == 0xE0
    host.bmc = None if answer is None else {(0x0A, 0x44, bytes(2) + record): answer}
    assert write_record(host, record) == expected
