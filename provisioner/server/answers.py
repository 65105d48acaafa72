"""Requests read and errors answered in one way by both listeners."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from provisioner.errors import (
    BmcError,
    BmcSilent,
    Conflict,
    DeadlinePassed,
    ManifestError,
    NotFound,
    ProvisionerError,
    TrustError,
    UsageError,
)
from provisioner.model.value import Value

V = TypeVar("V", bound=Value)

STATUS: tuple[tuple[type[ProvisionerError], int], ...] = (
    (NotFound, 404),
    (Conflict, 409),
    (ManifestError, 422),
    (UsageError, 400),
    (TrustError, 403),
    (BmcSilent, 504),
    (BmcError, 502),
    (DeadlinePassed, 504),
)
"""The first class that an error belongs to gives its HTTP status; any other is 500."""


def describe_error(error: ProvisionerError) -> tuple[int, dict[str, Any]]:
    """(HTTP status, what is answered)."""
    return next((code for kind, code in STATUS if isinstance(error, kind)), 500), error.to_dict()


def describe_path(status: int, path: str, detail: str = "") -> tuple[int, dict[str, Any]]:
    """What HTTP itself says of a request, in our words. ``detail``: where we have none."""
    kind = {404: "NotFound", 405: "UsageError"}.get(status, "ProvisionerError")
    summary = {404: "there is nothing at this path", 405: "this path does not take that method"}
    return status, {
        "error": kind,
        "summary": summary.get(status, detail),
        "where": path,
        "cause": None,
        "hint": None,
    }


def describe_fault(error: Exception, method: str, path: str) -> tuple[int, dict[str, Any]]:
    """A fault of ours: the log has the traceback, the answer says where to look and not what was in it."""
    said = ProvisionerError(
        "the service failed on this request",
        where=f"{method} {path}",
        cause=type(error).__name__,
        hint="read the service's log; this is a fault in the program",
    )
    return 500, said.to_dict()


def build_app(routes: list[Route]) -> Starlette:
    """An application whose every error is the JSON of a :class:`ProvisionerError`."""
    return Starlette(
        routes=routes,
        exception_handlers={ProvisionerError: _ours, HTTPException: _of_http, Exception: _unexpected},
    )


async def read_value(request: Request, kind: type[V]) -> V:
    """The body as a value.

    :raises UsageError: it is not one; says which fields are wrong, and never repeats what they held.
    """
    try:
        return kind.model_validate_json(await request.body())
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'body'}: {fault['msg']}" for fault in error.errors()
        )
        raise UsageError("the request cannot be understood", where=request.url.path, cause=faults) from None


def parse_map(body: bytes, path: str) -> dict[str, Any]:
    """A body as a JSON map.

    :raises UsageError: it is none, or has a number that JSON cannot write (RFC 8259, section 6).
    """
    try:
        found = json.loads(body, parse_float=_parse_finite, parse_constant=_parse_finite)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise UsageError("the body is not a JSON map", where=path)
    return found


def _parse_finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def parse_number(query: Mapping[str, str], name: str, default: float, path: str) -> float:
    """A query parameter that is a number and not negative.

    :raises UsageError: it is something else.
    """
    text = query.get(name)
    try:
        number = float(text) if text else default
    except ValueError:
        number = -1.0
    if not 0 <= number < 2**53:
        raise UsageError(f"{name} is not a number of 0 or more", where=path, cause=f"{name}={text}")
    return number


def read_number(request: Request, name: str, default: float) -> float:
    """As :func:`parse_number`, of the request's query."""
    return parse_number(request.query_params, name, default, request.url.path)


def _answer(status: int, said: dict[str, Any], headers: Mapping[str, str] | None = None) -> Response:
    return JSONResponse(said, status, headers)


async def _ours(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProvisionerError)
    return _answer(*describe_error(error))


async def _of_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(*describe_path(error.status_code, request.url.path, error.detail), error.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _answer(*describe_fault(error, request.method, request.url.path))
