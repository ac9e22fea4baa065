"""What the usage page shows: a meter's value in a period, by day, beside the period before."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

from libs.clock import floor_to_minute, format_time, zone_named
from services.console.origin import Api, ApiProblem, all_of
from services.console.plots import BarPlot, bar_plot, daily
from services.console.shapes import (
    Forecast,
    Invoice,
    Listed,
    Meter,
    Planned,
    Subscription,
    Usage,
)

METERS_MAX = 20
PLANNED_MAX = 20
"""Of one meter; the API has the rest."""

DAYS_MAX = 400
PERIODS_MAX = 12


@dataclass(frozen=True)
class Period:
    """An interval of business time; `end` is not part of it."""

    begin: datetime
    end: datetime

    @property
    def days(self) -> int:
        """Whole days, at least one."""
        return max(1, (self.end - self.begin).days)


@dataclass(frozen=True)
class MeterUse:
    """One meter in one period; its days are those of the tenant's time zone."""

    meter: Meter
    total: Decimal
    before: Decimal | None
    days: tuple[tuple[date, Decimal], ...]
    time_zone: str
    plot: BarPlot
    as_of: datetime | None


@dataclass(frozen=True)
class Outlook:
    """Where a meter is heading, and what is planned of it: first what is still to happen."""

    forecast: Forecast
    planned: tuple[Planned, ...]


def periods_of(
    subscriptions: Sequence[Subscription], invoices: Sequence[Invoice], month: Period
) -> tuple[Period, ...]:
    """The periods a tenant may look at, the newest first.

    The subscription's own comes first, then those that were invoiced. A plan without fees has no
    periods: its use is shown by calendar month. Both ends are whole minutes, as usage is counted and
    billed.

    Args:
        month: the one that runs.
    """
    found: set[Period] = set()
    spans = [(each.period_from, each.period_to) for each in subscriptions]
    spans += [(each.period_from, each.period_to) for each in invoices]
    for begin, end in spans:
        if begin is not None and end is not None and begin < end:
            found.add(Period(floor_to_minute(begin), floor_to_minute(end)))
    if not has_period(subscriptions):
        found.add(month)
    return tuple(sorted(found, key=lambda period: period.begin, reverse=True))[:PERIODS_MAX]


def has_period(subscriptions: Sequence[Subscription]) -> bool:
    """Whether a period of the tenant's own runs."""
    return any(each.period_from for each in subscriptions)


def choose(periods: Sequence[Period], begin: datetime | None) -> int:
    """The place of the period that begins then; the first where none does."""
    for place, period in enumerate(periods):
        if period.begin == begin:
            return place
    return 0


async def periods(api: Api, known: Sequence[Meter], now: datetime) -> tuple[Period, ...]:
    """The periods of the tenant in view."""
    subscriptions = await api.read(Listed[Subscription], "/api/v1/subscriptions", limit="50")
    invoices = await api.read(Listed[Invoice], "/api/v1/invoices", limit="50")
    month = _month_of(now)
    if known and not has_period(subscriptions.items):
        # Metering says which one runs by the tenant's clocks, as limits have it.
        answer = await api.read(Usage, f"/api/v1/meters/{known[0].id}/query")
        month = Period(answer.rows[0].from_, answer.rows[0].to)
    return periods_of(subscriptions.items, invoices.items, month)


def _month_of(now: datetime) -> Period:
    begin = datetime(now.year, now.month, 1, tzinfo=UTC)
    return Period(begin, (begin + timedelta(days=32)).replace(day=1))


async def meters(api: Api) -> list[Meter]:
    """The meters that count the tenant's events: its own and the platform's, which may have one key."""
    found = await api.read(Listed[Meter], "/api/v1/meters", limit="200")
    return sorted(found.items, key=lambda meter: (meter.key, meter.owner, meter.id))[:METERS_MAX]


async def use_of(api: Api, meter: Meter, period: Period, before: Period | None) -> MeterUse:
    """A meter's use in a period."""
    total, by_day = await all_of([_query(api, meter, period), _query(api, meter, period, "day")])
    earlier = await _query(api, meter, before) if before is not None else None
    days = _days_of(by_day, period)
    return MeterUse(
        meter,
        _value(total),
        None if earlier is None else _value(earlier),
        days,
        by_day.time_zone,
        bar_plot(days),
        total.as_of,
    )


async def outlooks(api: Api, uses: Sequence[MeterUse]) -> Mapping[str, Outlook]:
    """Of each meter that is used or planned of, by its id: until the end of the period that runs."""
    planned = await _planned(api)
    by_meter = {
        use.meter.id: tuple(each for each in planned if each.meter_id == use.meter.id)
        for use in uses
    }
    ids = [use.meter.id for use in uses if use.total or by_meter[use.meter.id]]
    path = "/api/v1/usage/forecast"
    forecasts = await all_of(api.read(Forecast, path, meter=each) for each in ids)
    return {
        each: Outlook(forecast, by_meter[each][:PLANNED_MAX])
        for each, forecast in zip(ids, forecasts, strict=True)
    }


async def _planned(api: Api) -> list[Planned]:
    """All that is still to happen, then what is over of the newest; nothing that was canceled."""
    still_open, newest = await all_of([_listed(api, open="true"), _listed(api)])
    found = {each.id: each for each in (*still_open, *newest) if each.canceled_at is None}
    return list(found.values())


async def _listed(api: Api, **query: str) -> list[Planned]:
    try:
        listed = await api.read(Listed[Planned], "/api/v1/usage/planned", limit="200", **query)
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        return []  # The metering service is of a version that plans nothing.
    return listed.items


async def days_of(
    api: Api, reference: str, period: Period
) -> tuple[str, tuple[tuple[date, Decimal], ...]]:
    """A meter's key, and its value for each day of a period by the tenant's clocks.

    Args:
        reference: its key or id.
    """
    meter = await api.read(Meter, f"/api/v1/meters/{reference}")
    return meter.key, _days_of(await _query(api, meter, period, "day"), period)


def _days_of(answer: Usage, period: Period) -> tuple[tuple[date, Decimal], ...]:
    values = [(row.from_, row.value) for row in answer.rows]
    return daily(values, period.begin, period.end, zone_named(answer.time_zone))


async def _query(api: Api, meter: Meter, period: Period, window: str | None = None) -> Usage:
    return await api.read(
        Usage,
        f"/api/v1/meters/{meter.id}/query",
        from_=format_time(period.begin),
        to=format_time(period.end),
        window=window,
    )


def _value(answer: Usage) -> Decimal:
    """The value of a whole period: one row, or none where nothing was used."""
    return sum((row.value for row in answer.rows), Decimal(0))
