"""Statements: what Stripe itself lists of an account, for the ledger to compare its books with.

Nothing of the mirror goes into them: comparing the ledger with what it was posted from would always
agree. An account is listed in slices of time, which are kept here until all of it is told: a try that
fails goes on from the last one, and no more than a slice is held in memory.
"""

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Envelope, Mode
from libs.contracts.ledger import StatementRequested
from libs.contracts.stripe_sync import (
    StatementBalance,
    StatementDigest,
    StatementLine,
    StatementPayout,
    StripeStatement,
    statement_digest,
)
from libs.db.pool import Cause, Database, Row, Tx
from libs.messaging.outbox import emit
from services.stripe_sync import beginnings, store_statements
from services.stripe_sync.client import StripeApi, StripeCallError, StripeRefusedError
from services.stripe_sync.crew import Crew
from services.stripe_sync.identities import Identities
from services.stripe_sync.lease import Lease, hold, leased
from services.stripe_sync.statements_listing import left_with, list_balances, list_slice

log = structlog.get_logger()

ENTRIES_PER_PART = 400
PARTS_AT_ONCE = 25
"""That are told in one transaction."""
SLICE_MIN = timedelta(days=1)
SLICE_PAGES_MAX = 20
"""Of lines, and of payouts. A longer slice is cut, down to a day."""
DAY_PAGES_MAX = 1_000
"""100,000 lines: an account of which a day has more is not listed."""
CUT_INTO = 4
TOO_LONG = "list_too_long"
DROPPED_AT_ONCE = 20_000
ACCOUNTS_AT_ONCE_MAX = 4
ATTEMPTS_MAX = 12
PAUSE_SECONDS_MIN, PAUSE_SECONDS_MAX = 2.0, 600.0
"""Doubling, so that it is given up an hour or so after the last slice that was listed."""

Key = tuple[UUID, Mode, UUID]


async def take_request(tx: Tx, event: Envelope[StatementRequested]) -> None:
    """Enter the request; a worker lists the account."""
    wanted = event.data
    await store_statements.insert(
        tx, wanted.statement_id, wanted.account, wanted.listed_from, wanted.listed_to, event
    )


class StatementWorker:
    """Answers requests, each account in a task of its own."""

    def __init__(self, database: Database, identities: Identities) -> None:
        self._database = database
        self._identities = identities
        self.crew: Crew[Key] = Crew("list a statement", self.answer, most=ACCOUNTS_AT_ONCE_MAX)

    async def run_once(self) -> None:
        """Take up what is due."""
        self.crew.take_up(await self.due())

    async def due(self) -> list[Key]:
        """Requests whose turn it is, one of each account."""
        async with self._database.maintenance() as tx:
            found = await store_statements.due(tx, utc_now(), ACCOUNTS_AT_ONCE_MAX)
        return [
            (tenant, "live" if mode == "live" else "test", statement)
            for tenant, mode, statement in found
        ]

    async def answer(self, key: Key) -> None:
        """List one statement and tell it; or try later, or say why it cannot be."""
        async with leased(self._database, f"statement:{key[2]}") as lease:
            row = await self._read(key)
            while lease is not None and row is not None:
                try:
                    await self._go_on(row, lease)
                except StripeCallError as error:
                    is_final = isinstance(error, StripeRefusedError) or error.code == TOO_LONG
                    await (self._fail if is_final else self._later)(row, error.code, lease)
                    return
                except (KeyError, TypeError, ValueError) as error:
                    log.error("statement_odd", error=f"{type(error).__name__}: {error}")  # noqa: TRY400
                    await self._later(row, "unreadable_object", lease)
                    return
                row = await self._read(key)

    async def _read(self, key: Key) -> Row | None:
        async with self._database.tenant(key[0], key[1]) as tx:
            return await store_statements.read(tx, key[2])

    async def _go_on(self, row: Row, lease: Lease) -> None:
        """The next step of a request, which is kept when it is done."""
        if row["listed_upto"] is None:
            await self._begin(row, lease)
        elif row["listed_upto"] < row["listed_to"]:
            await self._list(row, lease)
        elif row["digest"] is None:
            await self._sum_up(row, lease)
        elif row["sent_parts"] < _parts(row):
            await self._tell(row, lease)
        else:
            await self._drop_entries(row)
            async with self._transaction(row, lease) as tx:
                await store_statements.end(tx, row["statement_id"], "done", None)

    async def _begin(self, row: Row, lease: Lease) -> None:
        """Note what Stripe holds: now, for it is to fit the end of what is listed."""
        api = await self._api(row)
        listed_at = utc_now()
        balances = await list_balances(api)
        await self._drop_entries(row)
        async with self._transaction(row, lease) as tx:
            await store_statements.begin(
                tx,
                row["statement_id"],
                listed_at,
                [each.model_dump(mode="json") for each in balances],
            )

    async def _list(self, row: Row, lease: Lease) -> None:
        """List a slice and keep it, or cut it where it is too long."""
        api = await self._api(row)
        since = row["listed_upto"]
        span = timedelta(seconds=row["slice_seconds"])
        until = min(since + span, row["listed_to"])
        is_least = until - since <= SLICE_MIN
        try:
            listed = await list_slice(
                api, since, until, pages_max=DAY_PAGES_MAX if is_least else SLICE_PAGES_MAX
            )
        except StripeCallError as error:
            if error.code != TOO_LONG or is_least:
                raise
            shorter = max(SLICE_MIN, (until - since) / CUT_INTO)
            async with self._transaction(row, lease) as tx:
                await store_statements.cut(tx, row["statement_id"], shorter)
            return
        async for payout, transactions in left_with(api, listed.settled):
            async with self._transaction(row, lease) as tx:
                await store_statements.keep_departures(
                    tx, row["statement_id"], payout, transactions
                )
        async with self._transaction(row, lease) as tx:
            await store_statements.keep_slice(tx, row, until, listed.lines, listed.payouts)

    async def _sum_up(self, row: Row, lease: Lease) -> None:
        """The digest of the whole, of which each part tells."""
        digest = StatementDigest()
        for part in range(1, _parts(row) + 1):
            async with self._database.tenant(row["tenant_id"], row["mode"]) as tx:
                digest.add(await _entries(tx, row, part))
        async with self._transaction(row, lease) as tx:
            await store_statements.note_digest(tx, row["statement_id"], digest.hexdigest())

    async def _tell(self, row: Row, lease: Lease) -> None:
        """Tell the next parts."""
        first = row["sent_parts"] + 1
        last = min(row["sent_parts"] + PARTS_AT_ONCE, _parts(row))
        async with self._transaction(row, lease) as tx:
            began_at = await beginnings.ours_from(tx, row["tenant_id"], row["account"])
            for number in range(first, last + 1):
                part = _part(row, number, await _entries(tx, row, number), began_at)
                emit(tx, part, effective_at=row["effective_at"])
            await store_statements.note_sent(tx, row["statement_id"], last)

    async def _api(self, row: Row) -> StripeApi:
        identity = await self._identities.of(row["account"], row["mode"])
        if identity is None or identity.tenant_id != row["tenant_id"]:
            raise StripeCallError("not_connected", "the tenant has not connected this account")
        return identity.api

    async def _drop_entries(self, row: Row) -> None:
        """Forget what was listed, some at a time."""
        dropped = DROPPED_AT_ONCE
        while dropped == DROPPED_AT_ONCE:
            async with self._database.tenant(row["tenant_id"], row["mode"]) as tx:
                dropped = await store_statements.drop_entries(
                    tx, row["statement_id"], DROPPED_AT_ONCE
                )

    async def _later(self, row: Row, error: str, lease: Lease) -> None:
        if row["attempts"] + 1 >= ATTEMPTS_MAX:
            await self._fail(row, error, lease)
            return
        pause = min(PAUSE_SECONDS_MIN * 2 ** row["attempts"], PAUSE_SECONDS_MAX)
        async with self._transaction(row, lease) as tx:
            until = utc_now() + timedelta(seconds=pause)
            await store_statements.postpone(tx, row["statement_id"], until, error)

    async def _fail(self, row: Row, error: str, lease: Lease) -> None:
        log.error("statement_not_listed", account=row["account"], error=error)
        failed = StripeStatement(
            statement_id=row["statement_id"],
            account=row["account"],
            listed_from=row["listed_from"],
            listed_to=row["listed_to"],
            part=0,
            parts=0,
            line_count=0,
            payout_count=0,
            digest=statement_digest((), ()),
            listed_at=utc_now(),
            error=error[:100],
        )
        async with self._transaction(row, lease) as tx:
            await store_statements.start_over(tx, row["statement_id"])
        await self._drop_entries(row)
        async with self._transaction(row, lease) as tx:
            if await store_statements.end(tx, row["statement_id"], "failed", error):
                emit(tx, failed, effective_at=row["effective_at"])

    @asynccontextmanager
    async def _transaction(self, row: Row, lease: Lease) -> AsyncGenerator[Tx, None]:
        """One that writes: it commits only while the request is ours."""
        cause = Cause(row["causation_id"], row["correlation_id"])
        async with self._database.tenant(row["tenant_id"], row["mode"], cause=cause) as tx:
            await hold(tx, lease)
            yield tx


def _parts(row: Row) -> int:
    """Of how many parts a statement is; at least one."""
    entries: int = row["line_count"] + row["payout_count"]
    return max(1, -(-entries // ENTRIES_PER_PART))


async def _entries(tx: Tx, row: Row, part: int) -> list[StatementLine | StatementPayout]:
    """The entries of a part: all lines come before all payouts."""
    first = (part - 1) * ENTRIES_PER_PART
    return await store_statements.entries_of(tx, row, first, first + ENTRIES_PER_PART)


def _part(
    row: Row,
    number: int,
    entries: Sequence[StatementLine | StatementPayout],
    began_at: datetime | None,
) -> StripeStatement:
    """A part of the statement, of an account that is ours from a time on."""
    balances = [StatementBalance.model_validate(each) for each in row["balances"]]
    return StripeStatement(
        statement_id=row["statement_id"],
        account=row["account"],
        listed_from=row["listed_from"],
        listed_to=row["listed_to"],
        part=number,
        parts=_parts(row),
        line_count=row["line_count"],
        payout_count=row["payout_count"],
        digest=row["digest"],
        lines=tuple(each for each in entries if isinstance(each, StatementLine)),
        payouts=tuple(each for each in entries if isinstance(each, StatementPayout)),
        balances=tuple(balances) if number == 1 else (),
        listed_at=row["listed_at"],
        ours_from=began_at,
    )
