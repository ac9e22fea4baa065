"""Closed periods: the exact quantity of each meter for exactly the interval billing asked for.

An answer waits for its barrier: the ends that the partitions of `usage.events` had when the period
was over. What lies before them is counted before the answer is given; what comes later makes the
next revision.
"""

from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal
from uuid import UUID

import structlog

from libs.contracts.billing import UsagePeriodClosed
from libs.contracts.metering import PeriodUsage
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.metering import meters, store_queries
from services.metering import store_closures as store
from services.metering.aggregation import Change
from services.metering.measuring import Meter
from services.metering.store_closures import DueClosure
from services.metering.store_queries import Question

log = structlog.get_logger()


def customers_of(customer_id: UUID, self_customer_id: UUID) -> list[str]:
    """How aggregates name a customer; the tenant itself is also the one that events leave out."""
    return ["", str(customer_id)] if customer_id == self_customer_id else [str(customer_id)]


async def take_request(tx: Tx, fact: UsagePeriodClosed) -> None:
    """Keep billing's request; a job answers it when the time has come."""
    await store.add_closure(tx, fact)


async def unsettle(tx: Tx, changes: Iterable[Change]) -> None:
    """Closed periods that something changed in are answered again."""
    spans: dict[UUID, list[tuple[datetime, datetime]]] = {}
    for tenant, first, last in changes:
        spans.setdefault(tenant, []).append((first, last))
    if not spans:
        return
    every = [span for mine in spans.values() for span in mine]
    closures = await store.closures_over(
        tx, sorted(spans), min(first for first, _ in every), max(last for _, last in every)
    )
    touched = [
        (tenant, closure)
        for tenant, closure, start, end in closures
        if any(first < end and start <= last for first, last in spans[tenant])
    ]
    if touched:
        await store.unsettle(tx, touched)


async def answer(tx: Tx, due: DueClosure, at: datetime) -> bool:
    """Tell billing each quantity that is new or has changed since the last answer.

    Returns:
        Whether the period is settled: not while one of its meters is unknown.
    """
    closure = await store.lock_closure(tx, due.id)
    if closure is None:
        return True
    known = await _meters_by_key(tx, closure, due.self_customer_id)
    told = await store.answers_of(tx, due.id)
    for key in closure["meters"]:
        meter = known.get(key)
        if meter is None:
            log.error("closure_of_unknown_meter", closure_id=str(due.id), meter=key)
            return False
        quantity, event_count = await quantity_of(tx, meter, closure, due.self_customer_id)
        last = told.get(key)
        if last is not None and (last["quantity"], last["event_count"]) == (quantity, event_count):
            continue
        revision = 1 if last is None else last["revision"] + 1
        await store.put_answer(tx, due.id, key, revision, quantity, event_count)
        fact = PeriodUsage(
            closure_id=due.id,
            subscription_id=closure["subscription_id"],
            customer_id=closure["customer_id"],
            meter=key,
            period_from=closure["period_from"],
            period_to=closure["period_to"],
            revision=revision,
            quantity=quantity,
            event_count=event_count,
        )
        emit(tx, fact, effective_at=at)
    await store.settle(tx, due.id)
    return True


async def _meters_by_key(tx: Tx, closure: Row, self_customer_id: UUID) -> dict[str, Meter]:
    """The biller's meters: the platform's where the tenant itself pays, else the tenant's own."""
    tenant, mode = tx.tenant_id, tx.mode
    biller = PLATFORM_TENANT_ID if closure["customer_id"] == self_customer_id else tenant
    known = await meters.applying(tx, [tenant], mode)
    await tx.enter(Scope((tenant,), mode))
    return {meter.key: meter for meter in known.get(biller, ())}


async def quantity_of(
    tx: Tx, meter: Meter, closure: Row, self_customer_id: UUID
) -> tuple[Decimal, int]:
    """The exact quantity of a closed period's meter, and of how many events."""
    question = Question(
        closure["period_from"],
        closure["period_to"],
        customers=customers_of(closure["customer_id"], self_customer_id),
    )
    totals = await store_queries.add_up(tx, meter, question, limit=1)
    return (totals[0].value, totals[0].event_count) if totals else (Decimal(0), 0)
