"""One function per consumed event: (event, tx) -> one domain call."""

from collections.abc import Sequence

from libs.contracts.billing import InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import PaymentFailed, PaymentSucceeded
from libs.db.pool import Tx
from libs.messaging.apply import Delivery, Handler, Together
from services.reporting import projector


async def on_journal_entries(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Count revenue in its month."""
    await projector.count_revenue(tx, [delivery.event for delivery in deliveries])


async def on_invoice_finalized(event: Envelope[InvoiceFinalized], tx: Tx) -> None:
    """Show the invoice as open."""
    await projector.finalize_invoice(tx, event.data, event.effective_at)


async def on_invoice_paid(event: Envelope[InvoicePaid], tx: Tx) -> None:
    """Show the invoice as paid."""
    await projector.pay_invoice(tx, event.data, event.effective_at)


async def on_subscription_changed(event: Envelope[SubscriptionChanged], tx: Tx) -> None:
    """Show the subscription under its plan and status."""
    await projector.change_subscription(tx, event.data)


async def on_payments(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Count attempts to collect, those that succeeded and those that failed."""
    await projector.count_attempts(tx, [delivery.event for delivery in deliveries])


HANDLERS: dict[type[Fact], Handler] = {
    JournalEntryPosted: Together(on_journal_entries),
    InvoiceFinalized: on_invoice_finalized,
    InvoicePaid: on_invoice_paid,
    SubscriptionChanged: on_subscription_changed,
    PaymentSucceeded: Together(on_payments),
    PaymentFailed: Together(on_payments),
}
