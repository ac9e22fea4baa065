"""SQL of closed periods, metering's answers and what they cost."""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.contracts.billing import UsagePeriodClosed
from libs.db.pool import Row, Tx

CHARGE = (
    "c.closure_id, c.meter, c.revision, c.quantity, c.rated_minor, c.explanation, c.on_invoice, "
    "c.invoiced_minor, c.invoiced_quantity, u.period_from, u.period_to"
)


async def add_closure(
    tx: Tx, request: UsagePeriodClosed, plan_version_id: UUID, invoice_id: UUID | None
) -> None:
    """Enter the closing of a period, or of a part of one, none of which is closed yet."""
    await tx.execute(
        "insert into usage_closure (tenant_id, mode, id, subscription_id, plan_version_id, "
        "invoice_id, period_from, period_to) values ($1, $2, $3, $4, $5, $6, $7, $8)",
        tx.tenant_id,
        tx.mode,
        request.closure_id,
        request.subscription_id,
        plan_version_id,
        invoice_id,
        request.period_from,
        request.period_to,
    )


async def closures_in(
    tx: Tx, subscription_id: UUID, period_from: datetime, period_to: datetime
) -> list[Row]:
    """What of a period is closed, oldest first."""
    return await tx.fetch(
        "select period_from, period_to from usage_closure "
        "where tenant_id = $1 and mode = $2 and subscription_id = $3 "
        "and period_from < $5 and period_to > $4 order by period_from",
        tx.tenant_id,
        tx.mode,
        subscription_id,
        period_from,
        period_to,
    )


async def closures_for(
    tx: Tx, invoice_id: UUID, subscription_id: UUID, period_to: datetime
) -> list[Row]:
    """The closures of an invoice, and those that ended by then without one of their own."""
    return await tx.fetch(
        "select id, plan_version_id from usage_closure "
        "where tenant_id = $1 and mode = $2 and subscription_id = $3 "
        "and (invoice_id = $4 or (invoice_id is null and period_to <= $5))",
        tx.tenant_id,
        tx.mode,
        subscription_id,
        invoice_id,
        period_to,
    )


async def periods_billed(
    tx: Tx, subscription_id: UUID, stripe_subscription_id: str, reasons: Sequence[str]
) -> list[Row]:
    """The periods that began with an invoice, by Stripe's own lines, and those that one ended."""
    return await tx.fetch(
        """
        select date_trunc('minute', l.period_from) as begun,
            date_trunc('minute', l.period_to) as ends
        from invoice i
        join invoice_line l on (l.tenant_id, l.mode, l.invoice_id) = (i.tenant_id, i.mode, i.id)
        where i.tenant_id = $1 and i.mode = $2 and i.subscription_id = $3
            and i.stripe_subscription_id = $4 and i.reason = any($5::text[])
            and l.kind = 'flat' and date_trunc('minute', l.period_from) = i.period_to
        union
        select i.period_from, i.period_to from invoice i
        where i.tenant_id = $1 and i.mode = $2 and i.subscription_id = $3
            and i.stripe_subscription_id = $4 and i.reason = 'subscription_cycle'
        """,
        tx.tenant_id,
        tx.mode,
        subscription_id,
        stripe_subscription_id,
        list(reasons),
    )


async def find_closure(tx: Tx, closure_id: UUID) -> Row | None:
    """A closure by id."""
    return await tx.fetchrow(
        "select id, subscription_id, plan_version_id, invoice_id, period_from, period_to "
        "from usage_closure where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        closure_id,
    )


async def closure_of_invoice(tx: Tx, invoice_id: UUID) -> Row | None:
    """The closure that an invoice asked for."""
    return await tx.fetchrow(
        "select id, subscription_id, plan_version_id, invoice_id, period_from, period_to "
        "from usage_closure where tenant_id = $1 and mode = $2 and invoice_id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )


async def add_usage(
    tx: Tx, closure_id: UUID, meter: str, revision: int, quantity: Decimal, event_count: int
) -> bool:
    """Enter an answer of metering; False when this revision is known."""
    added = await tx.execute(
        "insert into period_usage (tenant_id, mode, closure_id, meter, revision, quantity, "
        "event_count) values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        closure_id,
        meter,
        revision,
        quantity,
        event_count,
    )
    return added == 1


async def put_charge(
    tx: Tx,
    closure: Row,
    meter: str,
    revision: int,
    quantity: Decimal,
    rated_minor: int,
    explanation: dict[str, Any],
) -> None:
    """Set what a meter's usage costs; only a higher revision replaces the one before."""
    await tx.execute(
        "insert into usage_charge as c (tenant_id, mode, closure_id, subscription_id, meter, "
        "revision, quantity, rated_minor, explanation) values ($1, $2, $3, $4, $5, $6, $7, $8, $9) "
        "on conflict (tenant_id, mode, closure_id, meter) do update set "
        "revision = excluded.revision, quantity = excluded.quantity, "
        "rated_minor = excluded.rated_minor, explanation = excluded.explanation "
        "where c.revision < excluded.revision",
        tx.tenant_id,
        tx.mode,
        closure["id"],
        closure["subscription_id"],
        meter,
        revision,
        quantity,
        rated_minor,
        explanation,
    )


async def charged_meters(tx: Tx, closure_id: UUID) -> set[str]:
    """The meters of a closure that are rated."""
    rows = await tx.fetch(
        "select meter from usage_charge where tenant_id = $1 and mode = $2 and closure_id = $3",
        tx.tenant_id,
        tx.mode,
        closure_id,
    )
    return {row["meter"] for row in rows}


async def lock_due_charges(tx: Tx, subscription_id: UUID, limit: int) -> list[Row]:
    """What is not on an invoice yet, or differs from what is; oldest period first."""
    return await tx.fetch(
        f"select {CHARGE} from usage_charge c "  # noqa: S608
        "join usage_closure u on (u.tenant_id, u.mode, u.id) = (c.tenant_id, c.mode, c.closure_id) "
        "where c.tenant_id = $1 and c.mode = $2 and c.subscription_id = $3 "
        "and (c.rated_minor <> c.invoiced_minor or not c.on_invoice) "
        "order by u.period_from, c.meter limit $4 for update of c",
        tx.tenant_id,
        tx.mode,
        subscription_id,
        limit,
    )


async def charge_put_on_invoice(
    tx: Tx, closure_id: UUID, meter: str, amount_minor: int, quantity: Decimal
) -> None:
    """This much more of the charge now stands on an invoice."""
    await tx.execute(
        "update usage_charge set on_invoice = true, invoiced_minor = invoiced_minor + $5, "
        "invoiced_quantity = $6 "
        "where tenant_id = $1 and mode = $2 and closure_id = $3 and meter = $4",
        tx.tenant_id,
        tx.mode,
        closure_id,
        meter,
        amount_minor,
        quantity,
    )
