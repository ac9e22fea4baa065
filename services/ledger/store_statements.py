"""SQL of statements."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.stripe_sync import StatementLine, StatementPayout, StripeStatement
from libs.db.pool import Row, Tx
from services.ledger.store_matching import first_id

Json = dict[str, Any]

_LINE = tuple(StatementLine.model_fields)
_PAYOUT = tuple(StatementPayout.model_fields)


async def insert(
    tx: Tx,
    statement_id: UUID,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    *,
    requested_by: str | None,
    requested_at: datetime,
) -> None:
    """Enter a statement that was asked for, once."""
    await tx.execute(
        """
        insert into statement (tenant_id, mode, id, account, listed_from, listed_to, requested_by,
            requested_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        account,
        listed_from,
        listed_to,
        requested_by,
        requested_at,
    )


async def lock_asking(tx: Tx) -> None:
    """Be the only one to ask for a statement of the tenant in scope."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended("
        "concat_ws('/', 'statement', $1::uuid, $2::text), 0))",
        tx.tenant_id,
        tx.mode,
    )


async def under_way(
    tx: Tx, account: str, listed_from: datetime, listed_to: datetime, *, since: datetime
) -> UUID | None:
    """The newest statement of exactly this that was asked for since and is not answered yet."""
    statement_id: UUID | None = await tx.fetchval(
        """
        select id from statement
        where tenant_id = $1 and mode = $2 and account = $3 and listed_from = $4
            and listed_to = $5 and state = 'requested' and requested_at > $6 and id >= $7
        order by id desc limit 1
        """,
        tx.tenant_id,
        tx.mode,
        account,
        listed_from,
        listed_to,
        since,
        first_id(since),
    )
    return statement_id


async def asked_since(tx: Tx, since: datetime, *, but_by: str, limit: int) -> list[datetime]:
    """When statements of the tenant in scope were asked for by others than one, the newest first."""
    rows = await tx.fetch(
        """
        select requested_at from statement
        where tenant_id = $1 and mode = $2 and id >= $3 and requested_at > $4
            and requested_by <> $5
        order by requested_at desc limit $6
        """,
        tx.tenant_id,
        tx.mode,
        first_id(since),
        since,
        but_by,
        limit,
    )
    return [row["requested_at"] for row in rows]


async def lock(tx: Tx, statement_id: UUID) -> str | None:
    """The state of a statement of the tenant in scope, which nobody else changes meanwhile."""
    state: str | None = await tx.fetchval(
        "select state from statement where tenant_id = $1 and mode = $2 and id = $3 for update",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )
    return state


async def insert_part(tx: Tx, fact: StripeStatement) -> bool:
    """Keep a part with its entries; False where it is here already."""
    inserted = await tx.execute(
        """
        insert into statement_part (tenant_id, mode, statement_id, part, parts, line_count,
            payout_count, digest)
        values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        fact.statement_id,
        fact.part,
        fact.parts,
        fact.line_count,
        fact.payout_count,
        fact.digest,
    )
    if inserted == 0:
        return False
    place = (tx.tenant_id, tx.mode, fact.statement_id, fact.part)
    await tx.executemany(
        """
        insert into statement_line (tenant_id, mode, statement_id, part, position,
            stripe_balance_transaction_id, kind, source_id, amount_minor, fee_minor, net_minor,
            currency, created_at, available_at, payout_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        """,
        [
            (*place, position, *(getattr(line, name) for name in _LINE))
            for position, line in enumerate(fact.lines)
        ],
    )
    await tx.executemany(
        """
        insert into statement_payout (tenant_id, mode, statement_id, part, position,
            stripe_payout_id, stripe_balance_transaction_id, amount_minor, currency, status,
            arrival_on)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        [
            (*place, position, *(getattr(payout, name) for name in _PAYOUT))
            for position, payout in enumerate(fact.payouts)
        ],
    )
    return True


async def parts_of(tx: Tx, statement_id: UUID) -> list[Row]:
    """The parts that are here, in their order."""
    return await tx.fetch(
        "select part, parts, line_count, payout_count, digest from statement_part "
        "where tenant_id = $1 and mode = $2 and statement_id = $3 order by part",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )


async def lines_of(tx: Tx, statement_id: UUID, part: int) -> list[StatementLine]:
    """The lines of a part of a statement, in their order."""
    rows = await tx.fetch(
        """
        select stripe_balance_transaction_id, kind, source_id, amount_minor, fee_minor, net_minor,
            currency, created_at, available_at, payout_id
        from statement_line where tenant_id = $1 and mode = $2 and statement_id = $3
            and part = $4
        order by position
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        part,
    )
    return [StatementLine(**dict(row)) for row in rows]


async def payouts_of(tx: Tx, statement_id: UUID) -> list[StatementPayout]:
    """All payouts of a statement, in the order of its parts."""
    rows = await tx.fetch(
        """
        select stripe_payout_id, stripe_balance_transaction_id, amount_minor, currency, status,
            arrival_on
        from statement_payout where tenant_id = $1 and mode = $2 and statement_id = $3
        order by part, position
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
    )
    return [StatementPayout(**dict(row)) for row in rows]


async def note_listed(tx: Tx, fact: StripeStatement, balances: Sequence[Json]) -> None:
    """Keep what the first part says of the whole."""
    await tx.execute(
        """
        update statement set parts = $4, line_count = $5, payout_count = $6, digest = $7,
            listed_at = $8, balances = $9, ours_from = $10
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        fact.statement_id,
        fact.parts,
        fact.line_count,
        fact.payout_count,
        fact.digest,
        fact.listed_at,
        list(balances),
        fact.ours_from,
    )


async def end(tx: Tx, statement_id: UUID, state: str, error: str | None) -> None:
    """A statement came to its end."""
    await tx.execute(
        "update statement set state = $4, error = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3 and state = 'requested'",
        tx.tenant_id,
        tx.mode,
        statement_id,
        state,
        error,
    )


async def find(tx: Tx, statement_id: UUID) -> Row | None:
    """A statement of the tenant in scope."""
    return await tx.fetchrow(
        "select * from statement where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )


async def totals_of(tx: Tx, statement_id: UUID) -> list[Row]:
    """The sums of a statement by currency and kind."""
    return await tx.fetch(
        """
        select currency, kind, count(*) as lines, sum(amount_minor)::bigint as amount_minor,
            sum(fee_minor)::bigint as fee_minor, sum(net_minor)::bigint as net_minor
        from statement_line where tenant_id = $1 and mode = $2 and statement_id = $3
        group by currency, kind order by currency, kind
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
    )
