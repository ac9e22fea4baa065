"""SQL of the read models: taking facts in."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal
from uuid import UUID

from libs.contracts.billing import BilledBy, InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.db.pool import Tx


@dataclass(frozen=True)
class RevenueLine:
    """What a fact earned on an account; see the columns of revenue_line."""

    tenant_id: UUID
    book: str
    source_key: str
    entry_id: UUID
    account: str
    currency: str
    amount_minor: int
    month: date


@dataclass(frozen=True)
class Attempt:
    """An attempt to collect money; see the columns of payment_attempt."""

    tenant_id: UUID
    account: str
    attempt_key: str
    outcome: Literal["succeeded", "failed"]
    collected_by: BilledBy
    amount_minor: int
    currency: str
    failure_code: str | None
    attempted_at: datetime


async def add_revenue(tx: Tx, lines: Sequence[RevenueLine]) -> None:
    """Enter what facts earned, and add to the sums of months what was not entered before.

    By source key: a fact that is booked again after a restore may be another entry.
    """
    await tx.execute(
        """
        with added as (
            insert into revenue_line (tenant_id, mode, book, source_key, entry_id, account, currency,
                amount_minor, month)
            select t, $1, b, s, e, a, c, m, d
            from unnest($2::uuid[], $3::text[], $4::text[], $5::uuid[], $6::text[], $7::text[],
                $8::bigint[], $9::date[]) with ordinality as u(t, b, s, e, a, c, m, d, n)
            order by n
            on conflict do nothing
            returning tenant_id, book, month, currency, account, amount_minor)
        insert into revenue_month as known (tenant_id, mode, book, month, currency, account,
            amount_minor)
        select tenant_id, $1, book, month, currency, account, sum(amount_minor)
        from added group by tenant_id, book, month, currency, account
        order by tenant_id, book, month, currency, account
        on conflict (tenant_id, mode, book, month, currency, account)
        do update set amount_minor = known.amount_minor + excluded.amount_minor
        """,
        tx.mode,
        [line.tenant_id for line in lines],
        [line.book for line in lines],
        [line.source_key for line in lines],
        [line.entry_id for line in lines],
        [line.account for line in lines],
        [line.currency for line in lines],
        [line.amount_minor for line in lines],
        [line.month for line in lines],
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


async def add_attempts(tx: Tx, attempts: Sequence[Attempt]) -> None:
    """Enter attempts to collect, each once."""
    await tx.execute(
        """
        insert into payment_attempt (tenant_id, mode, account, attempt_key, outcome, collected_by,
            amount_minor, currency, failure_code, attempted_at)
        select t, $1, a, k, o, b, m, c, f, d
        from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[],
            $8::text[], $9::text[], $10::timestamptz[])
            with ordinality as u(t, a, k, o, b, m, c, f, d, n)
        order by n on conflict do nothing
        """,
        tx.mode,
        [attempt.tenant_id for attempt in attempts],
        [attempt.account for attempt in attempts],
        [attempt.attempt_key for attempt in attempts],
        [attempt.outcome for attempt in attempts],
        [attempt.collected_by for attempt in attempts],
        [attempt.amount_minor for attempt in attempts],
        [attempt.currency for attempt in attempts],
        [attempt.failure_code for attempt in attempts],
        [attempt.attempted_at for attempt in attempts],
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
