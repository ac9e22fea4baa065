"""SQL of the audit log: appended to, never changed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx


@dataclass(frozen=True)
class Wanted:
    """Which entries are meant; None means any."""

    kind: str | None = None
    action: str | None = None
    actor: str | None = None
    object_id: str | None = None
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None


async def lock_chain(tx: Tx) -> None:
    """Let one transaction at a time add to the tenant's chain."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))", f"audit:{tx.tenant_id}"
    )


async def has_entry(tx: Tx, event_id: UUID) -> bool:
    """Whether the event is in the log."""
    return bool(
        await tx.fetchval(
            "select exists (select from audit_entry where tenant_id = $1 and event_id = $2)",
            tx.tenant_id,
            event_id,
        )
    )


async def last_entry(tx: Tx) -> Row | None:
    """Number and hash of the chain's last entry."""
    return await tx.fetchrow(
        "select seq, hash from audit_entry where tenant_id = $1 order by seq desc limit 1",
        tx.tenant_id,
    )


async def append(
    tx: Tx,
    *,
    seq: int,
    event_id: UUID,
    occurred_at: datetime,
    kind: str,
    action: str,
    actor: str,
    object_id: str | None,
    content: dict[str, Any],
    previous_hash: bytes,
    entry_hash: bytes,
) -> None:
    """Add an entry to the chain."""
    await tx.execute(
        """
        insert into audit_entry (tenant_id, seq, event_id, occurred_at, kind, action, actor,
            object_id, content, previous_hash, hash)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        """,
        tx.tenant_id,
        seq,
        event_id,
        occurred_at,
        kind,
        action,
        actor,
        object_id,
        content,
        previous_hash,
        entry_hash,
    )


async def list_entries(tx: Tx, wanted: Wanted, before: int | None, limit: int) -> list[Row]:
    """Entries, the newest first."""
    return await tx.fetch(
        """
        select seq, event_id, occurred_at, kind, action, actor, object_id, content, previous_hash,
            hash
        from audit_entry
        where tenant_id = $1 and ($2::text is null or kind = $2)
          and ($3::text is null or action = $3) and ($4::text is null or actor = $4)
          and ($5::text is null or object_id = $5)
          and ($6::timestamptz is null or occurred_at >= $6)
          and ($7::timestamptz is null or occurred_at < $7)
          and ($8::bigint is null or seq < $8)
        order by seq desc limit $9
        """,
        tx.tenant_id,
        wanted.kind,
        wanted.action,
        wanted.actor,
        wanted.object_id,
        wanted.occurred_from,
        wanted.occurred_to,
        before,
        limit,
    )


async def read_chain(tx: Tx, after: int, limit: int) -> list[Row]:
    """Entries in the order of the chain."""
    return await tx.fetch(
        "select seq, content, previous_hash, hash from audit_entry "
        "where tenant_id = $1 and seq > $2 order by seq limit $3",
        tx.tenant_id,
        after,
        limit,
    )
