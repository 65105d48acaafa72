"""A session's packets, both sides in memory: what is agreed, what is refused and why, what is ignored."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.bmc.login import Dialogue, Stage
from provisioner.bmc.rmcp import SHA1_AES, SHA256_AES, Keys, Message, build_sealed, parse_packet
from provisioner.bmc.trouble import Failed, Refused, Trouble
from provisioner.lab.bmcs import Faults, SimulatedBmc

PASSWORD = "S3cret-of-the-test"
STATUS = (0x00, 0x01)


def controller(**changes: object) -> SimulatedBmc:
    return SimulatedBmc({"admin": PASSWORD}, **changes)  # type: ignore[arg-type]


def log_in(dialogue: Dialogue, bmc: SimulatedBmc) -> Dialogue:
    packet: bytes | None = dialogue.greet()
    for _ in range(10):
        if packet is None:
            break
        answer = bmc.hear(packet)
        said = None if answer is None else dialogue.hear(answer)
        assert not isinstance(said, Message)
        packet = said
    return dialogue


def ask(dialogue: Dialogue, bmc: SimulatedBmc, command: tuple[int, int], data: bytes = b"") -> Message:
    answer = bmc.hear(dialogue.ask(*command, data))
    assert answer is not None
    said = dialogue.hear(answer)
    assert isinstance(said, Message)
    return said


@pytest.mark.parametrize(("suites", "agreed"), [((SHA256_AES, SHA1_AES), 17), ((SHA256_AES,), 17), ((SHA1_AES,), 3)])
def test_the_best_suite_that_both_have_is_agreed_on(suites: Sequence[object], agreed: int) -> None:
    bmc = controller(suites=suites, power=True)
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    assert (dialogue.stage, dialogue.suite.number) == (Stage.READY, agreed)
    assert ask(dialogue, bmc, STATUS).data[1] & 1


def test_a_session_goes_on_through_many_commands_and_ends() -> None:
    bmc = controller()
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    for _ in range(200):
        assert ask(dialogue, bmc, STATUS).data[0] == 0
    goodbye = dialogue.bye()
    assert goodbye is not None
    bmc.hear(goodbye)
    assert bmc.hear(dialogue.ask(*STATUS)) is None


@pytest.mark.parametrize(
    ("name", "password", "changes", "kind", "words"),
    [
        ("admin", "another", {}, Refused, "the password is wrong"),
        ("nobody", PASSWORD, {}, Refused, "the user is unknown"),
        ("a-name-of-more-than-16-bytes", PASSWORD, {}, Refused, "the user is unknown"),
        ("admin", PASSWORD, {"suites": ()}, Refused, "no common cipher suite"),
    ],
)
def test_a_refusal_is_named(
    name: str, password: str, changes: dict[str, object], kind: type[Trouble], words: str
) -> None:
    with pytest.raises(kind) as caught:
        log_in(Dialogue(name, password), controller(**changes))
    assert caught.value.summary == words
    assert caught.value.hint


def test_the_stage_says_what_was_last_answered() -> None:
    bmc = controller(faults=Faults(deaf_to=(0x12,)))
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    assert dialogue.stage is Stage.NAMING


def test_a_repeated_question_gets_through_although_the_controller_took_another_random_number() -> None:
    bmc = controller()
    dialogue = Dialogue("admin", PASSWORD)
    opening = dialogue.hear(bmc.hear(dialogue.greet()) or b"")
    assert isinstance(opening, bytes)
    naming = dialogue.hear(bmc.hear(opening) or b"")
    assert isinstance(naming, bytes)
    lost = bmc.hear(naming)
    again = bmc.hear(dialogue.repeat())
    assert lost is not None and again is not None
    proof = dialogue.hear(lost)
    assert isinstance(proof, bytes)
    proof = dialogue.hear(again)
    assert proof is None, "its tag is that of the earlier question"
    with pytest.raises(Failed, match="the login was lost"):
        dialogue.hear(bmc.hear(dialogue.repeat()) or b"")


def test_an_answer_to_another_question_is_left_aside() -> None:
    bmc = controller()
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    late = bmc.hear(dialogue.ask(*STATUS))
    assert late is not None
    dialogue.ask(*STATUS)
    assert dialogue.hear(late) is None


@given(place=st.integers(0, 200), flip=st.integers(1, 255))
def test_a_packet_changed_on_the_way_is_never_taken_for_an_answer(place: int, flip: int) -> None:
    bmc = controller(power=True)
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    answer = bytearray(bmc.hear(dialogue.ask(*STATUS)) or b"")
    answer[place % len(answer)] ^= flip
    assert dialogue.hear(bytes(answer)) is None


@given(st.binary(max_size=120))
def test_noise_is_ignored_by_both_sides(data: bytes) -> None:
    bmc = controller()
    dialogue = log_in(Dialogue("admin", PASSWORD), bmc)
    for noise in (data, bytes.fromhex("0600ff07") + data, bytes.fromhex("0600ff0706") + data):
        assert dialogue.hear(noise) is None
        bmc.hear(noise)


@given(st.binary(max_size=100))
def test_what_is_sealed_is_opened_again(message: bytes) -> None:
    sessions = {7: Keys(SHA256_AES, b"i" * 20, b"c" * 16), 8: Keys(SHA1_AES, b"j" * 20, b"d" * 16)}
    for session, keys in sessions.items():
        packet = parse_packet(build_sealed(keys, session, 1, message), sessions.get)
        assert packet is not None and packet.payload == message
        assert parse_packet(build_sealed(keys, session + 2, 1, message), sessions.get) is None


def test_a_login_packet_of_another_session_is_ignored() -> None:
    one, two = Dialogue("admin", PASSWORD), Dialogue("admin", PASSWORD)
    bmc = controller()
    opening = one.hear(bmc.hear(one.greet()) or b"")
    other = two.hear(bmc.hear(two.greet()) or b"")
    assert isinstance(opening, bytes) and isinstance(other, bytes)
    assert one.hear(bmc.hear(other) or b"") is None
    assert one.stage is Stage.OPENING
