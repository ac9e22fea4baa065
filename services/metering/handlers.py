"""One function per consumed event, and one for the whole of `usage.events`."""

from collections.abc import Sequence

from libs.contracts.billing import (
    CreditLimitSet,
    PlanPublished,
    SubscriptionChanged,
    UsagePeriodClosed,
)
from libs.contracts.envelope import Envelope, Fact
from libs.db.pool import Tx
from libs.messaging.apply import BatchHandler, Handler
from libs.messaging.records import Reader, Record
from services.metering import closing, intake, limits, thresholds
from services.metering.admission import Admission
from services.metering.listening import UNREAD


async def on_plan_published(event: Envelope[PlanPublished], tx: Tx) -> None:
    """Limits of this version are known from now on."""
    await limits.take_plan(tx, event.data)


async def on_subscription_changed(event: Envelope[SubscriptionChanged], tx: Tx) -> None:
    """Somebody is on a plan, in a period."""
    await thresholds.take_subscription(tx, event.data, event.effective_at)


async def on_credit_limit_set(event: Envelope[CreditLimitSet], tx: Tx) -> None:
    """Credit pays for so much of a meter."""
    await limits.take_credit_limit(tx, event.data)


async def on_usage_period_closed(event: Envelope[UsagePeriodClosed], tx: Tx) -> None:
    """Billing wants the quantities of a period."""
    await closing.take_request(tx, event.data)


async def on_usage(records: Sequence[Record], tx: Tx) -> None:
    """Count a batch of usage, each event once."""
    await intake.take(records, tx)


HANDLERS: dict[type[Fact], Handler] = {
    PlanPublished: on_plan_published,
    SubscriptionChanged: on_subscription_changed,
    CreditLimitSet: on_credit_limit_set,
    UsagePeriodClosed: on_usage_period_closed,
}

BATCH_HANDLERS: dict[str, BatchHandler] = {"usage.events": on_usage}


def batch_handlers_of(admission: Admission | None) -> dict[str, BatchHandler]:
    """The same where producers prove their right to what they publish."""
    return BATCH_HANDLERS if admission is None else {"usage.events": admission.take}


READERS: dict[str, Reader] = {"usage.events": intake.read_ahead}


WEIGHT_UNKNOWN = 20
"""Of an event whose meters have not been asked yet."""


def weigh(record: Record) -> int:
    """How much there is to write on account of a record: of usage, a row for each meter."""
    prepared = record.prepared
    if type(prepared) is not intake.Prepared:
        return 1
    reading = prepared.reading
    return WEIGHT_UNKNOWN if reading is UNREAD else len(reading.rows.lines) + len(reading.single)
