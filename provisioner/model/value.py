"""The base of every noun: frozen, strict, and JSON both ways."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Value(BaseModel):
    """A frozen value that refuses unknown keys. ``model_dump(mode="json")`` and ``model_validate`` are inverse."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, ser_json_timedelta="float")
