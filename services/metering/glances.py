"""A limit check in one statement, as long as nothing about the customer's period has changed.

What is added up depends on the current period, and that on the subscription. So the statement adds up
for the period that was current at the last check, and reads the subscription beside it: where that shows
another period, the statement is asked once more.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from decimal import Decimal
from functools import partial
from uuid import UUID

from libs.clock import utc_now
from libs.db.gathered_looks import GatheredLooks
from libs.db.pool import Database, Row
from libs.db.tenant import Mode
from libs.ids import parse_uuid
from services.metering import limits, store_plans
from services.metering.limits import Check, Standing
from services.metering.measuring import Meter
from services.metering.store_plans import Look
from services.metering.store_reservations import CLOCKS_DIFFER

CUSTOMERS_REMEMBERED = 50_000

ADDED_UP = frozenset({"count", "sum"})


@dataclass(frozen=True)
class Asked:
    """What is to be checked.

    Attributes:
        customers: how aggregates name the customer; the last one is its own id.
        amount: how much more is to be used.
        now: business time.
        zone: the tenant's.
    """

    tenant_id: UUID
    mode: Mode
    meter: Meter
    customers: Sequence[str]
    amount: Decimal
    now: datetime
    zone: tzinfo


@dataclass(frozen=True)
class Glance:
    """What was found."""

    standing: Standing
    check: Check
    last_received_at: datetime | None


class Glances:
    """Checks of one process, and the subscriptions that they saw last."""

    def __init__(self) -> None:
        self._seen: dict[tuple[UUID, Mode, str], Row | None] = {}
        self._looks: GatheredLooks[Look, Row] = GatheredLooks()

    async def check(self, database: Database, asked: Asked) -> Glance | None:
        """What one look finds; None where it takes more than that.

        That is where a meter does not simply add up, where credit bounds it, or where the plan is not
        at hand yet.
        """
        if asked.meter.aggregation not in ADDED_UP:
            return None
        customer = (asked.tenant_id, asked.mode, asked.customers[-1])
        period = limits.period_of(self._seen.get(customer), asked.now, asked.zone)
        for _ in range(2):
            look = Look(parse_uuid(asked.customers[-1]), asked.meter.id, asked.customers, period)
            of = asked.tenant_id, asked.mode
            row = await self._looks.ask(of, look, partial(_look, database, *of))
            subscription = None if row["id"] is None else row
            self._note(customer, subscription)
            current = limits.period_of(subscription, asked.now, asked.zone)
            if current == period:
                return _judged(asked, subscription, row)
            period = current
        return None

    def _note(self, customer: tuple[UUID, Mode, str], subscription: Row | None) -> None:
        if len(self._seen) >= CUSTOMERS_REMEMBERED:
            self._seen.clear()
        self._seen[customer] = subscription


async def _look(
    database: Database, tenant_id: UUID, mode: Mode, looks: Sequence[Look]
) -> Sequence[Row]:
    held_after = utc_now() - CLOCKS_DIFFER
    return await store_plans.look_at_limits(database, tenant_id, mode, held_after, looks)


def _judged(asked: Asked, subscription: Row | None, row: Row) -> Glance | None:
    plan = None
    if subscription is not None:
        plan = limits.plan_at_hand(asked.tenant_id, asked.mode, subscription)
        if plan is None:
            return None
    standing = limits.standing_by(subscription, plan, asked.now, asked.zone)
    if standing.credit_on(asked.meter) is not None:
        return None
    used = Decimal(row["event_count"] if asked.meter.aggregation == "count" else row["total"])
    found = limits.judge(standing, asked.meter, asked.amount, used, row["reserved"], None)
    return Glance(standing, found, row["received_at"])
