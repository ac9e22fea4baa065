"""SQL of tenants, their slugs, their subscription and their objects at Stripe."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.billing import SubscriptionChanged
from libs.db.pool import Row, Tx
from services.tenants import personal

# $1 is the mode whose Stripe objects are shown. The subscription that billing names comes before one
# that only Stripe has told of.
_SHOWN = """
    select t.*,
        (select o.stripe_id from stripe_object o
         where o.tenant_id = t.tenant_id and o.mode = $1 and o.kind = 'customer'
           and o.customer_id = t.self_customer_id
         order by o.linked_at desc, o.stripe_id desc limit 1) as stripe_customer_id,
        coalesce(
            (select s.stripe_subscription_id from platform_subscription s
             where s.tenant_id = t.tenant_id and s.mode = $1 and s.customer_id = t.self_customer_id
             order by s.subscription_id desc limit 1),
            (select o.stripe_id from stripe_object o
             where o.tenant_id = t.tenant_id and o.mode = $1 and o.kind = 'subscription'
               and o.customer_id = t.self_customer_id
             order by o.linked_at desc, o.stripe_id desc limit 1)) as stripe_subscription_id,
        c.account_id as stripe_account_id,
        coalesce(c.status, 'NOT_CONNECTED') as stripe_onboarding_status,
        c.kind as stripe_account_type
    from tenant t
    left join stripe_connection c on c.tenant_id = t.tenant_id and c.mode = $1
"""


async def take_slug(tx: Tx, slug: str) -> bool:
    """Take a slug for the tenant in scope; False when another has it."""
    taken = await tx.execute(
        "insert into tenant_slug (slug, tenant_id) values ($1, $2) on conflict do nothing",
        slug,
        tx.tenant_id,
    )
    return taken == 1


async def insert_tenant(
    tx: Tx,
    *,
    slug: str,
    name: str,
    tenant_type: str,
    currency: str,
    locale: str,
    self_customer_id: UUID,
    billing_email: str | None,
    tax_region: str | None,
    created_by: str,
    at: datetime,
) -> None:
    """Enter the tenant in scope, not yet published (version 0)."""
    sealed = personal.seal_email(billing_email, tx.tenant_id)
    await tx.execute(
        """
        insert into tenant (tenant_id, version, slug, name, type, status, currency, locale,
            self_customer_id, created_by, created_at, updated_at, tax_region,
            billing_email_digest, billing_personal, billing_wrapped)
        values ($1, 0, $2, $3, $4, 'active', $5, $6, $7, $8, $9, $9, $10, $11, $12, $13)
        """,
        tx.tenant_id,
        slug,
        name,
        tenant_type,
        currency,
        locale,
        self_customer_id,
        created_by,
        at,
        tax_region,
        sealed.digest,
        sealed.personal,
        sealed.wrapped,
    )


async def set_details(
    tx: Tx,
    *,
    name: str,
    locale: str,
    currency: str,
    tax_region: str | None,
    billing_email: str | None,
) -> None:
    """Set what people may change of the tenant in scope."""
    sealed = personal.seal_email(billing_email, tx.tenant_id)
    await tx.execute(
        "update tenant set name = $2, locale = $3, currency = $4, tax_region = $5, "
        "billing_email = null, billing_email_digest = $6, billing_personal = $7, "
        "billing_wrapped = $8 where tenant_id = $1",
        tx.tenant_id,
        name,
        locale,
        currency,
        tax_region,
        sealed.digest,
        sealed.personal,
        sealed.wrapped,
    )


async def was_billed(tx: Tx) -> bool:
    """Whether the tenant in scope ever had another plan than the free one, or began to buy one."""
    found: bool = await tx.fetchval(
        "select exists (select from platform_subscription where tenant_id = $1 and was_paid) "
        "or exists (select from stripe_object where tenant_id = $1 and kind = 'subscription')",
        tx.tenant_id,
    )
    return found


async def lock_tenant(tx: Tx) -> Row | None:
    """The tenant in scope; until commit nobody else changes its record."""
    row = await tx.fetchrow("select * from tenant where tenant_id = $1 for update", tx.tenant_id)
    return None if row is None else personal.billed(row)


async def read_tenant(tx: Tx) -> Row | None:
    """The record of the tenant in scope."""
    row = await tx.fetchrow("select * from tenant where tenant_id = $1", tx.tenant_id)
    return None if row is None else personal.billed(row)


async def find_tenant(tx: Tx, mode: str) -> Row | None:
    """The tenant in scope as the API shows it."""
    row = await tx.fetchrow(f"{_SHOWN} where t.tenant_id = $2", mode, tx.tenant_id)
    return None if row is None else personal.billed(row)


async def list_tenants(
    tx: Tx, mode: str, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The tenants in scope (all of them for the maintenance role), oldest first."""
    at, tenant_id = after or (None, None)
    rows = await tx.fetch(
        f"""
        {_SHOWN}
        where $2::timestamptz is null or (t.created_at, t.tenant_id) > ($2, $3::uuid)
        order by t.created_at, t.tenant_id limit $4
        """,
        mode,
        at,
        tenant_id,
        limit,
    )
    return [personal.billed(row) for row in rows]


async def read_names(tx: Tx, tenant_ids: Sequence[UUID]) -> list[Row]:
    """Id, slug, name, type and status of the tenants in scope that are among these."""
    return await tx.fetch(
        "select tenant_id, slug, name, type, status from tenant where tenant_id = any($1::uuid[])",
        list(tenant_ids),
    )


async def raise_version(tx: Tx, at: datetime, record_format: int) -> Row:
    """Give the tenant's record its next version; the row, its billing address as it is sealed."""
    row = await tx.fetchrow(
        "update tenant set version = version + 1, updated_at = greatest(updated_at, $2), "
        "record_format = $3, record_format_version = version + 1 where tenant_id = $1 returning *",
        tx.tenant_id,
        at,
        record_format,
    )
    assert row is not None, "only a tenant that exists is published"
    return row


async def told_otherwise(tx: Tx, record_format: int, limit: int) -> list[UUID]:
    """Tenants whose record was told in an earlier form; as the maintenance role.

    In no order: some that fail each time leave room for the others.
    """
    rows = await tx.fetch(
        "select tenant_id from tenant where version > 0 "
        "and (record_format < $1 or record_format_version <> version) order by random() limit $2",
        record_format,
        limit,
    )
    return [row["tenant_id"] for row in rows]


async def keep_subscription(tx: Tx, fact: SubscriptionChanged) -> bool:
    """Keep a newer state of a subscription; False when it is known."""
    changed = await tx.execute(
        """
        insert into platform_subscription as s (tenant_id, mode, subscription_id, customer_id,
            version, plan_key, status, stripe_subscription_id, was_paid)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $6 <> 'free')
        on conflict (tenant_id, mode, subscription_id) do update set
            version = excluded.version, plan_key = excluded.plan_key, status = excluded.status,
            stripe_subscription_id = excluded.stripe_subscription_id,
            was_paid = s.was_paid or excluded.was_paid
        where s.version < excluded.version
        """,
        tx.tenant_id,
        tx.mode,
        fact.subscription_id,
        fact.customer_id,
        fact.version,
        fact.plan_key,
        fact.status,
        fact.stripe_subscription_id,
    )
    return changed == 1


async def deciding_subscription(tx: Tx, customer_id: UUID) -> Row | None:
    """The subscription that decides on status and plan: live before test, the newest of them."""
    return await tx.fetchrow(
        "select plan_key, status from platform_subscription "
        "where tenant_id = $1 and customer_id = $2 "
        "order by mode = 'live' desc, subscription_id desc limit 1",
        tx.tenant_id,
        customer_id,
    )


async def set_subscription(tx: Tx, *, plan_key: str, status: str) -> None:
    """Set what the tenant has of its subscription."""
    await tx.execute(
        "update tenant set plan_key = $2, status = $3 where tenant_id = $1",
        tx.tenant_id,
        plan_key,
        status,
    )


async def set_always_active(tx: Tx, wanted: bool) -> None:
    """Note whether the tenant is active whatever its subscription says."""
    await tx.execute(
        "update tenant set always_active = $2 where tenant_id = $1", tx.tenant_id, wanted
    )


async def held_active(tx: Tx, reference: str | None) -> list[Row]:
    """The tenants held active, and the one with this id or slug; as the maintenance role."""
    return await tx.fetch(
        "select tenant_id, slug, always_active from tenant "
        "where always_active or slug = lower($1) or tenant_id::text = lower($1) limit 100",
        reference,
    )


async def set_live(tx: Tx, waivers: Mapping[str, str], at: datetime) -> None:
    """Open live mode to the tenant."""
    await tx.execute(
        "update tenant set live_since = $2, live_waivers = $3 where tenant_id = $1",
        tx.tenant_id,
        at,
        dict(waivers),
    )


async def link_stripe_object(
    tx: Tx, kind: str, stripe_id: str, customer_id: UUID, at: datetime
) -> bool:
    """Remember an object at Stripe; False when it is known."""
    linked = await tx.execute(
        "insert into stripe_object (tenant_id, mode, kind, stripe_id, customer_id, linked_at) "
        "values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        kind,
        stripe_id,
        customer_id,
        at,
    )
    return linked == 1


async def stripe_objects(tx: Tx, limit: int) -> list[Row]:
    """The newest objects at Stripe of each mode and kind, at most `limit` of each."""
    return await tx.fetch(
        """
        select mode, kind, stripe_id from (
            select *, row_number() over (partition by mode, kind
                order by linked_at desc, stripe_id desc) as place
            from stripe_object where tenant_id = $1) newest
        where place <= $2 order by mode, kind, place
        """,
        tx.tenant_id,
        limit,
    )


async def move_clock(tx: Tx, offset_seconds: int) -> bool:
    """Set a larger offset of the business clock; False when it is not larger."""
    moved = await tx.execute(
        "update tenant set clock_offset_seconds = $2 "
        "where tenant_id = $1 and clock_offset_seconds < $2",
        tx.tenant_id,
        offset_seconds,
    )
    return moved == 1


async def insert_advance(
    tx: Tx, advance_id: UUID, advance_to: datetime, actor: str, at: datetime
) -> None:
    """Enter a request to move the clock."""
    await tx.execute(
        "insert into clock_advance (tenant_id, mode, advance_id, advance_to, requested_by, "
        "requested_at) values ($1, $2, $3, $4, $5, $6)",
        tx.tenant_id,
        tx.mode,
        advance_id,
        advance_to,
        actor,
        at,
    )


async def latest_advance(tx: Tx) -> Row | None:
    """The move of the clock that was asked for last."""
    return await tx.fetchrow(
        "select * from clock_advance where tenant_id = $1 and mode = $2 "
        "order by requested_at desc, advance_id desc limit 1",
        tx.tenant_id,
        tx.mode,
    )


async def note_hop(tx: Tx, advance_id: UUID, reached: datetime, finished_at: Any) -> bool:
    """Note how far a move has come, and its end; False when that is known."""
    noted = await tx.execute(
        """
        update clock_advance set reached = greatest(reached, $4),
            finished_at = coalesce(finished_at, $5::timestamptz)
        where tenant_id = $1 and mode = $2 and advance_id = $3
          and (reached is null or reached < $4 or (finished_at is null and $5::timestamptz is not null))
        """,
        tx.tenant_id,
        tx.mode,
        advance_id,
        reached,
        finished_at,
    )
    return noted == 1


async def fail_advance(tx: Tx, advance_id: UUID, failure: str, at: datetime) -> None:
    """End a move that Stripe refused; nothing where the command was another's."""
    await tx.execute(
        "update clock_advance set finished_at = $4, failure = $5 "
        "where tenant_id = $1 and mode = $2 and advance_id = $3 and finished_at is null",
        tx.tenant_id,
        tx.mode,
        advance_id,
        at,
        failure,
    )
