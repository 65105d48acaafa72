"""Who of a role that was down as a whole begins again. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NOTHING = ""
"""The history of a member that has no state: it never begins, and is waited for all the same."""


@dataclass(frozen=True)
class Position:
    """How far a member had come: ``sequence`` changes of ``history``. Two members of one cluster have one history."""

    history: str
    sequence: int

    def __str__(self) -> str:
        return f"{self.history}:{self.sequence}" if self.history else "has nothing"


@dataclass(frozen=True)
class Voice:
    """A member in an outage. ``position``: None until it said one. ``lost``: an operator said not to wait for it.

    ``index``: its number in the role.
    """

    deployment: str
    hostname: str
    node: str
    index: int
    position: Position | None = None
    lost: bool = False

    def __str__(self) -> str:
        return f"{self.hostname} on {self.node}"


@dataclass(frozen=True)
class Decision:
    """``leader``: who begins again; None for nobody yet, and ``why``. ``missing``: who has not said its position."""

    leader: Voice | None
    why: str
    missing: tuple[Voice, ...] = ()


def decide(cloud: str, role: str, voices: Sequence[Voice]) -> Decision:
    """The member that had come furthest, when all have said how far they had come; of equals the first by number.

    Whoever is lost is neither waited for nor chosen. Where members are of different histories, no one is: whichever
    began, what the others hold would be gone.

    :param voices: of all members that may hold state.
    """
    asked = f"provisioner cloud recover {cloud} {role} --without NODE"
    missing = tuple(voice for voice in voices if voice.position is None and not voice.lost)
    if missing:
        names = ", ".join(map(str, missing))
        why = f"not known yet how far {names} had come; if gone for good: {asked.replace('NODE', missing[0].node)}"
        return Decision(None, why, missing)
    known = [(voice, voice.position) for voice in voices if voice.position is not None and not voice.lost]
    able = [(voice, position) for voice, position in known if position.history and position.sequence >= 0]
    histories = sorted({position.history for _, position in known if position.history})
    if len(histories) > 1:
        said = ", ".join(f"{voice} {position}" for voice, position in known if position.history)
        return Decision(
            None, f"members are of different clusters: {said}; leave those out that are not of yours: {asked}"
        )
    if not able:
        said = ", ".join(f"{voice} {position}" for voice, position in known)
        why = f"no member has a state to begin from: {said or 'none is left'}; bring a backup back, or"
        return Decision(None, f"{why} release all of {role} (provisioner node release) and apply, to begin empty")
    leader, position = min(able, key=lambda pair: (-pair[1].sequence, pair[0].index))
    return Decision(leader, f"{leader} begins again from {position}")


def describe_loss(gone: Voice, voices: Sequence[Voice]) -> str:
    """What may be lost when nobody waits for ``gone``. :param voices: of all members, itself among them."""
    left = [voice for voice in voices if voice.position is not None and not voice.lost and voice.node != gone.node]
    furthest = max((voice.position for voice in left if voice.position), key=lambda it: it.sequence, default=None)
    if gone.position is not None:
        return f"what {gone} holds ({gone.position}) is overwritten when it joins the others"
    since = (
        "what it alone had" if furthest is None or not furthest.history else f"what it had after {furthest.sequence}"
    )
    return f"{gone} has not said how far it had come: {since} is lost"
