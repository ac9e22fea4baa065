"""Revenue that was invoiced in advance, recognized month by month as its time passes.

A final invoice enters its deferred lines here, in the transaction that books it. A job finds the
months that are over by the tenant's business clock, and tells `RecognizeRevenue` of each, once; what
reads that books it like any other fact. A credit note or a void makes a new revision of the line: the
months told so far are put right by their differences, and the rest follows with the new amounts.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import date, datetime, timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.billing import InvoiceCredited, InvoiceFinalized, InvoiceVoided
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import RecognizeRevenue
from libs.db.pool import Database, Row, Tx
from libs.messaging.apply import Delivery
from libs.messaging.outbox import emit
from libs.observability.metrics import JOB_ITEMS_FAILED_TOTAL
from services.ledger import store_recognition as store
from services.ledger.posting import BOOKS
from services.ledger.recognition_periods import credited, days_of, is_deferred, slices
from services.ledger.store_recognition import DueTenant, Recognized, Schedule

log = structlog.get_logger()

LINES_MAX = 200
"""Lines of a tenant in one transaction; each has a month or, where the clock was moved, several."""

MONTHS_MAX = 60
"""Months of a line in one transaction: what is left of a long one has its turn again."""

PUT_OFF = timedelta(minutes=1)

FOLLOWED = (InvoiceFinalized, InvoiceCredited, InvoiceVoided, RecognizeRevenue)
"""Facts that change what is recognized; of others there are many more."""


async def follow(tx: Tx, deliveries: Sequence[Delivery]) -> None:
    """Enter the deferred lines of final invoices, and what becomes of them."""
    opened: list[Schedule] = []
    revised: list[Schedule] = []
    told: list[Recognized] = []
    for delivery in deliveries:
        event = delivery.event
        if type(event.data) not in FOLLOWED:
            continue
        match event.data:
            case InvoiceFinalized():
                opened += _schedules(event, event.data, 0, 0)
            case InvoiceCredited(final=final, sequence=sequence, credited_minor=taken_back):
                revised += _schedules(event, final, sequence, taken_back)
            case InvoiceVoided(final=final, sequence=sequence):
                revised += _schedules(event, final, sequence, None)
            case RecognizeRevenue() as fact:
                told.append(
                    Recognized(
                        event.tenant_id,
                        fact.book,
                        fact.line_id,
                        fact.month,
                        fact.revision,
                        fact.amount_minor,
                    )
                )
    if opened:
        await store.add_schedules(tx, opened)
    for revision in sorted({each.revision for each in revised}):
        await store.revise(tx, [each for each in revised if each.revision == revision])
    if told:
        await store.add_recognized(tx, told)


def _schedules(
    event: Envelope[InvoiceFinalized] | Envelope[InvoiceCredited] | Envelope[InvoiceVoided],
    final: InvoiceFinalized,
    revision: int,
    credited_minor: int | None,
) -> Iterator[Schedule]:
    """The deferred lines of an invoice, by one revision.

    Args:
        credited_minor: what is taken back of the invoice; None: all of it.
    """
    taken_back = credited(final, credited_minor or 0)
    for line in final.lines:
        if not is_deferred(line, final):
            continue
        left = line.amount_minor - taken_back.lines.get(line.line_id, 0)
        first, until = days_of(line)
        (beginning, *_) = slices(line.amount_minor, first, until)
        yield Schedule(
            tenant_id=event.tenant_id,
            book=final.billed_by,
            line_id=line.line_id,
            invoice_id=final.invoice_id,
            kind=line.kind,
            currency=final.currency,
            amount_minor=0 if credited_minor is None else left,
            invoiced_at=final.finalized_at or event.effective_at,
            first_day=first,
            until_day=until,
            revision=revision,
            not_before=event.effective_at,
            next_month=beginning.month,
            due_at=beginning.due_at,
        )


async def recognize_due(database: Database, *, limit: int) -> None:
    """Tell the months that are over, tenant by tenant; a tenant that fails holds up no other."""
    now = utc_now()
    for due in await store.list_due(database, now, limit=limit):
        at = now + due.clock_offset
        try:
            async with _transaction(database, due) as tx:
                await _recognize(tx, at)
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="recognize_revenue").inc()
            log.exception("recognition_failed", tenant_id=str(due.tenant_id))
            async with _transaction(database, due) as tx:
                await store.put_off(tx, at, at + PUT_OFF)


def _transaction(database: Database, due: DueTenant) -> AbstractAsyncContextManager[Tx]:
    return database.tenant(due.tenant_id, due.mode, books=BOOKS)


async def _recognize(tx: Tx, at: datetime) -> None:
    """Tell what is over of the tenant in scope; each line goes on at its next month."""
    rows = await store.lock_due(tx, at, limit=LINES_MAX)
    before = await store.recognized_before(tx, rows)
    facts: list[tuple[RecognizeRevenue, datetime]] = []
    progress: list[tuple[Row, date | None, datetime | None]] = []
    for row in rows:
        left = [
            each
            for each in slices(row["amount_minor"], row["first_day"], row["until_day"])
            if each.month >= row["next_month"]
        ]
        over = [each for each in left if each.due_at <= at][:MONTHS_MAX]
        for each in over:
            difference = each.amount_minor - before.get((row["line_id"], each.month), 0)
            if difference:
                earned_at = max(each.last_instant, row["not_before"])
                facts.append((_fact(row, each.month, difference), earned_at))
        rest = left[len(over) :]
        progress.append((row, rest[0].month, rest[0].due_at) if rest else (row, None, None))
    new = await store.add_recognized(tx, [_recognized(tx, fact) for fact, _ in facts])
    for fact, earned_at in facts:
        if (fact.line_id, fact.month, fact.revision) in new:
            emit(tx, fact, effective_at=earned_at)
    await store.go_on(tx, progress)


def _fact(row: Row, month: date, amount_minor: int) -> RecognizeRevenue:
    return RecognizeRevenue(
        book=row["book"],
        invoice_id=row["invoice_id"],
        line_id=row["line_id"],
        kind=row["kind"],
        month=month,
        revision=row["revision"],
        amount_minor=amount_minor,
        currency=row["currency"],
    )


def _recognized(tx: Tx, fact: RecognizeRevenue) -> Recognized:
    return Recognized(
        tx.tenant_id, fact.book, fact.line_id, fact.month, fact.revision, fact.amount_minor
    )
