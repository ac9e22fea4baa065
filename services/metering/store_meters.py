"""SQL of meters."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.metering.measuring import Meter

_COLUMNS = """tenant_id, id, key, event_type, aggregation, value_path, group_by, filters, created_at,
    percentile, time_unit, exists (select from limited_meter l where l.tenant_id = meter.tenant_id
        and l.mode = meter.mode and l.meter = meter.key) as limited"""


@dataclass(frozen=True)
class MeterRow:
    """A meter and when it was defined."""

    meter: Meter
    created_at: datetime


async def count_meters(tx: Tx, event_type: str) -> tuple[int, int]:
    """How many meters the tenant in scope has, and how many of these for this type of event."""
    row = await tx.fetchrow(
        "select count(*), count(*) filter (where event_type = $3) from meter "
        "where tenant_id = $1 and mode = $2",
        tx.tenant_id,
        tx.mode,
        event_type,
    )
    assert row is not None, "a count is always told"
    return row[0], row[1]


async def add_meter(tx: Tx, meter: Meter, created_at: datetime) -> bool:
    """Enter a meter; False where the key is taken."""
    added = await tx.execute(
        """
        insert into meter (tenant_id, mode, id, key, event_type, aggregation, value_path, group_by,
                           filters, created_at, percentile, time_unit)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
        on conflict (tenant_id, mode, key) do nothing
        """,
        meter.tenant_id,
        tx.mode,
        meter.id,
        meter.key,
        meter.event_type,
        meter.aggregation,
        meter.value_path,
        list(meter.group_by),
        {path: sorted(values) for path, values in meter.filters.items()},
        created_at,
        meter.percentile,
        meter.time_unit,
    )
    return bool(added)


async def list_meters(tx: Tx, owners: Sequence[UUID]) -> list[MeterRow]:
    """Every meter of these tenants in the mode in scope, oldest first."""
    rows = await tx.fetch(
        f"select {_COLUMNS} from meter where tenant_id = any($1::uuid[]) and mode = $2 "  # noqa: S608
        "order by tenant_id, id",
        list(owners),
        tx.mode,
    )
    return [_read(row) for row in rows]


async def page_of_meters(
    tx: Tx, owners: Sequence[UUID], *, after: UUID | None, limit: int
) -> list[MeterRow]:
    """The meters of these tenants after an id, oldest first."""
    rows = await tx.fetch(
        f"select {_COLUMNS} from meter where tenant_id = any($1::uuid[]) and mode = $2 "  # noqa: S608
        "and ($3::uuid is null or id > $3) order by id limit $4",
        list(owners),
        tx.mode,
        after,
        limit,
    )
    return [_read(row) for row in rows]


async def find_meters(tx: Tx, reference: str | UUID) -> list[MeterRow]:
    """The meters in scope with this key or id."""
    column = "id" if isinstance(reference, UUID) else "key"
    rows = await tx.fetch(
        f"select {_COLUMNS} from meter where {column} = $1",  # noqa: S608
        reference,
    )
    return [_read(row) for row in rows]


def _read(row: Row) -> MeterRow:
    meter = Meter(
        row["tenant_id"],
        row["id"],
        row["key"],
        row["event_type"],
        row["aggregation"],
        row["value_path"],
        tuple(row["group_by"]),
        {path: frozenset(values) for path, values in row["filters"].items()},
        row["limited"],
        row["created_at"],
        row["percentile"],
        row["time_unit"],
    )
    return MeterRow(meter, row["created_at"])
