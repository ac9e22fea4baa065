"""One function per consumed event: (event, tx) -> one domain call."""

from libs.contracts.billing import InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import PaymentFailed, PaymentSucceeded
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.reporting import projector


async def on_journal_entry_posted(event: Envelope[JournalEntryPosted], tx: Tx) -> None:
    """Count revenue in its month."""
    await projector.count_revenue(tx, event.data, event.effective_at)


async def on_invoice_finalized(event: Envelope[InvoiceFinalized], tx: Tx) -> None:
    """Show the invoice as open."""
    await projector.finalize_invoice(tx, event.data, event.effective_at)


async def on_invoice_paid(event: Envelope[InvoicePaid], tx: Tx) -> None:
    """Show the invoice as paid."""
    await projector.pay_invoice(tx, event.data, event.effective_at)


async def on_subscription_changed(event: Envelope[SubscriptionChanged], tx: Tx) -> None:
    """Show the subscription under its plan and status."""
    await projector.change_subscription(tx, event.data)


async def on_payment_succeeded(event: Envelope[PaymentSucceeded], tx: Tx) -> None:
    """Count a payment."""
    await projector.count_success(tx, event.data)


async def on_payment_failed(event: Envelope[PaymentFailed], tx: Tx) -> None:
    """Count an attempt that failed."""
    await projector.count_failure(tx, event.data)


HANDLERS: dict[type[Fact], Handler] = {
    JournalEntryPosted: on_journal_entry_posted,
    InvoiceFinalized: on_invoice_finalized,
    InvoicePaid: on_invoice_paid,
    SubscriptionChanged: on_subscription_changed,
    PaymentSucceeded: on_payment_succeeded,
    PaymentFailed: on_payment_failed,
}
