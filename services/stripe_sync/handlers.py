"""One function per consumed event: mark or enter, never call."""

from collections.abc import Sequence

from libs.contracts.billing import (
    CompleteInvoice,
    CustomerCreated,
    CustomerErased,
    NameCustomer,
    PlanPublished,
)
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.gateway import StripeEventReceived, WebhookReplayCanceled
from libs.contracts.ledger import StatementRequested, TellTransactionsAgain
from libs.contracts.tenants import ClockAdvanceRequested
from libs.db.pool import Tx
from libs.messaging.apply import Delivery, Handler, Together
from services.stripe_sync import (
    arriving,
    checks,
    clocks,
    commands,
    payers,
    plans,
    retelling,
    statements,
    store_erasure,
)


async def on_stripe_events(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Something changed at Stripe: fetch it; or nothing can be fetched any more."""
    await arriving.take_in(tx, deliveries)


async def on_replay_canceled(event: Envelope[WebhookReplayCanceled], tx: Tx) -> None:
    """What a dry run has not compared yet is not compared any more."""
    await checks.take_cancellation(tx, event)


async def on_plan_published(event: Envelope[PlanPublished], tx: Tx) -> None:
    """A plan can be bought."""
    await plans.take_plan(tx, event.data)


async def on_complete_invoice(event: Envelope[CompleteInvoice], tx: Tx) -> None:
    """Billing wants a held draft completed."""
    await commands.take_complete_invoice(tx, event)


async def on_clock_advance_requested(event: Envelope[ClockAdvanceRequested], tx: Tx) -> None:
    """An operator wants a test clock moved."""
    await clocks.take_request(tx, event)


async def on_statement_requested(event: Envelope[StatementRequested], tx: Tx) -> None:
    """The ledger wants an account listed afresh."""
    await statements.take_request(tx, event)


async def on_tell_transactions_again(event: Envelope[TellTransactionsAgain], tx: Tx) -> None:
    """The ledger misses facts about money."""
    await retelling.take_request(tx, event)


async def on_customer_created(event: Envelope[CustomerCreated], tx: Tx) -> None:
    """A customer can pay."""
    await payers.take_customer(tx, event.data)


async def on_name_customer(event: Envelope[NameCustomer], tx: Tx) -> None:
    """Stripe is told this name when the customer first pays."""
    await payers.take_name(tx, event.data)


async def on_customer_erased(event: Envelope[CustomerErased], tx: Tx) -> None:
    """Forget who the customer was; what was paid stays."""
    await store_erasure.forget(tx, event.data.customer_id)


HANDLERS: dict[type[Fact], Handler] = {
    StripeEventReceived: Together(on_stripe_events),
    WebhookReplayCanceled: on_replay_canceled,
    PlanPublished: on_plan_published,
    CustomerCreated: on_customer_created,
    NameCustomer: on_name_customer,
    CustomerErased: on_customer_erased,
    CompleteInvoice: on_complete_invoice,
    ClockAdvanceRequested: on_clock_advance_requested,
    StatementRequested: on_statement_requested,
    TellTransactionsAgain: on_tell_transactions_again,
}
