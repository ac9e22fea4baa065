"""SQL of Stripe's events: which were taken in, and which were found in Stripe's list only."""

from collections.abc import Sequence
from datetime import datetime

from libs.db.pool import Tx


async def note_taken(tx: Tx, events: Sequence[tuple[str, str, datetime]]) -> set[tuple[str, str]]:
    """Remember events that came; (account, id) of those that had not come before.

    Args:
        events: (account, id, time at Stripe).
    """
    rows = await tx.fetch(
        """
        insert into taken_event (account, mode, stripe_event_id, created_at)
        select account, $1, id, created_at
        from unnest($2::text[], $3::text[], $4::timestamptz[]) as u(account, id, created_at)
        order by account, id on conflict do nothing returning account, stripe_event_id
        """,
        tx.mode,
        [account for account, _, _ in events],
        [event_id for _, event_id, _ in events],
        [created_at for _, _, created_at in events],
    )
    return {(row["account"], row["stripe_event_id"]) for row in rows}


async def not_taken(tx: Tx, account: str, mode: str, stripe_event_ids: Sequence[str]) -> set[str]:
    """Those of these ids that never came."""
    rows = await tx.fetch(
        """
        select id from unnest($3::text[]) as listed(id) where not exists (
            select from taken_event t where t.account = $1 and t.mode = $2
                and t.stripe_event_id = listed.id)
        """,
        account,
        mode,
        stripe_event_ids,
    )
    return {row["id"] for row in rows}


async def note_found(tx: Tx, account: str, stripe_event_id: str, created_at: datetime) -> bool:
    """Enter an event of the tenant in scope that only Stripe's list had; False where that was told.

    Who was told an hour ago, and has not taken it in since, is told again: the gateway may not have
    been able to keep it, and keeps none twice.
    """
    told = await tx.execute(
        """
        insert into found_event as f (tenant_id, mode, account, stripe_event_id, created_at, told_at)
        values ($1, $2, $3, $4, $5, now())
        on conflict (tenant_id, mode, account, stripe_event_id) do update set told_at = now()
        where f.told_at < now() - interval '1 hour'
        """,
        tx.tenant_id,
        tx.mode,
        account,
        stripe_event_id,
        created_at,
    )
    return told == 1


async def prune_taken(tx: Tx, before: datetime) -> None:
    """Forget events that Stripe lists no more."""
    await tx.execute("delete from taken_event where created_at < $1", before)


async def prune_found(tx: Tx, before: datetime) -> None:
    """Likewise those that were found."""
    await tx.execute("delete from found_event where created_at < $1", before)
