"""Who may fetch an image now: as many bytes are on their way as the link is meant to carry; the others wait in line.

Counted in bytes and not in nodes: ten nodes at the end of a small image are less than one that begins with a large one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MB = 1_000_000


@dataclass(frozen=True)
class Fetch:
    """A node that fetches an image, or waits for it. ``since``: when its step began, seconds.

    ``left``: bytes that are still to come over the link. ``begun``: it does not wait any more. ``pace``: seconds that
    the rest takes it, by what it said last; None when it has said nothing.
    """

    deployment: str
    since: float
    left: int
    begun: bool
    pace: float | None = None


def why_wait(mine: str, fetches: Sequence[Fetch], limit: int) -> tuple[str, int] | None:
    """(why a deployment that is among ``fetches`` has to wait, how many are before it); None when it may begin.

    First come, first served, so that a large image is not overtaken for ever. One alone may always.

    :param limit: bytes on their way at once; 0: no limit.
    """
    flying = [fetch for fetch in fetches if fetch.begun]
    waiting = sorted((fetch for fetch in fetches if not fetch.begun), key=lambda fetch: (fetch.since, fetch.deployment))
    place = next((number for number, fetch in enumerate(waiting) if fetch.deployment == mine), None)
    if limit == 0 or place is None:
        return None
    left = sum(fetch.left for fetch in flying)
    if place == 0 and (not flying or left + waiting[0].left <= limit):
        return None
    return _say(place, flying, limit)


def _say(place: int, flying: Sequence[Fetch], limit: int) -> tuple[str, int]:
    left = sum(fetch.left for fetch in flying)
    now = f"{len(flying)} nodes fetch {left / MB:.0f} MB of {limit / MB:.0f} MB that may be on their way"
    text = f"waits in line, {place} before it: {now}"
    paces = [fetch.pace for fetch in flying if fetch.pace is not None]
    return text + (f"; the next ends in about {min(paces):.0f} s" if paces else ""), place
