"""Forecasts of each meter to the end of the customer's period: made on a schedule, and kept.

Forecasts are made of what has a limit, and of what somebody asked for once, as long as it is used.
"""

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Literal

import structlog

from libs.clock import utc_now
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.directory.local import Directory, Tenant, business_now
from libs.ids import parse_uuid
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.metering import (
    closing,
    limits,
    meters,
    store_planned,
    store_queries,
    store_thresholds,
)
from services.metering import store_forecasts as store
from services.metering.forecasting import look_ahead
from services.metering.limits import Standing
from services.metering.measuring import EXACT, Meter
from services.metering.projection import ADDED_UP, Grain, grain_of, hit_at, project, shares_of
from services.metering.store_forecasts import DueForecast, Forecast
from services.metering.store_queries import Question
from services.metering.windows import edges_of, start_of
from services.metering.zones import zone_of

log = structlog.get_logger()

REFRESHED_AFTER = timedelta(hours=1)
WINDOWS_MAX = 2_000


async def refresh(database: Database, directory: Directory, *, limit: int) -> None:
    """Make the forecasts again whose time has come; those of what is not used any more end."""
    for due in await store.list_due(database, utc_now(), limit=limit):
        try:
            await _refresh_one(database, directory, due)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="refresh_forecasts").inc()
            log.exception("forecast_failed", tenant_id=str(due.tenant_id))
            async with database.tenant(due.tenant_id, due.mode) as tx:
                await store.put_off(tx, due, utc_now() + REFRESHED_AFTER)


async def _refresh_one(database: Database, directory: Directory, due: DueForecast) -> None:
    tenant = await directory.by_id(due.tenant_id)
    zone = UTC if tenant is None else await zone_of(directory, tenant)
    async with database.tenant(due.tenant_id, due.mode) as tx:
        made = None if tenant is None else await _made_again(tx, tenant, zone, due)
        if made is None:
            await store.drop(tx, due)
        else:
            await store.put(tx, made, utc_now() + REFRESHED_AFTER)


async def current(
    tx: Tx, meter: Meter, customers: list[str], zone: tzinfo, now: datetime
) -> Forecast:
    """The forecast for the running period, made now where the last is of another or too old."""
    found = await _kept(tx, meter, customers, now)
    if found is None:
        await store.lock(tx, meter.id, customers[-1])
        found = await _kept(tx, meter, customers, now)
    if found is not None:
        return found
    made, is_used = await make(tx, meter, customers, zone, now)
    if is_used:
        await store.put(tx, made, utc_now() + REFRESHED_AFTER)
    return made


async def _kept(tx: Tx, meter: Meter, customers: list[str], now: datetime) -> Forecast | None:
    """The forecast that was made last; None where it is of another period, or too old."""
    found = await store.find(tx, meter.id, customers[-1])
    if found is None or not found.period_from <= now < found.period_to:
        return None
    return found if now - REFRESHED_AFTER <= found.made_at <= now else None


async def make(
    tx: Tx, meter: Meter, customers: list[str], zone: tzinfo, now: datetime
) -> tuple[Forecast, bool]:
    """A forecast, and whether there was any use that it could be made from.

    Args:
        zone: the tenant's, by whose clocks usage has its days and hours.
    """
    standing = await limits.standing_of(tx, parse_uuid(customers[-1]), now, zone)
    grain = grain_of(standing.start, standing.end)
    history = await _history(tx, meter, customers, standing, grain, zone)
    question = Question(standing.start, standing.end, customers=customers, until=now)
    totals = await store_queries.add_up(tx, meter, question, limit=1)
    used = totals[0].value if totals else Decimal(0)
    edges = edges_of(grain.window, zone, now, standing.end)
    shares = shares_of(edges, now, standing.end)
    # A tenth of a second of reckoning at most: others are served meanwhile.
    outlook = await asyncio.to_thread(look_ahead, history, grain.season, len(shares))
    elapsed = (now - standing.start) / grain.length if totals else 0.0
    coming = await store_planned.coming(tx, meter.id, customers[-1], now, standing.end)
    found = project(meter.aggregation, used, elapsed, outlook, shares)
    trend = found.expected
    found = await asyncio.to_thread(found.with_planned, coming, edges)
    limit = standing.limit_on(meter)
    bounds: list[tuple[Decimal, Literal["plan", "credit"]]] = []
    if limit is not None:
        bounds.append((limit.amount, "plan"))
    credit = await limits.check_credit(tx, meter, standing, customers, Decimal(0))
    if credit is not None:
        bounds.append((EXACT.add(used, credit.remaining), "credit"))
    hit = hit_by = None
    if bounds:
        amount, hit_by = min(bounds)
        hit = hit_at(meter.aggregation, amount, used, found, edges, now)
    made = Forecast(
        meter_id=meter.id,
        customer=customers[-1],
        made_at=now,
        period_from=standing.start,
        period_to=standing.end,
        used=used,
        expected=found.expected,
        low=found.low,
        high=found.high,
        method=found.method,
        limit_amount=None if limit is None else limit.amount,
        limit_kind=None if limit is None else limit.kind,
        limit_hit_on=None if hit is None else hit.astimezone(zone).date(),
        planned=EXACT.subtract(found.expected, trend),
        limit_hit_by=None if hit is None else hit_by,
    )
    return made, bool(totals or history or coming)


async def _made_again(tx: Tx, tenant: Tenant, zone: tzinfo, due: DueForecast) -> Forecast | None:
    """The forecast as of now; None where there was no use for so long that it says nothing."""
    await store.lock(tx, due.meter_id, due.customer)
    known = await meters.applying(tx, [due.tenant_id], due.mode)
    await tx.enter(Scope((due.tenant_id,), due.mode))
    mine = meters.of_tenant(known, due.tenant_id)
    meter = next(each for each in mine if each.id == due.meter_id)
    own = tenant.snapshot.self_customer_id
    customer_id = parse_uuid(due.customer)
    customers = [due.customer] if customer_id is None else closing.customers_of(customer_id, own)
    now = business_now(tenant, due.mode)
    made, is_used = await make(tx, meter, customers, zone, now)
    if meter.aggregation == "time_weighted_sum" and made.limit_amount is not None:
        # A level comes to its limit by itself: no event tells that it is to be looked at.
        line = (due.tenant_id, due.customer)
        await store_thresholds.mark(tx, {line: (customer_id, now, now)})
    return made if is_used else None


async def _history(
    tx: Tx, meter: Meter, customers: list[str], standing: Standing, grain: Grain, zone: tzinfo
) -> list[float]:
    """The complete windows from the first use on, without what was planned: that is known apart.

    Where nothing was used a window of what adds up is empty; of the rest it is as the one before.
    """
    end = start_of(grain.window, standing.now, zone)
    past = end - grain.history
    if meter.aggregation == "unique_count":
        past = standing.start  # a value is new once in a period
    edges = edges_of(grain.window, zone, past, end)
    found: Mapping[datetime, Decimal]
    if meter.aggregation == "unique_count":
        found = await store.new_values(tx, meter, customers, standing.start, edges)
    else:
        question = Question(edges[0], end, grain.window, customers, zone=zone)
        totals = await store_queries.add_up(tx, meter, question, limit=WINDOWS_MAX)
        found = {each.window[0]: each.value for each in totals if each.window is not None}
    planned = await _planned_in(tx, meter, customers, edges)
    values: list[float] = []
    first = min(found, default=end)
    for window in edges[bisect_left(edges, first) : -1]:
        value = found.get(window)
        if value is not None and window in planned:
            values.append(max(float(EXACT.subtract(value, planned[window])), 0.0))
        elif value is not None:
            values.append(float(value))
        else:
            values.append(0.0 if meter.aggregation in ADDED_UP else values[-1])
    return values


async def _planned_in(
    tx: Tx, meter: Meter, customers: list[str], edges: Sequence[datetime]
) -> Mapping[datetime, Decimal]:
    """What of the windows was planned: a trend that went on with it would count it twice."""
    found: dict[datetime, Decimal] = {}
    if len(edges) > 1:
        for at, quantity in await store_planned.settled(tx, meter.id, customers[-1], edges[0]):
            window = edges[bisect_right(edges, at) - 1]
            found[window] = EXACT.add(found.get(window, Decimal(0)), quantity)
    return found
