"""Entries that are asked for at the same time are booked in one commit.

A commit costs nearly as much for a few as for many: so whoever asks alone is booked at once, but whoever
asks while others are being booked goes with the next. Who was just answered mostly asks again at once:
so the next commit is put off until as many callers are there as were, or none has come for a fraction of
the time that the one before took. Without that, callers split into parts that take turns, each with all
the costs of a commit.

Nobody is answered before the commit of its own, and each gets a verdict of its own. Each book and mode
has a line of its own: a commit has one of each in scope.

Nearly always all can be booked, so that is tried first. Looking for the entry that keeps others from
being booked takes many tries. So of a commit that fails only the tenants are looked for; their entries
are tried once more by themselves, a few at a time and taking turns with the line, and nobody else waits
for that.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from contextvars import Context
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar
from uuid import UUID

from asyncpg import DeadlockDetectedError, SerializationError

from libs.contracts.ledger import Book
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Mode, Scope
from libs.observability.metrics import LEDGER_COMMIT_ENTRIES
from services.ledger import commands
from services.ledger.commands import Apart, ApartError
from services.ledger.commands_asked import Group, Posted, Verdict

T = TypeVar("T")

TOGETHER_MAX = 300
POSTINGS_TOGETHER_MAX = 3_000
"""Entries, and their postings, of a commit: more make nobody faster, and everybody wait."""

COMPANY_SHARE = 0.25
COMPANY_SECONDS_MAX = 0.01
"""The next commit waits for company until nobody has come for so much of the time that the one before
took, and no longer than so many seconds."""

APART_MAX = 20
"""Groups of a commit in which those that cannot be booked are looked for."""

WAITING_MAX = 3_000
WAITING_PER_TENANT_MAX = 1_000
POSTINGS_WAITING_MAX = 150_000
POSTINGS_WAITING_PER_TENANT_MAX = 50_000
"""So many entries and postings of a line, and of one tenant in it, wait for their turn; who comes
then is told to come back."""

TRIES_MAX = 4
"""Of a commit that Postgres gave up for the sake of another one: whoever books facts locks books in
the order in which they come."""

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

    @cached_property
    def postings(self) -> int:
        """How many it has."""
        return sum(len(command.entry.lines) for command in self.group)


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
        self._apart: dict[UUID, deque[_Waiting]] = {}
        self._entries: Counter[UUID] = Counter()
        self._postings: Counter[UUID] = Counter()
        self._writer: asyncio.Task[None] | None = None
        self._company: tuple[int, asyncio.Event] | None = None

    def enter(self, group: Group) -> asyncio.Future[list[Posted]]:
        """Stand in the line; the outcome is cancelled by whoever waits no more.

        Raises:
            LineFullError: it is too long.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(group, loop.create_future())
        tenant_id = waiting.tenant_id
        if (
            self._entries.total() + len(group) > WAITING_MAX
            or self._entries[tenant_id] + len(group) > WAITING_PER_TENANT_MAX
            or self._postings.total() + waiting.postings > POSTINGS_WAITING_MAX
            or self._postings[tenant_id] + waiting.postings > POSTINGS_WAITING_PER_TENANT_MAX
        ):
            raise LineFullError
        self._stand(self._waiting, waiting)
        if self._company is not None and self._is_company(self._company[0]):
            self._company[1].set()
        if self._writer is None:
            # A context of its own: it works for others too.
            self._writer = loop.create_task(self._write(), context=Context())
        return waiting.outcome

    def _stand(self, line: deque[_Waiting], waiting: _Waiting) -> None:
        line.append(waiting)
        self._entries[waiting.tenant_id] += len(waiting.group)
        self._postings[waiting.tenant_id] += waiting.postings

    async def _write(self) -> None:
        """Book what waits until nothing does.

        The writer is one no more in the very step in which it finds nothing: whoever comes after that
        starts another.
        """
        clock = asyncio.get_running_loop().time
        try:
            while self._waiting or self._apart:
                batch = self._next(self._waiting, TOGETHER_MAX)
                if batch:
                    began_at = clock()
                    await self._write_together(batch)
                    lasted_seconds = clock() - began_at
                apart = self._next_apart()
                if apart:
                    await self._write_together(apart, is_apart=True)
                elif batch:
                    await self._gather(batch, lasted_seconds)
        finally:
            self._writer = None

    async def _gather(self, answered: Sequence[_Waiting], lasted_seconds: float) -> None:
        """Let those come back who were just answered, however much each asked for; not for long.

        As long as they keep coming they are waited for: the last one, booked by itself while the
        others wait, would cost them half a commit, and be late for the next again.

        Args:
            lasted_seconds: how long their commit took.
        """
        callers = len(self._waiting) + len(answered)
        if self._is_company(callers):
            return
        self._company = callers, asyncio.Event()
        # First they are told, which may take longer than they are waited for.
        await asyncio.sleep(0)
        with suppress(TimeoutError):
            async with asyncio.timeout(COMPANY_SECONDS_MAX):
                await self._arrive(self._company[1], lasted_seconds * COMPANY_SHARE)
        self._company = None

    async def _arrive(self, complete: asyncio.Event, patience_seconds: float) -> None:
        """Until all are there, or nobody has come for so long."""
        there = -1
        while there < len(self._waiting) and not complete.is_set():
            there = len(self._waiting)
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_seconds):
                    await complete.wait()

    def _is_company(self, callers: int) -> bool:
        """Whether so many callers wait, or enough for a whole commit."""
        return (
            len(self._waiting) >= callers
            or self._entries.total() >= TOGETHER_MAX
            or self._postings.total() >= POSTINGS_TOGETHER_MAX
        )

    def _next(self, line: deque[_Waiting], groups_max: int) -> list[_Waiting]:
        """The oldest that go together, without those that nobody waits for any more."""
        batch: list[_Waiting] = []
        entries = postings = 0
        while line and len(batch) < groups_max:
            waiting = line[0]
            entries += len(waiting.group)
            postings += waiting.postings
            if batch and (entries > TOGETHER_MAX or postings > POSTINGS_TOGETHER_MAX):
                break
            self._leave(line.popleft())
            if waiting.outcome.done():
                entries -= len(waiting.group)
                postings -= waiting.postings
            else:
                batch.append(waiting)
        return batch

    def _next_apart(self) -> list[_Waiting]:
        """A few of one tenant's that are tried by themselves; tenants take turns."""
        if not self._apart:
            return []
        tenant_id, line = next(iter(self._apart.items()))
        del self._apart[tenant_id]
        batch = self._next(line, APART_MAX)
        if line:
            self._apart[tenant_id] = line
        return batch

    def _leave(self, waiting: _Waiting) -> None:
        for counted, size in (
            (self._entries, len(waiting.group)),
            (self._postings, waiting.postings),
        ):
            counted[waiting.tenant_id] -= size
            if not counted[waiting.tenant_id]:
                del counted[waiting.tenant_id]

    def _set_apart(self, waiting: _Waiting) -> None:
        self._stand(self._apart.setdefault(waiting.tenant_id, deque()), waiting)

    async def _write_together(self, batch: Sequence[_Waiting], *, is_apart: bool = False) -> None:
        """Book a batch in one commit; what fails as a whole for good is tried in parts."""
        try:
            verdicts = await self._post([waiting.group for waiting in batch], is_apart=is_apart)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            if len(batch) > 1 and not isinstance(error, TRANSIENT_ERRORS):
                await self._write_in_parts(batch, is_apart=is_apart)
                return
            verdicts = [error] * len(batch)
        for waiting, verdict in zip(batch, verdicts, strict=True):
            if waiting.outcome.done():
                continue
            if isinstance(verdict, ApartError):
                self._set_apart(waiting)
            elif isinstance(verdict, Exception):
                waiting.outcome.set_exception(verdict)
            else:
                waiting.outcome.set_result(verdict)

    async def _write_in_parts(self, batch: Sequence[_Waiting], *, is_apart: bool) -> None:
        """Book tenant by tenant; a tenant's own apart from the others', and one by one in the end."""
        tenants: dict[UUID, list[_Waiting]] = {}
        for waiting in batch:
            tenants.setdefault(waiting.tenant_id, []).append(waiting)
        if is_apart:
            for waiting in batch:
                await self._write_together([waiting], is_apart=True)
        elif len(tenants) > 1:
            for of_tenant in tenants.values():
                await self._write_together(of_tenant)
        else:
            for waiting in batch:
                self._set_apart(waiting)

    async def _post(self, groups: Sequence[Group], *, is_apart: bool) -> list[Verdict]:
        LEDGER_COMMIT_ENTRIES.observe(sum(map(len, groups)))
        if is_apart:
            return await tried_again(partial(self._commit, groups, "groups"))
        try:
            return await tried_again(partial(self._commit, groups, "nothing"))
        except TRANSIENT_ERRORS:
            raise
        except Exception:  # noqa: BLE001 - rolled back: once more, looking for whose fault it is
            return await tried_again(partial(self._commit, groups, "tenants"))

    async def _commit(self, groups: Sequence[Group], apart: Apart) -> list[Verdict]:
        tenants = tuple({group[0].tenant_id: None for group in groups})
        scope = Scope(tenants, self._mode, (self._book,))
        async with self._database.transaction(scope) as tx:
            return await commands.post(tx, self._book, groups, apart=apart)


async def tried_again(attempt: Callable[[], Awaitable[T]]) -> T:
    """What a transaction comes to that Postgres may give up for the sake of another one.

    Nothing of it is booked then: that much is certain of these two errors alone.
    """
    for _ in range(TRIES_MAX - 1):
        with suppress(DeadlockDetectedError, SerializationError):
            return await attempt()
    return await attempt()
