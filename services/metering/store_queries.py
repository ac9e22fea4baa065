"""SQL that reads aggregates: sums over minutes, in windows and groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from itertools import pairwise
from typing import Literal
from uuid import UUID

from libs.db.pool import Row, Tx
from services.metering import store_levels
from services.metering.measuring import SECONDS_IN, Meter, average, divided
from services.metering.store_levels import TooManyWindowsError
from services.metering.windows import MINUTE, Window, ceil_to_minute, edges_of

USER: Literal["user"] = "user"
"""In a breakdown: by user. A number stands for that place in the meter's own groups."""


@dataclass(frozen=True)
class Question:
    """What to add up.

    Attributes:
        start, end: whole minutes, the end not included.
        customers: only these, as aggregates name them; None: all of the tenant.
        breakdown: what to tell apart.
        zone: by whose clocks windows begin.
        until: business time now. A level counts to the end of the minute that runs; None where the
            interval is over.
    """

    start: datetime
    end: datetime
    window: Window | None = None
    customers: Sequence[str] | None = None
    user: str | None = None
    breakdown: tuple[int | Literal["user"], ...] = ()
    zone: tzinfo = UTC
    until: datetime | None = None


@dataclass(frozen=True)
class Total:
    """The answer for one window and group; `window` is from where to where, None where none was asked for."""

    window: tuple[datetime, datetime] | None
    parts: tuple[str, ...]
    value: Decimal
    event_count: int


async def add_up(tx: Tx, meter: Meter, question: Question, *, limit: int) -> list[Total]:
    """The exact value of a meter by window and part; only where there was any use.

    Raises:
        OverflowError: a window lies outside of the calendar.
        TooManyWindowsError: of a level, which is there in every window.
    """
    match meter.aggregation:
        case "time_weighted_sum":
            return await _add_up_levels(tx, meter, question, limit)
        case "percentile":
            rows = await _select_percentiles(tx, meter, question, limit)
        case "unique_count":
            rows = await _select(tx, meter, question, "usage_minute", _EVENTS, limit)
            counted = await _select(tx, meter, question, "usage_unique", _UNIQUES, limit)
            return list(_with_uniques(question, rows, counted))
        case _:
            rows = await _select(
                tx, meter, question, "usage_minute", _COLUMNS[meter.aggregation], limit
            )
    return [
        Total(window, parts, _value_of(meter, row), row["event_count"])
        for window, parts, row in _placed(question, rows)
    ]


_EVENTS = "sum(a.event_count)::bigint as event_count"
_UNIQUES = "count(distinct a.value_hash) as value"
_COLUMNS: Mapping[str, str] = {
    "count": f"{_EVENTS}, sum(a.event_count) as value",
    "sum": f"{_EVENTS}, sum(a.total) as value",
    "avg": f"{_EVENTS}, sum(a.total) as value",
    "min": f"{_EVENTS}, min(a.minimum) as value",
    "max": f"{_EVENTS}, max(a.maximum) as value",
    "latest": f"""{_EVENTS},
        (array_agg(a.latest order by a.latest_at desc nulls last, a.latest_id desc))[1] as value""",
}


def _value_of(meter: Meter, row: Row) -> Decimal:
    found = Decimal(0) if row["value"] is None else Decimal(row["value"])
    return average(found, row["event_count"]) if meter.aggregation == "avg" else found


def _with_uniques(
    question: Question, rows: Sequence[Row], counted: Sequence[Row]
) -> Iterator[Total]:
    values = {(row["start"], tuple(row["parts"])): row["value"] for row in counted}
    for window, parts, row in _placed(question, rows):
        value = values.get((row["start"], parts), 0)
        yield Total(window, parts, Decimal(value), row["event_count"])


def _placed(
    question: Question, rows: Sequence[Row]
) -> Iterator[tuple[tuple[datetime, datetime] | None, tuple[str, ...], Row]]:
    """Each row with the window and the parts that it is of."""
    ends: dict[datetime, datetime] = {}
    if question.window not in (None, "minute"):
        ends = dict(pairwise(_edges_of(question)))
    for row in rows:
        start, window = row["start"], None
        if start is not None:
            window = (start, ends.get(start, start + MINUTE))
        yield window, tuple(row["parts"]), row


def _edges_of(question: Question) -> list[datetime]:
    if question.window is None:
        return [question.start, question.end]
    return edges_of(question.window, question.zone, question.start, question.end)


def _parts_in(question: Question) -> str:
    """What is told apart, as SQL."""
    return ", ".join(
        "s.user_id" if isinstance(part, str) else f"s.group_values[{part + 1}]"
        for part in question.breakdown
    )


_START = """case when $8 then a.minute
    else ($9::timestamptz[])[width_bucket(a.minute, $9::timestamptz[])] end"""
"""Where the window of a minute begins; null without edges."""


def _from(table: str) -> str:
    return f"""
        from usage_series s
        join {table} a on a.tenant_id = s.tenant_id and a.mode = s.mode and a.series_id = s.id
        where s.tenant_id = $1 and s.mode = $2 and s.meter_id = $3
            and ($4::text[] is null or s.customer = any($4))
            and ($5::text is null or s.user_id = $5)
            and a.minute >= $6 and a.minute < $7
    """


async def _select(
    tx: Tx, meter: Meter, question: Question, table: str, columns: str, limit: int
) -> list[Row]:
    return await tx.fetch(
        f"""
        select {_START} as start, array[{_parts_in(question)}]::text[] as parts, {columns}
        {_from(table)} group by 1, 2 order by 1, 2 limit $10
        """,
        *_asked(tx, meter, question),
        limit,
    )


async def _select_percentiles(tx: Tx, meter: Meter, question: Question, limit: int) -> list[Row]:
    """The least value that as many of a hundred values reach or stay below as the meter says."""
    return await tx.fetch(
        f"""
        select start, parts, max(events)::bigint as event_count,
            min(value) filter (where reached * 100 >= events * $11::numeric) as value
        from (
            select start, parts, value, sum(found) over (partition by start, parts) as events,
                sum(found) over (partition by start, parts order by value) as reached
            from (
                select {_START} as start, array[{_parts_in(question)}]::text[] as parts, a.value,
                    sum(a.event_count) as found
                {_from("usage_rank")} group by 1, 2, 3
            ) counted
        ) ranked group by 1, 2 order by 1, 2 limit $10
        """,  # noqa: S608 - of our own words only
        *_asked(tx, meter, question),
        limit,
        meter.percentile,
    )


def _asked(tx: Tx, meter: Meter, question: Question) -> tuple[object, ...]:
    """The parameters of `_from` and `_START`."""
    customers = None if question.customers is None else list(question.customers)
    of_edges = question.window not in (None, "minute")
    return (
        tx.tenant_id,
        tx.mode,
        meter.id,
        customers,
        question.user,
        question.start,
        question.end,
        question.window == "minute",
        _edges_of(question) if of_edges else [],
    )


async def _add_up_levels(tx: Tx, meter: Meter, question: Question, limit: int) -> list[Total]:
    end = question.end
    if question.until is not None:
        end = min(end, ceil_to_minute(question.until))
    if question.start >= end or question.user is not None or meter.time_unit is None:
        return []
    if question.window == "minute" and (end - question.start) // MINUTE > limit:
        raise TooManyWindowsError
    edges = _edges_of(replace(question, end=end))
    if len(edges) - 1 > limit:
        raise TooManyWindowsError
    customers = None if question.customers is None else list(question.customers)
    lines = store_levels.Lines(meter.id, _parts_in(question), customers)
    areas = await store_levels.add_up(tx, lines, question.start, end, edges, limit=limit)
    windows = list(pairwise(edges))
    seconds = SECONDS_IN[meter.time_unit]
    return [
        Total(
            None if question.window is None else windows[area.window],
            area.parts,
            divided(area.value, seconds),
            area.event_count,
        )
        for area in areas
    ]


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
