"""Different questions of one asker, put to Postgres together where they come together.

A round trip takes a process longer than most of what it asks. So questions that come in the same moment
share a look, and where more is asked than is answered, whatever comes meanwhile shares the next one: that is
how a process catches up. Every answer is of a look that began after it was asked for.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

Question = TypeVar("Question")
Answer = TypeVar("Answer")

AT_ONCE, AT_ONCE_MAX = 2, 4
"""So many looks of an asker are under way; more where more questions wait than share one, but no more than
half of the connections that a process has."""

TOGETHER_MAX = 8
"""So many questions share a look: one that takes long holds up no more than these."""


class _Waiting(NamedTuple, Generic[Question, Answer]):
    question: Question
    look: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]]
    answer: asyncio.Future[Answer]


class GatheredLooks(Generic[Question, Answer]):
    """Questions that wait for a look, and looks under way, by who asks."""

    def __init__(self) -> None:
        self._waiting: dict[Hashable, list[_Waiting[Question, Answer]]] = {}
        self._under_way: Counter[Hashable] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    async def ask(
        self,
        asker: Hashable,
        question: Question,
        look: Callable[[Sequence[Question]], Awaitable[Sequence[Answer]]],
    ) -> Answer:
        """The answer of a look that begins now or later.

        Args:
            asker: whose questions may share a look, and what becomes of it.
            look: finds the answers to some questions; of those who share a look, one finds them for all.

        Raises:
            Exception: whatever the look raises, for each whose question it was.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        waiting = self._waiting.setdefault(asker, [])
        waiting.append(_Waiting(question, look, answer))
        if self._under_way[asker] < (AT_ONCE_MAX if len(waiting) > TOGETHER_MAX else AT_ONCE):
            self._under_way[asker] += 1
            # It begins in the next turn, when all that came in this one are there.
            task = asyncio.create_task(self._answer(asker))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await answer

    async def _answer(self, asker: Hashable) -> None:
        """Look, until no question of the asker waits."""
        try:
            while waiting := self._waiting.pop(asker, None):
                if waiting[TOGETHER_MAX:]:
                    self._waiting[asker] = waiting[TOGETHER_MAX:]
                await _look_for(waiting[:TOGETHER_MAX])
        finally:
            self._under_way[asker] -= 1
            if not self._under_way[asker]:
                del self._under_way[asker]


async def _look_for(together: Sequence[_Waiting[Question, Answer]]) -> None:
    # Who has given up is not asked for.
    wanted = [each for each in together if not each.answer.done()]
    if not wanted:
        return
    try:
        answers = await wanted[0].look([each.question for each in wanted])
        assert len(answers) == len(wanted), "each question has an answer"
    except Exception as error:  # noqa: BLE001 - it is told to each who waits
        for each in wanted:
            if not each.answer.done():
                each.answer.set_exception(error)
        return
    for each, answer in zip(wanted, answers, strict=True):
        if not each.answer.done():
            each.answer.set_result(answer)
