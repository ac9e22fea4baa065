"""SQL of forgetting: which customers were erased, and how far the archive was gone through."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from libs.db.tenant import Mode
from services.gateway.store import FIRST


@dataclass(frozen=True)
class Erasure:
    """A customer at Stripe that is being forgotten in the archive of its tenant.

    Attributes:
        reached: (time, id) of the last event that was looked at.
    """

    tenant_id: UUID
    mode: Mode
    stripe_customer_id: str
    reached: tuple[datetime, UUID]


async def remember_erased(tx: Tx, stripe_customer_ids: Sequence[str], told_at: datetime) -> None:
    """Enter customers of the tenant in scope that are to be forgotten, each once.

    Told anew, later than before, one is begun anew; a replay of what was told begins nothing.
    """
    await tx.execute(
        """
        insert into erased_customer as e (tenant_id, mode, stripe_customer_id, entered_at, begun_at)
        select $1, $2, id, $4, clock_timestamp() from unnest($3::text[]) as u(id) order by id
        on conflict (tenant_id, mode, stripe_customer_id) do update
            set entered_at = excluded.entered_at, begun_at = excluded.begun_at,
                reached_at = null, reached_id = null, is_forgotten = false
            where e.entered_at < excluded.entered_at
        """,
        tx.tenant_id,
        tx.mode,
        sorted(set(stripe_customer_ids)),
        told_at,
    )


async def any_erased(tx: Tx, stripe_customer_ids: Sequence[str]) -> bool:
    """Whether one of these customers was erased in the tenant in scope."""
    return bool(
        await tx.fetchval(
            "select exists (select from erased_customer where tenant_id = $1 and mode = $2 "
            "and stripe_customer_id = any($3::text[]))",
            tx.tenant_id,
            tx.mode,
            list(stripe_customer_ids),
        )
    )


async def under_way(tx: Tx, begun_before: datetime, limit: int) -> list[tuple[UUID, Mode, str]]:
    """(tenant, mode, customer at Stripe) of erasures that are not done, the oldest first."""
    rows = await tx.fetch(
        "select tenant_id, mode, stripe_customer_id from erased_customer "
        "where not is_forgotten and begun_at < $1 order by begun_at limit $2",
        begun_before,
        limit,
    )
    return [(row["tenant_id"], row["mode"], row["stripe_customer_id"]) for row in rows]


async def lock(tx: Tx, stripe_customer_id: str) -> Erasure | None:
    """An erasure of the tenant in scope, for this transaction alone; None: done, or another has it."""
    row = await tx.fetchrow(
        "select reached_at, reached_id from erased_customer where tenant_id = $1 and mode = $2 "
        "and stripe_customer_id = $3 and not is_forgotten for update skip locked",
        tx.tenant_id,
        tx.mode,
        stripe_customer_id,
    )
    if row is None:
        return None
    reached = (row["reached_at"], row["reached_id"]) if row["reached_at"] else FIRST
    return Erasure(tx.tenant_id, tx.mode, stripe_customer_id, reached)


async def read_on(tx: Tx, erasure: Erasure, limit: int) -> list[Row]:
    """The next events of the archive, oldest first, without their bodies.

    `names_it`: the body has the customer's id.
    """
    return await tx.fetch(
        """
        select id, received_at, position($3::bytea in payload) > 0 as names_it
        from webhook_event where tenant_id = $1 and mode = $2 and (received_at, id) > ($4, $5::uuid)
        order by received_at, id limit $6
        """,
        tx.tenant_id,
        tx.mode,
        erasure.stripe_customer_id.encode(),
        *erasure.reached,
        limit,
    )


async def payload_of(tx: Tx, event_id: UUID, received_at: datetime) -> bytes | None:
    """The body of an event; None: another tenant has been given it meanwhile."""
    payload: bytes | None = await tx.fetchval(
        "select payload from webhook_event "
        "where tenant_id = $1 and mode = $2 and id = $3 and received_at = $4",
        tx.tenant_id,
        tx.mode,
        event_id,
        received_at,
    )
    return payload


async def move_on(tx: Tx, erasure: Erasure, reached: Row | None, *, ended: bool) -> None:
    """Note the place reached, in the commit that forgets what lies before it."""
    at, event_id = (reached["received_at"], reached["id"]) if reached else erasure.reached
    await tx.execute(
        "update erased_customer set reached_at = $4, reached_id = $5, is_forgotten = $6 "
        "where tenant_id = $1 and mode = $2 and stripe_customer_id = $3",
        tx.tenant_id,
        tx.mode,
        erasure.stripe_customer_id,
        at,
        event_id,
        ended,
    )


async def replace_payload(tx: Tx, event_id: UUID, payload: bytes) -> None:
    """Put another body in an event's place: the one way in which the archive changes."""
    await tx.execute(
        "update webhook_event set payload = $4, payload_bytes = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3 and payload <> $4",
        tx.tenant_id,
        tx.mode,
        event_id,
        payload,
        len(payload),
    )
