"""Who asks, and how often that one may: permissions that are refilled with time."""

from __future__ import annotations

from dataclasses import dataclass, field

from starlette.types import Scope

KNOWN = 10_000
"""Who is remembered; the oldest are forgotten first."""


@dataclass
class Bucket:
    """Holds permissions for requests, refilled with time."""

    rate: float
    burst: float
    level: float = field(init=False)
    at: float = field(default=0.0)

    def __post_init__(self) -> None:
        self.level = self.burst

    def has(self, now: float) -> bool:
        """Whether :meth:`take` would be granted."""
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        return self.level >= 1

    def take(self, now: float) -> bool:
        granted = self.has(now)
        self.level -= granted
        return granted


class Buckets:
    """One for each who asks; the oldest are forgotten first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._known: dict[str, Bucket] = {}

    def has(self, who: str, now: float) -> bool:
        """Whether :meth:`take` would be granted."""
        bucket = self._known.get(who)
        return bucket is None or bucket.has(now)

    def take(self, who: str, now: float) -> bool:
        bucket = self._known.pop(who, None) or Bucket(self._rate, self._burst, at=now)
        self._known[who] = bucket
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return bucket.take(now)


def peer_of(scope: Scope) -> str:
    """The address that a request comes from; empty over a unix socket."""
    client = scope.get("client")
    return str(client[0]) if client else ""
