"""Questions of many guests become few: who asks what is answered, whatever becomes of the others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from provisioner.server import gather
from provisioner.server.gather import Gather


class Asked:
    """Doubles numbers; notes in which groups it was asked."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.go = asyncio.Event()

    async def __call__(self, numbers: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(numbers))
        await self.go.wait()
        if 13 in numbers:
            raise OSError("the records are away")
        return [KeyError(number) if number < 0 else number * 2 for number in numbers]


def test_what_comes_while_a_group_is_asked_is_the_next_group() -> None:
    async def run() -> None:
        asked = Asked()
        ask = Gather(asked)
        first = asyncio.create_task(ask(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        others = [asyncio.create_task(ask(number)) for number in (2, -3, 4)]
        await asyncio.sleep(0)
        asked.go.set()
        answers = await asyncio.gather(first, *others, return_exceptions=True)
        assert asked.groups == [[1], [2, -3, 4]]
        assert answers[:2] == [2, 4] and answers[3] == 8
        assert isinstance(answers[2], KeyError)
        assert await ask(5) == 10  # and it begins again

    asyncio.run(run())


def test_groups_are_limited_and_one_that_fails_leaves_the_next_alone() -> None:
    async def run() -> None:
        asked = Asked()
        asked.go.set()
        ask = Gather(asked)
        tasks = [asyncio.create_task(ask(13)) for _ in range(gather.MOST)]
        tasks += [asyncio.create_task(ask(1)) for _ in range(2)]
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert [len(group) for group in asked.groups] == [gather.MOST, 2]
        assert all(isinstance(answer, OSError) for answer in answers[: gather.MOST])
        assert answers[gather.MOST :] == [2, 2]

    asyncio.run(run())


def test_who_has_gone_is_not_answered_and_nobody_else_waits_for_that() -> None:
    async def run() -> None:
        asked = Asked()
        ask = Gather(asked)
        gone, stays = asyncio.create_task(ask(1)), asyncio.create_task(ask(2))
        await asyncio.sleep(0)
        gone.cancel()
        asked.go.set()
        assert await stays == 4
        with pytest.raises(asyncio.CancelledError):
            await gone

    asyncio.run(run())


@pytest.mark.parametrize("answers", [[], [1, 2, 3]], ids=["too few", "too many"])
def test_who_asks_does_not_wait_for_an_answer_that_never_comes(answers: list[int]) -> None:
    async def run() -> None:
        async def wrong(numbers: Sequence[int]) -> list[int | Exception]:
            return list(answers)

        ask = Gather(wrong)
        said = await asyncio.wait_for(asyncio.gather(ask(1), ask(2), return_exceptions=True), 5)
        assert [type(answer) for answer in said] == [RuntimeError] * 2

    asyncio.run(run())


def test_when_the_threads_that_ask_are_closed_nobody_waits_on() -> None:
    async def run() -> None:
        closed: asyncio.Future[list[int | Exception]] = asyncio.get_running_loop().create_future()
        ask = Gather[int, int](lambda numbers: closed)
        first = asyncio.create_task(ask(1))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        second = asyncio.create_task(ask(2))
        await asyncio.sleep(0)
        closed.cancel()
        await asyncio.wait((first, second), timeout=5)
        assert first.cancelled() and second.cancelled()

    asyncio.run(run())
