"""SQL of what was paid of invoices, as billing says and as the books have it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from libs.contracts.ledger import Book
from libs.db import arrays
from libs.db.pool import Row, Tx
from services.ledger.store_matching import Run


@dataclass(frozen=True)
class PaidInvoice:
    """An invoice of a tenant in scope that billing says is paid."""

    tenant_id: UUID
    invoice_id: UUID
    stripe_invoice_id: str | None
    currency: str
    paid_minor: int
    told_at: datetime


class InvoicePayment(msgspec.Struct, frozen=True, gc=False):
    """A payment that says which invoice it pays; its entry has the source key."""

    tenant_id: UUID
    book: Book
    source_key: str
    stripe_invoice_id: str
    currency: str
    amount_minor: int


async def add_paid(tx: Tx, invoices: Sequence[PaidInvoice]) -> None:
    """Keep what is said of invoices, once each."""
    await tx.execute(
        """
        insert into paid_invoice (tenant_id, mode, invoice_id, stripe_invoice_id, currency,
            paid_minor, told_at)
        select t, $1, i, s, c, m, a
        from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[],
            $7::timestamptz[]) as u(t, i, s, c, m, a)
        on conflict do nothing
        """,
        tx.mode,
        [each.tenant_id for each in invoices],
        [each.invoice_id for each in invoices],
        [each.stripe_invoice_id for each in invoices],
        [each.currency for each in invoices],
        [each.paid_minor for each in invoices],
        [each.told_at for each in invoices],
    )


_ADD_PAYMENTS = """
insert into invoice_payment (tenant_id, mode, book, source_key, stripe_invoice_id, currency,
    amount_minor)
select t, $1, b, k, s, c, m
from unnest($2::text::uuid[], $3::text::text[], $4::text::text[], $5::text::text[],
    $6::text::text[], $7::text::bigint[]) as u(t, b, k, s, c, m)
"""
_ADD_UNKNOWN_PAYMENTS = f"{_ADD_PAYMENTS} on conflict do nothing"


async def add_payments(tx: Tx, payments: Sequence[InvoicePayment], *, booked_now: bool) -> None:
    """Keep which invoices payments pay, once each.

    Args:
        booked_now: their entries were booked in this transaction, so none of them is kept yet. To look
            for each takes as long again as to keep it.
    """
    await tx.execute(
        _ADD_PAYMENTS if booked_now else _ADD_UNKNOWN_PAYMENTS,
        tx.mode,
        arrays.uuids(each.tenant_id for each in payments),
        arrays.texts(each.book for each in payments),
        arrays.texts(each.source_key for each in payments),
        arrays.texts(each.stripe_invoice_id for each in payments),
        arrays.texts(each.currency for each in payments),
        arrays.numbers(each.amount_minor for each in payments),
    )


async def paid_otherwise(
    tx: Tx, run: Run, told_from: datetime, told_before: datetime, limit: int
) -> list[Row]:
    """Paid invoices whose booked payments do not make what billing says; as maintenance.

    Only invoices in the book of the run. A payment counts where its entry stands in the currency of
    the invoice, and was not taken back.

    Args:
        told_from, told_before: when billing said that they are paid.
    """
    return await tx.fetch(
        """
        select p.tenant_id, p.invoice_id, p.stripe_invoice_id, p.currency, p.paid_minor, p.told_at,
            booked.minor as booked_minor, booked.entries
        from paid_invoice p
        cross join lateral (
            select coalesce(sum(y.amount_minor), 0)::bigint as minor,
                coalesce(array_agg(e.id), '{}') as entries
            from invoice_payment y
            join journal_entry e on e.tenant_id = y.tenant_id and e.mode = y.mode
                and e.book = y.book and e.source_key = y.source_key
            where y.tenant_id = p.tenant_id and y.mode = p.mode and y.book = $2
                and y.stripe_invoice_id = p.stripe_invoice_id and y.currency = p.currency
                and not exists (
                    select from journal_entry r where r.tenant_id = e.tenant_id and r.mode = e.mode
                        and r.book = e.book and r.reverses = e.id)) booked
        where p.mode = $1 and p.told_at >= $3 and p.told_at < $4
            and ($5::uuid is null or p.tenant_id = $5)
            and p.paid_minor <> booked.minor
            and exists (
                select from journal_entry i where i.tenant_id = p.tenant_id and i.mode = p.mode
                    and i.book = $2 and i.source_key = 'invoice:' || p.invoice_id || ':finalized')
        order by p.told_at, p.invoice_id limit $6
        """,
        run.mode,
        run.book,
        told_from,
        told_before,
        run.of_tenant,
        limit,
    )
