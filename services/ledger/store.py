"""SQL of the books."""

from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from datetime import datetime
from uuid import UUID

import asyncpg
import msgspec

from libs.db import arrays
from libs.db.pool import Cause, Row, Tx
from libs.db.tenant import Mode
from services.ledger.chart import Account
from services.ledger.entries import Entry
from services.ledger.store_bounds import overrun_of

CONFLICT_SQLSTATE = "SL002"


class SourceKeyConflictError(ValueError):
    """A source key is booked already with other content."""


class Booking(msgspec.Struct, frozen=True, gc=False):
    """An entry on its way into a book of a tenant in scope.

    Attributes:
        id: which the entry gets if it is booked now.
        booked_at: when the fact was recorded.
        cause: the event that told of the fact, or asked for the entry.
        reverses: the entry whose postings this one takes back.
        belongs_to, true_effective_at: of an entry that is moved out of a closed month: that month,
            and when its fact held.
    """

    id: UUID
    tenant_id: UUID
    entry: Entry
    effective_at: datetime
    booked_at: datetime
    cause: Cause
    reverses: UUID | None = None
    belongs_to: str | None = None
    true_effective_at: datetime | None = None


async def open_accounts(tx: Tx, accounts: Iterable[tuple[UUID, str, Account]]) -> None:
    """Enter accounts (tenant, book, account) that the books do not have yet.

    Called with the books locked, as `post_entries` opens accounts: in any other order two who open the
    same one could wait for each other.
    """
    ordered = sorted(accounts, key=lambda opened: (opened[0].int, opened[1], opened[2].code))
    await tx.execute(
        """
        insert into account (tenant_id, mode, book, code, type, normal_side)
        select i, $1, b, c, t, s
        from unnest($2::text::uuid[], $3::text::text[], $4::text::text[], $5::text::text[],
                $6::text::text[]) with ordinality as u(i, b, c, t, s, n)
        left join lateral (
            select true as known from account a where a.tenant_id = i and a.mode = $1
                and a.book = b and a.code = c limit 1) k on true
        where known is null order by n
        on conflict do nothing
        """,
        tx.mode,
        arrays.uuids(tenant_id for tenant_id, _, _ in ordered),
        arrays.texts(book for _, book, _ in ordered),
        arrays.texts(account.code for _, _, account in ordered),
        arrays.texts(account.type for _, _, account in ordered),
        arrays.texts(account.normal_side for _, _, account in ordered),
    )


POST_ENTRIES = """
    post_entries($1::text::uuid[], $2::text::text[], $3::text::uuid[], $4::text::text[],
        $5::text::bytea[], $6::text::timestamptz[], $7::text::timestamptz[], $8::text::uuid[],
        $9::text::text[], $10::text::integer[], $11::text::uuid[], $12::text::text[],
        $13::text::text[], $14::text::bigint[], $15::text::text[], $16::text::uuid[],
        $17::text::text[], $18::text::text[])
"""
"""The call that books what `columns` says; the ids of the entries whose source key was new."""


async def post_entries(tx: Tx, bookings: Sequence[Booking]) -> set[UUID]:
    """Book entries in one call; the ids of those whose source key was new.

    Accounts of the chart that a book does not have yet are opened.

    Raises:
        SourceKeyConflictError: a source key is booked with other content.
        OverrunError: bounds are kept, and an account does not take it.
    """
    with refusals_told_apart():
        rows = await tx.fetch(f"select {POST_ENTRIES} as id", *columns(bookings))
    return {row["id"] for row in rows}


def columns(bookings: Sequence[Booking]) -> tuple[str, ...]:
    """What `POST_ENTRIES` takes."""
    lines = [(booking.id, line) for booking in bookings for line in booking.entry.lines]
    return (
        arrays.uuids(booking.tenant_id for booking in bookings),
        arrays.texts(booking.entry.book for booking in bookings),
        arrays.uuids(booking.id for booking in bookings),
        arrays.texts(booking.entry.source_key for booking in bookings),
        arrays.digests(booking.entry.content_hash for booking in bookings),
        arrays.times(booking.effective_at for booking in bookings),
        arrays.times(booking.booked_at for booking in bookings),
        arrays.uuids(booking.cause.causation_id for booking in bookings),
        arrays.texts(booking.entry.rule for booking in bookings),
        arrays.numbers(booking.entry.rule_version for booking in bookings),
        arrays.uuids(entry_id for entry_id, _ in lines),
        arrays.texts(line.account.code for _, line in lines),
        arrays.texts(line.side for _, line in lines),
        arrays.numbers(line.amount_minor for _, line in lines),
        arrays.texts(line.currency for _, line in lines),
        arrays.uuids(booking.reverses for booking in bookings),
        arrays.texts(line.account.type for _, line in lines),
        arrays.texts(line.account.normal_side for _, line in lines),
    )


@contextmanager
def refusals_told_apart() -> Generator[None, None, None]:
    """Raise what `POST_ENTRIES` refuses as what it is.

    Raises:
        SourceKeyConflictError, OverrunError: see `post_entries`.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        if error.sqlstate == CONFLICT_SQLSTATE:
            raise SourceKeyConflictError(str(error)) from None
        overrun = overrun_of(error)
        if overrun is not None:
            raise overrun from None
        raise


async def sum_balances(
    tx: Tx, mode: Mode, book: str, *, tenant_id: UUID | None, currency: str | None
) -> list[Row]:
    """Debits and credits of a book by account and currency, and what is held.

    Args:
        tenant_id: None adds up the whole book over all tenants that are in sight.
    """
    return await tx.fetch(
        """
        select b.account, a.type, a.normal_side, b.currency,
               sum(b.debit_minor) as debit_minor, sum(b.credit_minor) as credit_minor,
               coalesce(sum(g.held_minor), 0) as held_minor
        from account_balance b
        join account a on a.tenant_id = b.tenant_id and a.mode = b.mode and a.book = b.book
            and a.code = b.account
        left join account_guard g on g.tenant_id = b.tenant_id and g.mode = b.mode
            and g.book = b.book and g.account = b.account and g.currency = b.currency
        where ($1::uuid is null or b.tenant_id = $1) and b.mode = $2 and b.book = $3
            and ($4::text is null or b.currency = $4)
        group by 1, 2, 3, 4 order by 1, 4
        """,
        tenant_id,
        mode,
        book,
        currency,
    )


async def list_entries(
    tx: Tx,
    mode: Mode,
    book: str,
    *,
    tenant_id: UUID | None,
    account: str | None,
    source_key: str | None,
    before: UUID | None,
    limit: int,
) -> list[Row]:
    """Entries of a book, newest first.

    Args:
        tenant_id: None lists those of all tenants that are in sight.
        account: only entries with a posting on this account.
        before: only entries older than this one.
    """
    return await tx.fetch(
        """
        select tenant_id, book, id, source_key, effective_at, booked_at, causation_id, rule,
               rule_version, reverses, chain_seq, chain_hash,
               (select metadata from asked_entry a where a.tenant_id = e.tenant_id
                and a.mode = e.mode and a.book = e.book and a.entry_id = e.id) as metadata,
               (select belongs_to from late_entry l where l.tenant_id = e.tenant_id
                and l.mode = e.mode and l.book = e.book and l.entry_id = e.id) as belongs_to,
               (select true_effective_at from late_entry l where l.tenant_id = e.tenant_id
                and l.mode = e.mode and l.book = e.book and l.entry_id = e.id)
                   as true_effective_at
        from journal_entry e
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and book = $3
            and ($4::text is null or exists (
                select from posting p where p.tenant_id = e.tenant_id and p.mode = e.mode
                and p.book = e.book and p.entry_id = e.id and p.account = $4))
            and ($5::text is null or source_key = $5)
            and ($6::uuid is null or id < $6)
        order by id desc limit $7
        """,
        tenant_id,
        mode,
        book,
        account,
        source_key,
        before,
        limit,
    )


async def postings_of(tx: Tx, mode: Mode, book: str, entries: Sequence[Row]) -> list[Row]:
    """The postings of these entries, each entry's in their order."""
    return await tx.fetch(
        """
        select p.entry_id, p.account, p.side, p.amount_minor, p.currency, p.account_seq,
               p.balance_after_minor
        from unnest($1::uuid[], $2::uuid[]) as u(tenant_id, entry_id)
        join posting p on p.tenant_id = u.tenant_id and p.mode = $3 and p.book = $4
            and p.entry_id = u.entry_id
        order by p.entry_id, p.line
        """,
        [row["tenant_id"] for row in entries],
        [row["id"] for row in entries],
        mode,
        book,
    )


async def find_entry(tx: Tx, entry_id: UUID) -> Row | None:
    """An entry of the tenant in scope, in whichever of the books in scope it stands."""
    return await tx.fetchrow(
        """
        select tenant_id, book, id, source_key, effective_at, booked_at, causation_id, rule,
               rule_version, reverses, chain_seq, chain_hash,
               (select metadata from asked_entry a where a.tenant_id = e.tenant_id
                and a.mode = e.mode and a.book = e.book and a.entry_id = e.id) as metadata,
               (select belongs_to from late_entry l where l.tenant_id = e.tenant_id
                and l.mode = e.mode and l.book = e.book and l.entry_id = e.id) as belongs_to,
               (select true_effective_at from late_entry l where l.tenant_id = e.tenant_id
                and l.mode = e.mode and l.book = e.book and l.entry_id = e.id)
                   as true_effective_at
        from journal_entry e
        where tenant_id = $1 and mode = $2 and book in ('platform', 'tenant') and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        entry_id,
    )
