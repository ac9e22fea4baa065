"""Completing a cycle invoice: usage lines, corrections of earlier periods, credit, then Stripe.

Stripe's draft holds the flat fee as Stripe's own line. Only what Stripe does not have goes into the
command: usage lines and the credit line. So the fee is billed once.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import structlog

from libs.contracts.billing import CommandLine, CompleteInvoice
from libs.contracts.metering import PeriodUsage
from libs.db.pool import Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from libs.money import Money, format_money
from services.billing import prepaid, store_customers, store_invoices, store_usage, usage
from services.billing.credit import use_credit
from services.billing.rating import plain
from services.billing.store_invoices import NewLine

log = structlog.get_logger()

OWN_LINES_FROM = 10_000
"""Positions from here on are billing's own lines, after Stripe's."""

DUE_CHARGES_MAX = 200
"""Usage lines of one invoice; what is over stays due for the next."""


async def take_usage(tx: Tx, fact: PeriodUsage, at: datetime) -> None:
    """An answer of metering: rate it, and complete what waited for it and waits for no other.

    A later revision changes what is due; the next cycle's invoice corrects it.
    """
    await store_customers.lock_tenant(tx)
    closure = await usage.take(tx, fact)
    if closure is None or not await usage.all_rated(tx, closure):
        return
    waiting = await store_invoices.lock_waiting(tx, closure)
    if not waiting:
        await _note_without_invoice(tx, closure)
    for invoice in waiting:
        if not await usage.is_awaited(tx, invoice):
            await complete(tx, invoice, at)
    await prepaid.renew(tx, fact.customer_id, at)


async def _note_without_invoice(tx: Tx, closure: Row) -> None:
    """Say so where a subscription has ended: its use is due, and there may be no next invoice."""
    subscription = await store_customers.find_subscription(tx, closure["subscription_id"])
    if subscription is not None and subscription["status"] == "canceled":
        log.error("usage_without_invoice", closure_id=str(closure["id"]))


async def complete(tx: Tx, invoice: Row, at: datetime) -> None:
    """Add what is due and have Stripe finalize and collect."""
    stripe_lines = await store_invoices.lines_of(tx, invoice["id"])
    subtotal = sum(line["amount_minor"] for line in stripe_lines)
    lines = await _usage_lines(tx, invoice, subtotal)
    subtotal += sum(line.amount_minor for line in lines)
    credit = await _credit_line(tx, invoice, subtotal, OWN_LINES_FROM + len(lines))
    if credit is not None:
        lines.append(credit)
    await store_invoices.put_lines(tx, invoice["id"], lines)
    await store_invoices.add_up(tx, invoice["id"])
    command_id = new_id()
    await store_invoices.set_command(tx, invoice["id"], command_id)
    command = CompleteInvoice(
        command_id=command_id,
        invoice_id=invoice["id"],
        stripe_invoice_id=invoice["stripe_invoice_id"],
        currency=invoice["currency"],
        lines=tuple(
            CommandLine(
                line_id=line.id,
                description=line.description,
                amount_minor=line.amount_minor,
                period_from=line.period_from,
                period_to=line.period_to,
            )
            for line in lines
        ),
    )
    emit(tx, command, effective_at=at)


async def _usage_lines(tx: Tx, invoice: Row, subtotal: int) -> list[NewLine]:
    """A line per charge that is due; the usage of the period itself also when it costs nothing.

    Corrections downwards never take the invoice below zero: what is left over stays due.
    """
    if invoice["subscription_id"] is None:
        return []
    due = await store_usage.lock_due_charges(tx, invoice["subscription_id"], DUE_CHARGES_MAX)
    amounts = share_out([row["rated_minor"] - row["invoiced_minor"] for row in due], subtotal)
    lines: list[NewLine] = []
    for row, amount in zip(due, amounts, strict=True):
        if amount == 0 and row["on_invoice"]:
            continue
        await store_usage.charge_put_on_invoice(
            tx, row["closure_id"], row["meter"], amount, row["quantity"]
        )
        lines.append(_usage_line(row, amount, OWN_LINES_FROM + len(lines), invoice["period_to"]))
    return lines


def share_out(differences: Sequence[int], subtotal: int) -> list[int]:
    """How much of each difference goes on an invoice that must not fall below zero by them."""
    room = max(0, subtotal + sum(amount for amount in differences if amount > 0))
    amounts = []
    for difference in differences:
        amount = max(difference, -room) if difference < 0 else difference
        if amount < 0:
            room += amount
        amounts.append(amount)
    return amounts


def _usage_line(
    charge: Row, amount_minor: int, position: int, invoice_ends_at: datetime
) -> NewLine:
    quantity = charge["quantity"] - charge["invoiced_quantity"]
    description = f"{charge['meter']}: {plain(quantity)}"
    explanation = dict(charge["explanation"])
    start, end = (charge[name].date().isoformat() for name in ("period_from", "period_to"))
    if not charge["on_invoice"] and charge["period_to"] != invoice_ends_at:
        description += f" ({start} to {end})"
    if charge["on_invoice"]:
        description += f" (correction of {start} to {end})"
        explanation["previously_invoiced"] = {
            "amount_minor": charge["invoiced_minor"],
            "quantity": plain(charge["invoiced_quantity"]),
        }
    return NewLine(
        id=new_id(),
        position=position,
        kind="usage",
        description=description,
        amount_minor=amount_minor,
        meter=charge["meter"],
        quantity=quantity,
        period_from=charge["period_from"],
        period_to=charge["period_to"],
        explanation=explanation,
    )


async def _credit_line(tx: Tx, invoice: Row, subtotal: int, position: int) -> NewLine | None:
    """The credit used, as one negative line; none where there is nothing to use or to pay."""
    amount = Money(subtotal, invoice["currency"])
    uses: list[tuple[UUID, int]] = await use_credit(
        tx, invoice["id"], invoice["customer_id"], amount, invoice["period_to"]
    )
    used = sum(taken for _, taken in uses)
    if used == 0:
        return None
    return NewLine(
        id=new_id(),
        position=position,
        kind="credit",
        description=f"Credit used: {format_money(Money(used, invoice['currency']))}",
        amount_minor=-used,
        explanation={
            "grants": [{"grant_id": str(grant), "amount_minor": taken} for grant, taken in uses]
        },
    )
