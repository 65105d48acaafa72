"""What instances are told of their metadata: many at once, because a change is news to all members of a role."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from provisioner.conductor.doors import Doors
from provisioner.errors import TrustError
from provisioner.model.deployment import StepName, StepState
from provisioner.store.clouds import Told


@dataclass(frozen=True)
class Ask:
    """An instance asks for a generation above ``since``, the one that it has; ``have`` are ids of parts that it has."""

    token: str
    since: int
    have: Collection[str] = ()


Answer = str | None | TrustError


def answer_metadata(doors: Doors, asks: Sequence[Ask]) -> list[Answer]:
    """``{"generation", "metadata", "signature", "parts"}`` as JSON for each who asks, None where nothing is newer.

    Who asks for what comes after a generation has that one, and has proved that it is ours: that is put on record.
    """
    with doors.store.view():  # what nobody needs any more is dropped when there is a newer generation
        told = doors.store.clouds.told([ask.token for ask in asks])
        texts = [_read(doors, ask, told[ask.token]) if ask.token in told else None for ask in asks]
    for ask in asks:
        if ask.since == 0 and ask.token in told:
            _note_contact(doors, told[ask.token].deployment)
    known = sorted(((told[ask.token], ask.since) for ask in asks if ask.token in told), key=lambda pair: pair[1])
    doors.store.nodes.set_heard({one.node: since for one, since in known if one.heard < since <= one.generation})
    return [
        _answer(doors, told[ask.token], text) if ask.token in told else _unknown()
        for ask, text in zip(asks, texts, strict=True)
    ]


def _unknown() -> TrustError:
    return TrustError("the token is not known, or has run out")


def _read(doors: Doors, ask: Ask, told: Told) -> tuple[str, str] | None:
    """(the node's own metadata, the parts that it needs), as JSON; None when nothing is newer."""
    if told.generation <= ask.since or told.of != told.deployment:
        return None
    # A part is text already, and may be long: it is neither parsed nor written for each node anew.
    parts = [f'"{ident}": {doors.store.parts.text(ident)}' for ident in told.parts if ident not in ask.have]
    return doors.store.clouds.open_own(told), ", ".join(parts)


def _answer(doors: Doors, told: Told, text: tuple[str, str] | None) -> str | None:
    if text is None:
        return None
    own, parts = text
    signature = base64.b64encode(doors.signer.sign(own.encode())).decode()
    return f'{{"generation": {told.generation}, "metadata": {own}, "signature": "{signature}", "parts": {{{parts}}}}}'


def _note_contact(doors: Doors, deployment: str) -> None:
    """When the instance was first heard: what came before was its start, what comes after is its service's."""
    steps = doors.store.deployments.get(deployment).steps
    step = next((step for step in steps if step.name is StepName.CONFIGURE), None)
    if step is not None and step.state is StepState.RUNNING and "contact" not in step.detail:
        doors.store.deployments.set_detail(deployment, StepName.CONFIGURE, {"contact": doors.clock.now()})
