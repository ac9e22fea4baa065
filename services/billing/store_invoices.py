"""SQL of invoices and their lines."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.contracts.stripe_sync import StripeInvoiceChanged
from libs.db.pool import Row, Tx

INVOICE = (
    "id, customer_id, subscription_id, stripe_subscription_id, stripe_invoice_id, stripe_version, "
    "reason, status, number, currency, period_from, period_to, total_minor, paid_minor, "
    "hosted_invoice_url, command_id, completion_error, finalized_at, paid_at, created_at, "
    "credited_minor, written_off_minor, told_since_final, dated, awaits_usage"
)
WAITS_FOR = (
    "status = 'draft' and command_id is null and (id = $3 or (awaits_usage "
    "and subscription_id = $4 and period_to >= $5))"
)
LINE = (
    "id, invoice_id, position, kind, description, amount_minor, meter, quantity, period_from, "
    "period_to, stripe_line_id, explanation"
)


@dataclass(frozen=True)
class NewLine:
    """A line to enter; see the columns of invoice_line."""

    id: UUID
    position: int
    kind: str
    description: str
    amount_minor: int
    meter: str | None = None
    quantity: Decimal | None = None
    period_from: datetime | None = None
    period_to: datetime | None = None
    stripe_line_id: str | None = None
    explanation: dict[str, Any] | None = None


async def add_invoice(
    tx: Tx,
    invoice_id: UUID,
    fact: StripeInvoiceChanged,
    *,
    subscription_id: UUID | None,
    period_from: datetime,
    period_to: datetime,
    at: datetime,
) -> Row:
    """Enter an invoice as a draft."""
    row = await tx.fetchrow(
        f"""
        insert into invoice (tenant_id, mode, id, customer_id, subscription_id,
            stripe_subscription_id, stripe_invoice_id, stripe_version, reason, status, currency,
            period_from, period_to, hosted_invoice_url, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'draft', $10, $11, $12, $13, $14)
        returning {INVOICE}
        """,  # noqa: S608
        tx.tenant_id,
        tx.mode,
        invoice_id,
        fact.customer_id,
        subscription_id,
        fact.stripe_subscription_id,
        fact.stripe_invoice_id,
        fact.version,
        fact.billing_reason,
        fact.currency,
        period_from,
        period_to,
        fact.hosted_invoice_url,
        at,
    )
    assert row is not None, "an insert returns its row"
    return row


async def see_version(
    tx: Tx, invoice_id: UUID, version: int, hosted_invoice_url: str | None
) -> None:
    """Note which version of Stripe's invoice was taken."""
    await tx.execute(
        "update invoice set stripe_version = $4, hosted_invoice_url = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        version,
        hosted_invoice_url,
    )


async def lock_by_stripe_id(tx: Tx, stripe_invoice_id: str) -> Row | None:
    """The invoice that is this one at Stripe, locked."""
    return await tx.fetchrow(
        f"select {INVOICE} from invoice "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and stripe_invoice_id = $3 for update",
        tx.tenant_id,
        tx.mode,
        stripe_invoice_id,
    )


async def lock_invoice(tx: Tx, invoice_id: UUID) -> Row:
    """An invoice that exists, locked."""
    row = await tx.fetchrow(
        f"select {INVOICE} from invoice "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and id = $3 for update",
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )
    assert row is not None, "the caller holds a reference to it"
    return row


async def find_invoice(tx: Tx, invoice_id: UUID) -> Row | None:
    """An invoice by id."""
    return await tx.fetchrow(
        f"select {INVOICE} from invoice where tenant_id = $1 and mode = $2 and id = $3",  # noqa: S608
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )


async def list_invoices(
    tx: Tx,
    *,
    status: str | None,
    subscription_id: UUID | None,
    before: UUID | None,
    limit: int,
) -> list[Row]:
    """Invoices, newest first."""
    return await tx.fetch(
        f"select {INVOICE} from invoice where tenant_id = $1 and mode = $2 "  # noqa: S608
        "and ($3::text is null or status = $3) "
        "and ($4::uuid is null or subscription_id = $4) "
        "and ($5::uuid is null or id < $5) order by id desc limit $6",
        tx.tenant_id,
        tx.mode,
        status,
        subscription_id,
        before,
        limit,
    )


async def lines_of(tx: Tx, invoice_id: UUID) -> list[Row]:
    """The lines of an invoice in their order."""
    return await tx.fetch(
        f"select {LINE} from invoice_line "  # noqa: S608
        "where tenant_id = $1 and mode = $2 and invoice_id = $3 order by position, id",
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )


async def put_lines(tx: Tx, invoice_id: UUID, lines: Sequence[NewLine]) -> None:
    """Enter lines; one that Stripe has and is known already is brought up to date."""
    await tx.executemany(
        "insert into invoice_line (tenant_id, mode, invoice_id, id, position, kind, description, "
        "amount_minor, meter, quantity, period_from, period_to, stripe_line_id, explanation) "
        "values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) "
        "on conflict (tenant_id, mode, invoice_id, stripe_line_id) do update set "
        "position = excluded.position, kind = excluded.kind, description = excluded.description, "
        "amount_minor = excluded.amount_minor, period_from = excluded.period_from, "
        "period_to = excluded.period_to",
        [
            (
                tx.tenant_id,
                tx.mode,
                invoice_id,
                line.id,
                line.position,
                line.kind,
                line.description,
                line.amount_minor,
                line.meter,
                line.quantity,
                line.period_from,
                line.period_to,
                line.stripe_line_id,
                line.explanation,
            )
            for line in lines
        ],
    )


async def drop_stripe_lines_except(tx: Tx, invoice_id: UUID, kept: Sequence[str]) -> None:
    """Take out lines of Stripe's that a draft has no more."""
    await tx.execute(
        "delete from invoice_line where tenant_id = $1 and mode = $2 and invoice_id = $3 "
        "and stripe_line_id is not null and stripe_line_id <> all($4::text[])",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        list(kept),
    )


async def add_up(tx: Tx, invoice_id: UUID) -> int:
    """Set the total to the sum of the lines; the total."""
    total: int = await tx.fetchval(
        "update invoice set total_minor = (select coalesce(sum(amount_minor), 0) from invoice_line l "
        "where l.tenant_id = $1 and l.mode = $2 and l.invoice_id = $3) "
        "where tenant_id = $1 and mode = $2 and id = $3 returning total_minor",
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )
    return total


async def set_command(tx: Tx, invoice_id: UUID, command_id: UUID) -> None:
    """The request to complete this invoice has been made."""
    await tx.execute(
        "update invoice set command_id = $4, completion_error = null, awaits_usage = false "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        command_id,
    )


async def set_completion_error(tx: Tx, command_id: UUID, error: str) -> bool:
    """Note why a draft could not be completed; False where no draft waits for this command."""
    changed = await tx.execute(
        "update invoice set completion_error = $4 "
        "where tenant_id = $1 and mode = $2 and command_id = $3 and status = 'draft'",
        tx.tenant_id,
        tx.mode,
        command_id,
        error,
    )
    return changed == 1


async def await_usage(tx: Tx, invoice_id: UUID) -> None:
    """A draft is completed when what it is to bill has been counted."""
    await tx.execute(
        "update invoice set awaits_usage = true where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
    )


async def lock_waiting(tx: Tx, closure: Row) -> list[Row]:
    """The drafts that wait for the usage of a closed period, locked; oldest period first."""
    return await tx.fetch(
        f"select {INVOICE} from invoice where tenant_id = $1 and mode = $2 and {WAITS_FOR} "  # noqa: S608
        "order by period_to, id for update",
        tx.tenant_id,
        tx.mode,
        closure["invoice_id"],
        closure["subscription_id"],
        closure["period_to"],
    )


async def hold_back(tx: Tx, closure: Row, error: str) -> None:
    """Note why the drafts that wait for a closed period are not completed yet."""
    await tx.execute(
        f"update invoice set completion_error = $6 where tenant_id = $1 and mode = $2 and {WAITS_FOR}",  # noqa: S608
        tx.tenant_id,
        tx.mode,
        closure["invoice_id"],
        closure["subscription_id"],
        closure["period_to"],
        error,
    )


async def finalize(tx: Tx, invoice_id: UUID, number: str, finalized_at: datetime) -> Row:
    """The invoice is final and its date is told: status open until it is settled."""
    row = await tx.fetchrow(
        f"update invoice set status = 'open', number = $4, finalized_at = $5, dated = true, "  # noqa: S608
        "completion_error = null, awaits_usage = false "
        "where tenant_id = $1 and mode = $2 and id = $3 "
        f"returning {INVOICE}",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        number,
        finalized_at,
    )
    assert row is not None, "the caller holds it locked"
    return row


async def settle(
    tx: Tx, invoice_id: UUID, status: str, paid_minor: int, paid_at: datetime | None
) -> None:
    """What became of a final invoice."""
    await tx.execute(
        "update invoice set status = $4, paid_minor = $5, paid_at = coalesce(paid_at, $6) "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        status,
        paid_minor,
        paid_at,
    )


async def note_told(
    tx: Tx, invoice_id: UUID, *, credited_minor: int, written_off_minor: int, sequence: int
) -> None:
    """What was told of a final invoice: the sums as they stand now, and the number of the last fact."""
    await tx.execute(
        "update invoice set credited_minor = $4, written_off_minor = $5, told_since_final = $6 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        invoice_id,
        credited_minor,
        written_off_minor,
        sequence,
    )
