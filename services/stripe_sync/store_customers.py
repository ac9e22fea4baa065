"""SQL of customers as billing told of them."""

from collections.abc import Sequence
from uuid import UUID

from libs.db.pool import Row, Tx


async def insert(tx: Tx, customer_id: UUID, billed_by: str, name: str | None) -> None:
    """Remember a customer once; of one that was erased, not its name. An empty name is none."""
    await tx.execute(
        """
        insert into known_customer (tenant_id, mode, customer_id, billed_by, name)
        values ($1, $2, $3, $4, case when exists (select from erased_customer
            where tenant_id = $1 and mode = $2 and customer_id = $3) then null else nullif($5, '') end)
        on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        billed_by,
        name,
    )


async def put_name(tx: Tx, customer_id: UUID, personal: bytes, wrapped: bytes) -> None:
    """Keep the sealed name of a customer of the tenant's own once; not of one that was erased."""
    await tx.execute(
        """
        insert into known_customer as k (tenant_id, mode, customer_id, billed_by, personal, wrapped)
        select $1, $2, $3, 'tenant', $4, $5 where not exists (select from erased_customer
            where tenant_id = $1 and mode = $2 and customer_id = $3)
        on conflict (tenant_id, mode, customer_id) do update
            set personal = excluded.personal, wrapped = excluded.wrapped
            where k.personal is null
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        personal,
        wrapped,
    )


async def find(tx: Tx, customer_id: UUID) -> Row | None:
    """A customer of the tenant in scope.

    `awaits_name`: nobody told its name, it was not erased, and Stripe does not know it yet.
    """
    return await tx.fetchrow(
        """
        select k.customer_id, k.billed_by, k.name, k.personal, k.wrapped,
            nullif(k.name, '') is null and k.personal is null and not exists (select from erased_customer e
                where e.tenant_id = $1 and e.mode = $2 and e.customer_id = $3)
            and not exists (select from customer_link l
                where l.tenant_id = $1 and l.mode = $2 and l.customer_id = $3) as awaits_name
        from known_customer k
        where k.tenant_id = $1 and k.mode = $2 and k.customer_id = $3
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
    )


async def known_among(tx: Tx, customer_ids: Sequence[UUID]) -> frozenset[UUID]:
    """Those of these that are customers of the tenant in scope."""
    rows = await tx.fetch(
        "select customer_id from known_customer where tenant_id = $1 and mode = $2 "
        "and customer_id = any ($3)",
        tx.tenant_id,
        tx.mode,
        list(customer_ids),
    )
    return frozenset(row["customer_id"] for row in rows)
