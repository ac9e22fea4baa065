"""SQL of requested statements."""

from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.envelope import Envelope
from libs.db.pool import Row, Tx


async def insert(
    tx: Tx,
    statement_id: UUID,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    event: Envelope[Any],
) -> None:
    """Enter a request once."""
    await tx.execute(
        """
        insert into statement_request (tenant_id, mode, statement_id, account, listed_from,
            listed_to, requested_at, effective_at, causation_id, correlation_id)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        statement_id,
        account,
        listed_from,
        listed_to,
        event.occurred_at,
        event.effective_at,
        event.id,
        event.correlation_id,
    )


async def due(tx: Tx, now: datetime, limit: int) -> list[tuple[UUID, str, UUID]]:
    """(tenant, mode, id) of the oldest due request of each account, the oldest first."""
    rows = await tx.fetch(
        """
        select * from (
            select distinct on (account, mode) tenant_id, mode, statement_id, requested_at
            from statement_request where state = 'pending' and next_try_at <= $1
            order by account, mode, requested_at, statement_id) as first
        order by requested_at limit $2
        """,
        now,
        limit,
    )
    return [(row["tenant_id"], row["mode"], row["statement_id"]) for row in rows]


async def read(tx: Tx, statement_id: UUID) -> Row | None:
    """A request of the tenant in scope that is not answered yet."""
    return await tx.fetchrow(
        "select * from statement_request where tenant_id = $1 and mode = $2 "
        "and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
    )


async def end(tx: Tx, statement_id: UUID, state: str, error: str | None) -> bool:
    """A request was answered; False where it had been before."""
    ended = await tx.execute(
        "update statement_request set state = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
        state,
        error[:500] if error else None,
    )
    return ended == 1


async def postpone(tx: Tx, statement_id: UUID, until: datetime, error: str) -> None:
    """Try again later."""
    await tx.execute(
        "update statement_request set next_try_at = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and statement_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        statement_id,
        until,
        error[:500],
    )
