"""Who of a role that was down as a whole begins again: cases, and what holds of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from provisioner.conductor.quorum import Position, Voice, decide, describe_loss

CASES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "cases" / "quorum.yaml").read_text())


def voice(index: int, said: str | None, lost: bool = False) -> Voice:
    position = None
    if said is not None:
        history, _, sequence = said.rpartition(":")
        position = Position(history, int(sequence))
    return Voice(f"d{index}", f"galera-{index}", f"node{index}", index, position, lost)


def read(index: int, written: str | None) -> Voice:
    said, _, word = (written or "null").partition(" ")
    return voice(index, None if said == "null" else said, word == "lost")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["case"])
def test_case(case: dict[str, Any]) -> None:
    found = decide("lab", "galera", [read(index, written) for index, written in enumerate(case["members"])])
    if isinstance(case["expect"], int):
        assert found.leader is not None and found.leader.index == case["expect"], found
    else:
        assert found.leader is None and case["expect"] in found.why


VOICES = st.lists(
    st.tuples(
        st.one_of(st.none(), st.sampled_from(("a", "a", "a", "b", "")).flatmap(
            lambda history: st.integers(-1, 5).map(lambda sequence: f"{history}:{sequence}"))),
        st.booleans(),
    ),
    min_size=1, max_size=5,
).map(lambda found: [voice(index, said, lost) for index, (said, lost) in enumerate(found)])  # fmt: skip


@given(VOICES, st.randoms())
def test_nobody_begins_who_would_lose_what_another_one_holds(voices: list[Voice], chance: Any) -> None:
    found = decide("lab", "galera", voices)
    left = [one for one in voices if not one.lost]
    if found.leader is not None:
        begun = found.leader.position
        assert begun is not None and not found.leader.lost and begun.history and begun.sequence >= 0
        for other in left:
            assert other.position is not None, "all are heard before"
            assert not other.position.history or other.position.history == begun.history
            assert other.position.sequence <= begun.sequence or not other.position.history
    else:
        able = {one.position.history for one in left if one.position and one.position.history}
        heard = all(one.position is not None for one in left)
        told = any(one.position and one.position.history and one.position.sequence >= 0 for one in left)
        assert not (heard and len(able) == 1 and told), "somebody could have begun"
    mixed = list(voices)
    chance.shuffle(mixed)
    assert decide("lab", "galera", mixed).leader == found.leader


@pytest.mark.parametrize(
    ("gone", "words"),
    [(1, "what it had after 17 is lost"), (0, "what galera-0 on node0 holds (a:17) is overwritten")],
)
def test_what_may_be_lost_is_said(gone: int, words: str) -> None:
    voices = [voice(0, "a:17"), voice(1, None), voice(2, "a:12")]
    assert words in describe_loss(voices[gone], voices)


def test_with_nobody_else_all_is_lost() -> None:
    assert "what it alone had is lost" in describe_loss(voice(0, None), [voice(0, None)])
