"""SQL of corrections: where events stand, and who corrected them why."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


@dataclass(frozen=True)
class Standing:
    """Where an event stands that was counted or voided.

    Attributes:
        gained: what it added, where that is known.
        voidable: everything is kept that a void of it needs.
    """

    payload_hash: bytes
    voided: bool
    gained: bytes | None
    voidable: bool = False

    @property
    def came(self) -> bool:
        """Whether it is known what the event says: of one that was voided before it came it is not."""
        return self.payload_hash != b""


async def standing_of(tx: Tx, hashes: Sequence[bytes]) -> dict[bytes, Standing]:
    """Where those events of the tenant in scope stand that are known."""
    rows = await tx.fetch(
        """
        select id_hash, payload_hash, voided, gained
        from usage_event_id where tenant_id = $1 and mode = $2 and id_hash = any($3::bytea[])
        """,
        tx.tenant_id,
        tx.mode,
        list(hashes),
    )
    return {
        row["id_hash"]: Standing(row["payload_hash"], row["voided"], row["gained"]) for row in rows
    }


async def add_correction(
    tx: Tx, correction_id: UUID, kind: str, reason: str, actor: str, events: int, at: datetime
) -> None:
    """Enter a correction."""
    await tx.execute(
        """
        insert into correction (tenant_id, mode, id, kind, reason, actor, events, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        """,
        tx.tenant_id,
        tx.mode,
        correction_id,
        kind,
        reason,
        actor,
        events,
        at,
    )


async def page_of_corrections(tx: Tx, *, after: UUID | None, limit: int) -> list[Row]:
    """The corrections of the tenant in scope after an id, oldest first."""
    return await tx.fetch(
        """
        select id, kind, reason, actor, events, created_at from correction
        where tenant_id = $1 and mode = $2 and ($3::uuid is null or id > $3) order by id limit $4
        """,
        tx.tenant_id,
        tx.mode,
        after,
        limit,
    )
