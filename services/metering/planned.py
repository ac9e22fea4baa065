"""Planned usage: declared ahead, and held as a reservation each time it is due, where limits allow it.

Nothing is decided before an occurrence is due, for what is used until then nobody knows. Then it is held
in the way of any reservation, so that no hard limit is ever overrun. What finds no room is tried again
until the next occurrence is due, or for five weeks.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from functools import partial
from itertools import pairwise
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.directory.local import Directory, Tenant, business_now
from libs.ids import new_id, parse_uuid
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL, PLANNED_USAGE_DECIDED_TOTAL
from services.metering import (
    closing,
    limits,
    meters,
    reservations,
    store_forecasts,
    store_reservations,
)
from services.metering import store_planned as store
from services.metering.limits import Standing
from services.metering.measuring import Meter
from services.metering.planning import Reason, Slot, Verdict, foresee, judge
from services.metering.recurrence import Every
from services.metering.reservations import LimitReachedError, Wish
from services.metering.store_planned import DueOccurrence
from services.metering.windows import month_of
from services.metering.zones import zone_of

log = structlog.get_logger()

OPEN_MAX = 200
"""Planned usage of a tenant and mode that is not decided to its end."""

TRIED_AGAIN_AFTER = timedelta(minutes=5)
WAITS_AT_MOST = timedelta(days=35)
"""So what is planned once finds the next month's room."""


class TooMuchPlannedError(Exception):
    """The tenant has as much planned usage as it may."""


@dataclass(frozen=True)
class Plan:
    """What is to be used, by whom, and when.

    Attributes:
        customers: how aggregates name the customer; the last one is its own id.
        subject: how its usage events will name it; None is the tenant itself.
        times: of its occurrences, in order.
        hold_seconds: how long what is admitted is held, for usage to come.
    """

    meter: Meter
    customers: list[str]
    subject: str | None
    user: str | None
    quantity: Decimal
    times: Sequence[datetime]
    every: Every | None
    time_zone: str
    hold_seconds: int
    note: str
    actor: str


async def declare(tx: Tx, plan: Plan, standing: Standing, zone: tzinfo) -> UUID:
    """Declare usage ahead; each occurrence says what is foreseen of it.

    Raises:
        NotReservableError, AmountError: so much of the meter cannot be held.
        TooMuchPlannedError: see there.
    """
    reservations.require_reservable(plan.meter, plan.quantity)
    if await store.count_open(tx) >= OPEN_MAX:
        raise TooMuchPlannedError
    planned_id, customer = new_id(), plan.customers[-1]
    slots = _slots(planned_id, plan)
    before = await store.open_slots(tx, plan.meter.id, customer, plan.times[-1])
    found = await reservations.check(tx, plan.meter, standing, plan.customers, Decimal(0))
    end_at = partial(_period_end_at, standing, zone)
    # A fifth of a second of reckoning at most: others are served meanwhile.
    foreseen = await asyncio.to_thread(foresee, [*before, *slots], found, standing.end, end_at)
    await store.insert(
        tx,
        {
            "id": planned_id,
            "meter_id": plan.meter.id,
            "customer": customer,
            "subject": plan.subject,
            "user_id": plan.user,
            "quantity": plan.quantity,
            "every": plan.every,
            "time_zone": plan.time_zone,
            "hold_seconds": plan.hold_seconds,
            "note": plan.note,
            "actor": plan.actor,
            "created_at": utc_now(),
        },
    )
    await store.insert_occurrences(tx, slots, foreseen, standing.now)
    await store_forecasts.want_anew(tx, plan.meter.id, customer, utc_now())
    return planned_id


def _slots(planned_id: UUID, plan: Plan) -> list[Slot]:
    """An occurrence waits until the next one is due."""
    ends = [min(after, at + WAITS_AT_MOST) for at, after in pairwise(plan.times)]
    ends.append(plan.times[-1] + WAITS_AT_MOST)
    return [
        Slot(at, planned_id, number, until, plan.quantity)
        for number, (at, until) in enumerate(zip(plan.times, ends, strict=True), 1)
    ]


def _period_end_at(standing: Standing, zone: tzinfo, at: datetime) -> datetime:
    """When the period ends that a moment after the running one lies in."""
    if not standing.is_planned:
        return month_of(at, zone)[1]
    length = standing.end - standing.start
    return standing.end + ((at - standing.end) // length + 1) * length


async def cancel(tx: Tx, row: Row, now: datetime) -> None:
    """Let nothing more of it happen; what it holds is free again."""
    for reservation_id in await store.cancel(tx, row["id"], now):
        held = await reservations.lock(tx, reservation_id)
        if held is not None and held["state"] == "held":
            await store_reservations.end(tx, reservation_id, "released", utc_now())
    await store_forecasts.want_anew(tx, row["meter_id"], row["customer"], utc_now())


async def decide_due(database: Database, directory: Directory, *, limit: int) -> None:
    """Decide the occurrences that are due, those that were deferred among them."""
    for due in await store.list_due(database, utc_now(), limit=limit):
        tenant = await directory.by_id(due.tenant_id)
        if tenant is None:
            # Its record is still to come; those of others do not wait for that.
            await _put_off(database, due, utc_now())
            continue
        now = business_now(tenant, due.mode)
        try:
            outcome = await _decide(database, tenant, await zone_of(directory, tenant), due, now)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="decide_planned_usage").inc()
            log.exception("planned_usage_not_decided", tenant_id=str(due.tenant_id))
            await _put_off(database, due, now)
        else:
            if outcome is not None:
                PLANNED_USAGE_DECIDED_TOTAL.labels(outcome=outcome).inc()


async def _put_off(database: Database, due: DueOccurrence, now: datetime) -> None:
    async with database.tenant(due.tenant_id, due.mode) as tx:
        await store.put_off(tx, due, now, TRIED_AGAIN_AFTER)


async def _decide(
    database: Database, tenant: Tenant, zone: tzinfo, due: DueOccurrence, now: datetime
) -> str | None:
    """What was decided of one; None where somebody else did."""
    async with database.tenant(due.tenant_id, due.mode) as tx:
        row = await store.lock_due(tx, due, now)
        if row is None:
            return None
        verdict, reservation_id = await _verdict(tx, row, tenant, zone, now)
        due_at = None
        if verdict.outcome == "deferred":
            ends = [now + TRIED_AGAIN_AFTER, row["until"], verdict.passes_at]
            due_at = min(end for end in ends if end is not None)
        await store.decide(tx, due, verdict, now, due_at=due_at, reservation_id=reservation_id)
        before = row["state"], row["reason"], row["passes_at"]
        if before != (verdict.outcome, verdict.reason, verdict.passes_at):
            await store_forecasts.want_anew(tx, row["meter_id"], row["customer"], utc_now())
    return verdict.outcome


async def _verdict(
    tx: Tx, row: Row, tenant: Tenant, zone: tzinfo, now: datetime
) -> tuple[Verdict, UUID | None]:
    """Hold what is due where there is room for it; the verdict, and the reservation."""
    if now >= row["until"]:
        reason: Reason = row["reason"] if row["state"] == "deferred" else "missed"
        return Verdict("refused", reason, row["used"], row["limit_amount"]), None
    meter = await _meter_of(tx, row)
    customer_id = parse_uuid(row["customer"])
    customers = [row["customer"]]
    if customer_id is not None:
        customers = closing.customers_of(customer_id, tenant.snapshot.self_customer_id)
    standing = await limits.standing_of(tx, customer_id, now, zone)
    wish = Wish(
        meter=meter,
        customers=customers,
        subject=row["subject"],
        user=row["user_id"],
        amount=row["quantity"],
        expires_at=utc_now() + timedelta(seconds=row["hold_seconds"]),
    )
    try:
        held, found = await reservations.hold(tx, wish, standing)
    except LimitReachedError as reached:
        return judge(wish.amount, reached.check, standing.end, row["until"]), None
    return judge(wish.amount, found, standing.end, row["until"]), held["id"]


async def _meter_of(tx: Tx, row: Row) -> Meter:
    """The meter that is planned of: the tenant's own, or the platform's."""
    tenant_id, mode = tx.tenant_id, tx.mode
    assert mode is not None, "usage has a mode"
    known = await meters.applying(tx, [tenant_id], mode)
    await tx.enter(Scope((tenant_id,), mode))
    mine = meters.of_tenant(known, tenant_id)
    return next(each for each in mine if each.id == row["meter_id"])
