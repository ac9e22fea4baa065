"""Final invoices with a date and periods, and what is told of them later."""

from datetime import UTC, datetime
from typing import Any

from libs.contracts.billing import (
    InvoiceCredited,
    InvoiceFinalized,
    InvoiceLine,
    InvoiceRecovered,
    InvoiceVoided,
    InvoiceWrittenOff,
)
from libs.ids import new_id
from services.ledger.entries import Entry


def at(text: str) -> datetime:
    """A time (UTC), from `2031-01-15` or `2031-01-15T12:00`."""
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def line(kind: Any, amount_minor: int, since: str | None = None, to: str | None = None) -> Any:
    """A line of an invoice, with the time it is for."""
    return InvoiceLine(
        line_id=new_id(),
        kind=kind,
        description=kind,
        amount_minor=amount_minor,
        period_from=at(since) if since else None,
        period_to=at(to) if to else None,
    )


def final(
    *lines: InvoiceLine,
    date: str | None,
    credits_minor: int = 0,
    tax_minor: int = 0,
    **changes: Any,
) -> InvoiceFinalized:
    """An invoice of these lines; the credit it uses is a line of its own.

    Args:
        date: of the invoice; None as it was told by releases that knew none.
    """
    subtotal = sum(each.amount_minor for each in lines)
    used = (line("credit", -credits_minor),) if credits_minor else ()
    members: dict[str, Any] = {
        "invoice_id": new_id(),
        "number": "ACME-1",
        "customer_id": new_id(),
        "subscription_id": None,
        "billed_by": "platform",
        "currency": "EUR",
        "subtotal_minor": subtotal,
        "credits_applied_minor": credits_minor,
        "tax_minor": tax_minor,
        "total_minor": subtotal - credits_minor + tax_minor,
        "lines": (*lines, *used),
        "finalized_at": at(date) if date else None,
    }
    return InvoiceFinalized(**(members | changes))


def credited(
    invoice: InvoiceFinalized, credited_minor: int, before_minor: int = 0, *, sequence: int = 1
) -> InvoiceCredited:
    """Credit notes of so much in all."""
    return InvoiceCredited(
        final=invoice,
        sequence=sequence,
        credited_before_minor=before_minor,
        credited_minor=credited_minor,
    )


def voided(
    invoice: InvoiceFinalized, credited_minor: int = 0, *, sequence: int = 2
) -> InvoiceVoided:
    """The invoice was never owed."""
    return InvoiceVoided(final=invoice, sequence=sequence, credited_minor=credited_minor)


def about(
    kind: type[InvoiceWrittenOff] | type[InvoiceRecovered], amount_minor: int, sequence: int = 1
) -> Any:
    """So much of an invoice is written off, or owed again."""
    return kind(
        invoice_id=new_id(),
        number="ACME-1",
        customer_id=new_id(),
        billed_by="platform",
        currency="EUR",
        sequence=sequence,
        amount_minor=amount_minor,
    )


def moved(made: Entry | None) -> dict[str, int]:
    """Debits less credits of an entry by `account currency`, without zeros."""
    net: dict[str, int] = {}
    for each in made.lines if made else ():
        name = f"{each.account.code} {each.currency}"
        signed = each.amount_minor if each.side == "debit" else -each.amount_minor
        net[name] = net.get(name, 0) + signed
    return {name: amount for name, amount in net.items() if amount}


def added(*entries: Entry | None) -> dict[str, int]:
    """What several entries come to."""
    net: dict[str, int] = {}
    for made in entries:
        for name, amount in moved(made).items():
            net[name] = net.get(name, 0) + amount
    return {name: amount for name, amount in net.items() if amount}
