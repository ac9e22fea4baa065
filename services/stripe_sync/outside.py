"""Payments that never touched Stripe: recorded by whoever received the money.

Where such a payment settles an invoice, Stripe must mark that as paid, or it goes on collecting. The
money is told of only when that is known: it pays the invoice, or, where somebody else has paid that in
the meantime, it stands unapplied.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import BilledBy
from libs.contracts.stripe_sync import OutsidePaymentRecorded
from libs.db.pool import Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from libs.money import Money, from_stripe
from services.stripe_sync import store_objects, store_outside
from services.stripe_sync.client import Json, StripeMissingError
from services.stripe_sync.objects import id_of
from services.stripe_sync.payers import Asker, Till

REFERENCE = "reference"


class AlreadyRecordedError(Exception):
    """The customer has a payment of this reference."""


class InvoiceError(Exception):
    """The invoice is not one that this payment settles; the message says why."""


@dataclass(frozen=True)
class OutsideWish:
    """Money that somebody received.

    Attributes:
        reference: what finds it again where it arrived.
        stripe_invoice_id: an open invoice that it pays in full.
    """

    customer_id: UUID
    collected_by: BilledBy
    amount: Money
    reference: str
    paid_at: datetime
    stripe_invoice_id: str | None = None


async def check_invoice(tx: Tx, till: Till, wish: OutsideWish, invoice: Json) -> None:
    """Make sure that the payment settles the invoice, as Stripe has it now.

    Raises:
        InvoiceError: it is another customer's, is not open, or another amount is due.
    """
    customer = id_of(invoice["customer"])
    owner = await store_objects.find_owner(tx, till.account, tx.mode, customer or "")
    if owner is None or (owner.tenant_id, owner.customer_id) != (tx.tenant_id, wish.customer_id):
        raise InvoiceError("the customer has no such invoice")
    if invoice["status"] != "open":
        raise InvoiceError(f"the invoice is {invoice['status']}")
    due = from_stripe(invoice["amount_remaining"], invoice["currency"])
    if due != wish.amount:
        raise InvoiceError(f"{due.amount_minor} {due.currency} in minor units are due on it")


async def read_invoice(till: Till, invoice_id: str) -> Json:
    """The invoice at Stripe.

    Raises:
        InvoiceError: there is none.
        StripeCallError: Stripe did not answer.
    """
    try:
        return await till.api.get("invoice.retrieve", f"/v1/invoices/{invoice_id}")
    except StripeMissingError:
        raise InvoiceError("the customer has no such invoice") from None


async def enter(tx: Tx, asker: Asker, wish: OutsideWish, at: datetime) -> UUID:
    """Enter the payment; without an invoice it stands at once.

    Raises:
        AlreadyRecordedError: the same reference was recorded before.
    """
    payment_id = new_id()
    entered = await store_outside.insert(
        tx,
        {
            "payment_id": payment_id,
            "collected_by": wish.collected_by,
            "customer_id": wish.customer_id,
            "stripe_invoice_id": wish.stripe_invoice_id,
            "amount_minor": wish.amount.amount_minor,
            "currency": wish.amount.currency,
            "reference": wish.reference,
            "created_at": utc_now(),
            "paid_at": wish.paid_at,
        },
    )
    if not entered:
        raise AlreadyRecordedError
    change = ConfigurationChanged(
        action="payment.recorded",
        actor=asker.actor,
        object_id=public_id("payment", payment_id),
        after={
            "amount_minor": wish.amount.amount_minor,
            "currency": wish.amount.currency,
            "customer_id": str(wish.customer_id),
            "stripe_invoice_id": wish.stripe_invoice_id,
        },
    )
    emit(tx, change, effective_at=at)
    if wish.stripe_invoice_id is None:
        await settle(tx, payment_id, at, pays_invoice=False)
    return payment_id


async def settle(tx: Tx, payment_id: UUID, at: datetime, *, pays_invoice: bool) -> None:
    """The payment stands from now on, and is told of once."""
    row = await store_outside.complete(tx, payment_id, keeps_invoice=pays_invoice)
    if row is not None:
        emit(tx, OutsidePaymentRecorded(**dict(row)), effective_at=at)
