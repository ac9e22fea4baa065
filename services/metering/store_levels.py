"""SQL of levels, which hold until the next is told: what they come to over time.

A minute's row keeps when its first level was told (`first_at`), what the levels told in it come to from
then to its end (`total`, in units times seconds) and the last of them (`latest`). So any interval of
whole minutes is exact, and reading it takes the rows of its minutes and the last one before it.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from libs.db.pool import Row, Tx
from services.metering.measuring import EXACT

MINUTE_SECONDS = 60


class TooManyWindowsError(ValueError):
    """The answer would have more rows than the limit: each window has one."""


@dataclass(frozen=True)
class Area:
    """What the levels of one part come to in one window, in units times seconds."""

    window: int
    parts: tuple[str, ...]
    value: Decimal
    event_count: int


@dataclass(frozen=True)
class Lines:
    """Which series are asked for, as SQL of `usage_series s` behind the owner and the meter."""

    meter_id: UUID
    parts: str
    customers: list[str] | None


@dataclass
class _Line:
    """The level of one part over time, told apart by windows.

    Attributes:
        level: at the start.
        steps: by window, what its changes come to.
    """

    level: Decimal = Decimal(0)
    steps: dict[int, Row] = field(default_factory=dict)


async def measure(tx: Tx, places: Sequence[tuple[UUID, UUID, datetime]]) -> None:
    """What the kept levels of these minutes come to by their ends."""
    ordered = sorted(places)
    await tx.execute(
        """
        update usage_minute m set first_at = r.first_at, total = r.total
        from (
            select t, s, at, min(used_at) as first_at,
                sum(value * extract(epoch from next_at - used_at)) as total
            from (
                select t, s, at, v.used_at, v.value,
                    lead(v.used_at, 1, at + interval '1 minute') over (
                        partition by t, s, at order by v.used_at, v.id_hash) as next_at
                from unnest($2::uuid[], $3::uuid[], $4::timestamptz[]) as u(t, s, at)
                join usage_value v on v.tenant_id = t and v.mode = $1 and v.series_id = s
                    and v.minute = at
            ) told group by t, s, at
        ) r
        where m.tenant_id = r.t and m.mode = $1 and m.series_id = r.s and m.minute = r.at
        """,
        tx.mode,
        [tenant for tenant, _, _ in ordered],
        [series for _, series, _ in ordered],
        [minute for _, _, minute in ordered],
    )


async def add_up(
    tx: Tx,
    lines: Lines,
    start: datetime,
    end: datetime,
    edges: Sequence[datetime],
    *,
    limit: int,
) -> list[Area]:
    """What levels come to in each window between the edges, clipped to the interval.

    Only where there was a level, or one was told; by window, then part.

    Raises:
        TooManyWindowsError: they are more than the limit, and no more than one beyond it was made.
    """
    found: dict[tuple[str, ...], _Line] = defaultdict(_Line)
    for row in await _changes(tx, lines, start, end, edges, limit):
        line = found[tuple(row["parts"])]
        if row["place"] == 0:
            line.level = row["step"]
        else:
            line.steps[row["place"]] = row
    cuts = [start, *edges[1:-1], end]
    seconds = [int((cut - start).total_seconds()) for cut in cuts]
    made = (area for parts, line in found.items() for area in _integrate(parts, line, seconds))
    areas = list(itertools.islice(made, limit + 1))
    if len(areas) > limit:
        raise TooManyWindowsError
    return sorted(areas, key=lambda area: (area.window, area.parts))


def _integrate(parts: tuple[str, ...], line: _Line, seconds: Sequence[int]) -> Iterator[Area]:
    """Window by window: the level at its start for all of it, and what each change adds to that.

    Args:
        seconds: where the windows begin and the last one ends, from the start of the interval.
    """
    level, begins = line.level, 0
    for place in [*sorted(line.steps), len(seconds)]:
        # Without a level there is nothing before the next change, however many windows that is.
        for window in range(begins, place - 1 if level else begins):
            length = seconds[window + 1] - seconds[window]
            yield Area(window, parts, EXACT.multiply(level, length), 0)
        begins = place
        row = line.steps.get(place)
        if row is None:
            continue
        begin, end = seconds[place - 1], seconds[place]
        area = EXACT.multiply(level, end - begin)
        # A change by `step` at the second `moment` adds step * (end - moment).
        changed = EXACT.subtract(EXACT.multiply(row["step"], end), row["step_moments"])
        area = EXACT.add(area, EXACT.add(row["deviation"], changed))
        level = EXACT.add(level, row["step"])
        yield Area(place - 1, parts, area, row["event_count"])


async def _changes(
    tx: Tx,
    lines: Lines,
    start: datetime,
    end: datetime,
    edges: Sequence[datetime],
    limit: int,
) -> list[Row]:
    """By part and window (0: before the interval), how far levels moved.

    An area follows from each row, and from two rows at most: more than twice the limit of them are
    not read, for these come to too many areas already.

    A minute counts as if its series kept the former level to its end and moved then; `deviation` is
    by how much the minute itself differs from that.
    """
    return await tx.fetch(
        f"""
        with chosen as (
            select s.id, array[{lines.parts}]::text[] as parts from usage_series s
            where s.tenant_id = $1 and s.mode = $2 and s.meter_id = $3
                and ($4::text[] is null or s.customer = any($4))
        ), entering as (
            select c.id, c.parts, before.latest as level from chosen c
            cross join lateral (
                select a.latest from usage_minute a
                where a.tenant_id = $1 and a.mode = $2 and a.series_id = c.id and a.minute < $5
                order by a.minute desc limit 1) before
        ), told as (
            select c.parts, a.minute, a.event_count, a.first_at, a.total, a.latest,
                lag(a.latest, 1, coalesce(e.level, 0)) over (
                    partition by a.series_id order by a.minute) as before
            from chosen c
            join usage_minute a on a.tenant_id = $1 and a.mode = $2 and a.series_id = c.id
            left join entering e on e.id = c.id
            where a.minute >= $5 and a.minute < $6
        )
        select 0 as place, parts, 0::bigint as event_count, sum(level) as step,
            0::numeric as step_moments, 0::numeric as deviation
        from entering group by parts having sum(level) <> 0
        union all
        select width_bucket(minute, $7::timestamptz[]), parts, sum(event_count)::bigint,
            sum(latest - before),
            sum((latest - before) * (extract(epoch from minute - $5) + {MINUTE_SECONDS})),
            sum(before * (extract(epoch from first_at - minute) - {MINUTE_SECONDS}) + total)
        from told group by 1, 2
        limit $8
        """,  # noqa: S608 - of our own words only
        tx.tenant_id,
        tx.mode,
        lines.meter_id,
        lines.customers,
        start,
        end,
        list(edges),
        2 * limit + 1,
    )
