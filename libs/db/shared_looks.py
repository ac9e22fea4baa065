"""Many who ask the same at the same time, answered by one look.

A gate in front of a product asks before each use, so a busy customer's limit is asked for hundreds of times
in a second; and at the end of the second that a tenant is remembered for, all its requests under way ask who
it is. One look at a time is under way for each question; whoever asks meanwhile shares the next.
So every answer is of a look that began after it was asked for, and none is older than the question.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

Answer = TypeVar("Answer")


class SharedLooks(Generic[Answer]):
    """Looks under way, and those that come after them, by question."""

    def __init__(self) -> None:
        self._under_way: dict[Hashable, asyncio.Task[Answer]] = {}
        self._next: dict[Hashable, asyncio.Task[Answer]] = {}

    async def ask(self, question: Hashable, look: Callable[[], Awaitable[Answer]]) -> Answer:
        """The answer of a look that begins now or later.

        A look that hangs is waited for, and then one's own: so a look must have an end of its own, as
        a statement has in its time-out, and whoever asks waits for two at most.

        Args:
            look: finds the answer; of those who ask the same, one finds it for all.

        Raises:
            Exception: whatever the look raises, for each who asked.
        """
        mine = self._next.get(question)
        if mine is None:
            mine = self._next[question] = asyncio.create_task(self._look(question, look))
        # Whoever gives up must not take the answer from the others.
        return await asyncio.shield(mine)

    async def _look(self, question: Hashable, look: Callable[[], Awaitable[Answer]]) -> Answer:
        before = self._under_way.get(question)
        if before is not None:
            await asyncio.wait({before})
        mine = self._under_way[question] = self._next.pop(question)
        try:
            return await look()
        finally:
            if self._under_way.get(question) is mine:
                del self._under_way[question]
