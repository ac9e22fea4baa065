"""SQL of entries that somebody asks for, and of accounts that books open for themselves."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db import arrays
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode
from services.ledger.chart import FIXED_CODES
from services.ledger.store import POST_ENTRIES, Booking, columns, refusals_told_apart

TURNOVER_MINOR_MAX = 2**62
"""What may be debited to, or credited to, an account on request: half of what its column holds.

The other half is for facts, which nobody may be able to keep out.
"""

Place = tuple[UUID, str]
"""A tenant, and a source key or an account's code in its book."""


@dataclass(frozen=True)
class Looked:
    """What is known of books that are locked.

    Attributes:
        booked: entries (tenant, source key) that stand in them already.
        unopened, full: accounts (tenant, code) that they do not have, or that take no more on
            request.
        open_from: since when each (tenant, book) is open, where months are closed.
    """

    booked: list[Place]
    unopened: frozenset[Place]
    full: frozenset[Place]
    open_from: dict[Place, datetime]


async def look(tx: Tx, book: Book, keys: Collection[Place], accounts: Collection[Place]) -> Looked:
    """Be the only one to book in the books of these entries, refuse overruns, and look into them.

    Args:
        keys, accounts: entries (tenant, source key) and accounts (tenant, code) to look for.
    """
    keys, accounts = list(keys), list(accounts)
    row = await tx.fetchrow(
        "select * from look_into_books($1, $2::text::uuid[], $3::text::text[], $4::text::uuid[], "
        "$5::text::text[], $6)",
        *_asked(book, keys, accounts),
    )
    assert row is not None, "the function answers once"
    return _looked(row, book, keys, accounts)


async def look_and_post(
    tx: Tx,
    book: Book,
    keys: Collection[Place],
    accounts: Collection[Place],
    bookings: Sequence[Booking],
) -> tuple[Looked, set[UUID]]:
    """As `look`; and where nothing stands in the way of them, book these entries in the same call.

    Accounts that every book has are opened with the first that is booked on them.

    Returns:
        What is known of the books, and the ids of the entries that were booked.

    Raises:
        OverrunError: bounds are kept, and an account does not take it.
    """
    keys, accounts = list(keys), list(accounts)
    with refusals_told_apart():
        row = await tx.fetchrow(
            f"""
            select l.*, case when coalesce(booked, full_ones) is null and closed_tenants is null
                and coalesce(unopened <@ $25::text::bigint[], true)
                then array(select {POST_ENTRIES}) end as posted
            from look_into_books($19, $20::text::uuid[], $21::text::text[], $22::text::uuid[],
                $23::text::text[], $24) l
            """,  # noqa: S608
            *columns(bookings),
            *_asked(book, keys, accounts),
            arrays.numbers(n for n, (_, code) in enumerate(accounts, 1) if code in FIXED_CODES),
        )
    assert row is not None, "the function answers once"
    return _looked(row, book, keys, accounts), set(row["posted"] or ())


def _asked(
    book: Book, keys: Sequence[Place], accounts: Sequence[Place]
) -> tuple[str, str, str, str, str, int]:
    """What `look_into_books` takes."""
    return (
        book,
        arrays.uuids(tenant_id for tenant_id, _ in keys),
        arrays.texts(key for _, key in keys),
        arrays.uuids(tenant_id for tenant_id, _ in accounts),
        arrays.texts(code for _, code in accounts),
        TURNOVER_MINOR_MAX,
    )


def _looked(row: Row, book: Book, keys: Sequence[Place], accounts: Sequence[Place]) -> Looked:
    opened = zip(row["closed_tenants"] or (), row["open_from"] or (), strict=True)
    return Looked(
        booked=[keys[n - 1] for n in row["booked"] or ()],
        unopened=frozenset(accounts[n - 1] for n in row["unopened"] or ()),
        full=frozenset(accounts[n - 1] for n in row["full_ones"] or ()),
        open_from={(tenant_id, book): at for tenant_id, at in opened},
    )


async def find_booked(tx: Tx, book: Book, keys: Collection[tuple[UUID, str]]) -> list[Row]:
    """The entries of these facts (tenant, source key), with what was said of them."""
    return await tx.fetch(
        """
        select e.*
        from unnest($3::uuid[], $4::text[]) as u(t, k)
        cross join lateral (
            select e.tenant_id, e.book, e.id, e.source_key, e.content_hash, e.effective_at,
                   e.booked_at, e.causation_id, e.rule, e.rule_version, e.reverses, e.chain_seq,
                   e.chain_hash, a.metadata, l.belongs_to, l.true_effective_at
            from journal_entry e left join asked_entry a on a.tenant_id = e.tenant_id
                and a.mode = e.mode and a.book = e.book and a.entry_id = e.id
            left join late_entry l on l.tenant_id = e.tenant_id and l.mode = e.mode
                and l.book = e.book and l.entry_id = e.id
            where e.tenant_id = u.t and e.mode = $1 and e.book = $2 and e.source_key = u.k
            limit 1) e
        """,
        tx.mode,
        book,
        [tenant_id for tenant_id, _ in keys],
        [key for _, key in keys],
    )


async def find_as_told(tx: Tx, book: Book, bookings: Sequence[Booking]) -> list[int]:
    """Which of these (by their place, from nought) are booked with the content that they have."""
    rows = await tx.fetch(
        """
        select n - 1 as place
        from unnest($3::text::uuid[], $4::text::text[], $5::text::bytea[])
            with ordinality as u(t, k, h, n)
        cross join lateral (
            select e.content_hash from journal_entry e where e.tenant_id = u.t and e.mode = $1
                and e.book = $2 and e.source_key = u.k limit 1) e
        where e.content_hash = u.h
        """,
        tx.mode,
        book,
        arrays.uuids(booking.tenant_id for booking in bookings),
        arrays.texts(booking.entry.source_key for booking in bookings),
        arrays.digests(booking.entry.content_hash for booking in bookings),
    )
    return [row["place"] for row in rows]


async def find_accounts(tx: Tx, book: Book, accounts: Collection[tuple[UUID, str]]) -> list[Row]:
    """Of accounts (tenant, code): whether each is open, and whether it takes no more on request."""
    return await tx.fetch(
        """
        select u.t as tenant_id, u.c as code,
            exists (select from account a where a.tenant_id = u.t and a.mode = $1 and a.book = $2
                and a.code = u.c) as is_open,
            exists (select from account_balance b where b.tenant_id = u.t and b.mode = $1
                and b.book = $2 and b.account = u.c
                and greatest(b.debit_minor, b.credit_minor) >= $5) as is_full
        from unnest($3::uuid[], $4::text[]) as u(t, c)
        """,
        tx.mode,
        book,
        [tenant_id for tenant_id, _ in accounts],
        [code for _, code in accounts],
        TURNOVER_MINOR_MAX,
    )


async def note_asked(
    tx: Tx, book: Book, asked: Sequence[tuple[Booking, Mapping[str, str], str]]
) -> list[Row]:
    """Keep what was said of entries that were booked: the metadata, and who asked for them.

    Returns:
        Of each, in their order: its place in the chain, the numbers and running balances of its
        postings in the order of their lines, and whether a reversal waits for it.
    """
    return await tx.fetch(
        """
        with told as (
            select * from unnest($3::text::uuid[], $4::text::uuid[], $5::text::text[],
                $6::text::text[], $7::text::text[]) with ordinality as u(t, i, k, m, a, n)
        ), noted as (
            insert into asked_entry (tenant_id, mode, book, entry_id, metadata, asked_by)
            select t, $1, $2, i, m::jsonb, a from told
        )
        select e.chain_seq, e.chain_hash, l.account_seqs, l.balances_after,
               w.waits is not null as is_awaited
        from told
        cross join lateral (
            select e.chain_seq, e.chain_hash from journal_entry e where e.tenant_id = told.t
                and e.mode = $1 and e.book = $2 and e.id = told.i limit 1) e
        cross join lateral (
            select array_agg(p.account_seq order by p.line) as account_seqs,
                array_agg(p.balance_after_minor order by p.line) as balances_after
            from posting p where p.tenant_id = told.t and p.mode = $1 and p.book = $2
                and p.entry_id = told.i) l
        left join lateral (
            select true as waits from waiting_reversal w where w.tenant_id = told.t
                and w.mode = $1 and w.book = $2 and w.source_key = told.k limit 1) w on true
        order by told.n
        """,
        tx.mode,
        book,
        arrays.uuids(booking.tenant_id for booking, _, _ in asked),
        arrays.uuids(booking.id for booking, _, _ in asked),
        arrays.texts(booking.entry.source_key for booking, _, _ in asked),
        arrays.texts(json.dumps(dict(metadata)) for _, metadata, _ in asked),
        arrays.texts(actor for _, _, actor in asked),
    )


async def count_own_accounts(tx: Tx, book: Book) -> int:
    """How many accounts a book of the tenant in scope has opened for itself."""
    return int(
        await tx.fetchval(
            "select count(*) from own_account where tenant_id = $1 and mode = $2 and book = $3",
            tx.tenant_id,
            tx.mode,
            book,
        )
    )


async def find_own_account(tx: Tx, book: Book, code: str) -> Row | None:
    """An account that a book of the tenant in scope has opened for itself."""
    return await tx.fetchrow(
        "select code, purpose, opened_at from own_account "
        "where tenant_id = $1 and mode = $2 and book = $3 and code = $4",
        tx.tenant_id,
        tx.mode,
        book,
        code,
    )


async def note_own_account(
    tx: Tx, book: Book, code: str, *, purpose: str, opened_at: datetime, opened_by: str
) -> None:
    """Keep what an account of the book's own is for, unless that is known."""
    await tx.execute(
        """
        insert into own_account (tenant_id, mode, book, code, purpose, opened_at, opened_by)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        book,
        code,
        purpose,
        opened_at,
        opened_by,
    )


async def list_chart(
    tx: Tx, tenant_id: UUID, mode: Mode, book: Book, *, after: str, limit: int
) -> list[Row]:
    """The open accounts of a book by code, with what is known only of its own ones.

    Args:
        after: only accounts whose code comes later.
    """
    return await tx.fetch(
        """
        select a.code, a.type, a.normal_side, o.purpose, o.opened_at
        from account a left join own_account o on o.tenant_id = a.tenant_id and o.mode = a.mode
            and o.book = a.book and o.code = a.code
        where a.tenant_id = $1 and a.mode = $2 and a.book = $3 and a.code collate "C" > $4
        order by a.code collate "C" limit $5
        """,
        tenant_id,
        mode,
        book,
        after,
        limit,
    )
