"""SQL of payment links."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]


async def reserve(tx: Tx, link: Json) -> Row:
    """A link, entered now; with a client's key the one entered first under it."""
    await tx.execute(
        """
        insert into payment_link (tenant_id, mode, link_id, actor, client_key, account,
            collected_by, customer_id, name, amount_minor, currency, quantity,
            application_fee_minor, request, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
        on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        link["link_id"],
        link["actor"],
        link["client_key"],
        link["account"],
        link["collected_by"],
        link["customer_id"],
        link["name"],
        link["amount_minor"],
        link["currency"],
        link["quantity"],
        link["application_fee_minor"],
        link["request"],
        link["created_at"],
    )
    return await tx.fetchrow(
        "select * from payment_link where tenant_id = $1 and mode = $2 "
        "and (link_id = $3 or (actor = $4 and client_key = $5))",
        tx.tenant_id,
        tx.mode,
        link["link_id"],
        link["actor"],
        link["client_key"],
    )


async def complete(tx: Tx, link_id: UUID, stripe_id: str, url: str) -> bool:
    """Enter what Stripe answered, and forget what was sent; False where a twin did it first."""
    completed = await tx.execute(
        "update payment_link set stripe_payment_link_id = $4, url = $5, request = '{}' "
        "where tenant_id = $1 and mode = $2 and link_id = $3 and stripe_payment_link_id is null",
        tx.tenant_id,
        tx.mode,
        link_id,
        stripe_id,
        url,
    )
    return completed == 1


async def deactivate(tx: Tx, link_id: UUID, at: datetime) -> bool:
    """Nobody can pay by it any more; False where that was so before."""
    changed = await tx.execute(
        "update payment_link set active = false, deactivated_at = $4 "
        "where tenant_id = $1 and mode = $2 and link_id = $3 and active",
        tx.tenant_id,
        tx.mode,
        link_id,
        at,
    )
    return changed == 1


async def list_links(
    tx: Tx, mode: str, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Row]:
    """Links in view that Stripe has made, newest first."""
    at, link_id = after or (None, None)
    return await tx.fetch(
        """
        select * from payment_link where mode = $1 and stripe_payment_link_id is not null
          and ($2::timestamptz is null or (created_at, link_id) < ($2, $3::uuid))
        order by created_at desc, link_id desc limit $4
        """,
        mode,
        at,
        link_id,
        limit,
    )


async def find(tx: Tx, mode: str, link_id: UUID) -> Row | None:
    """One link in view that Stripe has made."""
    return await tx.fetchrow(
        "select * from payment_link where mode = $1 and link_id = $2 "
        "and stripe_payment_link_id is not null",
        mode,
        link_id,
    )


async def sells_for_tenant(tx: Tx, stripe_payment_link_id: str, itself: UUID) -> bool:
    """Whether a link was made for others to pay the tenant, not for the tenant to pay.

    Args:
        itself: the customer that is the tenant.
    """
    return bool(
        await tx.fetchval(
            "select exists (select from payment_link where tenant_id = $1 and mode = $2 "
            "and stripe_payment_link_id = $3 and customer_id is distinct from $4)",
            tx.tenant_id,
            tx.mode,
            stripe_payment_link_id,
            itself,
        )
    )
