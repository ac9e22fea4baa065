"""SQL of the gateway's archive, and of the ids already taken."""

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
class TakenId:
    """What entering an event's id told.

    Attributes:
        fresh: nobody had taken it.
        names_erased: one of the customers it names was erased in this tenant.
    """

    fresh: bool
    names_erased: bool


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

EVENT_COLUMNS = """
    tenant_id, mode, id, account, stripe_event_id, event_type, api_version, event_created_at,
    object_type, object_id, assignment, quarantine_reason, received_at, payload_bytes
"""
"""Of an event without its body and headers."""


async def take_id(tx: Tx, event: KeptEvent, digest: bytes, customer_ids: Sequence[str]) -> TakenId:
    """Enter (account, mode, event id), and look whether a person in it was erased."""
    row = await tx.fetchrow(
        """
        with taken as (
            insert into taken_event_id (account, mode, stripe_event_id, event_id, body_digest)
            values ($1, $2, $3, $4, $5) on conflict do nothing returning event_id)
        select exists (select from taken) as fresh,
            exists (select from erased_customer where tenant_id = $6 and mode = $2
                and stripe_customer_id = any($7::text[])) as names_erased
        """,
        event.account,
        tx.mode,
        event.stripe_event_id,
        event.id,
        digest,
        tx.tenant_id,
        list(customer_ids),
    )
    assert row is not None, "a select without a from has one row"
    return TakenId(row["fresh"], row["names_erased"])


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
        select {EVENT_COLUMNS} from webhook_event where {_WANTED}
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
        f"select {EVENT_COLUMNS}, payload, headers from webhook_event where mode = $1 and id = $2",  # noqa: S608
        mode,
        event_id,
    )


async def assign(tx: Tx, holder_id: UUID, tenant_id: UUID, event_id: UUID) -> KeptEvent | None:
    """Give an unassigned event to a tenant; both are in scope. None: somebody was faster."""
    row = await tx.fetchrow(
        f"""
        update webhook_event set tenant_id = $2, assignment = 'operator'
        where tenant_id = $1 and mode = $3 and id = $4 and assignment = 'unassigned'
            and quarantine_reason is null
        returning {EVENT_COLUMNS}, payload, headers
        """,  # noqa: S608 - constants only
        holder_id,
        tenant_id,
        tx.mode,
        event_id,
    )
    return None if row is None else kept_event(row)


async def find_tenant_id(tx: Tx, kind: str, value: str) -> UUID | None:
    """The tenant this exact value belongs to in the local directory."""
    found = await tx.fetchval("select find_tenant($1, $2) ->> 'tenant_id'", kind, value)
    return None if found is None else UUID(found)


def kept_event(row: Row) -> KeptEvent:
    """A whole row of the archive as an event."""
    return KeptEvent(**{name: row[name] for name in KeptEvent.__dataclass_fields__})


async def remember_erased(tx: Tx, stripe_customer_ids: Sequence[str]) -> None:
    """Enter customers of the tenant in scope that are to be forgotten, for what comes later."""
    await tx.execute(
        """
        insert into erased_customer (tenant_id, mode, stripe_customer_id)
        select $1, $2, unnest($3::text[]) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        list(stripe_customer_ids),
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


async def read_naming(
    tx: Tx, text: str, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """Events of the tenant in scope whose body contains a text, oldest first."""
    at, event_id = after or (None, None)
    return await tx.fetch(
        "select id, received_at, payload from webhook_event where tenant_id = $1 and mode = $2 "
        "and ($4::timestamptz is null or (received_at, id) > ($4, $5::uuid)) "
        "and position($3::bytea in payload) > 0 order by received_at, id limit $6",
        tx.tenant_id,
        tx.mode,
        text.encode(),
        at,
        event_id,
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
