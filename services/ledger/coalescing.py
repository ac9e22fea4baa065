"""Entries that are asked for at the same time are booked in one commit.

A commit costs as much for many as for one: so an entry waits for nobody, but whoever asks while others
are being booked goes with the next. Nobody is answered before the commit of its own, and each gets a
verdict of its own. Each book and mode has a line of its own: a commit has one of each in scope.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Mode, Scope
from libs.observability.metrics import LEDGER_ENTRIES_TOGETHER
from services.ledger import commands
from services.ledger.commands import Group, Posted, Verdict

TOGETHER_MAX = 300
"""Entries of a commit: more make nobody faster, and everybody wait."""

WAITING_MAX = 3_000
WAITING_PER_TENANT_MAX = 1_000
"""So many entries of a line, and of one tenant in it, wait for their turn; who comes then is told to
come back."""

WAIT_SECONDS = 10.0


class LineFullError(RuntimeError):
    """Too many wait already; nothing was booked."""


class OverdueError(RuntimeError):
    """It took too long. Whether it is booked yet is open; asked for again, it is booked once."""


@dataclass(frozen=True)
class _Waiting:
    """A group that is not booked yet, and who waits for it."""

    group: Group
    outcome: asyncio.Future[list[Posted]]

    @property
    def tenant_id(self) -> UUID:
        """Whose it is."""
        return self.group[0].tenant_id


class Coalescer:
    """Books what is asked for, in commits of as many as there are."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines: dict[tuple[Mode, Book], _Line] = {}

    async def post(self, group: Group) -> list[Posted]:
        """Book a group of one tenant, mode and book, all of it or none; it is durable then.

        Raises:
            LineFullError: too many wait already.
            OverdueError: it took too long; it may be booked or not.
            RefusedError and whatever else kept this group from being booked.
            OSError and its kin: Postgres is away; it may be booked or not.
        """
        place = (group[0].mode, group[0].entry.book)
        line = self._lines.get(place)
        if line is None:
            line = self._lines[place] = _Line(self._database, *place)
        outcome = line.enter(group)
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await outcome
        except TimeoutError:
            if not outcome.cancelled():
                # Postgres said so, not the clock of here.
                raise
            raise OverdueError from None


class _Line:
    """Those who wait for one book and mode."""

    def __init__(self, database: Database, mode: Mode, book: Book) -> None:
        self._database = database
        self._mode = mode
        self._book = book
        self._waiting: deque[_Waiting] = deque()
        self._entries: Counter[UUID] = Counter()
        self._writer: asyncio.Task[None] | None = None

    def enter(self, group: Group) -> asyncio.Future[list[Posted]]:
        """Stand in the line; the outcome is cancelled by whoever waits no more.

        Raises:
            LineFullError: it is too long.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(group, loop.create_future())
        if (
            self._entries.total() + len(group) > WAITING_MAX
            or self._entries[waiting.tenant_id] + len(group) > WAITING_PER_TENANT_MAX
        ):
            raise LineFullError
        self._waiting.append(waiting)
        self._entries[waiting.tenant_id] += len(group)
        if self._writer is None:
            # A context of its own: it works for others too.
            self._writer = loop.create_task(self._write(), context=Context())
        return waiting.outcome

    async def _write(self) -> None:
        """Book what waits until nothing does.

        The writer is one no more in the very step in which it finds nothing: whoever comes after that
        starts another.
        """
        try:
            while self._waiting:
                batch = self._next()
                if batch:
                    await self._write_together(batch)
        finally:
            self._writer = None

    def _next(self) -> list[_Waiting]:
        """The oldest that go together, without those that nobody waits for any more."""
        batch: list[_Waiting] = []
        entries = 0
        while self._waiting:
            size = len(self._waiting[0].group)
            if batch and entries + size > TOGETHER_MAX:
                break
            waiting = self._waiting.popleft()
            self._entries[waiting.tenant_id] -= size
            if not self._entries[waiting.tenant_id]:
                del self._entries[waiting.tenant_id]
            if not waiting.outcome.done():
                batch.append(waiting)
                entries += size
        return batch

    async def _write_together(self, batch: Sequence[_Waiting]) -> None:
        """Book a batch in one commit; what fails as a whole for good is tried one by one."""
        try:
            verdicts = await self._post([waiting.group for waiting in batch])
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            if len(batch) > 1 and not isinstance(error, TRANSIENT_ERRORS):
                for waiting in batch:
                    await self._write_together([waiting])
                return
            verdicts = [error] * len(batch)
        for waiting, verdict in zip(batch, verdicts, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(verdict, Exception):
                waiting.outcome.set_exception(verdict)
            else:
                waiting.outcome.set_result(verdict)

    async def _post(self, groups: Sequence[Group]) -> list[Verdict]:
        LEDGER_ENTRIES_TOGETHER.observe(sum(map(len, groups)))
        tenants = tuple({group[0].tenant_id: None for group in groups})
        scope = Scope(tenants, self._mode, (self._book,))
        async with self._database.transaction(scope) as tx:
            return await commands.post(tx, self._book, groups)
