"""SQL of counted events and their aggregates: whole batches, never one event."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import date, datetime
from typing import Protocol
from uuid import UUID

from libs.db import arrays
from libs.db.pool import Database, Tx
from services.metering import store_ranks
from services.metering.aggregation import Gains

EventKey = bytes
"""The 16 bytes of the tenant, and the hash of the event's source and id."""

TENANT_BYTES = 16
KEY_BYTES = 32


class Origin(Protocol):
    """Whose ids, and the day they came in."""

    @property
    def tenant_id(self) -> UUID:
        """The tenant."""

    @property
    def day(self) -> date:
        """In UTC."""


class Said(Protocol):
    """What is entered of an event beside its id."""

    @property
    def origin(self) -> Origin:
        """Where it comes from."""

    @property
    def payload_hash(self) -> bytes:
        """The hash of the payload."""


class Added(Protocol):
    """What meters read from an event."""

    @property
    def gained(self) -> bytes:
        """What it adds, as it is told beside its id."""


class Entry(Protocol):
    """An event to be counted; seen here as it is, for each of thousands to be copied takes long."""

    @property
    def read(self) -> Said:
        """What stands in its record."""

    @property
    def reading(self) -> Added:
        """What meters read."""


async def take_new_ids(
    tx: Tx, entries: Mapping[EventKey, Entry]
) -> tuple[AbstractSet[EventKey], dict[EventKey, bytes]]:
    """Enter event ids with the hashes of their payloads, the days they came in and what they add.

    What has a fixed length goes to Postgres in one piece, and which ids were new comes back only where
    not all were: nearly always all are.

    Returns:
        Those that were not there, and for the rest that are not voided the payload hash there.
    """
    keys = sorted(entries)
    found = [entries[key] for key in keys]
    origins = list(dict.fromkeys([entry.read.origin for entry in found]))
    numbers = {origin: number.to_bytes(2, "big") for number, origin in enumerate(origins)}
    fixed = [
        numbers[entry.read.origin] + key[TENANT_BYTES:] + entry.read.payload_hash
        for key, entry in zip(keys, found, strict=True)
    ]
    row = await tx.fetchrow(
        """
        with taken as (
            insert into usage_event_id (tenant_id, mode, id_hash, payload_hash, received_day, gained)
            select t[o], $1, substr($4, at + 3, 16), substr($4, at + 19, 8), d[o], g
            from (
                select $2::uuid[] as t, $3::date[] as d, g, at,
                    get_byte($4, at) * 256 + get_byte($4, at + 1) + 1 as o
                from (
                    select g, (n - 1)::int * 26 as at
                    from unnest($5::bytea[]) with ordinality as u(g, n)
                ) placed
            ) entered
            on conflict do nothing returning tenant_id, id_hash
        )
        select entered, case when entered < $6 then (
            select string_agg(uuid_send(tenant_id) || id_hash, '') from taken) end
        from (select count(*) as entered from taken) counted
        """,
        tx.mode,
        [origin.tenant_id for origin in origins],
        [origin.day for origin in origins],
        b"".join(fixed),
        [entry.reading.gained for entry in found],
        len(keys),
    )
    assert row is not None, "a count is always told"
    if row[0] == len(keys):
        return entries.keys(), {}
    new = _split(row[1] or b"")
    known = [key for key in keys if key not in new]
    rows = await tx.fetch(
        """
        select uuid_send(e.tenant_id) || e.id_hash, e.payload_hash from usage_event_id e
        join unnest($2::uuid[], $3::bytea[]) as u(t, h) on e.tenant_id = t and e.id_hash = h
        where e.mode = $1 and not e.voided
        """,
        tx.mode,
        tenants_in(known),
        [key[TENANT_BYTES:] for key in known],
    )
    return new, dict(rows)


def _split(keys: bytes) -> set[EventKey]:
    return {keys[start : start + KEY_BYTES] for start in range(0, len(keys), KEY_BYTES)}


async def has_former_ids(tx: Tx) -> bool:
    """Whether ids may stand under the hash of former versions."""
    return bool(await tx.fetchval("select exists (select from former_ids)"))


async def marked_since(tx: Tx) -> datetime:
    """When the platform began to mark what it reports, a few minutes before midnight in UTC."""
    since: datetime = await tx.fetchval("select since from platform_marks")
    return since


async def ids_there(
    tx: Tx, keys: Sequence[EventKey], last_day: date | None = None
) -> set[EventKey]:
    """Those of these ids that are entered.

    Args:
        last_day: only those that came in on this day or before.
    """
    rows = await tx.fetch(
        """
        select uuid_send(e.tenant_id) || e.id_hash from usage_event_id e
        join unnest($2::uuid[], $3::bytea[]) as u(t, h) on e.tenant_id = t and e.id_hash = h
        where e.mode = $1 and ($4::date is null or e.received_day <= $4)
        """,
        tx.mode,
        tenants_in(keys),
        [key[TENANT_BYTES:] for key in keys],
        last_day,
    )
    return {key for (key,) in rows}


def tenants_in(keys: Sequence[EventKey]) -> list[UUID]:
    """The tenant of each key; one object for all the keys of a tenant."""
    found: dict[bytes, UUID] = {}
    tenants = []
    for key in keys:
        start = key[:TENANT_BYTES]
        tenant = found.get(start)
        if tenant is None:
            tenant = found[start] = UUID(bytes=start)
        tenants.append(tenant)
    return tenants


async def add_gains(tx: Tx, gains: Gains) -> None:
    """Add a batch to the aggregates, in a fixed order so that two workers cannot deadlock."""
    await _add_series(tx, gains)
    await _add_minutes(tx, gains)
    await _add_uniques(tx, gains)
    await store_ranks.add(tx, gains.ranks)


async def _add_series(tx: Tx, gains: Gains) -> None:
    """Enter the series that are new, as few are: those that are there are found by the key in passing.

    To look for them first is to leave it to Postgres whether that goes through all that the tenants have.
    """
    found = sorted(gains.series.values(), key=lambda series: (series.tenant_id.int, series.id.int))
    await tx.execute(
        """
        insert into usage_series (tenant_id, mode, id, meter_id, customer, user_id, group_values)
        select t, $1, i, m, c, p, g::text[]
        from unnest($2::text::uuid[], $3::text::uuid[], $4::text::uuid[], $5::text::text[],
                    $6::text::text[], $7::text[]) as u(t, i, m, c, p, g)
        on conflict (tenant_id, mode, id) do nothing
        """,
        tx.mode,
        arrays.uuids([series.tenant_id for series in found]),
        arrays.uuids([series.id for series in found]),
        arrays.uuids([series.meter_id for series in found]),
        arrays.texts([series.customer for series in found]),
        arrays.texts([series.user_id for series in found]),
        [arrays.texts(series.groups) for series in found],
    )


async def _add_minutes(tx: Tx, gains: Gains) -> None:
    places = sorted(gains.cells, key=lambda place: (place[0].int, place[1].int, place[2]))
    cells = [gains.cells[place] for place in places]
    await tx.execute(
        """
        insert into usage_minute as m (tenant_id, mode, series_id, minute, event_count, total,
                                       minimum, maximum, latest, latest_at, latest_id)
        select t, $1, s, at, n, total, least, most, last, last_at, last_id
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::numeric[],
                    $7::numeric[], $8::numeric[], $9::numeric[], $10::timestamptz[], $11::bytea[])
            as u(t, s, at, n, total, least, most, last, last_at, last_id)
        on conflict (tenant_id, mode, series_id, minute) do update set
            event_count = m.event_count + excluded.event_count,
            total = m.total + excluded.total,
            minimum = least(m.minimum, excluded.minimum),
            maximum = greatest(m.maximum, excluded.maximum),
            latest = case when (excluded.latest_at, excluded.latest_id)
                > (m.latest_at, m.latest_id) then excluded.latest else m.latest end,
            latest_at = case when (excluded.latest_at, excluded.latest_id)
                > (m.latest_at, m.latest_id) then excluded.latest_at else m.latest_at end,
            latest_id = case when (excluded.latest_at, excluded.latest_id)
                > (m.latest_at, m.latest_id) then excluded.latest_id else m.latest_id end
        """,
        tx.mode,
        [tenant for tenant, _, _ in places],
        [series for _, series, _ in places],
        [minute for _, _, minute in places],
        [cell.event_count for cell in cells],
        [cell.total for cell in cells],
        [cell.minimum for cell in cells],
        [cell.maximum for cell in cells],
        [cell.latest[2] if cell.latest else None for cell in cells],
        [cell.latest[0] if cell.latest else None for cell in cells],
        [cell.latest[1] if cell.latest else None for cell in cells],
    )


async def _add_uniques(tx: Tx, gains: Gains) -> None:
    if not gains.uniques:
        return
    columns = list(zip(*sorted(gains.uniques), strict=True))
    await tx.execute(
        """
        insert into usage_unique (tenant_id, mode, series_id, minute, value_hash)
        select t, $1, s, at, h
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bytea[]) as u(t, s, at, h)
        on conflict do nothing
        """,
        tx.mode,
        *[list(column) for column in columns],
    )


async def note_progress(tx: Tx, received: Mapping[UUID, datetime]) -> None:
    """Remember when the newest counted event of each tenant came in."""
    tenants = sorted(received)
    await tx.execute(
        """
        insert into usage_progress as p (tenant_id, mode, received_at)
        select t, $1, r from unnest($2::uuid[], $3::timestamptz[]) as u(t, r)
        on conflict (tenant_id, mode) do update set received_at = excluded.received_at
        where p.received_at < excluded.received_at
        """,
        tx.mode,
        tenants,
        [received[tenant] for tenant in tenants],
    )


async def last_received_at(tx: Tx) -> datetime | None:
    """When the newest counted event of the tenant in scope came in."""
    received_at: datetime | None = await tx.fetchval(
        "select received_at from usage_progress where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
    )
    return received_at


async def prune_ids(database: Database, received_before: date, *, limit: int) -> int:
    """Forget ids that came in before a day; the number forgotten."""
    async with database.maintenance() as tx:
        forgotten = await tx.execute(
            """
            delete from usage_event_id e using (
                select tenant_id, mode, id_hash from usage_event_id
                where received_day < $1 limit $2
            ) old
            where e.tenant_id = old.tenant_id and e.mode = old.mode and e.id_hash = old.id_hash
            """,
            received_before,
            limit,
        )
        if forgotten < limit:
            await tx.execute("delete from former_ids where since < $1", received_before)
        return forgotten
