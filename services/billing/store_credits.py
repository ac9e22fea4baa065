"""SQL of credit grants and their use."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode

GRANT = (
    "g.id, g.customer_id, g.currency, g.amount_minor, g.used_minor, g.expired_minor, "
    "g.expiries_told, g.expires_at, c.billed_by"
)
"""Of `credit_grant g join customer c`."""

GRANTS_PER_INVOICE_MAX = 500


@dataclass(frozen=True)
class ExpiringTenant:
    """A tenant whose credit expires, and how far its business clock is ahead."""

    tenant_id: UUID
    mode: Mode
    clock_offset: timedelta


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
    """Grants with something not used that had not expired at a time; the first to expire first.

    A concurrent transaction waits here and then sees what was left over.
    """
    return await tx.fetch(
        f"select {GRANT} from credit_grant g "  # noqa: S608
        "join customer c on (c.tenant_id, c.mode, c.id) = (g.tenant_id, g.mode, g.customer_id) "
        "where g.tenant_id = $1 and g.mode = $2 and g.customer_id = $3 and g.currency = $4 "
        "and g.used_minor < g.amount_minor and (g.expires_at is null or g.expires_at > $5) "
        "order by g.expires_at nulls last, g.id limit $6 for update of g",
        tx.tenant_id,
        tx.mode,
        customer_id,
        currency,
        at,
        limit,
    )


async def add_uses(tx: Tx, invoice_id: UUID, uses: Sequence[tuple[UUID, int]]) -> None:
    """Use amounts of grants on an invoice, each grant once per invoice; what is used is not expired."""
    await tx.executemany(
        "insert into credit_use (tenant_id, mode, invoice_id, grant_id, amount_minor) "
        "values ($1, $2, $3, $4, $5)",
        [(tx.tenant_id, tx.mode, invoice_id, grant_id, amount) for grant_id, amount in uses],
    )
    await tx.executemany(
        "update credit_grant set used_minor = used_minor + $4, "
        "expired_minor = least(expired_minor, amount_minor - used_minor - $4), "
        "expiries_told = expiries_told "
        "+ (expired_minor > amount_minor - used_minor - $4)::integer "
        "where tenant_id = $1 and mode = $2 and id = $3",
        [(tx.tenant_id, tx.mode, grant_id, amount) for grant_id, amount in uses],
    )


async def give_back(tx: Tx, invoice_id: UUID) -> None:
    """Take back what an invoice used of its grants, once."""
    await tx.execute(
        """
        with given_back as (
            insert into credit_return (tenant_id, mode, invoice_id, grant_id, amount_minor)
            select tenant_id, mode, invoice_id, grant_id, amount_minor from credit_use
            where tenant_id = $1 and mode = $2 and invoice_id = $3
            on conflict do nothing
            returning tenant_id, mode, grant_id, amount_minor
        )
        update credit_grant g set used_minor = g.used_minor - r.amount_minor
        from given_back r
        where (g.tenant_id, g.mode, g.id) = (r.tenant_id, r.mode, r.grant_id)
        """,
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )


async def list_expiring(database: Database, now: datetime, *, limit: int) -> list[ExpiringTenant]:
    """Tenants with credit that expired by their business time and is not told of.

    Who is due by the real time is found by one index, whose clock is ahead by another.
    """
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            with due as (
                (select tenant_id, mode from credit_grant
                 where expires_at <= $1 and used_minor + expired_minor < amount_minor
                 order by expires_at limit $2)
                union
                (select g.tenant_id, g.mode
                 from directory d join credit_grant g using (tenant_id)
                 where d.clock_offset_seconds > 0 and g.mode = 'test'
                    and g.used_minor + g.expired_minor < g.amount_minor
                    and g.expires_at
                        <= $1::timestamptz + make_interval(secs => d.clock_offset_seconds)
                 limit $2)
            )
            select due.tenant_id, due.mode, case when due.mode = 'test'
                then make_interval(secs => coalesce(d.clock_offset_seconds, 0))
                else make_interval() end as clock_offset
            from due left join directory d using (tenant_id)
            """,
            now,
            limit,
        )
    return [ExpiringTenant(row["tenant_id"], row["mode"], row["clock_offset"]) for row in rows]


async def lock_expiring(tx: Tx, at: datetime, *, limit: int) -> list[Row]:
    """Grants of the tenant in scope that had expired by then with something left, locked."""
    return await tx.fetch(
        f"select {GRANT} from credit_grant g "  # noqa: S608
        "join customer c on (c.tenant_id, c.mode, c.id) = (g.tenant_id, g.mode, g.customer_id) "
        "where g.tenant_id = $1 and g.mode = $2 and g.expires_at <= $3 "
        "and g.used_minor + g.expired_minor < g.amount_minor "
        "order by g.expires_at, g.id limit $4 for update of g",
        tx.tenant_id,
        tx.mode,
        at,
        limit,
    )


async def add_expiry(tx: Tx, grant_id: UUID, amount_minor: int) -> None:
    """So much more of a grant is expired, and told."""
    await tx.execute(
        "update credit_grant set expired_minor = expired_minor + $4, "
        "expiries_told = expiries_told + 1 where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        grant_id,
        amount_minor,
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


async def usable_minor(tx: Tx, customer_id: UUID, currency: str, at: datetime, limit: int) -> int:
    """What is left of those grants that an invoice of that time would find: see lock_usable_grants."""
    left: int = await tx.fetchval(
        "select coalesce(sum(left_minor), 0)::bigint from ("
        "select amount_minor - used_minor as left_minor from credit_grant "
        "where tenant_id = $1 and mode = $2 and customer_id = $3 and currency = $4 "
        "and used_minor < amount_minor and (expires_at is null or expires_at > $5) "
        "order by expires_at nulls last, id limit $6) usable",
        tx.tenant_id,
        tx.mode,
        customer_id,
        currency,
        at,
        limit,
    )
    return left
