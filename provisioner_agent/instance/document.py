"""The metadata document as the agent reads it: its generation, its probes and what its permit asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.probes import Probe

PRIVATE = 0o600


class BadDocument(Exception):
    """The server's metadata has not the shape that was agreed."""


@dataclass(frozen=True)
class Document:
    """One generation of this instance's metadata. ``body`` holds secrets."""

    generation: int
    body: Mapping[str, Any]

    @property
    def wait(self) -> float:
        """Seconds until a node probe that is not green is a failure."""
        return float(self.body.get("health", {}).get("wait", 600.0))

    @property
    def needs_permit(self) -> bool:
        return bool(self.body.get("permit", True))

    @property
    def probes(self) -> tuple[Probe, ...]:
        """The node's and the role's probes, ``{count}`` filled in."""
        health = self.body.get("health", {})
        count = str(self.body.get("role", {}).get("count", 1))
        return tuple(
            Probe(
                name=raw["name"],
                command=tuple(raw["command"]),
                scope=scope,
                expect=None if raw.get("expect") is None else str(raw["expect"]).replace("{count}", count),
                timeout=float(raw.get("timeout", 20.0)),
            )
            for scope in ("node", "role")
            for raw in health.get(scope, ())
        )


def parse_document(answer: Any) -> Document | None:
    """The answer to a metadata request → the document, or None when nothing is newer.

    :raises BadDocument: it has another shape.
    """
    if not answer:
        return None
    try:
        document = Document(int(answer["generation"]), answer["metadata"])
        if not isinstance(document.body, Mapping) or document.generation < 1:
            raise ValueError("no map, or no generation")
        _ = document.probes, document.wait
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadDocument(f"metadata of an unknown shape: {type(error).__name__}: {error}") from error
    return document


def read_document(host: Host, path: str) -> Document | None:
    """A document kept on the disk; None when there is none or it cannot be read."""
    state = host.read(path)
    try:
        return None if state is None else parse_document(json.loads(state.data))
    except (ValueError, BadDocument):
        return None


def write_document(host: Host, path: str, document: Document) -> None:
    text = json.dumps({"generation": document.generation, "metadata": document.body})
    host.write(path, FileState(text.encode(), PRIVATE))
