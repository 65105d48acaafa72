"""A trial: one generation brought into force without a server, as in the boot test of an image.

The instance is its own server: it grants itself the permit and everything that is done once in the life of a cluster.
Where it cannot be healthy without instances of other roles, only its files are tried.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from typing import Any

from provisioner_agent.instance.agent import Agent
from provisioner_agent.instance.collect import Box
from provisioner_agent.instance.document import Document
from provisioner_agent.instance.failure import build_error
from provisioner_agent.instance.files import check_files, refuse_files, render_files
from provisioner_agent.instance.host import Host
from provisioner_agent.instance.probes import is_green, run_probes
from provisioner_agent.protocol import messages
from provisioner_agent.render.problem import RenderError

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


def try_files(host: Host, document: Document) -> dict[str, Any]:
    """Render the files of ``document`` and let their validators judge them, write none, and probe; a report of it."""
    error = None
    try:
        refuse_files(check_files(host, render_files(host, document)))
    except RenderError as problem:
        error = build_error("the templates cannot be rendered", str(problem), None)
    probes = run_probes(host, document.probes)
    results = {name: result.to_dict() for name, result in probes.items()}
    return {"healthy": error is None and is_green(probes), "error": error, "probes": results}
