"""SQL of credit grants and their use."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


async def add_grant(
    tx: Tx,
    grant_id: UUID,
    customer_id: UUID,
    *,
    amount_minor: int,
    currency: str,
    expires_at: datetime | None,
    at: datetime,
) -> None:
    """Enter a grant."""
    await tx.execute(
        "insert into credit_grant (tenant_id, mode, id, customer_id, amount_minor, currency, "
        "expires_at, granted_at) values ($1, $2, $3, $4, $5, $6, $7, $8)",
        tx.tenant_id,
        tx.mode,
        grant_id,
        customer_id,
        amount_minor,
        currency,
        expires_at,
        at,
    )


async def lock_usable_grants(
    tx: Tx, customer_id: UUID, currency: str, at: datetime, limit: int
) -> list[Row]:
    """Grants with something left that had not expired at a time; the first to expire first.

    A concurrent transaction waits here and then sees what was left over.
    """
    return await tx.fetch(
        "select id, amount_minor - used_minor as left_minor from credit_grant "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 and currency = $4 "
        "and used_minor < amount_minor and (expires_at is null or expires_at > $5) "
        "order by expires_at nulls last, id limit $6 for update",
        tx.tenant_id,
        tx.mode,
        customer_id,
        currency,
        at,
        limit,
    )


async def add_uses(tx: Tx, invoice_id: UUID, uses: Sequence[tuple[UUID, int]]) -> None:
    """Use amounts of grants on an invoice, each grant once per invoice."""
    await tx.executemany(
        "insert into credit_use (tenant_id, mode, invoice_id, grant_id, amount_minor) "
        "values ($1, $2, $3, $4, $5)",
        [(tx.tenant_id, tx.mode, invoice_id, grant_id, amount) for grant_id, amount in uses],
    )
    await tx.executemany(
        "update credit_grant set used_minor = used_minor + $4 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        [(tx.tenant_id, tx.mode, grant_id, amount) for grant_id, amount in uses],
    )


async def balances(tx: Tx, customer_id: UUID, at: datetime) -> list[Row]:
    """What is left per currency in which credit was ever granted; expired credit counts nothing."""
    return await tx.fetch(
        "select currency, coalesce(sum(amount_minor - used_minor) "
        "filter (where expires_at is null or expires_at > $4), 0)::bigint as amount_minor "
        "from credit_grant where tenant_id = $1 and mode = $2 and customer_id = $3 "
        "group by currency order by currency",
        tx.tenant_id,
        tx.mode,
        customer_id,
        at,
    )
