"""One function per consumed event: (event, tx) -> one domain call."""

from libs.contracts.billing import CreditGranted, InvoiceFinalized
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    OutsidePaymentRecorded,
    PaymentSucceeded,
    StripeStatement,
)
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.ledger import posting, rules, statements


async def on_tenant_created(_: Envelope[TenantCreated] | Envelope[TenantWentLive], tx: Tx) -> None:
    """Open the tenant's books of the mode of the event."""
    await posting.open_books(tx)


async def on_invoice_finalized(event: Envelope[InvoiceFinalized], tx: Tx) -> None:
    """Book what the customer owes and what was earned."""
    await posting.book_fact(tx, event, rules.invoice_finalized(event.data))


async def on_payment_succeeded(event: Envelope[PaymentSucceeded], tx: Tx) -> None:
    """Book money that arrived at Stripe."""
    await posting.book_fact(tx, event, rules.payment_succeeded(event.data))


async def on_outside_payment(event: Envelope[OutsidePaymentRecorded], tx: Tx) -> None:
    """Book money that arrived without Stripe."""
    await posting.book_fact(tx, event, rules.outside_payment(event.data))


async def on_balance_transaction(event: Envelope[BalanceTransactionRecorded], tx: Tx) -> None:
    """Book a fee, refund, dispute, payout or other movement at Stripe."""
    await posting.book_fact(tx, event, rules.balance_transaction(event.data))


async def on_credit_granted(event: Envelope[CreditGranted], tx: Tx) -> None:
    """Book credit that was given away."""
    await posting.book_fact(tx, event, rules.credit_granted(event.data))


async def on_statement(event: Envelope[StripeStatement], tx: Tx) -> None:
    """Keep a part of what Stripe itself lists of an account."""
    await statements.take_part(tx, event)


HANDLERS: dict[type[Fact], Handler] = {
    TenantCreated: on_tenant_created,
    TenantWentLive: on_tenant_created,
    InvoiceFinalized: on_invoice_finalized,
    PaymentSucceeded: on_payment_succeeded,
    OutsidePaymentRecorded: on_outside_payment,
    BalanceTransactionRecorded: on_balance_transaction,
    CreditGranted: on_credit_granted,
    StripeStatement: on_statement,
}
