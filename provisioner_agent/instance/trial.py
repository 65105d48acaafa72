"""A trial: one generation brought into force without a server, as in the boot test of an image.

The instance is its own server: it grants itself the permit and everything that is done once in the life of a cluster.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from provisioner_agent.instance.agent import Agent
from provisioner_agent.instance.collect import Box
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.host import Host
from provisioner_agent.protocol import messages

FENCE = 1


class OwnServer:
    """A link to nobody. ``report`` is the last one that the agent made."""

    def __init__(self, once: Iterable[str]) -> None:
        self.report: dict[str, Any] = {}
        self._once = {name: {"do": True, "fence": FENCE} for name in once}

    def call(self, method: str, target: str, body: Mapping[str, Any] | None = None, *, timeout: float) -> Any:
        if target == messages.PERMIT:
            return {"granted": True, "once": self._once}
        if target == messages.REPORT:
            self.report = dict(body or {})
        return {}

    def close(self) -> None:
        """There is no connection."""


def run_trial(host: Host, document: Document) -> dict[str, Any]:
    """Bring ``document`` into force and probe; the agent's report of it, as it would go to a server."""
    link = OwnServer(document.body.get("role", {}).get("once", ()))
    Agent(host, link, Box(document), random.Random(0)).turn()  # noqa: S311 - spreads retries, guards nothing
    return link.report
