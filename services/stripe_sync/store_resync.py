"""SQL of synchronizing a whole account anew."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


async def insert(
    tx: Tx, resync_id: UUID, account: str, requested_by: str, requested_at: datetime
) -> bool:
    """Enter a run; False where one of the account is under way."""
    inserted = await tx.execute(
        """
        insert into resync (tenant_id, mode, resync_id, account, requested_by, requested_at)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        resync_id,
        account,
        requested_by,
        requested_at,
    )
    return inserted == 1


async def begin_walks(tx: Tx, account: str, steps: Sequence[str], now: datetime) -> None:
    """Have these steps begin at their front."""
    await tx.execute(
        """
        insert into walk (account, mode, step, enrolled_at, next_at)
        select $1, $2, step, coalesce((select min(enrolled_at) from walk
            where account = $1 and mode = $2), $4), $4
        from unnest($3::text[]) as u(step)
        on conflict (account, mode, step) do update set next_at = excluded.next_at,
            started_at = null, after_id = null, listed = 0, counted = 0, counted_before = 0,
            attempts = 0, last_error = null
        """,
        account,
        tx.mode,
        steps,
        now,
    )


async def running(tx: Tx, account: str) -> Row | None:
    """The run of an account of the tenant in scope that is under way."""
    return await tx.fetchrow(
        "select * from resync where tenant_id = $1 and mode = $2 and account = $3 "
        "and state = 'running'",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def find(tx: Tx, resync_id: UUID) -> Row | None:
    """A run in view."""
    return await tx.fetchrow("select * from resync where resync_id = $1", resync_id)


async def walks_of(tx: Tx, account: str, mode: str, steps: Sequence[str]) -> list[Row]:
    """How far the steps of an account are."""
    return await tx.fetch(
        """
        select step, listed, counted, next_at = 'infinity' as done, last_error from walk
        where account = $1 and mode = $2 and step = any($3)
        """,
        account,
        mode,
        steps,
    )


async def end_where_done(tx: Tx, account: str, steps: Sequence[str], now: datetime) -> bool:
    """End the run of an account of the tenant in scope when all of its steps are at their end."""
    ended = await tx.execute(
        """
        with figures as (
            select sum(listed) as listed, sum(counted) as marked,
                bool_and(next_at = 'infinity') as done,
                coalesce(jsonb_object_agg(step, last_error) filter (where last_error is not null),
                    '{}') as refused
            from walk where account = $3 and mode = $2 and step = any($4))
        update resync r set state = 'done', ended_at = $5, listed = figures.listed,
            marked = figures.marked, refused = figures.refused
        from figures where r.tenant_id = $1 and r.mode = $2 and r.account = $3
            and r.state = 'running' and figures.done
        """,
        tx.tenant_id,
        tx.mode,
        account,
        steps,
        now,
    )
    return ended > 0
