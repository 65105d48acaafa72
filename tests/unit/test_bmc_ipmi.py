"""What pyghmi says and what completion codes mean, in our words; and boot flags as the specification lays them out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pyghmi.exceptions import IpmiException

from provisioner.bmc.driver import Kept
from provisioner.bmc.ipmi import IpmiController
from provisioner.bmc.ipmi_troubles import translate_code, translate_login
from provisioner.bmc.trouble import Busy, Failed, Refused, Silent, TimeUp, Trouble
from provisioner.model.hardware import BootDevice, Power

DEVICE_ID = bytes([32, 0x81, 2, 0x35, 2, 0xBF, 0xA2, 2, 0, 1, 7])


class FakeSession:
    """pyghmi's session, by its answers: (network function, command) → completion code and data, or an exception."""

    privlevel = 3
    attemptedhash = 256

    def __init__(self, answers: dict[tuple[int, int], tuple[int, bytes] | BaseException]) -> None:
        self.answers = answers
        self.sent: list[tuple[int, int, tuple[int, ...]]] = []
        self.logontries = 1
        self.maxtimeout = 4.0
        self.closed = False

    def raw_command(self, netfn: int, command: int, data: tuple[int, ...]) -> dict[str, Any]:
        self.sent.append((netfn, command, tuple(data)))
        assert self.logontries == 0, "pyghmi would log in again by itself, and wait for its own lock"
        answer = self.answers[netfn, command]
        if isinstance(answer, BaseException):
            raise answer
        return {"code": answer[0], "data": bytearray(answer[1])}

    def logout(self) -> None:
        self.closed = True


def controller(answers: dict[tuple[int, int], tuple[int, bytes] | BaseException]) -> IpmiController:
    return IpmiController(FakeSession(answers), 0.01)


@pytest.mark.parametrize(
    ("words", "kind", "summary"),
    [
        ("Incorrect password provided", Refused, "the password is wrong"),
        ("Invalid integrity check value reported in RAKP4", Refused, "the password is wrong"),
        ("Unauthorized name in RAKP2", Refused, "the user is unknown"),
        ("Unauthorized role or privilege level requested in RAKP2", Refused, "the user lacks the privilege"),
        ("Invalid role in RAKP2", Refused, "the user lacks the privilege"),
        (
            "Requested level exceeds Channel and/or User Privilege Limit while requesting privelege level 4 for b'x'",
            Refused,
            "the user lacks the privilege",
        ),
        (
            "Insufficient resources to create new session (wait for existing sessions to timeout)",
            Failed,
            "the controller has no session left",
        ),
        ("No Cipher suite match with proposed security algorithms", Refused, "no common cipher suite"),
        ("Invalid authentication algorithm", Refused, "no common cipher suite"),
        ("Invalid RAKP4 integrity code (wrong Kg?)", Refused, "the controller uses a second key (Kg)"),
        ("Something new", Refused, "the login was refused"),
    ],
)
def test_a_failed_login_is_told_in_words_of_ours(words: str, kind: type[Trouble], summary: str) -> None:
    trouble = translate_login(words)
    assert (type(trouble), trouble.summary) == (kind, summary)
    assert trouble.cause and trouble.hint
    assert words == "Something new" or words not in trouble.cause


@pytest.mark.parametrize(("code", "kind"), [(0xC0, Busy), (0xC3, Busy), (0xD4, Refused), (0xC1, Refused)])
def test_a_completion_code_is_kept_as_evidence(code: int, kind: type[Trouble]) -> None:
    trouble = translate_code(code, "chassis")
    assert type(trouble) is kind
    assert f"{code:#04x}" in trouble.cause


def test_facts_are_read_as_table_20_2_lays_them_out() -> None:
    guid = bytes(range(16))
    facts = controller({(6, 1): (0, DEVICE_ID), (6, 0x37): (0, guid)}).facts()
    assert facts == {
        "device_id": 32, "revision": 1, "firmware": "2.35", "ipmi_version": "2.0", "manufacturer_id": 0x2A2,
        "product_id": 0x701, "guid": guid.hex(), "privilege": "operator", "hash": "sha256", "seconds": 0.01,
    }  # fmt: skip


def test_a_guid_is_optional_and_a_short_device_id_is_a_failure() -> None:
    assert controller({(6, 1): (0, DEVICE_ID), (6, 0x37): (0xC1, b"")}).facts()["guid"] is None
    with pytest.raises(Failed):
        controller({(6, 1): (0, DEVICE_ID[:6])}).facts()


@pytest.mark.parametrize(("first", "power"), [(0x61, Power.ON), (0x60, Power.OFF)])
def test_power_is_the_first_bit(first: int, power: Power) -> None:
    assert controller({(0, 1): (0, bytes([first, 0, 0]))}).power() is power


@pytest.mark.parametrize(
    ("device", "uefi", "persistent", "flags"),
    [
        (BootDevice.PXE, True, False, (5, 0xA0, 0x04, 0, 0, 0)),
        (BootDevice.PXE, False, False, (5, 0x80, 0x04, 0, 0, 0)),
        (BootDevice.DISK, True, False, (5, 0xA0, 0x08, 0, 0, 0)),
        (BootDevice.DISK, True, True, (5, 0xE0, 0x08, 0, 0, 0)),
    ],
)
def test_boot_flags_do_not_expire_after_a_minute(
    device: BootDevice, uefi: bool, persistent: bool, flags: tuple[int, ...]
) -> None:
    session = FakeSession({(0, 8): (0, b"")})
    IpmiController(session, 0).set_boot_device(device, uefi, persistent)
    assert session.sent == [(0, 8, (3, 8)), (0, 8, flags)]


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        ((1, 5, 0xA0, 0x04, 0, 0, 0), Kept(BootDevice.PXE, True, False)),
        ((1, 5, 0xC0, 0x08, 0, 0, 0), Kept(BootDevice.DISK, False, True)),
        ((1, 5, 0x00, 0x08, 0, 0, 0), Kept(BootDevice.DISK)),
        ((1, 5, 0x00, 0x00, 0, 0, 0), None),
        ((1, 5, 0x80, 0x14, 0, 0, 0), Kept("device 5", False, False)),
        ((1, 0x85, 0x80, 0x04, 0, 0, 0), None),
        ((1, 5), None),
    ],
)
def test_the_boot_device_is_known_where_the_controller_keeps_it(data: tuple[int, ...], kept: Kept | None) -> None:
    assert controller({(0, 9): (0, bytes(data))}).boot_device() == kept


def test_a_controller_that_does_not_tell_boot_options_cannot_say() -> None:
    assert controller({(0, 9): (0xC1, b"")}).boot_device() is None


SILENCE: tuple[Callable[[], BaseException], ...] = (
    lambda: IpmiException("Session no longer connected"),
    lambda: KeyError("command"),
    TimeUp,
)


@pytest.mark.parametrize("error", SILENCE)
def test_every_way_in_which_pyghmi_tells_a_time_out_is_silence(error: Callable[[], BaseException]) -> None:
    with pytest.raises(Silent):
        controller({(0, 1): error()}).power()
    assert controller({(6, 1): error()}).alive() is False


def test_an_answer_that_cannot_be_unpacked_is_a_failure() -> None:
    with pytest.raises(Failed):
        controller({(0, 1): IndexError("bytearray index out of range")}).power()
