"""SQL of the gateway: ids already taken, and the archive."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx


@dataclass(frozen=True)
class KeptEvent:
    """A webhook event in the archive."""

    id: UUID
    account: str
    stripe_event_id: str
    event_type: str
    api_version: str | None
    event_created_at: datetime
    object_type: str | None
    object_id: str | None
    assignment: str
    quarantine_reason: str | None
    payload: bytes
    headers: dict[str, str]
    received_at: datetime


@dataclass(frozen=True)
class Wanted:
    """Which events of the archive are meant; None means any."""

    mode: str
    ids: Sequence[UUID] | None = None
    event_type: str | None = None
    object_id: str | None = None
    stripe_event_id: str | None = None
    assignment: str | None = None
    quarantined: bool | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None

    def arguments(self) -> list[Any]:
        """The values of `_WANTED`, in its order."""
        return [
            self.mode,
            list(self.ids) if self.ids is not None else None,
            self.event_type,
            self.object_id,
            self.stripe_event_id,
            self.assignment,
            self.quarantined,
            self.received_from,
            self.received_to,
        ]


_WANTED = """
    mode = $1 and ($2::uuid[] is null or id = any($2)) and ($3::text is null or event_type = $3)
    and ($4::text is null or object_id = $4) and ($5::text is null or stripe_event_id = $5)
    and ($6::text is null or assignment = $6)
    and ($7::boolean is null or (quarantine_reason is not null) = $7)
    and ($8::timestamptz is null or received_at >= $8)
    and ($9::timestamptz is null or received_at < $9)
"""

_COLUMNS = """
    tenant_id, mode, id, account, stripe_event_id, event_type, api_version, event_created_at,
    object_type, object_id, assignment, quarantine_reason, received_at, payload_bytes
"""


async def take_id(tx: Tx, event: KeptEvent, digest: bytes) -> bool:
    """Enter (account, mode, event id); False when it was there."""
    inserted = await tx.execute(
        """
        insert into taken_event_id (account, mode, stripe_event_id, event_id, body_digest)
        values ($1, $2, $3, $4, $5) on conflict do nothing
        """,
        event.account,
        tx.mode,
        event.stripe_event_id,
        event.id,
        digest,
    )
    return inserted == 1


async def insert(tx: Tx, event: KeptEvent) -> None:
    """Put an event into the archive, byte for byte."""
    await tx.execute(
        """
        insert into webhook_event (tenant_id, mode, id, account, stripe_event_id, event_type,
            api_version, event_created_at, object_type, object_id, assignment, quarantine_reason,
            payload, payload_bytes, headers, received_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        """,
        tx.tenant_id,
        tx.mode,
        event.id,
        event.account,
        event.stripe_event_id,
        event.event_type,
        event.api_version,
        event.event_created_at,
        event.object_type,
        event.object_id,
        event.assignment,
        event.quarantine_reason,
        event.payload,
        len(event.payload),
        event.headers,
        event.received_at,
    )


async def list_events(
    tx: Tx, wanted: Wanted, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """Events without their bodies, newest first."""
    at, event_id = after or (None, None)
    return await tx.fetch(
        f"""
        select {_COLUMNS} from webhook_event where {_WANTED}
          and ($10::timestamptz is null or (received_at, id) < ($10, $11::uuid))
        order by received_at desc, id desc limit $12
        """,  # noqa: S608 - constants only
        *wanted.arguments(),
        at,
        event_id,
        limit,
    )


async def find_event(tx: Tx, mode: str, event_id: UUID) -> Row | None:
    """One event with its body and headers."""
    return await tx.fetchrow(
        f"select {_COLUMNS}, payload, headers from webhook_event where mode = $1 and id = $2",  # noqa: S608
        mode,
        event_id,
    )


async def read_for_replay(tx: Tx, wanted: Wanted, limit: int) -> list[tuple[UUID, KeptEvent]]:
    """(tenant, event), oldest first; what is in quarantine is not replayed."""
    rows = await tx.fetch(
        f"""
        select {_COLUMNS}, payload, headers from webhook_event
        where {_WANTED} and quarantine_reason is null
        order by received_at, id limit $10
        """,  # noqa: S608 - constants only
        *wanted.arguments(),
        limit,
    )
    return [(row["tenant_id"], _kept(row)) for row in rows]


async def count_for_replay(tx: Tx, wanted: Wanted) -> int:
    """How many events a replay would send."""
    return int(
        await tx.fetchval(
            f"select count(*) from webhook_event where {_WANTED} and quarantine_reason is null",  # noqa: S608
            *wanted.arguments(),
        )
    )


async def known_waiting_accounts(tx: Tx, limit: int) -> list[Row]:
    """(account, mode, tenant_id) of waiting events whose account the directory knows by now."""
    return await tx.fetch(
        """
        select e.account, e.mode, l.tenant_id
        from (select distinct account, mode from webhook_event
            where quarantine_reason = 'unknown_account') as e
        join directory_lookup l on l.kind = 'account' and l.value = e.mode || ':' || e.account
        limit $1
        """,
        limit,
    )


async def hand_over(
    tx: Tx, holder_id: UUID, tenant_id: UUID, mode: str, account: str, limit: int
) -> list[KeptEvent]:
    """Give waiting events of an account to a tenant, the oldest first; both are in scope."""
    rows = await tx.fetch(
        f"""
        update webhook_event set tenant_id = $2, assignment = 'account', quarantine_reason = null
        where tenant_id = $1 and mode = $3 and id in (
            select id from webhook_event where tenant_id = $1 and mode = $3 and account = $4
                and quarantine_reason = 'unknown_account'
            order by received_at, id limit $5 for update skip locked)
        returning {_COLUMNS}, payload, headers
        """,  # noqa: S608 - constants only
        holder_id,
        tenant_id,
        mode,
        account,
        limit,
    )
    return [_kept(row) for row in sorted(rows, key=lambda row: (row["received_at"], row["id"]))]


def _kept(row: Row) -> KeptEvent:
    return KeptEvent(**{name: row[name] for name in KeptEvent.__dataclass_fields__})


async def read_naming(tx: Tx, text: str, after: UUID | None, limit: int) -> list[Row]:
    """Events of the tenant in scope whose body contains a text, by id."""
    return await tx.fetch(
        "select id, payload from webhook_event where tenant_id = $1 and mode = $2 "
        "and ($4::uuid is null or id > $4) and position($3::bytea in payload) > 0 "
        "order by id limit $5",
        tx.tenant_id,
        tx.mode,
        text.encode(),
        after,
        limit,
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
