"""How often somebody may ask: permissions that are refilled with time."""

from __future__ import annotations

from dataclasses import dataclass, field

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

    def take(self, now: float) -> bool:
        self.level = min(self.burst, self.level + (now - self.at) * self.rate)
        self.at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Buckets:
    """One for each who asks; the oldest are forgotten first."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate, self._burst = rate, burst
        self._known: dict[str, Bucket] = {}

    def has(self, who: str, now: float) -> bool:
        """Whether :meth:`take` would be granted."""
        bucket = self._known.get(who)
        return bucket is None or bucket.level + (now - bucket.at) * bucket.rate >= 1

    def take(self, who: str, now: float) -> bool:
        bucket = self._known.pop(who, None) or Bucket(self._rate, self._burst, at=now)
        self._known[who] = bucket
        if len(self._known) > KNOWN:
            del self._known[next(iter(self._known))]
        return bucket.take(now)
