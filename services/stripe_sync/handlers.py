"""One function per consumed event: mark or enter, never call."""

from libs.contracts.billing import (
    CompleteInvoice,
    CustomerCreated,
    CustomerErased,
    PlanPublished,
)
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.tenants import ClockAdvanceRequested
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.stripe_sync import (
    clocks,
    commands,
    connections,
    marks,
    payers,
    plans,
    store_erasure,
)


async def on_stripe_event(event: Envelope[StripeEventReceived], tx: Tx) -> None:
    """Something changed at Stripe: fetch it; or nothing can be fetched any more."""
    if event.data.event_type == connections.DEAUTHORIZED:
        await connections.take_deauthorization(tx, event)
    else:
        await marks.take_event(tx, event)


async def on_plan_published(event: Envelope[PlanPublished], tx: Tx) -> None:
    """A plan can be bought."""
    await plans.take_plan(tx, event.data)


async def on_complete_invoice(event: Envelope[CompleteInvoice], tx: Tx) -> None:
    """Billing wants a held draft completed."""
    await commands.take_complete_invoice(tx, event)


async def on_clock_advance_requested(event: Envelope[ClockAdvanceRequested], tx: Tx) -> None:
    """An operator wants a test clock moved."""
    await clocks.take_request(tx, event)


async def on_customer_created(event: Envelope[CustomerCreated], tx: Tx) -> None:
    """A customer can pay."""
    await payers.take_customer(tx, event.data)


async def on_customer_erased(event: Envelope[CustomerErased], tx: Tx) -> None:
    """Forget who the customer was; what was paid stays."""
    await store_erasure.forget(tx, event.data.customer_id)


HANDLERS: dict[type[Fact], Handler] = {
    StripeEventReceived: on_stripe_event,
    PlanPublished: on_plan_published,
    CustomerCreated: on_customer_created,
    CustomerErased: on_customer_erased,
    CompleteInvoice: on_complete_invoice,
    ClockAdvanceRequested: on_clock_advance_requested,
}
