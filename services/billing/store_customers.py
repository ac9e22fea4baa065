"""SQL of customers and subscriptions."""

from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.billing import BilledBy
from libs.db.pool import Row, Tx

SUBSCRIPTION = (
    "id, customer_id, version, plan_key, plan_version_id, status, collection, currency, "
    "period_from, period_to, cancel_at_period_end, stripe_subscription_id, created_at"
)
CUSTOMER = (
    "id, billed_by, name, email, currency, stripe_customer_id, created_at, erased_at, key, metadata"
)


async def lock_tenant(tx: Tx) -> None:
    """Let one transaction at a time decide on the money of this tenant and mode."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))",
        f"billing:{tx.tenant_id}:{tx.mode}",
    )


async def add_customer(
    tx: Tx,
    customer_id: UUID,
    *,
    billed_by: BilledBy,
    name: str,
    email: str | None,
    currency: str,
    at: datetime,
    key: str | None = None,
    metadata: dict[str, str] | None = None,
) -> bool:
    """Enter a customer; False when it exists, or another one with its key."""
    added = await tx.execute(
        "insert into customer (tenant_id, mode, id, billed_by, name, email, currency, created_at, "
        "key, metadata) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        customer_id,
        billed_by,
        name,
        email,
        currency,
        at,
        key,
        metadata or {},
    )
    return added == 1


async def find_customer(tx: Tx, customer_id: UUID) -> Row | None:
    """A customer by id."""
    return await tx.fetchrow(
        f"select {CUSTOMER} from customer where tenant_id = $1 and mode = $2 and id = $3",  # noqa: S608
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def find_self_customer(tx: Tx) -> Row | None:
    """The customer that is the tenant itself."""
    return await tx.fetchrow(
        f"select {CUSTOMER} from customer "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and billed_by = 'platform'",
        tx.tenant_id,
        tx.mode,
    )


async def list_customers(tx: Tx, *, after: UUID | None, limit: int) -> list[Row]:
    """Customers, oldest first."""
    return await tx.fetch(
        f"select {CUSTOMER} from customer where tenant_id = $1 and mode = $2 "  # noqa: S608
        "and ($3::uuid is null or id > $3) order by id limit $4",
        tx.tenant_id,
        tx.mode,
        after,
        limit,
    )


async def link_to_stripe(tx: Tx, customer_id: UUID, stripe_customer_id: str) -> None:
    """Remember a customer's counterpart in the platform's Stripe account."""
    await tx.execute(
        "update customer set stripe_customer_id = $4 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
        stripe_customer_id,
    )


async def forget_customer(tx: Tx, customer_id: UUID, at: datetime) -> None:
    """Forget who a customer is; the name of the tenant itself is its record's, not a person's."""
    await tx.execute(
        "update customer set email = null, metadata = '{}', erased_at = $4, "
        "name = case when billed_by = 'tenant' then 'Erased' else name end "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        customer_id,
        at,
    )


async def list_invoices_of(tx: Tx, customer_id: UUID, limit: int) -> list[Row]:
    """A customer's invoices, the newest first."""
    return await tx.fetch(
        "select id, number, currency, total_minor, created_at, hosted_invoice_url from invoice "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 order by id desc limit $4",
        tx.tenant_id,
        tx.mode,
        customer_id,
        limit,
    )


async def add_subscription(
    tx: Tx,
    subscription_id: UUID,
    customer_id: UUID,
    *,
    plan_key: str,
    plan_version_id: UUID,
    collection: str,
    currency: str,
    at: datetime,
) -> Row | None:
    """Enter an active subscription without a period; None when the customer has one."""
    return await tx.fetchrow(
        f"""
        insert into subscription (tenant_id, mode, id, customer_id, version, plan_key,
            plan_version_id, status, collection, currency, created_at)
        values ($1, $2, $3, $4, 1, $5, $6, 'active', $7, $8, $9)
        on conflict (tenant_id, mode, customer_id) do nothing returning {SUBSCRIPTION}
        """,  # noqa: S608
        tx.tenant_id,
        tx.mode,
        subscription_id,
        customer_id,
        plan_key,
        plan_version_id,
        collection,
        currency,
        at,
    )


async def find_subscription(tx: Tx, subscription_id: UUID) -> Row | None:
    """A subscription by id."""
    return await tx.fetchrow(
        f"select {SUBSCRIPTION} from subscription "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        subscription_id,
    )


async def lock_subscription_of(tx: Tx, customer_id: UUID) -> Row | None:
    """The customer's subscription, locked."""
    return await tx.fetchrow(
        f"select {SUBSCRIPTION} from subscription "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and customer_id = $3 for update",
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def list_subscriptions(
    tx: Tx, *, customer_id: UUID | None, after: UUID | None, limit: int
) -> list[Row]:
    """Subscriptions, oldest first."""
    return await tx.fetch(
        f"select {SUBSCRIPTION} from subscription where tenant_id = $1 and mode = $2 "  # noqa: S608
        "and ($3::uuid is null or customer_id = $3) and ($4::uuid is null or id > $4) "
        "order by id limit $5",
        tx.tenant_id,
        tx.mode,
        customer_id,
        after,
        limit,
    )


async def change_subscription(tx: Tx, subscription_id: UUID, new: dict[str, Any]) -> Row:
    """Set what a subscription is now and count the change."""
    row = await tx.fetchrow(
        f"""
        update subscription set version = version + 1, plan_key = $4, plan_version_id = $5,
            status = $6, collection = $7, currency = $8, period_from = $9, period_to = $10,
            cancel_at_period_end = $11, stripe_subscription_id = $12
        where tenant_id = $1 and mode = $2 and id = $3 returning {SUBSCRIPTION}
        """,  # noqa: S608
        tx.tenant_id,
        tx.mode,
        subscription_id,
        new["plan_key"],
        new["plan_version_id"],
        new["status"],
        new["collection"],
        new["currency"],
        new["period_from"],
        new["period_to"],
        new["cancel_at_period_end"],
        new["stripe_subscription_id"],
    )
    assert row is not None, "the caller holds the subscription's lock"
    return row


async def find_stripe_subscription(tx: Tx, stripe_subscription_id: str) -> Row | None:
    """What was last seen of a Stripe subscription."""
    return await tx.fetchrow(
        "select subscription_id, version, plan_version_id, period_end from stripe_subscription "
        "where tenant_id = $1 and mode = $2 and stripe_subscription_id = $3",
        tx.tenant_id,
        tx.mode,
        stripe_subscription_id,
    )


async def put_stripe_subscription(
    tx: Tx,
    stripe_subscription_id: str,
    *,
    subscription_id: UUID,
    version: int,
    plan_version_id: UUID,
    period_end: datetime,
) -> None:
    """Set what is now known of a Stripe subscription."""
    await tx.execute(
        "insert into stripe_subscription (tenant_id, mode, stripe_subscription_id, "
        "subscription_id, version, plan_version_id, period_end) "
        "values ($1, $2, $3, $4, $5, $6, $7) "
        "on conflict (tenant_id, mode, stripe_subscription_id) do update set "
        "version = excluded.version, plan_version_id = excluded.plan_version_id, "
        "period_end = excluded.period_end",
        tx.tenant_id,
        tx.mode,
        stripe_subscription_id,
        subscription_id,
        version,
        plan_version_id,
        period_end,
    )


async def put_plan_phase(
    tx: Tx, stripe_subscription_id: str, effective_from: datetime, plan_version_id: UUID
) -> None:
    """From this time on the Stripe subscription buys this plan version."""
    await tx.execute(
        "insert into plan_phase (tenant_id, mode, stripe_subscription_id, effective_from, "
        "plan_version_id) values ($1, $2, $3, $4, $5) "
        "on conflict (tenant_id, mode, stripe_subscription_id, effective_from) "
        "do update set plan_version_id = excluded.plan_version_id",
        tx.tenant_id,
        tx.mode,
        stripe_subscription_id,
        effective_from,
        plan_version_id,
    )


async def plan_version_before(
    tx: Tx, stripe_subscription_id: str, period_end: datetime
) -> UUID | None:
    """The plan version that held just before a time; else the first one known."""
    found: UUID | None = await tx.fetchval(
        "select plan_version_id from plan_phase "
        "where tenant_id = $1 and mode = $2 and stripe_subscription_id = $3 "
        "order by effective_from < $4 desc, "
        "case when effective_from < $4 then effective_from end desc, effective_from limit 1",
        tx.tenant_id,
        tx.mode,
        stripe_subscription_id,
        period_end,
    )
    return found
