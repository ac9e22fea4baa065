"""SQL that reads aggregates: sums over minutes, in windows and groups."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from libs.db.pool import Row, Tx
from services.metering.measuring import Meter, average

Window = Literal["minute", "hour", "day", "month"]

USER: Literal["user"] = "user"
"""In a breakdown: by user. A number stands for that place in the meter's own groups."""


@dataclass(frozen=True)
class Question:
    """What to add up.

    Attributes:
        start, end: whole minutes, the end not included.
        customers: only these, as aggregates name them; None: all of the tenant.
        breakdown: what to tell apart.
    """

    start: datetime
    end: datetime
    window: Window | None = None
    customers: Sequence[str] | None = None
    user: str | None = None
    breakdown: tuple[int | Literal["user"], ...] = ()


@dataclass(frozen=True)
class Total:
    """The answer for one window and group; `window_start` is None where no window was asked for."""

    window_start: datetime | None
    parts: tuple[str, ...]
    value: Decimal
    event_count: int


async def add_up(tx: Tx, meter: Meter, question: Question, *, limit: int) -> list[Total]:
    """The exact value of a meter by window and part; only where there was any use."""
    latest = (
        "(array_agg(a.latest order by a.latest_at desc nulls last, a.latest_id desc))[1]"
        if meter.aggregation == "latest"
        else "null::numeric"
    )
    columns = f"""sum(a.event_count)::bigint as event_count, sum(a.total) as total,
        min(a.minimum) as minimum, max(a.maximum) as maximum, {latest} as latest"""
    rows = await _select(tx, meter, question, "usage_minute", columns, limit)
    uniques: dict[tuple[datetime | None, tuple[str, ...]], int] = {}
    if meter.aggregation == "unique_count":
        counted = await _select(
            tx, meter, question, "usage_unique", "count(distinct a.value_hash) as uniques", limit
        )
        uniques = {(row["start"], tuple(row["parts"])): row["uniques"] for row in counted}
    return [
        Total(
            row["start"],
            tuple(row["parts"]),
            _value_of(meter, row, uniques.get((row["start"], tuple(row["parts"])), 0)),
            row["event_count"],
        )
        for row in rows
    ]


async def _select(
    tx: Tx, meter: Meter, question: Question, table: str, columns: str, limit: int
) -> list[Row]:
    start = "null::timestamptz"
    if question.window is not None:
        start = f"date_trunc('{question.window}', a.minute, 'UTC')"
    parts = ", ".join(
        "s.user_id" if isinstance(part, str) else f"s.group_values[{part + 1}]"
        for part in question.breakdown
    )
    return await tx.fetch(
        f"""
        select {start} as start, array[{parts}]::text[] as parts, {columns}
        from usage_series s
        join {table} a on a.tenant_id = s.tenant_id and a.mode = s.mode and a.series_id = s.id
        where s.tenant_id = $1 and s.mode = $2 and s.meter_id = $3
            and ($4::text[] is null or s.customer = any($4))
            and ($5::text is null or s.user_id = $5)
            and a.minute >= $6 and a.minute < $7
        group by 1, 2 order by 1, 2 limit $8
        """,  # noqa: S608 - of our own words only
        tx.tenant_id,
        tx.mode,
        meter.id,
        None if question.customers is None else list(question.customers),
        question.user,
        question.start,
        question.end,
        limit,
    )


def _value_of(meter: Meter, row: Row, uniques: int) -> Decimal:
    match meter.aggregation:
        case "count":
            return Decimal(row["event_count"])
        case "unique_count":
            return Decimal(uniques)
        case "avg":
            return average(row["total"] or Decimal(0), row["event_count"])
        case "sum":
            found = row["total"]
        case "min":
            found = row["minimum"]
        case "max":
            found = row["maximum"]
        case "latest":
            found = row["latest"]
    return Decimal(0) if found is None else Decimal(found)


async def count_users(tx: Tx, meter_ids: Sequence[UUID], start: datetime, end: datetime) -> int:
    """How many different users these meters saw."""
    counted: int = await tx.fetchval(
        """
        select count(distinct s.user_id) from usage_series s
        where s.tenant_id = $1 and s.mode = $2 and s.meter_id = any($3::uuid[]) and s.user_id <> ''
            and exists (
                select from usage_minute a where a.tenant_id = s.tenant_id and a.mode = s.mode
                    and a.series_id = s.id and a.minute >= $4 and a.minute < $5)
        """,
        tx.tenant_id,
        tx.mode,
        list(meter_ids),
        start,
        end,
    )
    return counted
