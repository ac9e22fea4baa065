"""Invoices as Stripe makes them and billing completes them.

First and proration invoices are final at Stripe at once and are recorded. A cycle invoice is held
as a draft while its period's usage is rated; then it is completed, finalized and paid at Stripe,
and each step comes back as a newer state of Stripe's invoice.
"""

from datetime import datetime
from uuid import UUID

import structlog

from libs.clock import floor_to_minute
from libs.contracts.stripe_sync import StripeCommandFailed, StripeInvoiceChanged, StripeInvoiceLine
from libs.db.pool import Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.billing import completion, periods, settlement, store_usage, usage
from services.billing import store_invoices as store
from services.billing.store_invoices import NewLine

log = structlog.get_logger()

CYCLE = "subscription_cycle"


class InvoiceTotalMismatchError(RuntimeError):
    """Stripe's invoice and ours do not agree; nothing is booked until somebody has looked."""


async def record(
    tx: Tx, fact: StripeInvoiceChanged, subscription_id: UUID | None, at: datetime
) -> None:
    """Take a newer state of Stripe's invoice.

    Raises:
        InvoiceTotalMismatchError: a final invoice's total or one of our lines differs at Stripe.
    """
    invoice = await store.lock_by_stripe_id(tx, fact.stripe_invoice_id)
    if invoice is None:
        invoice = await store.add_invoice(
            tx,
            new_id(),
            fact,
            subscription_id=subscription_id,
            period_from=floor_to_minute(fact.period_start),
            period_to=floor_to_minute(fact.period_end),
            at=at,
        )
    elif invoice["stripe_version"] >= fact.version:
        return
    else:
        await store.see_version(tx, invoice["id"], fact.version, fact.hosted_invoice_url)
    if fact.status == "draft":
        if invoice["finalized_at"] is None:
            await _take_draft(tx, invoice, fact, at)
        return
    if invoice["finalized_at"] is None:
        await _finalize(tx, invoice, fact, at)
    await settlement.settle(tx, invoice, fact, at)


async def _take_draft(tx: Tx, invoice: Row, fact: StripeInvoiceChanged, at: datetime) -> None:
    """Keep the draft's lines; the first time it is held, ask for its period's usage."""
    await _take_stripe_lines(tx, invoice, fact)
    await store.add_up(tx, invoice["id"])
    await periods.close_told_by_invoice(tx, invoice, at)
    begun = invoice["command_id"] is not None
    if not _ends_a_period(invoice) or not fact.held or begun or invoice["awaits_usage"]:
        return
    if await store_usage.closure_of_invoice(tx, invoice["id"]) is not None:
        return
    await usage.close_period(tx, invoice, at)
    if await usage.is_awaited(tx, invoice):
        await store.await_usage(tx, invoice["id"])
    else:
        await completion.complete(tx, invoice, at)


def _ends_a_period(invoice: Row) -> bool:
    return invoice["reason"] == CYCLE and invoice["subscription_id"] is not None


async def _take_stripe_lines(tx: Tx, invoice: Row, fact: StripeInvoiceChanged) -> None:
    """Stripe's own lines, as they are now; ours are those with a line id."""
    own = [line for line in fact.lines if line.line_id is None]
    await store.drop_stripe_lines_except(tx, invoice["id"], [line.stripe_line_id for line in own])
    lines = [_line_of_stripe(line, position) for position, line in enumerate(own)]
    await store.put_lines(tx, invoice["id"], lines)


def _line_of_stripe(line: StripeInvoiceLine, position: int) -> NewLine:
    return NewLine(
        id=new_id(),
        position=position,
        kind="proration" if line.proration else "flat",
        description=line.description,
        amount_minor=line.amount_minor,
        period_from=line.period_start,
        period_to=line.period_end,
        stripe_line_id=line.stripe_line_id,
    )


async def _finalize(tx: Tx, invoice: Row, fact: StripeInvoiceChanged, at: datetime) -> None:
    """The amounts are final at Stripe: check that ours agree, and say so once."""
    if _ends_a_period(invoice) and invoice["command_id"] is None:
        await _leave_alone(tx, invoice, at)
    await _take_stripe_lines(tx, invoice, fact)
    await periods.close_told_by_invoice(tx, invoice, at)
    total = await store.add_up(tx, invoice["id"])
    lines = await store.lines_of(tx, invoice["id"])
    _refuse_mismatch(invoice, fact, total, lines)
    number = fact.number or fact.stripe_invoice_id
    final = await store.finalize(tx, invoice["id"], number, fact.finalized_at or at)
    if fact.status == "void":
        # Finalized and voided before we looked: nobody ever owed it.
        return
    emit(tx, await settlement.as_told(tx, final), effective_at=at)


async def _leave_alone(tx: Tx, invoice: Row, at: datetime) -> None:
    """Stripe finalized a draft before it was completed: its usage goes on the next invoice."""
    log.error("draft_finalized_before_completed", object_id=invoice["stripe_invoice_id"])
    if await store_usage.closure_of_invoice(tx, invoice["id"]) is None:
        await usage.close_period(tx, invoice, at)


def _refuse_mismatch(
    invoice: Row, fact: StripeInvoiceChanged, total: int, lines: list[Row]
) -> None:
    ours = {line["id"]: line["amount_minor"] for line in lines}
    strange = [
        line.stripe_line_id
        for line in fact.lines
        if line.line_id is not None and ours.get(line.line_id) != line.amount_minor
    ]
    if total == fact.total_minor and not strange and invoice["currency"] == fact.currency:
        return
    log.error(
        "invoice_total_mismatch",
        object_id=fact.stripe_invoice_id,
        stripe_total_minor=fact.total_minor,
        total_minor=total,
        lines=strange,
    )
    raise InvoiceTotalMismatchError(
        f"{fact.stripe_invoice_id}: {fact.total_minor} at Stripe, {total} by its lines here"
    )


async def note_failure(tx: Tx, fact: StripeCommandFailed) -> None:
    """Stripe refused to complete a draft for good: shown on the invoice until somebody acts."""
    if await store.set_completion_error(tx, fact.command_id, fact.code):
        log.error("invoice_completion_failed", command_id=str(fact.command_id), code=fact.code)


async def find_invoice(tx: Tx, invoice_id: UUID) -> tuple[Row, list[Row]] | None:
    """An invoice and its lines."""
    invoice = await store.find_invoice(tx, invoice_id)
    return None if invoice is None else (invoice, await store.lines_of(tx, invoice_id))


async def list_invoices(
    tx: Tx, *, status: str | None, subscription_id: UUID | None, before: UUID | None, limit: int
) -> list[Row]:
    """Invoices, newest first."""
    return await store.list_invoices(
        tx, status=status, subscription_id=subscription_id, before=before, limit=limit
    )
