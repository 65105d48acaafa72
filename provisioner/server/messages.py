"""The messages of both agents, each handed to the conductor and answered."""

from __future__ import annotations

import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol
from urllib.parse import parse_qsl

from provisioner.conductor.metadata import Ask
from provisioner.conductor.recovery import WAIT
from provisioner.errors import ProvisionerError, UsageError
from provisioner.server.answers import describe_error, describe_fault, describe_path, parse_map, parse_number
from provisioner.server.changes import Changes
from provisioner.server.desk import Desk, ForGuests
from provisioner.server.gather import Gather
from provisioner.server.guard import Call
from provisioner.store.duty import TOPIC as DUTY_TOPIC
from provisioner.store.permits import ANY_PERMIT
from provisioner_agent.protocol.messages import (
    BETWEEN,
    HANDOVER,
    HANDOVER_SAY,
    HELLO,
    METADATA,
    ORDER,
    PERMIT,
    PROGRESS,
    RECOVER,
    REPORT,
    RESULT,
)

LOG = logging.getLogger(__name__)
NOTHING = b"{}"
Answer = Callable[[Call], Awaitable[bytes]]


class ForHandover(Protocol):
    """A handover as the next master sees it."""

    def offer(self, token: str, have: str) -> dict[str, Any]: ...

    def hear(self, token: str, message: Mapping[str, Any]) -> dict[str, Any]: ...


class GuestMessages:
    """Calls whose authentication holds → (HTTP status, JSON).

    A thousand agents wait here at the same time, so a call passes as few hands as it can, and what is news for all of
    them is looked up for many at once.
    """

    def __init__(self, conductor: ForGuests, desk: Desk, changes: Changes, handover: ForHandover | None = None) -> None:
        self._conductor = conductor
        self._handover = handover
        self._desk = desk
        self._changes = changes
        self._told = Gather[Ask, str | None](lambda asks: desk.for_guest(conductor.metadata, asks))
        self._heard = Gather[tuple[str, dict[str, Any]], dict[str, Any]](
            lambda asks: desk.for_guest(conductor.reports, asks)
        )
        self._paths: dict[str, tuple[str, Answer]] = {
            HELLO: ("POST", self._hello),
            ORDER: ("GET", self._order),
            PROGRESS: ("POST", self._progress),
            RESULT: ("POST", self._result),
            METADATA: ("GET", self._metadata),
            REPORT: ("POST", self._report),
            PERMIT: ("POST", self._permit),
            RECOVER: ("POST", self._recover),
        }
        if handover is not None:
            self._paths |= {HANDOVER: ("GET", self._offer), HANDOVER_SAY: ("POST", self._say)}

    async def __call__(self, call: Call) -> tuple[int, bytes]:
        method, answer = self._paths.get(call.path, ("", None))
        try:
            if answer is None or method != call.method:
                status, said = describe_path(405 if answer else 404, call.path)
            else:
                return 200, await answer(call)
        except ProvisionerError as error:
            status, said = describe_error(error)
        except Exception as error:
            LOG.exception("%s %s", call.method, call.path)
            status, said = describe_fault(error, call.method, call.path)
        return status, json.dumps(said).encode()

    async def _hello(self, call: Call) -> bytes:
        message = parse_map(call.body, call.path)
        return _json(await self._desk.for_guest(self._conductor.hello, call.token, message, call.peer))

    async def _order(self, call: Call) -> bytes:
        order = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.order, call.token),
            bool,
            _wait(call),
            call.topics,
            who=call.token,
        )
        return _json({"order": order}) if order else NOTHING

    async def _progress(self, call: Call) -> bytes:
        await self._desk.for_guest(self._conductor.progress, call.token, parse_map(call.body, call.path))
        return NOTHING

    async def _result(self, call: Call) -> bytes:
        await self._desk.for_guest(self._conductor.result, call.token, parse_map(call.body, call.path))
        return NOTHING

    async def _metadata(self, call: Call) -> bytes:
        query = _query(call)
        have = tuple(query.get("have", "").split(BETWEEN))
        ask = Ask(call.token, int(parse_number(query, "since", 0, call.path)), have)
        # Nothing of it depends on time alone, so nobody looks again before a change is announced.
        found = await self._changes.poll(
            lambda: self._told(ask), bool, _wait(call), call.topics, again=None, who=call.token
        )
        return found.encode() if found else NOTHING

    async def _report(self, call: Call) -> bytes:
        answer = await self._heard((call.token, parse_map(call.body, call.path)))
        return _json(answer) if answer else NOTHING

    async def _offer(self, call: Call) -> bytes:
        """Waits until something is due to whoever is to be the next master."""
        assert self._handover is not None
        handover, have = self._handover, _query(call).get("have", "")
        answer = await self._changes.poll(
            lambda: self._desk.for_guest(handover.offer, call.token, have),
            bool,
            _wait(call),
            frozenset((DUTY_TOPIC,)),
            who=call.token,
        )
        return _json(answer)

    async def _say(self, call: Call) -> bytes:
        assert self._handover is not None
        return _json(await self._desk.for_guest(self._handover.hear, call.token, parse_map(call.body, call.path)))

    async def _permit(self, call: Call) -> bytes:
        """An acquire waits until it is granted; a release is answered at once."""
        message = parse_map(call.body, call.path)
        wait = _patience(message, call)
        acquires = message.get("action") == "acquire"
        answer = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.permit, call.token, message),
            lambda said: not acquires or bool(said.get("granted")),
            wait,
            call.topics | {ANY_PERMIT},
            who=call.token,
        )
        return _json(answer)

    async def _recover(self, call: Call) -> bytes:
        """Waits until it is known who begins again."""
        message = parse_map(call.body, call.path)
        wait = _patience(message, call)
        answer = await self._changes.poll(
            lambda: self._desk.for_guest(self._conductor.recover, call.token, message),
            lambda said: said.get("verdict") != WAIT,
            wait,
            call.topics | {ANY_PERMIT},
            who=call.token,
        )
        return _json(answer)


def _patience(message: Mapping[str, Any], call: Call) -> float:
    """:raises UsageError: ``wait`` is no number of seconds."""
    wait = message.get("wait", 0)
    if not isinstance(wait, int | float) or isinstance(wait, bool) or wait < 0:
        raise UsageError("wait is not a number of seconds", where=call.path)
    return wait


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value).encode()


def _query(call: Call) -> dict[str, str]:
    return dict(parse_qsl(call.query))


def _wait(call: Call) -> float:
    return parse_number(_query(call), "wait", 0, call.path)
