"""SQL of prepaid use: whose it is, what was told of it, and what is on no invoice yet."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from libs.db.pool import Row, Tx


async def put(tx: Tx, customer_id: UUID, meters: Sequence[str], at: datetime) -> list[str]:
    """Set which meters credit bounds; those that it bounded before."""
    before: list[str] | None = await tx.fetchval(
        "select meters from prepaid where tenant_id = $1 and mode = $2 and customer_id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )
    await tx.execute(
        "insert into prepaid (tenant_id, mode, customer_id, meters, looked_at) "
        "values ($1, $2, $3, $4, $5) "
        "on conflict (tenant_id, mode, customer_id) do update set meters = excluded.meters",
        tx.tenant_id,
        tx.mode,
        customer_id,
        list(meters),
        at,
    )
    return before or []


async def find(tx: Tx, customer_id: UUID) -> Row | None:
    """Which meters credit bounds, since when, and when it was looked at last."""
    return await tx.fetchrow(
        "select meters, since, looked_at from prepaid "
        "where tenant_id = $1 and mode = $2 and customer_id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def note_look(tx: Tx, customer_id: UUID, since: datetime | None, at: datetime) -> None:
    """Keep since when use counts, and the time that credit was looked at for."""
    await tx.execute(
        "update prepaid set since = $4, looked_at = $5 "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 "
        "and (since is distinct from $4 or looked_at <> $5)",
        tx.tenant_id,
        tx.mode,
        customer_id,
        since,
        at,
    )


async def closures(tx: Tx, subscription_id: UUID, since: datetime | None) -> list[Row]:
    """The closed periods that end at a moment or after it, oldest first.

    With each: the meters whose charge is on an invoice; whether its own invoice, if it has one, has still to
    take credit, and what Stripe's lines on that come to, those that take something off not counted.
    """
    return await tx.fetch(
        """
        select u.plan_version_id, u.period_from, u.period_to,
            i.id is not null and i.command_id is null and i.finalized_at is null as is_draft,
            array(
                select c.meter from usage_charge c
                where (c.tenant_id, c.mode, c.closure_id) = (u.tenant_id, u.mode, u.id)
                    and c.on_invoice
            ) as invoiced,
            (
                select coalesce(sum(l.amount_minor), 0)::bigint from invoice_line l
                where (l.tenant_id, l.mode, l.invoice_id) = (i.tenant_id, i.mode, i.id)
                    and l.stripe_line_id is not null and l.amount_minor > 0
            ) as stripe_minor
        from usage_closure u
        left join invoice i
            on (i.tenant_id, i.mode, i.id) = (u.tenant_id, u.mode, u.invoice_id)
        where u.tenant_id = $1 and u.mode = $2 and u.subscription_id = $3
            and ($4::timestamptz is null or u.period_to >= $4)
        order by u.period_from, u.period_to
        """,
        tx.tenant_id,
        tx.mode,
        subscription_id,
        since,
    )


async def due_minor(tx: Tx, subscription_id: UUID) -> int:
    """What later use added to charges that were on an invoice already."""
    due: int = await tx.fetchval(
        "select coalesce(sum(rated_minor - invoiced_minor), 0)::bigint from usage_charge "
        "where tenant_id = $1 and mode = $2 and subscription_id = $3 "
        "and on_invoice and rated_minor > invoiced_minor",
        tx.tenant_id,
        tx.mode,
        subscription_id,
    )
    return due


async def versions_between(
    tx: Tx, subscription_id: UUID, start: datetime, end: datetime
) -> set[UUID]:
    """The plan versions by which a period may be rated that ended between two moments."""
    rows = await tx.fetch(
        """
        select distinct p.plan_version_id
        from plan_phase p join stripe_subscription s using (tenant_id, mode, stripe_subscription_id)
        where p.tenant_id = $1 and p.mode = $2 and s.subscription_id = $3 and p.effective_from < $5
            and not exists (
                select from plan_phase later
                where (later.tenant_id, later.mode, later.stripe_subscription_id)
                    = (p.tenant_id, p.mode, p.stripe_subscription_id)
                    and later.effective_from > p.effective_from and later.effective_from <= $4)
        """,
        tx.tenant_id,
        tx.mode,
        subscription_id,
        start,
        end,
    )
    return {row["plan_version_id"] for row in rows}


async def told(tx: Tx, customer_id: UUID) -> list[Row]:
    """What metering was told last of each meter."""
    return await tx.fetch(
        "select meter, version, since, amount from credit_limit "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 order by meter",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def put_told(
    tx: Tx, customer_id: UUID, meter: str, since: datetime, amount: Decimal | None
) -> int:
    """Keep what metering is told now; how often it was told something of this meter."""
    version: int = await tx.fetchval(
        "insert into credit_limit as c (tenant_id, mode, customer_id, meter, version, since, amount) "
        "values ($1, $2, $3, $4, 1, $5, $6) "
        "on conflict (tenant_id, mode, customer_id, meter) do update set "
        "version = c.version + 1, since = excluded.since, amount = excluded.amount "
        "returning version",
        tx.tenant_id,
        tx.mode,
        customer_id,
        meter,
        since,
        amount,
    )
    return version
