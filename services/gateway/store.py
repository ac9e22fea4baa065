"""SQL of the gateway's archive, and of the ids already taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import msgspec

from libs.db import arrays
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import Letter, columns


class KeptEvent(msgspec.Struct, frozen=True):
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


class Arrival(msgspec.Struct, frozen=True):
    """An event that wants to be kept.

    Attributes:
        tenant_id: whose it is; one of those in scope.
        id_account: the account under which its id is taken.
        digest: SHA-256 of the body as it came.
        customer_ids: the customers at Stripe that it names.
        letters: what leaves by the outbox if it is kept.
    """

    tenant_id: UUID
    event: KeptEvent
    id_account: str
    digest: bytes
    customer_ids: Sequence[str]
    letters: Sequence[Letter]


class Asked(Protocol):
    """Who answers a statement: a transaction; or the database, where each is one by itself."""

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        """The first row of a query, or None."""


class KeptIds(NamedTuple):
    """Of some events our ids: of those that were kept, and of those to be blanked before any is."""

    fresh: frozenset[UUID]
    erased: frozenset[UUID]


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


FIRST = (datetime(2000, 1, 1, tzinfo=UTC), UUID(int=0))
LAST = (datetime(9999, 12, 31, tzinfo=UTC), UUID(int=2**128 - 1))
"""Places in the archive before and after every event. A place is always given: so a plan that was
made for any place still reads an index from there."""

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


async def keep(
    asked: Asked, scope: Scope, arrivals: Sequence[Arrival], *, blanked: bool = False
) -> KeptIds:
    """Keep events whose id nobody has taken, byte for byte, with their letters, in one statement.

    Args:
        blanked: those that name a customer who was erased in its tenant tell of no person any more;
            else nothing is kept where there are such.
    """
    events = [arrival.event for arrival in arrivals]
    named = [(each, customer_id) for each in arrivals for customer_id in each.customer_ids]
    letters = [(each.event.id, letter) for each in arrivals for letter in each.letters]
    tenants, mode, _ = scope.settings()
    row = await asked.fetchrow(
        """
        select fresh, erased from keep_events($1, $2, $3,
            $4::text::uuid[], $5::text::uuid[], $6::text::text[], $7::text::text[],
            $8::text::text[], $9::text::bytea[], $10::text::text[], $11::text::text[],
            $12::text::timestamptz[], $13::text::text[], $14::text::text[], $15::text::text[],
            $16::text::text[], $17::bytea[], $18::text::text[], $19::text::timestamptz[],
            $20::text::uuid[], $21::text::uuid[], $22::text::text[],
            $23::text::uuid[], $24::text::uuid[], $25::text::text[], $26::text::text[],
            $27::text::uuid[], $28::text::text[], string_to_array($29, E'\n'),
            string_to_array($30, E'\n'), $31::text::smallint[])
        """,
        tenants,
        mode,
        blanked,
        arrays.uuids(event.id for event in events),
        arrays.uuids(arrival.tenant_id for arrival in arrivals),
        arrays.texts(arrival.id_account for arrival in arrivals),
        arrays.texts(event.account for event in events),
        arrays.texts(event.stripe_event_id for event in events),
        arrays.digests(arrival.digest for arrival in arrivals),
        arrays.texts(event.event_type for event in events),
        arrays.texts(event.api_version for event in events),
        arrays.times(event.event_created_at for event in events),
        arrays.texts(event.object_type for event in events),
        arrays.texts(event.object_id for event in events),
        arrays.texts(event.assignment for event in events),
        arrays.texts(event.quarantine_reason for event in events),
        [event.payload for event in events],
        arrays.texts(msgspec.json.encode(event.headers).decode() for event in events),
        arrays.times(event.received_at for event in events),
        arrays.uuids(arrival.event.id for arrival, _ in named),
        arrays.uuids(arrival.tenant_id for arrival, _ in named),
        arrays.texts(customer_id for _, customer_id in named),
        arrays.uuids(event_id for event_id, _ in letters),
        *columns(letter.row for _, letter in letters),
    )
    assert row is not None, "it always answers"
    return KeptIds(frozenset(row["fresh"]), frozenset(row["erased"]))


async def list_events(
    tx: Tx, wanted: Wanted, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """Events without their bodies, newest first."""
    at, event_id = after or LAST
    return await tx.fetch(
        f"""
        select {EVENT_COLUMNS} from webhook_event where {_WANTED}
          and (received_at, id) < ($10, $11::uuid)
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
    """Give an unassigned event to a tenant; both are in scope. None: somebody was faster.

    One that waits for its account to be connected is what its signature stands for, and may be given;
    what waits for any other reason may not.
    """
    row = await tx.fetchrow(
        f"""
        update webhook_event set tenant_id = $2, assignment = 'operator', quarantine_reason = null
        where tenant_id = $1 and mode = $3 and id = $4 and assignment = 'unassigned'
            and (quarantine_reason is null or quarantine_reason = 'unknown_account')
        returning {EVENT_COLUMNS}, payload, headers
        """,  # noqa: S608 - constants only
        holder_id,
        tenant_id,
        tx.mode,
        event_id,
    )
    return None if row is None else kept_event(row)


async def find_tenant_ids(
    asked: Asked, wanted: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], UUID]:
    """The tenants that exact (kind, value) belong to in the local directory, where there are any."""
    row = await asked.fetchrow(
        """
        select coalesce(array_agg(kind), '{}') as kinds, coalesce(array_agg(value), '{}') as values,
            coalesce(array_agg(tenant_id), '{}') as tenant_ids
        from find_tenant_ids($1::text::text[], $2::text::text[])
        """,
        arrays.texts(kind for kind, _ in wanted),
        arrays.texts(value for _, value in wanted),
    )
    assert row is not None, "an aggregate has a row"
    found = zip(row["kinds"], row["values"], strict=True)
    return dict(zip(found, row["tenant_ids"], strict=True))


def kept_event(row: Row) -> KeptEvent:
    """A whole row of the archive as an event."""
    return KeptEvent(**{name: row[name] for name in KeptEvent.__struct_fields__})
