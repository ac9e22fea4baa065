"""SQL of payouts whose money is told apart by tenant."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from libs.db.pool import Row, Tx

KEY = "tenant_id = $1 and mode = $2 and account = $3 and stripe_payout_id = $4"


async def want(
    tx: Tx, account: str, stripe_payout_id: str, now: datetime, *, came_back: bool
) -> None:
    """Enter a payout, or look at it again at once: it has come further, or came back.

    One that was given up has its tries anew.
    """
    await tx.execute(
        """
        insert into payout_allocation as a
            (tenant_id, mode, account, stripe_payout_id, came_back, next_try_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (tenant_id, mode, account, stripe_payout_id) do update set
            came_back = a.came_back or excluded.came_back, next_try_at = excluded.next_try_at,
            attempts = case when a.state = 'failed' then 0 else a.attempts end,
            state = case when a.state = 'failed' then 'due' else a.state end
        """,
        tx.tenant_id,
        tx.mode,
        account,
        stripe_payout_id,
        came_back,
        now,
    )


async def due(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Payouts whose shares are to be told or taken back, the longest due first."""
    return await tx.fetch(
        """
        select tenant_id, mode, account, stripe_payout_id, state, came_back, attempts
        from payout_allocation
        where (state = 'due' or (state = 'told' and came_back)) and next_try_at <= $1
        order by next_try_at limit $2
        """,
        now,
        limit,
    )


async def find_shares(tx: Tx, account: str, stripe_payout_id: str) -> list[Any]:
    """The shares that were told of a payout, whether taken back since or not; none where none were."""
    found: list[Any] | None = await tx.fetchval(
        f"select shares from payout_allocation where {KEY}",  # noqa: S608 - constants only
        tx.tenant_id,
        tx.mode,
        account,
        stripe_payout_id,
    )
    return found or []


async def enter(
    tx: Tx, row: Row, state: str, shares: Sequence[Any] | None = None
) -> list[Any] | None:
    """Let a payout enter its next state; its shares, None where another worker was first.

    Args:
        shares: to keep; None leaves what is kept.
    """
    found: list[Any] | None = await tx.fetchval(
        f"update payout_allocation set state = $6, last_error = null, "  # noqa: S608
        f"shares = coalesce($7, shares) where {KEY} and state = $5 returning shares",
        row["tenant_id"],
        row["mode"],
        row["account"],
        row["stripe_payout_id"],
        row["state"],
        state,
        None if shares is None else list(shares),
    )
    return found


async def put_off(tx: Tx, row: Row, until: datetime, error: str) -> None:
    """Look at a payout again later."""
    await tx.execute(
        f"update payout_allocation set attempts = attempts + 1, next_try_at = $5, "  # noqa: S608
        f"last_error = $6 where {KEY}",
        row["tenant_id"],
        row["mode"],
        row["account"],
        row["stripe_payout_id"],
        until,
        error[:500],
    )
