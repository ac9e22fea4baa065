"""SQL of facts that wait for what they refer to."""

from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx


async def keep(
    tx: Tx, event_id: UUID, waits_for: str, event_type: str, event: dict[str, Any]
) -> None:
    """Keep an event, once."""
    await tx.execute(
        "insert into waiting_fact (tenant_id, mode, event_id, waits_for, event_type, event) "
        "values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        event_id,
        waits_for,
        event_type,
        event,
    )


async def take(tx: Tx, waits_for: str) -> list[Row]:
    """The events that waited for this, in the order they came; they wait no longer."""
    rows = await tx.fetch(
        "delete from waiting_fact where tenant_id = $1 and mode = $2 and waits_for = $3 "
        "returning position, event_type, event",
        tx.tenant_id,
        tx.mode,
        waits_for,
    )
    return sorted(rows, key=lambda row: row["position"])
