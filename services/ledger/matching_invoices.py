"""The third side of a reconciliation: what billing says is paid, and the payments that are booked."""

from collections.abc import Sequence
from dataclasses import replace
from uuid import UUID

from libs.contracts.billing import InvoiceCredited, InvoiceFinalized, InvoicePaid
from libs.contracts.stripe_sync import OutsidePaymentRecorded, PaymentSucceeded
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.apply import Delivery
from services.ledger import store_invoices
from services.ledger.matching import Finding, Proposal
from services.ledger.money import drafted
from services.ledger.store import Booking
from services.ledger.store_invoices import FinalInvoice, InvoicePayment, PaidInvoice

PAYMENTS = (PaymentSucceeded, OutsidePaymentRecorded)
"""Facts that say which invoice they pay."""


async def follow_payments(
    tx: Tx, deliveries: Sequence[Delivery], booked: Sequence[Booking]
) -> None:
    """Keep which invoices payments pay.

    Args:
        booked: what was booked of these just now; the rest was told before.
    """
    new = {booking.id for booking in booked}
    first: list[InvoicePayment] = []
    again: list[InvoicePayment] = []
    for delivery in deliveries:
        fact = delivery.event.data
        if type(fact) in PAYMENTS and fact.stripe_invoice_id:
            draft = drafted(delivery)
            if draft.id is not None and draft.entry is not None:
                payment = InvoicePayment(
                    tenant_id=delivery.event.tenant_id,
                    book=draft.entry.book,
                    source_key=draft.entry.source_key,
                    stripe_invoice_id=fact.stripe_invoice_id,
                    currency=fact.currency,
                    amount_minor=fact.amount_minor,
                )
                (first if draft.id in new else again).append(payment)
                # Told twice at once it has one id, and is kept once.
                new.discard(draft.id)
    if first:
        await store_invoices.add_payments(tx, first, booked_now=True)
    if again:
        await store_invoices.add_payments(tx, again, booked_now=False)


async def follow_final(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Keep what is due on final invoices."""
    latest: dict[tuple[UUID, UUID], FinalInvoice] = {}
    for delivery in deliveries:
        told = _due(delivery)
        if told is None:
            continue
        key = told.tenant_id, told.invoice_id
        if key not in latest or latest[key].sequence < told.sequence:
            latest[key] = told
    if latest:
        await store_invoices.add_final(tx, list(latest.values()))


def _due(delivery: Delivery) -> FinalInvoice | None:
    fact = delivery.event.data
    if isinstance(fact, InvoiceFinalized):
        final, credited_minor, sequence = fact, 0, 0
    elif isinstance(fact, InvoiceCredited):
        final, credited_minor, sequence = fact.final, fact.credited_minor, fact.sequence
    else:
        return None
    if final.stripe_invoice_id is None:
        return None
    return FinalInvoice(
        tenant_id=delivery.event.tenant_id,
        invoice_id=final.invoice_id,
        stripe_invoice_id=final.stripe_invoice_id,
        due_minor=final.total_minor - credited_minor,
        sequence=sequence,
    )


async def follow_invoices(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Keep what billing says is paid."""
    invoices = []
    for delivery in deliveries:
        fact: InvoicePaid = delivery.event.data
        invoices.append(
            PaidInvoice(
                tenant_id=delivery.event.tenant_id,
                invoice_id=fact.invoice_id,
                stripe_invoice_id=fact.stripe_invoice_id,
                currency=fact.currency,
                paid_minor=fact.paid_minor,
                told_at=delivery.event.occurred_at,
                book=fact.billed_by,
            )
        )
    await store_invoices.add_paid(tx, invoices)


def finding(paid: Row) -> Finding:
    """What is wrong with an invoice that is paid otherwise than it is booked.

    Where nothing is booked, its payments are told again. Paid twice, or in part, it is for people; and
    so is one whose payments are booked and it is not: nobody but billing can tell of it again.
    """
    said, booked = paid["paid_minor"], paid["booked_minor"]
    stripe_invoice = paid["stripe_invoice_id"]
    if said == booked:
        return Finding(
            kind="missing_in_ledger",
            reference=public_id("invoice", paid["invoice_id"]),
            currency=paid["currency"],
            stripe_minor=said,
            ledger_minor=0,
            occurred_at=paid["told_at"],
            entries=tuple(paid["entries"]),
        )
    proposal = Proposal(action="acknowledge")
    if booked == 0 and stripe_invoice is not None:
        proposal = Proposal(action="tell_again", invoices=(stripe_invoice,))
    return Finding(
        kind="missing_in_ledger"
        if booked == 0
        else "duplicate"
        if said and booked % said == 0
        else "amount",
        reference=stripe_invoice or public_id("invoice", paid["invoice_id"]),
        currency=paid["currency"],
        stripe_minor=said,
        ledger_minor=booked,
        occurred_at=paid["told_at"],
        entries=tuple(paid["entries"]),
        proposal=proposal,
    )


def not_called_paid(invoices: Sequence[Row]) -> list[Finding]:
    """What is wrong with invoices whose payments are booked and that billing does not call paid.

    An invoice is one break, also where it is paid in two currencies or in the books of two tenants.
    """
    found: dict[str, Finding] = {}
    for invoice in invoices:
        reference, currency = invoice["stripe_invoice_id"], invoice["currency"]
        before = found.get(reference)
        if before is None:
            found[reference] = Finding(
                kind="amount",
                reference=reference,
                currency=currency,
                stripe_minor=0,
                ledger_minor=invoice["booked_minor"],
                occurred_at=invoice["paid_at"],
                entries=tuple(invoice["entries"]),
                proposal=Proposal(action="acknowledge"),
            )
            continue
        more = invoice["booked_minor"] if currency == before.currency else 0
        found[reference] = replace(
            before,
            ledger_minor=before.ledger_minor + more,
            entries=(*before.entries, *invoice["entries"]),
        )
    return list(found.values())
