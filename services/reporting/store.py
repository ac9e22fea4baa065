"""SQL of the read models: taking facts in."""

from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal

from libs.contracts.billing import BilledBy, InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Tx


@dataclass(frozen=True)
class Attempt:
    """An attempt to collect money; see the columns of payment_attempt."""

    account: str
    attempt_key: str
    outcome: Literal["succeeded", "failed"]
    collected_by: BilledBy
    amount_minor: int
    currency: str
    failure_code: str | None
    attempted_at: datetime


async def add_revenue_line(
    tx: Tx, fact: JournalEntryPosted, account: str, currency: str, amount_minor: int, month: date
) -> bool:
    """Enter what a fact earned on an account; False where it is entered already.

    By source key: a fact that is booked again after a restore may be another entry.
    """
    added = await tx.execute(
        """
        insert into revenue_line (tenant_id, mode, book, source_key, entry_id, account, currency,
            amount_minor, month)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        fact.book,
        fact.source_key,
        fact.entry_id,
        account,
        currency,
        amount_minor,
        month,
    )
    return added == 1


async def add_to_month(
    tx: Tx, book: str, month: date, account: str, currency: str, amount_minor: int
) -> None:
    """Add to the sum of a month."""
    await tx.execute(
        """
        insert into revenue_month as known (tenant_id, mode, book, month, currency, account,
            amount_minor)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (tenant_id, mode, book, month, currency, account)
        do update set amount_minor = known.amount_minor + excluded.amount_minor
        """,
        tx.tenant_id,
        tx.mode,
        book,
        month,
        currency,
        account,
        amount_minor,
    )


async def finalize_invoice(tx: Tx, fact: InvoiceFinalized, at: datetime) -> None:
    """Enter an invoice as final, once."""
    await tx.execute(
        """
        insert into invoice as known (tenant_id, mode, id, billed_by, currency, total_minor,
            finalized_at)
        values ($1, $2, $3, $4, $5, $6, $7)
        on conflict (tenant_id, mode, id) do update set billed_by = excluded.billed_by,
            total_minor = excluded.total_minor, finalized_at = excluded.finalized_at
        where known.finalized_at is null
        """,
        tx.tenant_id,
        tx.mode,
        fact.invoice_id,
        fact.billed_by,
        fact.currency,
        fact.total_minor,
        at,
    )


async def pay_invoice(tx: Tx, fact: InvoicePaid, at: datetime) -> None:
    """Enter an invoice as paid, once."""
    await tx.execute(
        """
        insert into invoice as known (tenant_id, mode, id, currency, paid_minor, paid_at)
        values ($1, $2, $3, $4, $5, $6)
        on conflict (tenant_id, mode, id) do update set paid_minor = excluded.paid_minor,
            paid_at = excluded.paid_at
        where known.paid_at is null
        """,
        tx.tenant_id,
        tx.mode,
        fact.invoice_id,
        fact.currency,
        fact.paid_minor,
        at,
    )


async def add_attempt(tx: Tx, attempt: Attempt) -> None:
    """Enter an attempt to collect, once."""
    await tx.execute(
        """
        insert into payment_attempt (tenant_id, mode, account, attempt_key, outcome, collected_by,
            amount_minor, currency, failure_code, attempted_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        attempt.account,
        attempt.attempt_key,
        attempt.outcome,
        attempt.collected_by,
        attempt.amount_minor,
        attempt.currency,
        attempt.failure_code,
        attempt.attempted_at,
    )


async def replace_subscription(tx: Tx, fact: SubscriptionChanged) -> None:
    """Enter a subscription's state, unless a later one is known."""
    await tx.execute(
        """
        insert into subscription as known (tenant_id, mode, id, version, billed_by, plan_key,
            status, currency)
        values ($1, $2, $3, $4, $5, $6, $7, $8)
        on conflict (tenant_id, mode, id) do update set version = excluded.version,
            billed_by = excluded.billed_by, plan_key = excluded.plan_key,
            status = excluded.status, currency = excluded.currency
        where known.version < excluded.version
        """,
        tx.tenant_id,
        tx.mode,
        fact.subscription_id,
        fact.version,
        fact.billed_by,
        fact.plan_key,
        fact.status,
        fact.currency,
    )
