"""SQL of customers as billing told of them."""

from collections.abc import Sequence
from uuid import UUID

from libs.db.pool import Row, Tx


async def insert(tx: Tx, customer_id: UUID, billed_by: str, name: str) -> None:
    """Remember a customer once; of one that was erased, not its name."""
    await tx.execute(
        """
        insert into known_customer (tenant_id, mode, customer_id, billed_by, name)
        values ($1, $2, $3, $4, case when exists (select from erased_customer
            where tenant_id = $1 and mode = $2 and customer_id = $3) then null else $5 end)
        on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        customer_id,
        billed_by,
        name,
    )


async def find(tx: Tx, customer_id: UUID) -> Row | None:
    """A customer of the tenant in scope."""
    return await tx.fetchrow(
        "select customer_id, billed_by, name from known_customer "
        "where tenant_id = $1 and mode = $2 and customer_id = $3",
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
