"""The metadata document as the agent reads it: its generation, its probes and what its permit asks for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from provisioner_agent.instance.host import FileState, Host
from provisioner_agent.instance.probes import Probe
from provisioner_agent.protocol.parts import join_parts, needed_parts

PRIVATE = 0o600
CONFIRM_SECONDS = 120.0
"""For a server that says none."""
NO_PARTS: Mapping[str, Mapping[str, Any]] = {}


class BadDocument(Exception):
    """The server's metadata has not the shape that was agreed."""


@dataclass(frozen=True)
class Document:
    """One generation of this instance's metadata: its own, and the parts that it shares with others, by id."""

    generation: int
    own: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def body(self) -> Mapping[str, Any]:
        """The whole. It holds secrets. :raises KeyError: it has another shape. :raises TypeError: as well."""
        return join_parts(self.own, self.parts.values())

    @property
    def wait(self) -> float:
        """Seconds until a node probe that is not green is a failure."""
        return float(self.body.get("health", {}).get("wait", 600.0))

    @property
    def confirm_seconds(self) -> float:
        """Within which the server must be heard again after what may cut the node off."""
        return float((self.body.get("role") or {}).get("confirm", CONFIRM_SECONDS))

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


def parse_document(answer: Any, known: Mapping[str, Mapping[str, Any]] = NO_PARTS) -> Document | None:
    """The answer to a metadata request → the document, or None when nothing is newer.

    :param known: parts that the server needed not send. :raises BadDocument: it has another shape, or a part is
        missing.
    """
    if not answer:
        return None
    try:
        own, given = answer["metadata"], answer.get("parts") or {}
        parts = {ident: given[ident] if ident in given else known[ident] for ident in needed_parts(own)}
        document = Document(int(answer["generation"]), own, parts)
        if not isinstance(document.body, Mapping) or document.generation < 1:
            raise ValueError("no map, or no generation")
        _ = document.probes, document.wait, document.confirm_seconds
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
    text = json.dumps({"generation": document.generation, "metadata": document.own, "parts": document.parts})
    host.write(path, FileState(text.encode(), PRIVATE))
