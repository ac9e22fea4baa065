"""SQL of reservations: what is held, and what of it still weighs on a limit."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx

CLOCKS_DIFFER = timedelta(seconds=2)
"""Between processes: one may settle what another sees as expired already."""


async def lock_line(tx: Tx, meter_id: UUID, customer: str) -> None:
    """Let one after the other reserve of the same limit, until this transaction ends."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))",
        f"reservation {tx.tenant_id} {tx.mode} {meter_id} {customer}",
    )


async def weight_of(tx: Tx, meter_id: UUID, customers: Sequence[str], now: datetime) -> Decimal:
    """What weighs on a customer's limit besides counted usage."""
    weight: Decimal = await tx.fetchval(
        """
        select coalesce(sum(weight), 0) from reservation
        where tenant_id = $1 and mode = $2 and meter_id = $3 and customer = any($4::text[])
            and weight > 0 and (state <> 'held' or expires_at > $5)
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        list(customers),
        now - CLOCKS_DIFFER,
    )
    return weight


async def insert(tx: Tx, values: Mapping[str, Any]) -> Row:
    """Hold an amount."""
    row = await tx.fetchrow(
        """
        insert into reservation (tenant_id, mode, id, meter_id, customer, subject, user_id, amount,
            weight, state, created_at, expires_at, by_platform)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $8, 'held', $9, $10, $11) returning *
        """,
        tx.tenant_id,
        tx.mode,
        values["id"],
        values["meter_id"],
        values["customer"],
        values["subject"],
        values["user_id"],
        values["amount"],
        values["created_at"],
        values["expires_at"],
        values["by_platform"],
    )
    assert row is not None, "an insert without a conflict clause returns its row"
    return row


async def find(tx: Tx, reservation_id: UUID) -> Row | None:
    """One reservation of the tenant in scope."""
    return await tx.fetchrow(
        "select * from reservation where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        reservation_id,
    )


async def lock(tx: Tx, reservation_id: UUID) -> Row | None:
    """The same, for this transaction alone."""
    return await tx.fetchrow(
        "select * from reservation where tenant_id = $1 and mode = $2 and id = $3 for update",
        tx.tenant_id,
        tx.mode,
        reservation_id,
    )


async def settle(
    tx: Tx, reservation_id: UUID, amount: Decimal, events: Sequence[bytes], at: datetime
) -> None:
    """What was used weighs from now on, until its events are counted."""
    await tx.execute(
        """
        update reservation set state = 'settling', settled_amount = $4, weight = $4, events = $5,
            ended_at = $6
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        reservation_id,
        amount,
        list(events),
        at,
    )


async def end(tx: Tx, reservation_id: UUID, state: str, at: datetime) -> None:
    """Nothing of it weighs any more."""
    await tx.execute(
        """
        update reservation set state = $4, settled_amount = 0, weight = 0, ended_at = $5
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        reservation_id,
        state,
        at,
    )


async def note_published(tx: Tx, reservation_id: UUID) -> None:
    """Its events are durable on the topic."""
    await tx.execute(
        "update reservation set state = 'settled', events = '{}' "
        "where tenant_id = $1 and mode = $2 and id = $3 and state = 'settling'",
        tx.tenant_id,
        tx.mode,
        reservation_id,
    )


async def unpublished(tx: Tx, before: datetime, limit: int) -> list[Row]:
    """Over all tenants: settled ones whose events nobody has confirmed, the oldest first; not the events."""
    return await tx.fetch(
        "select tenant_id, mode, id from reservation where state = 'settling' "
        "and ended_at < $1 and (tried_at is null or tried_at < $1) "
        "order by tried_at nulls first, ended_at limit $2",
        before,
        limit,
    )


async def put_off(tx: Tx, reservation_id: UUID, at: datetime) -> None:
    """Others have their turn first."""
    await tx.execute(
        "update reservation set tried_at = $4 where tenant_id = $1 and mode = $2 and id = $3 "
        "and state = 'settling'",
        tx.tenant_id,
        tx.mode,
        reservation_id,
        at,
    )


async def expired(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """Over all tenants: holds whose time is over."""
    return await tx.fetch(
        "select tenant_id, mode, id from reservation where state = 'held' and expires_at <= $1 "
        "order by expires_at limit $2",
        now,
        limit,
    )


async def lighten(tx: Tx, counted: Mapping[tuple[UUID, UUID, UUID], Decimal]) -> None:
    """Take off the weight what has just been counted.

    Args:
        counted: by tenant, reservation and meter.
    """
    places = sorted(counted)
    await tx.execute(
        """
        update reservation r set weight = greatest(r.weight - u.v, 0)
        from unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::numeric[]) as u(t, i, m, v)
        where r.tenant_id = u.t and r.mode = $1 and r.id = u.i and r.meter_id = u.m
            and r.state in ('settling', 'settled')
        """,
        tx.mode,
        [tenant for tenant, _, _ in places],
        [reservation for _, reservation, _ in places],
        [meter for _, _, meter in places],
        [counted[place] for place in places],
    )
