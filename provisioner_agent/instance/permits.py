"""Permits: the server says when this member may change, and what it alone must do once."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping
from typing import Any

from provisioner_agent.instance.host import Host
from provisioner_agent.protocol import messages
from provisioner_agent.protocol.link import Link, Refused, ServerAway

LOG = logging.getLogger("provisioner-agent")
SLACK = 10.0
"""Seconds beyond the long poll until the server counts as away."""


class Permits:
    """Asks for permits and gives them back. ``waiting`` is told why, each time the reason changes."""

    def __init__(self, host: Host, link: Link, chance: random.Random, waiting: Callable[[str | None], None]) -> None:
        self.host = host
        self.link = link
        self.chance = chance
        self.waiting = waiting

    def acquire(
        self, generation: int, superseded: Callable[[], bool], patience: float | None = None
    ) -> Mapping[str, Any] | None:
        """Wait until the permit is granted, however long that takes.

        :param superseded: whether a newer generation has come, asked after each refusal.
        :param patience: seconds without any answer of the server after which it is given up.
        :returns: the once answers ``{name: {"do", "fence"}}``; None when superseded or given up.
        """
        failures, heard = 0, self.host.monotonic()
        try:
            while True:
                answer, why = self._ask("acquire", generation, messages.LONG_POLL)
                if answer is not None and answer.get("granted") is True:
                    return dict(answer.get("once") or {})
                self.waiting(why)
                if answer is not None:
                    heard = self.host.monotonic()
                if superseded() or (patience is not None and self.host.monotonic() - heard >= patience):
                    return None
                failures = 0 if answer is not None else failures + 1
                pause = back_off(failures, self.chance) if failures else 1.0
                self.host.sleep(pause)
        finally:
            self.waiting(None)

    def release(self, generation: int) -> bool:
        """Give the permit back; False when the server could not be told."""
        answer, why = self._ask("release", generation, 0.0)
        if answer is None:
            LOG.warning("the permit of generation %s could not be given back: %s", generation, why)
        return answer is not None

    def _ask(self, action: str, generation: int, wait: float) -> tuple[Mapping[str, Any] | None, str]:
        body = {"action": action, "generation": generation, "wait": wait}
        try:
            answer = self.link.call("POST", messages.PERMIT, body, timeout=wait + SLACK)
        except (ServerAway, Refused) as error:
            return None, f"permit: {error}"
        if not isinstance(answer, Mapping):
            return None, "permit: the server's answer is not a map"
        return answer, f"permit: {answer.get('why') or 'not granted yet'}"


def back_off(failures: int, chance: random.Random) -> float:
    """Seconds to wait after so many failures in a row: doubling from 1 to 60, between half and all of it."""
    return min(60.0, 2.0 ** min(failures - 1, 6)) * chance.uniform(0.5, 1.0)
