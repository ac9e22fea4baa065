"""SQL of the audit log: appended to, never changed."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx


@dataclass(frozen=True)
class Wanted:
    """Which entries are meant; None means any.

    Attributes:
        action: the whole action, or its first part with a point at the end: `api_key.`.
        object_id: the whole id, or its first part with an underscore at the end: `key_`.
        text: somewhere in what was changed, whatever the case.
    """

    kind: str | None = None
    action: str | None = None
    actor: str | None = None
    object_id: str | None = None
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None
    text: str | None = None

    def arguments(self) -> tuple[Any, ...]:
        """The values of `_MATCHES`, after the tenant."""
        return (
            self.kind,
            self.action,
            self.actor,
            self.object_id,
            self.occurred_from,
            self.occurred_to,
            self.text,
        )


_COLUMNS = """
    tenant_id, seq, event_id, occurred_at, kind, action, actor, object_id, content, previous_hash,
    hash
"""
_MATCHES = """
    tenant_id = $1 and ($2::text is null or kind = $2)
    and ($3::text is null or action = $3 or ($3 like '%.' and starts_with(action, $3)))
    and ($4::text is null or actor = $4)
    and ($5::text is null or object_id = $5
        or (right($5, 1) = '_' and starts_with(object_id, $5)))
    and ($6::timestamptz is null or occurred_at >= $6)
    and ($7::timestamptz is null or occurred_at < $7)
    and ($8::text is null or position(lower($8) in lower((content -> 'data')::text)) > 0)
"""


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


async def raise_head(tx: Tx, seq: int, entry_hash: bytes) -> None:
    """Note the chain's new last entry."""
    await tx.execute(
        "insert into audit_head (tenant_id, seq, hash) values ($1, $2, $3) "
        "on conflict (tenant_id) do update set seq = excluded.seq, hash = excluded.hash",
        tx.tenant_id,
        seq,
        entry_hash,
    )


async def list_entries(tx: Tx, wanted: Wanted, before: int | None, limit: int) -> list[Row]:
    """Entries, the newest first."""
    return await tx.fetch(
        f"""
        select {_COLUMNS} from audit_entry
        where {_MATCHES} and ($9::bigint is null or seq < $9)
        order by seq desc limit $10
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        *wanted.arguments(),
        before,
        limit,
    )


async def list_from(tx: Tx, wanted: Wanted, after: int, up_to: int, limit: int) -> list[Row]:
    """Entries after one number up to another, the oldest first."""
    return await tx.fetch(
        f"""
        select {_COLUMNS} from audit_entry
        where {_MATCHES} and seq > $9 and seq <= $10
        order by seq limit $11
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        *wanted.arguments(),
        after,
        up_to,
        limit,
    )


async def read_chain(tx: Tx, after: int, limit: int) -> list[Row]:
    """Entries in the order of the chain."""
    return await tx.fetch(
        f"select {_COLUMNS} from audit_entry "  # noqa: S608 - constants only
        "where tenant_id = $1 and seq > $2 order by seq limit $3",
        tx.tenant_id,
        after,
        limit,
    )


async def unsigned_heads(
    tx: Tx, *, anchored_before: datetime, entries: int, limit: int
) -> list[UUID]:
    """Tenants whose head is due to be signed; as the maintenance role.

    Due is what grew since it was signed last, before a time or by so many entries.
    """
    rows = await tx.fetch(
        "select tenant_id from audit_head where seq > anchored_seq "
        "and (anchored_at < $1 or seq - anchored_seq >= $2) order by anchored_at, tenant_id limit $3",
        anchored_before,
        entries,
        limit,
    )
    return [row["tenant_id"] for row in rows]


async def lock_head(tx: Tx) -> Row | None:
    """Number and hash of the last entry, as it was recorded, and how far it was signed for."""
    return await tx.fetchrow(
        "select seq, hash, anchored_seq from audit_head where tenant_id = $1 for update",
        tx.tenant_id,
    )


async def note_anchored(tx: Tx, seq: int, at: datetime) -> None:
    """The head of this number was signed."""
    await tx.execute(
        "update audit_head set anchored_seq = $2, anchored_at = $3 where tenant_id = $1",
        tx.tenant_id,
        seq,
        at,
    )


async def keep_anchor(
    tx: Tx,
    *,
    event_id: UUID,
    seq: int,
    head_hash: bytes,
    key_id: str,
    signature: bytes,
    anchored_at: datetime,
) -> None:
    """Keep a signed head, once."""
    await tx.execute(
        "insert into audit_anchor (tenant_id, event_id, seq, hash, key_id, signature, anchored_at) "
        "values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing",
        tx.tenant_id,
        event_id,
        seq,
        head_hash,
        key_id,
        signature,
        anchored_at,
    )


async def read_anchors(tx: Tx) -> list[Row]:
    """The tenant's signed heads."""
    return await tx.fetch(
        "select tenant_id, seq, hash, key_id, signature, anchored_at from audit_anchor "
        "where tenant_id = $1 order by seq",
        tx.tenant_id,
    )
