"""SQL of forecasts, and of the history they are made from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Literal
from uuid import UUID

from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from services.metering.forecasting import Method
from services.metering.measuring import EXACT, Meter


@dataclass(frozen=True)
class Forecast:
    """What a meter of a customer comes to by the end of a period.

    Attributes:
        expected: by its trend and what is planned.
        low, high: nine of ten outcomes lie between them.
        planned: what of it is planned.
        limit_hit_on: the day in business time on which the limit, or what credit pays for, is reached,
            whichever comes first; None: not in this period.
        limit_hit_by: which of them comes first.
        made_at: business time.
    """

    meter_id: UUID
    customer: str
    made_at: datetime
    period_from: datetime
    period_to: datetime
    used: Decimal
    expected: Decimal
    low: Decimal
    high: Decimal
    method: Method
    limit_amount: Decimal | None
    limit_kind: Literal["soft", "hard"] | None
    limit_hit_on: date | None
    planned: Decimal
    limit_hit_by: Literal["plan", "credit"] | None

    @property
    def trend(self) -> Decimal:
        """What is expected without what is planned."""
        return EXACT.subtract(self.expected, self.planned)


@dataclass(frozen=True)
class DueForecast:
    """A forecast to be made again; `customer` is its own id, or a subject."""

    tenant_id: UUID
    mode: Mode
    meter_id: UUID
    customer: str


async def want(tx: Tx, lines: Sequence[tuple[UUID, str]], due_at: datetime) -> None:
    """Have forecasts made of these meters and customers, where there are none yet."""
    places = sorted(set(lines))
    await tx.execute(
        """
        insert into usage_forecast (tenant_id, mode, meter_id, customer, due_at)
        select $1, $2, m, c, $5 from unnest($3::uuid[], $4::text[]) as u(m, c)
        on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        [meter for meter, _ in places],
        [customer for _, customer in places],
        due_at,
    )


async def lock(tx: Tx, meter_id: UUID, customer: str) -> None:
    """Let one after the other make a forecast, or change what it is made of, until this transaction ends."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended($1, 0))",
        f"forecast {tx.tenant_id} {tx.mode} {meter_id} {customer}",
    )


async def want_anew(tx: Tx, meter_id: UUID, customer: str, due_at: datetime) -> None:
    """Have a forecast made, also where there is one: it knew less.

    Whoever makes it at this moment is waited for, and what it knew forgotten.
    """
    await lock(tx, meter_id, customer)
    await tx.execute(
        """
        insert into usage_forecast as f (tenant_id, mode, meter_id, customer, due_at)
        values ($1, $2, $3, $4, $5)
        on conflict (tenant_id, mode, meter_id, customer) do update set
            due_at = least(f.due_at, excluded.due_at), made_at = null
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
        due_at,
    )


async def list_due(database: Database, now: datetime, *, limit: int) -> list[DueForecast]:
    """Forecasts whose time has come, in turn: one of each tenant before the second of any."""
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            select tenant_id, mode, meter_id, customer from (
                select f.*, row_number() over (partition by tenant_id, mode order by due_at) as turn
                from (select * from usage_forecast where due_at <= $1
                      order by due_at limit 1000) f
            ) ranked order by turn, due_at limit $2
            """,
            now,
            limit,
        )
    return [DueForecast(*row) for row in rows]


async def find(tx: Tx, meter_id: UUID, customer: str) -> Forecast | None:
    """The forecast as it was made last."""
    row: Row | None = await tx.fetchrow(
        """
        select meter_id, customer, made_at, period_from, period_to, used, expected, low, high,
            method, limit_amount, limit_kind, limit_hit_on, planned, limit_hit_by
        from usage_forecast
        where tenant_id = $1 and mode = $2 and meter_id = $3 and customer = $4
            and made_at is not null
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
    )
    return None if row is None else Forecast(*row)


async def put(tx: Tx, made: Forecast, due_at: datetime) -> None:
    """Keep a forecast, to be made again at a time."""
    await tx.execute(
        """
        insert into usage_forecast (tenant_id, mode, meter_id, customer, due_at, made_at,
            period_from, period_to, used, expected, low, high, method, limit_amount, limit_kind,
            limit_hit_on, planned, limit_hit_by)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18)
        on conflict (tenant_id, mode, meter_id, customer) do update set
            due_at = excluded.due_at, made_at = excluded.made_at,
            period_from = excluded.period_from, period_to = excluded.period_to,
            used = excluded.used, expected = excluded.expected, low = excluded.low,
            high = excluded.high, method = excluded.method,
            limit_amount = excluded.limit_amount, limit_kind = excluded.limit_kind,
            limit_hit_on = excluded.limit_hit_on, planned = excluded.planned,
            limit_hit_by = excluded.limit_hit_by
        """,
        tx.tenant_id,
        tx.mode,
        made.meter_id,
        made.customer,
        due_at,
        made.made_at,
        made.period_from,
        made.period_to,
        made.used,
        made.expected,
        made.low,
        made.high,
        made.method,
        made.limit_amount,
        made.limit_kind,
        made.limit_hit_on,
        made.planned,
        made.limit_hit_by,
    )


async def put_off(tx: Tx, due: DueForecast, until: datetime) -> None:
    """A forecast could not be made: the others have their turn first."""
    await tx.execute(
        "update usage_forecast set due_at = $5 "
        "where tenant_id = $1 and mode = $2 and meter_id = $3 and customer = $4",
        due.tenant_id,
        due.mode,
        due.meter_id,
        due.customer,
        until,
    )


async def drop(tx: Tx, due: DueForecast) -> None:
    """Make no more forecasts of what is not used."""
    await tx.execute(
        "delete from usage_forecast "
        "where tenant_id = $1 and mode = $2 and meter_id = $3 and customer = $4",
        due.tenant_id,
        due.mode,
        due.meter_id,
        due.customer,
    )


async def new_values(
    tx: Tx, meter: Meter, customers: Sequence[str], since: datetime, edges: Sequence[datetime]
) -> Mapping[datetime, Decimal]:
    """How many values of a unique count each window of a period saw first, where any.

    Args:
        since: when the period began.
        edges: where windows begin, and where the last of them ends.
    """
    rows = await tx.fetch(
        """
        select ($7::timestamptz[])[width_bucket(first_at, $7::timestamptz[])] as start,
            count(*) as fresh
        from (
            select min(a.minute) as first_at
            from usage_series s
            join usage_unique a
                on a.tenant_id = s.tenant_id and a.mode = s.mode and a.series_id = s.id
            where s.tenant_id = $1 and s.mode = $2 and s.meter_id = $3 and s.customer = any($4)
                and a.minute >= $5 and a.minute < $6
            group by a.value_hash
        ) firsts group by 1
        """,
        tx.tenant_id,
        tx.mode,
        meter.id,
        list(customers),
        since,
        edges[-1],
        list(edges),
    )
    return {row["start"]: Decimal(row["fresh"]) for row in rows}
