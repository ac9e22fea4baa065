"""Several accounts worked on at once, each in a task of its own: a slow one holds up nobody."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Generic, TypeVar

import structlog

from libs.db.pool import TRANSIENT_ERRORS

log = structlog.get_logger()

BROKEN_PAUSE_SECONDS = 10.0
FAILED_PAUSE_SECONDS = 1.0

K = TypeVar("K", bound=Hashable)


class Crew(Generic[K]):
    """Runs `work` for what is due, never twice at once for the same."""

    def __init__(self, name: str, work: Callable[[K], Awaitable[object]], *, most: int) -> None:
        self._name = name
        self._work = work
        self._most = most
        self._tasks: dict[K, asyncio.Task[None]] = {}
        self._stopped = False

    @property
    def busy(self) -> list[K]:
        """What is being worked on."""
        return list(self._tasks)

    @property
    def room(self) -> int:
        """How much more can be taken up."""
        return 0 if self._stopped else self._most - len(self._tasks)

    def take_up(self, due: Iterable[K]) -> None:
        """Start on what is due, as long as there is room."""
        for each in due:
            if self.room > 0 and each not in self._tasks:
                self._tasks[each] = asyncio.create_task(self._run(each))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """End every task when the block ends."""
        try:
            yield
        finally:
            self._stopped = True
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, each: K) -> None:
        try:
            await self._work(each)
        except TRANSIENT_ERRORS as error:
            log.warning("work_failed", work=self._name, error=type(error).__name__)
            await asyncio.sleep(FAILED_PAUSE_SECONDS)
        except Exception:
            log.exception("work_broken", work=self._name, on=str(each))
            await asyncio.sleep(BROKEN_PAUSE_SECONDS)
        finally:
            self._tasks.pop(each, None)


@asynccontextmanager
async def all_running(crews: Iterable[Crew[Any]]) -> AsyncGenerator[None, None]:
    """End every task of several crews when the block ends."""
    async with AsyncExitStack() as stack:
        for crew in crews:
            await stack.enter_async_context(crew.running())
        yield
