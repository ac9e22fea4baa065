"""SQL of exports: a book's entries by their places in its chain."""

from datetime import datetime
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode

Place = tuple[UUID, Mode, Book]


async def last_seq(tx: Tx, place: Place) -> int:
    """The number of the last entry of a book's chain; 0 where nothing is booked."""
    seq: int | None = await tx.fetchval(
        "select last_seq from book_chain where tenant_id = $1 and mode = $2 and book = $3", *place
    )
    return seq or 0


async def accounts_of(tx: Tx, place: Place) -> list[Row]:
    """Every account of a book."""
    return await tx.fetch(
        "select code, type from account where tenant_id = $1 and mode = $2 and book = $3 "
        "order by code",
        *place,
    )


async def currencies_of(tx: Tx, place: Place) -> list[str]:
    """Every currency that was ever posted in a book."""
    rows = await tx.fetch(
        "select distinct currency from account_balance "
        "where tenant_id = $1 and mode = $2 and book = $3 order by 1",
        *place,
    )
    return [row["currency"] for row in rows]


async def list_postings(
    tx: Tx,
    place: Place,
    *,
    after: int,
    up_to: int,
    effective_from: datetime | None,
    effective_to: datetime | None,
    currency: str | None,
) -> list[Row]:
    """The postings of a stretch of the chain with their entries, in its order.

    Args:
        after, up_to: numbers of entries; the first is not in it, the second is.
        effective_from, effective_to: only entries from the one and before the other.
        currency: only postings in this one; those of an entry balance in each currency.
    """
    return await tx.fetch(
        """
        select e.chain_seq, e.id, e.book, e.source_key, e.rule, e.rule_version, e.reverses,
               e.effective_at, e.booked_at, e.causation_id, e.chain_hash, p.line, p.account,
               p.side, p.amount_minor, p.currency, p.account_seq, p.balance_after_minor,
               l.belongs_to, l.true_effective_at
        from journal_entry e join posting p on p.tenant_id = e.tenant_id and p.mode = e.mode
            and p.book = e.book and p.entry_id = e.id
        left join late_entry l on l.tenant_id = e.tenant_id and l.mode = e.mode
            and l.book = e.book and l.entry_id = e.id
        where e.tenant_id = $1 and e.mode = $2 and e.book = $3
            and e.chain_seq > $4 and e.chain_seq <= $5
            and ($6::timestamptz is null or e.effective_at >= $6)
            and ($7::timestamptz is null or e.effective_at < $7)
            and ($8::text is null or p.currency = $8)
        order by e.chain_seq, p.line
        """,
        *place,
        after,
        up_to,
        effective_from,
        effective_to,
        currency,
    )
