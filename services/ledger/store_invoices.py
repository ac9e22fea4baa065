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
    """An invoice of a tenant in scope that billing says is paid.

    Attributes:
        book: where it belongs; None: that was not told.
    """

    tenant_id: UUID
    invoice_id: UUID
    stripe_invoice_id: str | None
    currency: str
    paid_minor: int
    told_at: datetime
    book: Book | None


@dataclass(frozen=True)
class FinalInvoice:
    """What is due on an invoice of a tenant in scope.

    Attributes:
        sequence: of what was told of it; the highest holds.
    """

    tenant_id: UUID
    invoice_id: UUID
    stripe_invoice_id: str
    due_minor: int
    sequence: int


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
            paid_minor, told_at, book)
        select t, $1, i, s, c, m, a, b
        from unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[],
            $7::timestamptz[], $8::text[]) as u(t, i, s, c, m, a, b)
        on conflict do nothing
        """,
        tx.mode,
        [each.tenant_id for each in invoices],
        [each.invoice_id for each in invoices],
        [each.stripe_invoice_id for each in invoices],
        [each.currency for each in invoices],
        [each.paid_minor for each in invoices],
        [each.told_at for each in invoices],
        [each.book for each in invoices],
    )


async def add_final(tx: Tx, invoices: Sequence[FinalInvoice]) -> None:
    """Keep what is due on invoices, each once here, unless something later was told."""
    await tx.execute(
        """
        insert into final_invoice as known
            (tenant_id, mode, invoice_id, stripe_invoice_id, due_minor, sequence)
        select t, $1, i, s, d, n
        from unnest($2::uuid[], $3::uuid[], $4::text[], $5::bigint[], $6::integer[])
            as u(t, i, s, d, n)
        order by t, i
        on conflict (tenant_id, mode, invoice_id) do update
            set due_minor = excluded.due_minor, sequence = excluded.sequence
            where known.sequence < excluded.sequence
        """,
        tx.mode,
        [each.tenant_id for each in invoices],
        [each.invoice_id for each in invoices],
        [each.stripe_invoice_id for each in invoices],
        [each.due_minor for each in invoices],
        [each.sequence for each in invoices],
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


_BOOKED = """
    select coalesce(sum(y.amount_minor), 0)::bigint as minor,
        coalesce(array_agg(e.id), '{{}}') as entries
    from invoice_payment y
    join journal_entry e on e.tenant_id = y.tenant_id and e.mode = y.mode
        and e.book = y.book and e.source_key = y.source_key
    where y.tenant_id = {of}.tenant_id and y.mode = $1 and y.book = $2
        and y.stripe_invoice_id = {of}.stripe_invoice_id and y.currency = {of}.currency
        and not exists (
            select from journal_entry r where r.tenant_id = e.tenant_id and r.mode = e.mode
                and r.book = e.book and r.reverses = e.id)
"""
"""What is booked of an invoice. A payment counts where its entry stands in the currency of the invoice,
and was not taken back."""

_PAID_OTHERWISE = f"""
    select p.tenant_id, p.invoice_id, p.stripe_invoice_id, p.currency, p.paid_minor, p.told_at,
        booked.minor as booked_minor, booked.entries
    from paid_invoice p
    cross join lateral ({_BOOKED.format(of="p")}) booked
    cross join lateral (
        select exists (
            select from journal_entry i where i.tenant_id = p.tenant_id and i.mode = p.mode
                and i.book = $2 and i.source_key = 'invoice:' || p.invoice_id || ':finalized')
            as is_booked) invoice
    where p.mode = $1 and p.told_at >= $3 and p.told_at < $4
        and ($5::uuid is null or p.tenant_id = $5)
        and (p.paid_minor <> booked.minor or not invoice.is_booked and p.paid_minor > 0)
        and coalesce(p.book = $2, invoice.is_booked)
    order by p.told_at, p.invoice_id limit $6
"""  # noqa: S608 - of our own words only

_UNPAID = f"""
    with seen as (
        select y.tenant_id, y.stripe_invoice_id, y.currency, min(i.moved_at) as paid_at
        from reconciliation_item i
        join invoice_payment y on y.tenant_id = i.entry_tenant_id and y.mode = i.mode
            and y.book = i.book and y.source_key = i.source_key
        where i.tenant_id = $5 and i.mode = $1 and i.reconciliation_id = $6 and i.side = 'ledger'
            and i.book = $2 and i.moved_at >= $3 and i.moved_at < $4
        group by y.tenant_id, y.stripe_invoice_id, y.currency
    )
    select s.stripe_invoice_id, s.currency, s.paid_at, booked.minor as booked_minor, booked.entries
    from seen s
    cross join lateral ({_BOOKED.format(of="s")}) booked
    left join lateral (
        select f.invoice_id, f.due_minor from final_invoice f where f.tenant_id = s.tenant_id
            and f.mode = $1 and f.stripe_invoice_id = s.stripe_invoice_id limit 1) final on true
    where booked.minor > 0 and (final.due_minor is null or booked.minor >= final.due_minor)
        and not exists (
            select from paid_invoice p where p.tenant_id = s.tenant_id and p.mode = $1
                and p.stripe_invoice_id = s.stripe_invoice_id)
        and not exists (
            select from paid_invoice p where p.tenant_id = s.tenant_id and p.mode = $1
                and p.invoice_id = final.invoice_id)
    order by s.paid_at, s.stripe_invoice_id, s.currency limit $7
"""  # noqa: S608 - of our own words only


async def paid_otherwise(
    tx: Tx, run: Run, told_from: datetime, told_before: datetime, limit: int
) -> list[Row]:
    """Paid invoices that are not booked, or whose booked payments do not make what billing says.

    As maintenance, and only invoices of the book of the run. One whose book was not told is known to
    belong there by being booked.

    Args:
        told_from, told_before: when billing said that they are paid.
    """
    return await tx.fetch(
        _PAID_OTHERWISE, run.mode, run.book, told_from, told_before, run.of_tenant, limit
    )


async def paid_and_not_called_so(
    tx: Tx, run: Run, booked_from: datetime, booked_before: datetime, limit: int
) -> list[Row]:
    """Invoices with payments on the run's account that billing should call paid, and does not.

    As maintenance. All that is due came, or what is due was never told. A part of what is due is no
    reason yet.

    Args:
        booked_from, booked_before: when the payments were booked, among what the run gathered.
    """
    return await tx.fetch(
        _UNPAID,
        run.mode,
        run.book,
        booked_from,
        booked_before,
        run.tenant_id,
        run.id,
        limit,
    )
