"""Webhooks that arrive at the same time are kept in one commit.

A commit costs as much for many as for one: so a webhook waits for nobody, but whoever arrives while
others are being kept goes with the next, and so does whoever is at the door when that sets out. Nobody
is answered before the commit of its own.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextvars import Context

import msgspec

from libs.contracts.envelope import Mode
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Scope
from services.gateway import keeping, store
from services.gateway.keeping import Outcome, Place, Sender, Taken

WRITERS_MAX = 2
"""While one waits for the disk another prepares the next."""
WORTH_ANOTHER = 8
"""So many must wait for the second one to set out: with fewer, commits of two or three follow each other
and the process spends its time on them, while the next of the first one would take them all."""
PROMPT_SECONDS = 0.02
"""A commit that takes longer, as one on a connection that was lost does, is waited for by nobody."""
TOGETHER_MAX = 32
"""Half of what a sender with 64 connections has under way: that half is answered and sends anew while
the other is on its way to the disk. With all in one commit the process has nothing to do meanwhile."""
BYTES_TOGETHER_MAX = 4 * 1024 * 1024
TURNS_BEFORE = 3
"""Turns of the loop before a commit sets out: one in which those of the last are answered, one in which
what lies in the sockets is read, one in which it is verified. Else the first of many goes alone."""

Writer = asyncio.Task[None]


class _Waiting(msgspec.Struct, frozen=True):
    """A webhook that is not durable yet, and who waits for it.

    Attributes:
        place: whose it is; None where the directory must be asked.
    """

    taken: Taken
    mode: Mode
    place: Place | None
    outcome: asyncio.Future[Outcome]


class Arrivals:
    """Keeps what arrives, in commits of as many as there are."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self._waiting: deque[_Waiting] = deque()
        self._writers: set[Writer] = set()
        self._slow: set[Writer] = set()

    async def keep(self, taken: Taken, mode: Mode, place: Place | None) -> Outcome:
        """Keep an event; when this returns it is durable.

        Args:
            place: whose it is; None for an event of the platform's own account, whose tenant the
                directory knows.

        Raises:
            OSError and its kin: Postgres is away; nothing was kept.
        """
        outcome: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(taken, mode, place, outcome))
        self._start_writer()
        return await outcome

    def _start_writer(self) -> None:
        """Let one more set out, where there may be one more and enough wait for it."""
        if len(self._writers) < WRITERS_MAX and self._is_enough(beside=self._writers):
            # A context of its own: it works for others too.
            writer = asyncio.get_running_loop().create_task(self._write(), context=Context())
            self._writers.add(writer)

    def _is_enough(self, *, beside: AbstractSet[Writer]) -> bool:
        """Whether so many wait that a writer beside these has something to do."""
        return len(self._waiting) >= (WORTH_ANOTHER if beside - self._slow else 1)

    async def _write(self) -> None:
        """Keep what waits until nothing does, or too few for two writers.

        A writer is one no more in the very step in which it finds too few: whoever comes after that
        starts another.
        """
        writer = asyncio.current_task()
        assert writer is not None, "it runs as a task of its own"
        try:
            while self._is_enough(beside=self._writers - {writer}):
                await self._write_next(writer)
        finally:
            self._writers.discard(writer)

    async def _write_next(self, writer: Writer) -> None:
        for _ in range(TURNS_BEFORE):
            await asyncio.sleep(0)
        # The other one may have taken them meanwhile.
        if not self._waiting:
            return
        batch = self._next()
        slow = asyncio.get_running_loop().call_later(PROMPT_SECONDS, self._note_slow, writer)
        try:
            await self._keep(batch)
        except Exception as error:  # noqa: BLE001 - whoever waits is told
            await self._failed(batch, error)
        finally:
            slow.cancel()
            self._slow.discard(writer)

    def _note_slow(self, writer: Writer) -> None:
        """Nobody waits for what this one has under way."""
        self._slow.add(writer)
        self._start_writer()

    def _next(self) -> list[_Waiting]:
        """The oldest that can go together: of one mode, and not too much."""
        batch = [self._waiting.popleft()]
        bytes_together = len(batch[0].taken.body)
        while self._waiting and len(batch) < TOGETHER_MAX:
            first = self._waiting[0]
            bytes_together += len(first.taken.body)
            if first.mode != batch[0].mode or bytes_together > BYTES_TOGETHER_MAX:
                break
            batch.append(self._waiting.popleft())
        return batch

    async def _keep(self, batch: Sequence[_Waiting]) -> None:
        """Keep a batch in a statement that is a transaction by itself, and tell those who wait."""
        mode = batch[0].mode
        wanted = [
            (kind, value)
            for waiting in batch
            if waiting.place is None
            for kind, value, _ in keeping.look_ups(waiting.taken.event, mode)
        ]
        found = await store.find_tenant_ids(self.database, wanted) if wanted else {}
        arrivals = [
            (each.place or keeping.place_of(each.taken.event, mode, found), each.taken)
            for each in batch
        ]
        tenants = dict.fromkeys(place.tenant_id for place, _ in arrivals)
        sender = Sender(self.database.service, Scope(tuple(tenants), mode))
        kept = await keeping.keep(self.database, sender, arrivals)
        _tell(batch, kept.outcomes)
        for step in kept.afterwards:
            step()

    async def _failed(self, batch: Sequence[_Waiting], error: Exception) -> None:
        """Tell those who wait; one that nobody can keep must not take the others with it."""
        if len(batch) > 1 and not isinstance(error, TRANSIENT_ERRORS):
            for waiting in batch:
                try:
                    await self._keep([waiting])
                except Exception as own:  # noqa: BLE001 - likewise
                    await self._failed([waiting], own)
            return
        for waiting in batch:
            if not waiting.outcome.done():
                waiting.outcome.set_exception(error)


def _tell(batch: Sequence[_Waiting], outcomes: Sequence[Outcome]) -> None:
    """What was kept is durable."""
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if not waiting.outcome.done():
            waiting.outcome.set_result(outcome)
