"""Questions that come at the same time are asked as one: one thread and one transaction for a thousand guests."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

MOST = 128
"""Questions that are asked at once: the first answers are on their way while the next are looked up."""


class Gather(Generic[Q, A]):
    """Hands questions on in groups, one group at a time; those that come meanwhile are the next.

    :param ask: a group of questions → their answers, in order. In the place of an answer may stand the exception that
        is raised to who asked.
    """

    def __init__(self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]]) -> None:
        self._ask = ask
        self._open: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._work: asyncio.Task[None] | None = None

    async def __call__(self, question: Q) -> A:
        """:raises Exception: that of the question, or of its whole group."""
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._open.append((question, answer))
        if self._work is None:
            self._work = asyncio.get_running_loop().create_task(self._run())
        return await answer

    async def _run(self) -> None:
        try:
            while self._open:
                group = [self._open.popleft() for _ in range(min(MOST, len(self._open)))]
                try:
                    answers = await self._ask([question for question, _ in group])
                    if len(answers) != len(group):
                        raise RuntimeError(f"{len(answers)} answers to {len(group)} questions")
                except Exception as error:
                    answers = [error] * len(group)
                except asyncio.CancelledError:  # the threads that ask are closed; nobody is to wait for them for ever
                    self._open.extendleft(reversed(group))
                    raise
                for (_, future), answer in zip(group, answers, strict=True):
                    if future.cancelled():
                        continue
                    if isinstance(answer, Exception):
                        future.set_exception(answer)
                    else:
                        future.set_result(answer)
        finally:
            self._work = None
            while self._open:
                self._open.popleft()[1].cancel()
