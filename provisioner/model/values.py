"""Values: what an element says of those that it has, and the layers that give them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import AliasChoices, Field, SerializerFunctionWrapHandler, field_validator, model_serializer

from provisioner.model.hardware import NAME
from provisioner.model.value import Value

SECRET = "secret"
"""``{secret: NAME}`` stands for a secret of the cloud."""


ADDITIONAL = ("additionalProperties", "additional")
"""As an element writes it, and as it is kept."""


def secret_name(value: Any) -> str | None:
    """The secret that a value stands for; None when it stands for itself."""
    if isinstance(value, dict) and value.keys() == {SECRET} and isinstance(value[SECRET], str):
        return str(value[SECRET])
    return None


def _with_tuples(said: Any) -> Any:
    """A schema whose lists a strict model takes: what a validator hands on is Python to it, and not JSON any more."""
    if not isinstance(said, dict):
        return said
    found = {key: _with_tuples(value) if key in ("items", *ADDITIONAL) else value for key, value in said.items()}
    lists = ("enum", "required", "x-alone", "alone")
    found |= {key: tuple(said[key]) for key in lists if isinstance(said.get(key), list)}
    if isinstance(said.get("properties"), dict):
        found["properties"] = {key: _with_tuples(value) for key, value in said["properties"].items()}
    return found


class Schema(Value):
    """What may stand at a key, in words of JSON Schema (draft 2020-12), of which it knows these.

    ``x-merge``: what becomes of the layers below. A map is merged key by key (``merge``) or replaced; a list is
    replaced, or its items are added behind (``append``), before (``prepend``), or behind if they are not there yet
    (``unique``). Anything else is replaced.
    ``x-alone``: values that only the one member of a role may have, since with two of them they do not go together.
    ``x-outside-pools``: an address that no pool of the cloud's networks may give to a node.
    Other than there, a key that ``properties`` does not name is wrong unless ``additionalProperties`` allows it, and
    where there are ``properties`` the type ``object`` need not be said.
    """

    type: Literal["string", "integer", "number", "boolean", "array", "object"] | None = None
    description: str = ""
    default: Any = None
    enum: tuple[str | int | float | bool, ...] = ()
    minimum: int | float | None = None
    maximum: int | float | None = None
    pattern: str | None = None
    items: Schema | None = None
    properties: dict[str, Schema] = Field(default_factory=dict)
    required: tuple[str, ...] = ()
    additional: Schema | None = Field(default=None, validation_alias=AliasChoices(*ADDITIONAL))
    merge: Literal["merge", "replace", "append", "prepend", "unique"] | None = Field(
        default=None, validation_alias=AliasChoices("x-merge", "merge")
    )
    alone: tuple[str | int | float | bool, ...] = Field(default=(), validation_alias=AliasChoices("x-alone", "alone"))
    outside_pools: bool = Field(default=False, validation_alias=AliasChoices("x-outside-pools", "outside_pools"))

    @field_validator("additional", mode="before")
    @classmethod
    def _anything(cls, value: Any) -> Any:
        """``true`` allows anything, ``false`` nothing."""
        if isinstance(value, bool):
            return {} if value else None
        return _with_tuples(value)

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without what was not said: it is kept with each cloud and each plan."""
        return {key: value for key, value in handler(self).items() if key in self.model_fields_set}

    @property
    def is_map(self) -> bool:
        return self.type == "object" or (self.type is None and bool(self.properties))

    @property
    def strategy(self) -> str:
        """What becomes of the layers below."""
        return self.merge or ("merge" if self.is_map or self.type is None else "replace")

    def under(self, key: str) -> Schema | None:
        """What may stand at a key of the map; None: nothing."""
        if key in self.properties:
            return self.properties[key]
        return ANYTHING if self.type is None and not self.properties else self.additional


ANYTHING = Schema()


class Zone(Value):
    """One ``zones/NAME.yaml``: values of the nodes whose hardware file says ``location: {zone: NAME}``."""

    zone: str
    description: str = ""
    values: dict[str, Any] = Field(default_factory=dict)

    @field_validator("zone")
    @classmethod
    def _name(cls, value: str) -> str:
        if not NAME.match(value):
            raise ValueError("not a zone name; write lower-case letters, digits and dashes")
        return value


class NodeUse(Value):
    """What a cloud says of one node, whatever role it gets."""

    values: dict[str, Any] = Field(default_factory=dict)


class Origin(Value):
    """Where a layer's values stand: the file, and the line of each by its dotted path."""

    file: str
    lines: dict[str, int] = Field(default_factory=dict)


class Said(Value):
    """What one layer says of a value. ``place``: ``file:line``, empty when that was not kept.

    ``counts``: whether it is, or is part of, the value in the end. ``value`` None: it takes the value away.
    """

    layer: str
    place: str = ""
    value: Any = None
    counts: bool = False


class Explained(Value):
    """A value in the end, and every layer that says something of it, the lowest first.

    ``strategy``: what becomes of the layers below, see :class:`Schema`. ``known``: False when it was taken away.
    """

    key: str
    value: Any = None
    known: bool = True
    strategy: str = "replace"
    description: str = ""
    said: tuple[Said, ...] = ()


class MemberValues(Value):
    """The values of one member of a cloud. ``zone``: of its node, empty for none."""

    cloud: str
    role: str
    hostname: str
    node: str
    zone: str = ""
    values: tuple[Explained, ...] = ()
