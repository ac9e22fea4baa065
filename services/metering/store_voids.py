"""SQL of voids: ids that count no more, and aggregates that lose what those had added."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from uuid import UUID

from libs.db.pool import Database, Tx
from services.metering.store_usage import TENANT_BYTES, EventKey, tenants_in

Place = tuple[UUID, UUID, datetime]
"""Tenant, series and minute: a row of aggregates."""


@dataclass(frozen=True)
class Loss:
    """What a row of aggregates loses."""

    event_count: int
    total: Decimal


@dataclass(frozen=True)
class Kept:
    """A value that one event gave to one row of aggregates."""

    tenant_id: UUID
    id_hash: bytes
    series_id: UUID
    minute: datetime
    used_at: datetime
    value: Decimal | None
    value_hash: bytes | None


async def void_early(tx: Tx, voids: Mapping[EventKey, date]) -> list[EventKey]:
    """Enter ids whose events have not come, so that they will not count; the other ids."""
    keys = sorted(voids)
    added = await tx.fetch(
        """
        insert into usage_event_id (tenant_id, mode, id_hash, payload_hash, received_day, voided)
        select t, $1, h, '', d, true from unnest($2::uuid[], $3::bytea[], $4::date[]) as u(t, h, d)
        on conflict do nothing returning uuid_send(tenant_id) || id_hash
        """,
        tx.mode,
        tenants_in(keys),
        [key[TENANT_BYTES:] for key in keys],
        [voids[key] for key in keys],
    )
    early = {key for (key,) in added}
    return [key for key in keys if key not in early]


async def lock_counted(tx: Tx, keys: Sequence[EventKey]) -> dict[EventKey, bytes | None]:
    """Of these ids those that count, locked; with what their events added where that is known."""
    rows = await tx.fetch(
        """
        select uuid_send(e.tenant_id) || e.id_hash, e.gained from usage_event_id e
        join unnest($2::uuid[], $3::bytea[]) as u(t, h) on e.tenant_id = t and e.id_hash = h
        where e.mode = $1 and not e.voided order by 1 for update of e
        """,
        tx.mode,
        tenants_in(keys),
        [key[TENANT_BYTES:] for key in keys],
    )
    return dict(rows)


async def incomplete(tx: Tx, places: Sequence[Place]) -> set[Place]:
    """Those rows of aggregates behind which not every event's value is kept."""
    rows = await tx.fetch(
        """
        select t, s, at from unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) as u(t, s, at)
        join usage_minute m on m.tenant_id = t and m.mode = $1 and m.series_id = s
            and m.minute = at
        where m.event_count <> (
            select count(*) from usage_value v where v.tenant_id = t and v.mode = $1
                and v.series_id = s and v.minute = at)
        """,
        tx.mode,
        *_columns(places),
    )
    return {(row["t"], row["s"], row["at"]) for row in rows}


async def void_counted(tx: Tx, keys: Sequence[EventKey]) -> None:
    """These ids count no more."""
    await tx.execute(
        """
        update usage_event_id e set voided = true, gained = null
        from unnest($2::uuid[], $3::bytea[]) as u(t, h)
        where e.tenant_id = t and e.mode = $1 and e.id_hash = h
        """,
        tx.mode,
        tenants_in(keys),
        [key[TENANT_BYTES:] for key in keys],
    )


async def note_came(tx: Tx, payloads: Mapping[EventKey, bytes]) -> set[EventKey]:
    """Enter what voided events say that come only now; those that had not come before."""
    keys = sorted(payloads)
    rows = await tx.fetch(
        """
        update usage_event_id e set payload_hash = u.p
        from unnest($2::uuid[], $3::bytea[], $4::bytea[]) as u(t, h, p)
        where e.tenant_id = u.t and e.mode = $1 and e.id_hash = u.h and e.voided
            and e.payload_hash = ''
        returning uuid_send(e.tenant_id) || e.id_hash
        """,
        tx.mode,
        tenants_in(keys),
        [key[TENANT_BYTES:] for key in keys],
        [payloads[key] for key in keys],
    )
    return {key for (key,) in rows}


async def subtract(tx: Tx, losses: Mapping[Place, Loss]) -> None:
    """Take counts and totals back."""
    places = sorted(losses)
    await tx.execute(
        """
        update usage_minute m set event_count = m.event_count - u.n, total = m.total - u.total
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bigint[], $6::numeric[])
            as u(t, s, at, n, total)
        where m.tenant_id = u.t and m.mode = $1 and m.series_id = u.s and m.minute = u.at
        """,
        tx.mode,
        *_columns(places),
        [losses[place].event_count for place in places],
        [losses[place].total for place in places],
    )


async def forget_values(tx: Tx, kept: Sequence[tuple[UUID, UUID, datetime, bytes]]) -> None:
    """Take kept values away; what was made of them is made of the rest."""
    if not kept:
        return
    rows = sorted(kept)
    gone = await tx.fetch(
        """
        delete from usage_value v
        using unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bytea[]) as u(t, s, at, h)
        where v.tenant_id = u.t and v.mode = $1 and v.series_id = u.s and v.minute = u.at
            and v.id_hash = u.h
        returning v.tenant_id, v.series_id, v.minute, v.value_hash
        """,
        tx.mode,
        *_columns(rows),
        [id_hash for *_, id_hash in rows],
    )
    await _remake(tx, sorted({(tenant, series, minute) for tenant, series, minute, _ in rows}))
    uniques = [row for row in gone if row["value_hash"] is not None]
    if uniques:
        await _forget_uniques(tx, [tuple(row) for row in uniques])


async def _remake(tx: Tx, places: Sequence[Place]) -> None:
    """The extremes and the latest of these rows, out of the values that are left."""
    await tx.execute(
        """
        update usage_minute m set
            minimum = case when m.minimum is not null then r.minimum end,
            maximum = case when m.maximum is not null then r.maximum end,
            latest = case when m.latest_id is not null then r.latest end,
            latest_at = case when m.latest_id is not null then r.latest_at end,
            latest_id = case when m.latest_id is not null then r.latest_id end
        from (
            select t, s, at, min(v.value) as minimum, max(v.value) as maximum,
                (array_agg(v.value order by v.used_at desc, v.id_hash desc))[1] as latest,
                max(v.used_at) as latest_at,
                (array_agg(v.id_hash order by v.used_at desc, v.id_hash desc))[1] as latest_id
            from unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) as u(t, s, at)
            join usage_value v on v.tenant_id = t and v.mode = $1 and v.series_id = s
                and v.minute = at
            group by 1, 2, 3
        ) r
        where m.tenant_id = r.t and m.mode = $1 and m.series_id = r.s and m.minute = r.at
        """,
        tx.mode,
        *_columns(places),
    )


async def _forget_uniques(tx: Tx, values: Sequence[tuple[UUID, UUID, datetime, bytes]]) -> None:
    """Different values that no kept one has any more."""
    await tx.execute(
        """
        delete from usage_unique q
        using unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bytea[]) as u(t, s, at, h)
        where q.tenant_id = u.t and q.mode = $1 and q.series_id = u.s and q.minute = u.at
            and q.value_hash = u.h and not exists (
                select from usage_value v where v.tenant_id = q.tenant_id and v.mode = q.mode
                    and v.series_id = q.series_id and v.minute = q.minute
                    and v.value_hash = q.value_hash)
        """,
        tx.mode,
        *_columns(values),
        [value_hash for *_, value_hash in values],
    )


async def drop_empty_minutes(tx: Tx, places: Sequence[Place]) -> None:
    """A row that no event is left in goes: it says nothing."""
    await tx.execute(
        """
        delete from usage_minute m
        using unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) as u(t, s, at)
        where m.tenant_id = u.t and m.mode = $1 and m.series_id = u.s and m.minute = u.at
            and m.event_count = 0
        """,
        tx.mode,
        *_columns(sorted(places)),
    )


async def keep_values(tx: Tx, rows: Sequence[Kept]) -> None:
    """Keep the values of a batch."""
    ordered = sorted(rows, key=lambda row: (row.tenant_id, row.series_id, row.minute, row.id_hash))
    await tx.execute(
        """
        insert into usage_value (tenant_id, mode, series_id, minute, id_hash, used_at, value,
                                 value_hash)
        select t, $1, s, at, h, used, v, vh
        from unnest($2::uuid[], $3::uuid[], $4::timestamptz[], $5::bytea[], $6::timestamptz[],
                    $7::numeric[], $8::bytea[]) as u(t, s, at, h, used, v, vh)
        on conflict do nothing
        """,
        tx.mode,
        *_columns([(row.tenant_id, row.series_id, row.minute) for row in ordered]),
        [row.id_hash for row in ordered],
        [row.used_at for row in ordered],
        [row.value for row in ordered],
        [row.value_hash for row in ordered],
    )


async def prune_values(database: Database, before: datetime, *, limit: int) -> int:
    """Forget the values of minutes of which no event can be voided any more."""
    async with database.maintenance() as tx:
        return await tx.execute(
            """
            delete from usage_value v using (
                select tenant_id, mode, series_id, minute, id_hash from usage_value
                where minute < $1 limit $2
            ) old
            where v.tenant_id = old.tenant_id and v.mode = old.mode
                and v.series_id = old.series_id and v.minute = old.minute
                and v.id_hash = old.id_hash
            """,
            before,
            limit,
        )


def _columns(
    rows: Sequence[tuple[UUID, UUID, datetime, *tuple[object, ...]]],
) -> tuple[list[UUID], list[UUID], list[datetime]]:
    """Tenants, series and minutes, each as one list."""
    return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
