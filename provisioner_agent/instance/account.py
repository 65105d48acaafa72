"""What is told of a change beside how it ended: its diff, what the validators said, and where the time went.

No secret of the metadata is in it, neither of the new nor of the previous generation.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from provisioner_agent.instance.document import Document

DIFF_CHARACTERS = 8000
MOST_VALIDATORS = 40
HIDDEN = "(secret)"
SHORTEST = 3
"""Characters of a secret that is looked for in what is told; shorter ones would be found in every word."""

Mask = Callable[[str], str]


class Account:
    """Of one change. ``seconds``: how long each step took, by name."""

    def __init__(self, kept: Mapping[str, Any] | None = None) -> None:
        """:param kept: what :meth:`to_dict` gave, of a change that was interrupted."""
        kept = kept or {}
        self.diff = str(kept.get("diff", ""))
        self.validators: list[Mapping[str, Any]] = list(kept.get("validators", ()))
        self.seconds: dict[str, float] = dict(kept.get("seconds", {}))

    def to_dict(self) -> dict[str, Any]:
        seconds = {name: round(taken, 3) for name, taken in self.seconds.items()}
        return {"diff": self.diff, "validators": self.validators[:MOST_VALIDATORS], "seconds": seconds}

    @contextmanager
    def timed(self, step: str, now: Callable[[], float]) -> Iterator[None]:
        """:param now: seconds that never go back."""
        begun = now()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + now() - begun


def cut_diff(text: str) -> str:
    """A diff of at most 8,000 characters, cut at the end of a line."""
    if len(text) <= DIFF_CHARACTERS:
        return text
    kept = text[:DIFF_CHARACTERS].rpartition("\n")[0] or text[:DIFF_CHARACTERS]
    return f"{kept}\n… {text[len(kept) :].count(chr(10))} more lines; on the instance: journalctl -u provisioner-agent"


def build_mask(*documents: Document | None) -> Mask:
    """A function that puts ``(secret)`` in the place of every secret, and key of a certificate, of these generations.

    A secret of several lines is hidden line by line, since a diff has a mark before each.
    """
    found: set[str] = set()
    for document in documents:
        if document is not None:
            found.update(_texts(document.body.get("secrets")))
            certificates = document.body.get("certificates") or {}
            found.update(text for pair in certificates.values() for text in _texts(pair.get("key")))
    pieces = {piece for text in found for line in text.splitlines() for piece in (line.strip(), _as_json(line.strip()))}
    hidden = sorted((piece for piece in pieces if len(piece) >= SHORTEST), key=len, reverse=True)

    def mask(text: str) -> str:
        for secret in hidden:
            text = text.replace(secret, HIDDEN)
        return text

    return mask


def _texts(value: Any) -> Iterable[str]:
    """All texts and numbers of a value, however deep."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _as_json(text: str) -> str:
    """As a template shows it within a map or list."""
    return json.dumps(text, ensure_ascii=False)[1:-1]
