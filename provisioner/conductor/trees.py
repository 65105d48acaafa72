"""Template trees of images and what nodes share, each read once for all the nodes of a call."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from provisioner.conductor.doors import CatalogueDoor
from provisioner.errors import ImageError, NotFound
from provisioner.metadata.trees import Shared, Tree, name_members
from provisioner_agent.protocol.parts import part_id, write_part

NOT_KEPT = "it was built before images kept their templates; provisioner image build makes one that does"


class Trees:
    """Of a catalogue. ``why``: by the id of an image, why there is no tree of it.

    :param stand_ins: what stands in the place of secrets, where files are to be shown.
    """

    def __init__(self, catalogue: CatalogueDoor, stand_ins: Collection[str] = ()) -> None:
        self._stand_ins = stand_ins
        self._catalogue = catalogue
        self._known: dict[str, Tree | None] = {}
        self.why: dict[str, str] = {}

    def find(self, image: str) -> Tree | None:
        if image not in self._known:
            try:
                files = self._catalogue.templates(image)
            except (NotFound, ImageError) as error:
                files, self.why[image] = None, error.summary
            else:
                if files is None:
                    self.why[image] = NOT_KEPT
            self._known[image] = None if files is None else Tree(files, self._stand_ins)
        return self._known[image]


class Common:
    """What nodes share, by the ids of its parts.

    :param parts: those that are on record; :meth:`keep` adds such as would be.
    """

    def __init__(self, parts: Mapping[str, Mapping[str, Any]]) -> None:
        self._parts = {ident: name_members(part) for ident, part in parts.items()}
        self._shared: dict[tuple[str, ...], Shared] = {}

    def keep(self, part: Mapping[str, Any]) -> str:
        text = write_part(part)
        ident = part_id(text)
        if ident not in self._parts:
            self._parts[ident] = name_members(json.loads(text))  # as it would come to the instances
        return ident

    def find(self, idents: tuple[str, ...]) -> Shared | None:
        """None when one of them is not kept any more."""
        if idents not in self._shared:
            if any(ident not in self._parts for ident in idents):
                return None
            self._shared[idents] = Shared([self._parts[ident] for ident in idents])
        return self._shared[idents]
