"""What becomes of a final invoice: credited, written off, voided, paid. Each is told once.

Stripe tells the state; what is told here is how it changed. Facts carry the invoice as it was told
when it became final, so that who books them needs to remember nothing of it.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.contracts.billing import (
    InvoiceCredited,
    InvoiceFinalized,
    InvoiceLine,
    InvoicePaid,
    InvoiceRecovered,
    InvoiceVoided,
    InvoiceWrittenOff,
)
from libs.contracts.envelope import Fact
from libs.contracts.stripe_sync import StripeInvoiceChanged
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from services.billing import credit, store_customers
from services.billing import store_invoices as store


async def as_told(tx: Tx, invoice: Row) -> InvoiceFinalized:
    """A final invoice as it was told when it became final: nothing of that ever changes."""
    customer = await store_customers.find_customer(tx, invoice["customer_id"])
    assert customer is not None, "an invoice refers to its customer"
    lines = await store.lines_of(tx, invoice["id"])
    credits_minor = -sum(line["amount_minor"] for line in lines if line["kind"] == "credit")
    return InvoiceFinalized(
        invoice_id=invoice["id"],
        number=invoice["number"],
        customer_id=invoice["customer_id"],
        subscription_id=invoice["subscription_id"],
        billed_by=customer["billed_by"],
        currency=invoice["currency"],
        subtotal_minor=invoice["total_minor"] + credits_minor,
        credits_applied_minor=credits_minor,
        tax_minor=0,
        total_minor=invoice["total_minor"],
        lines=tuple(_line_told(line) for line in lines),
        stripe_invoice_id=invoice["stripe_invoice_id"],
        finalized_at=invoice["finalized_at"] if invoice["dated"] else None,
    )


def _line_told(line: Row) -> InvoiceLine:
    return InvoiceLine(
        line_id=line["id"],
        kind=line["kind"],
        description=line["description"],
        amount_minor=line["amount_minor"],
        meter=line["meter"],
        quantity=line["quantity"],
        period_from=line["period_from"],
        period_to=line["period_to"],
    )


async def settle(tx: Tx, before: Row, fact: StripeInvoiceChanged, at: datetime) -> None:
    """Take the state of a final invoice, and tell what changed by it.

    Args:
        before: the invoice as it was before this state was taken.
    """
    invoice = await store.find_invoice(tx, before["id"])
    assert invoice is not None, "it became final just now, or before"
    paid_at = (fact.paid_at or at) if fact.status == "paid" else None
    await store.settle(tx, invoice["id"], fact.status, fact.amount_paid_minor, paid_at)
    unheard_of = before["finalized_at"] is None and fact.status == "void"
    if not unheard_of and before["status"] != "void":
        # Otherwise nobody was told that it is owed, or all of it was taken back.
        await _tell_changes(tx, invoice, fact, at)
    if fact.status == "void" and before["status"] != "void":
        # Also of one that nobody was told of: it may have used credit as a draft.
        await credit.give_back(tx, invoice["id"])
    if fact.status == "paid" and invoice["paid_at"] is None:
        customer = await store_customers.find_customer(tx, invoice["customer_id"])
        assert customer is not None, "an invoice refers to its customer"
        paid = InvoicePaid(
            invoice_id=invoice["id"],
            number=fact.number or fact.stripe_invoice_id,
            customer_id=invoice["customer_id"],
            currency=invoice["currency"],
            paid_minor=fact.amount_paid_minor,
            stripe_invoice_id=invoice["stripe_invoice_id"],
            billed_by=customer["billed_by"],
        )
        emit(tx, paid, effective_at=at)


async def _tell_changes(tx: Tx, invoice: Row, fact: StripeInvoiceChanged, at: datetime) -> None:
    """Tell what was taken back of an invoice, given up, or is owed again."""
    credited_minor, written_off_minor = fact.credited_minor, _given_up(invoice, fact)
    if fact.status != "void" and (credited_minor, written_off_minor) == (
        invoice["credited_minor"],
        invoice["written_off_minor"],
    ):
        return
    telling = Telling(tx, await as_told(tx, invoice), invoice["told_since_final"], at)
    telling.credited(invoice["credited_minor"], credited_minor)
    telling.written_off(invoice["written_off_minor"], written_off_minor)
    if fact.status == "void":
        telling.tell(InvoiceVoided, credited_minor=credited_minor)
    await store.note_told(
        tx,
        invoice["id"],
        credited_minor=credited_minor,
        written_off_minor=written_off_minor,
        sequence=telling.sequence,
    )


def _given_up(invoice: Row, fact: StripeInvoiceChanged) -> int:
    """What nobody expects to be paid any more: what is open of an uncollectible invoice."""
    if fact.status != "uncollectible":
        return 0
    open_minor: int = invoice["total_minor"] - fact.amount_paid_minor - fact.credited_minor
    return max(0, open_minor)


@dataclass
class Telling:
    """What is told of one final invoice, numbered.

    Attributes:
        sequence: of the last that was told.
    """

    tx: Tx
    final: InvoiceFinalized
    sequence: int
    at: datetime

    def tell(self, kind: type[InvoiceCredited] | type[InvoiceVoided], **said: Any) -> None:
        """Tell a fact that carries the invoice."""
        self.sequence += 1
        self._emit(kind(final=self.final, sequence=self.sequence, **said))

    def credited(self, before_minor: int, now_minor: int) -> None:
        """Credit notes took back more than before, or less."""
        if now_minor != before_minor:
            self.tell(InvoiceCredited, credited_before_minor=before_minor, credited_minor=now_minor)

    def written_off(self, before_minor: int, now_minor: int) -> None:
        """More is given up than before, or some of it is owed again."""
        if now_minor == before_minor:
            return
        self.sequence += 1
        kind = InvoiceWrittenOff if now_minor > before_minor else InvoiceRecovered
        self._emit(
            kind(
                invoice_id=self.final.invoice_id,
                number=self.final.number,
                customer_id=self.final.customer_id,
                billed_by=self.final.billed_by,
                currency=self.final.currency,
                sequence=self.sequence,
                amount_minor=abs(now_minor - before_minor),
            )
        )

    def _emit(self, fact: Fact) -> None:
        emit(self.tx, fact, effective_at=self.at)
