"""SQL of commands to Stripe and of clock advances: rows, whose turn it is, how they ended."""

from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.envelope import Envelope
from libs.db.pool import Row, Tx

Json = dict[str, Any]


async def insert_command(
    tx: Tx, command_id: UUID, kind: str, payload: Json, event: Envelope[Any], trace: dict[str, str]
) -> None:
    """Enter a command once, with the trace it came in."""
    await tx.execute(
        """
        insert into command (tenant_id, mode, command_id, kind, payload, requested_at,
            effective_at, causation_id, correlation_id, trace)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        command_id,
        kind,
        payload,
        event.occurred_at,
        event.effective_at,
        event.id,
        event.correlation_id,
        trace,
    )


async def due_commands(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Pending commands whose turn it is, over all tenants, the oldest first."""
    return await tx.fetch(
        "select * from command where state = 'pending' and next_try_at <= $1 "
        "order by requested_at, command_id limit $2",
        now,
        limit,
    )


async def end_command(tx: Tx, command_id: UUID, state: str, error: str | None) -> bool:
    """A command came to its end; False where it had ended before."""
    return (
        await tx.execute(
            "update command set state = $4, last_error = $5, attempts = attempts + 1 "
            "where tenant_id = $1 and mode = $2 and command_id = $3 and state = 'pending'",
            tx.tenant_id,
            tx.mode,
            command_id,
            state,
            error[:500] if error else None,
        )
        == 1
    )


async def postpone_command(tx: Tx, command_id: UUID, until: datetime, error: str) -> None:
    """Try a command again later."""
    await tx.execute(
        "update command set next_try_at = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and command_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        command_id,
        until,
        error[:500],
    )


async def insert_advance(
    tx: Tx, advance_id: UUID, advance_to: datetime, event: Envelope[Any]
) -> None:
    """Enter a request to move the clock once."""
    await tx.execute(
        """
        insert into clock_advance (tenant_id, mode, advance_id, advance_to, requested_at,
            causation_id, correlation_id)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        advance_id,
        advance_to,
        event.occurred_at,
        event.id,
        event.correlation_id,
    )


async def due_advances(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """The oldest unfinished advance of each tenant, where its turn has come."""
    return await tx.fetch(
        """
        select * from (
            select distinct on (tenant_id, mode) * from clock_advance where state = 'pending'
            order by tenant_id, mode, requested_at, advance_id) as first
        where next_try_at <= $1 order by requested_at limit $2
        """,
        now,
        limit,
    )


async def note_reached(tx: Tx, advance_id: UUID, reached: datetime, *, done: bool) -> bool:
    """The clock shows `reached`; False where that was noted before."""
    return (
        await tx.execute(
            """
            update clock_advance set reached = $4, state = case when $5 then 'done' else state end,
                attempts = 0, last_error = null
            where tenant_id = $1 and mode = $2 and advance_id = $3 and state = 'pending'
                and ($5 or reached is distinct from $4)
            """,
            tx.tenant_id,
            tx.mode,
            advance_id,
            reached,
            done,
        )
        == 1
    )


async def fail_advance(tx: Tx, advance_id: UUID, error: str) -> bool:
    """Stripe refused the advance for good; False where it had ended before."""
    failed = await tx.execute(
        "update clock_advance set state = 'failed', last_error = $4, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and advance_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        advance_id,
        error[:500],
    )
    return failed == 1


async def postpone_advance(tx: Tx, advance_id: UUID, until: datetime, error: str) -> None:
    """Look at a moving clock again later."""
    await tx.execute(
        "update clock_advance set next_try_at = $4, last_error = $5, attempts = attempts + 1 "
        "where tenant_id = $1 and mode = $2 and advance_id = $3 and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        advance_id,
        until,
        error[:500],
    )
