"""The address that moves: who has it, how it is announced, and that a master finds out that it is not alone."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from provisioner.errors import Conflict, UsageError
from provisioner.model.duty import Duty, DutyState
from provisioner.server.serve import read_own_duty, take_address
from provisioner.system.address import REPLY, REQUEST, FakeAddresses, HostAddresses, _frame, _hear
from provisioner.system.run import FakeRunner
from provisioner.system.settings import Settings, read_settings

OURS, OTHERS = bytes.fromhex("525400770001"), bytes.fromhex("525400770002")
ADDRESS = socket.inet_aton("10.77.0.2")
SETTINGS = Settings(interface="rack0", address="10.77.0.1/24", service="10.77.0.2")


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    yield ends
    for end in ends:
        end.close()


def test_a_frame_asks_for_an_address_without_claiming_it() -> None:
    frame = _frame(REQUEST, OURS, bytes(4), ADDRESS)
    assert frame.hex() == "ffffffffffff" "525400770001" "0806" "0001" "0800" "06" "04" "0001" \
        "525400770001" "00000000" "000000000000" "0a4d0002"  # fmt: skip


def test_another_owner_is_heard_and_what_is_not_about_it_is_not(wire: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = wire
    theirs.send(b"short")
    theirs.send(_frame(REQUEST, OTHERS, socket.inet_aton("10.77.0.9"), ADDRESS))
    theirs.send(_frame(REPLY, OURS, ADDRESS, ADDRESS))
    assert _hear(ours, OURS, ADDRESS, 0.05) is None
    theirs.send(_frame(REPLY, OTHERS, ADDRESS, ADDRESS))
    assert _hear(ours, OURS, ADDRESS, 0.05) == OTHERS


def test_what_is_there_is_not_added_again_and_what_is_not_there_is_not_removed() -> None:
    said = json.dumps([{"ifname": "lo", "addr_info": [{"family": "inet", "local": "10.1.1.1"}]}])
    runner = FakeRunner({"ip": (0, said)})
    addresses = HostAddresses(runner)
    assert addresses.has("lo", "10.1.1.1") and not addresses.has("lo", "10.1.1.2")
    addresses.add("lo", "10.1.1.1")
    addresses.remove("lo", "10.1.1.2")
    assert addresses.has("lo", "127.0.0.9") and addresses.owner("lo", "127.0.0.9") is None
    addresses.add("lo", "127.0.0.9")
    addresses.remove("lo", "127.0.0.9")
    assert all("show" in call for call in runner.calls)


def test_the_master_has_the_address_and_nobody_else() -> None:
    addresses = FakeAddresses()
    take_address(SETTINGS, addresses, Duty())
    assert addresses.on == {("rack0", "10.77.0.2")}
    for state in (DutyState.FROZEN, DutyState.CEDED, DutyState.TOMBSTONE):
        addresses.add("rack0", "10.77.0.2")
        take_address(SETTINGS, addresses, Duty(state=state))
        assert addresses.on == set()


def test_a_service_that_was_the_master_once_does_not_start_beside_the_new_one() -> None:
    addresses = FakeAddresses()
    addresses.others["10.77.0.2"] = "52:54:00:77:00:01"
    with pytest.raises(Conflict, match="another host has the address") as refused:
        take_address(SETTINGS, addresses, Duty())
    assert "52:54:00:77:00:01" in str(refused.value.cause) and addresses.on == set()
    take_address(SETTINGS, addresses, Duty(state=DutyState.TOMBSTONE))


def test_who_waits_for_records_makes_none(tmp_path: Path) -> None:
    with pytest.raises(Conflict, match="by a handover"):
        read_own_duty(Settings(state_dir=tmp_path, awaits=True))
    assert read_own_duty(Settings(state_dir=tmp_path)) == Duty()


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("address = 10.77.0.1/24\nservice = 10.78.0.2", "an address of the network"),
        ("address = 10.77.0.1/24\nservice = 10.77.0.1", "stays with this host"),
        ("service = 10.77.0.2", "an address of the network"),
        ("address = 10.77.0.1/24\nservice = rack", "Expected 4 octets"),
        ("address = 10.77.0.1/24\nservice = 10.77.0.2\n[database]\nurl = postgresql://x@y/z", "shares them"),
    ],
)
def test_an_address_that_cannot_move_is_refused(tmp_path: Path, text: str, word: str) -> None:
    path = tmp_path / "provisioner.conf"
    path.write_text(f"[network]\ninterface = rack0\n{text}\n")
    with pytest.raises(UsageError) as refused:
        read_settings(path)
    assert word in str(refused.value.cause)


def test_nodes_are_told_the_address_that_moves() -> None:
    assert SETTINGS.url == "http://10.77.0.2:8080" and SETTINGS.guest_url == "https://10.77.0.2:8081"
    assert SETTINGS.own_url == "https://10.77.0.1:8081" and SETTINGS.host == "10.77.0.1"
