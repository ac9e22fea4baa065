"""SQL of the reports.

Each function takes the tenant, or None to add up all tenants in sight, and the book: what the
platform bills its tenants, or what a tenant bills its own customers.
"""

from datetime import date
from uuid import UUID

from libs.contracts.tenants import DEFAULT_TENANT_ID, PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode


async def revenue_by_month(
    tx: Tx,
    mode: Mode,
    book: str,
    tenant_id: UUID | None,
    *,
    first: date,
    last: date,
    currency: str | None,
) -> list[Row]:
    """Revenue by month, currency and account, in that order."""
    return await tx.fetch(
        """
        select month, currency, account, sum(amount_minor) as amount_minor
        from revenue_month
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and book = $3
            and month between $4 and $5 and ($6::text is null or currency = $6)
        group by month, currency, account order by month, currency, account
        """,
        tenant_id,
        mode,
        book,
        first,
        last,
        currency,
    )


async def invoices_by_status(tx: Tx, mode: Mode, book: str, tenant_id: UUID | None) -> list[Row]:
    """How many invoices are open and paid, and their totals, by currency."""
    return await tx.fetch(
        """
        select case when paid_at is null then 'open' else 'paid' end as status, currency,
               count(*) as invoices, sum(total_minor) as amount_minor
        from invoice
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and billed_by = $3
        group by 1, 2 order by 1, 2
        """,
        tenant_id,
        mode,
        book,
    )


async def payments_by_outcome(tx: Tx, mode: Mode, book: str, tenant_id: UUID | None) -> list[Row]:
    """How many attempts to collect succeeded and failed, and their amounts, by currency."""
    return await tx.fetch(
        """
        select outcome, currency, count(*) as attempts, sum(amount_minor) as amount_minor
        from payment_attempt
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and collected_by = $3
        group by 1, 2 order by 1, 2
        """,
        tenant_id,
        mode,
        book,
    )


async def subscriptions_by_plan(tx: Tx, mode: Mode, book: str, tenant_id: UUID | None) -> list[Row]:
    """How many subscriptions each plan has, by status."""
    return await tx.fetch(
        """
        select plan_key, status, count(*) as subscriptions
        from subscription
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and billed_by = $3
        group by 1, 2 order by 1, 2
        """,
        tenant_id,
        mode,
        book,
    )


async def tenants_by_plan(tx: Tx) -> list[Row]:
    """How many tenants there are by plan and status, from the directory; reserved ones left out."""
    return await tx.fetch(
        """
        select snapshot ->> 'plan_key' as plan_key, snapshot ->> 'status' as status,
               count(*) as tenants
        from directory where tenant_id <> all($1::uuid[])
        group by 1, 2 order by 1, 2
        """,
        [PLATFORM_TENANT_ID, DEFAULT_TENANT_ID],
    )
