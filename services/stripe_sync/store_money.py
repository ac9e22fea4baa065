"""SQL of refunds, disputes and payouts, and of the lists of these and of payments."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from libs.db.pool import Row, Tx

Json = dict[str, Any]
Listed = Literal["payment", "refund", "dispute", "payout"]
"""What is listed, by the names of the tables; each has its id in `<name>_id`."""

_ABOUT = {
    "payment": "customer_id",
    "refund": "payment_id",
    "dispute": "payment_id",
    "payout": "payout_id",
}


async def refund_row(
    tx: Tx, account: str, stripe_refund_id: str, refund_id: UUID | None
) -> UUID | None:
    """The row of a refund, locked.

    Args:
        refund_id: the row that the refund names: it is the one where it has no Stripe id yet.
    """
    found: UUID | None = await tx.fetchval(
        """
        select refund_id from refund where tenant_id = $1 and mode = $2 and account = $3
            and (stripe_refund_id = $4 or (refund_id = $5 and stripe_refund_id is null))
        order by stripe_refund_id = $4 desc nulls last limit 1 for update
        """,
        tx.tenant_id,
        tx.mode,
        account,
        stripe_refund_id,
        refund_id,
    )
    return found


async def write_refund(tx: Tx, refund_id: UUID, refund: Json) -> None:
    """Insert a refund, or bring it up to date."""
    await tx.execute(
        """
        insert into refund as r (tenant_id, mode, refund_id, account, collected_by, customer_id,
            payment_id, stripe_refund_id, stripe_charge_id, stripe_payment_intent_id, status,
            amount_minor, currency, reason, failure_reason, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        on conflict (tenant_id, mode, refund_id) do update set
            payment_id = coalesce(r.payment_id, excluded.payment_id),
            stripe_refund_id = excluded.stripe_refund_id,
            stripe_charge_id = excluded.stripe_charge_id,
            stripe_payment_intent_id = excluded.stripe_payment_intent_id,
            status = excluded.status, amount_minor = excluded.amount_minor,
            reason = coalesce(excluded.reason, r.reason),
            failure_reason = excluded.failure_reason
        """,
        tx.tenant_id,
        tx.mode,
        refund_id,
        refund["account"],
        refund["collected_by"],
        refund["customer_id"],
        refund["payment_id"],
        refund["stripe_refund_id"],
        refund["stripe_charge_id"],
        refund["stripe_payment_intent_id"],
        refund["status"],
        refund["amount_minor"],
        refund["currency"],
        refund["reason"],
        refund["failure_reason"],
        refund["created_at"],
    )


async def write_dispute(tx: Tx, dispute_id: UUID, dispute: Json) -> None:
    """Insert a dispute under this id, or bring the one of the same Stripe id up to date."""
    await tx.execute(
        """
        insert into dispute as d (tenant_id, mode, dispute_id, account, collected_by, customer_id,
            payment_id, stripe_dispute_id, stripe_charge_id, stripe_payment_intent_id, status,
            amount_minor, currency, reason, evidence_due_at, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)
        on conflict (tenant_id, mode, account, stripe_dispute_id) do update set
            payment_id = coalesce(d.payment_id, excluded.payment_id), status = excluded.status,
            amount_minor = excluded.amount_minor, reason = excluded.reason,
            evidence_due_at = excluded.evidence_due_at
        """,
        tx.tenant_id,
        tx.mode,
        dispute_id,
        dispute["account"],
        dispute["collected_by"],
        dispute["customer_id"],
        dispute["payment_id"],
        dispute["stripe_dispute_id"],
        dispute["stripe_charge_id"],
        dispute["stripe_payment_intent_id"],
        dispute["status"],
        dispute["amount_minor"],
        dispute["currency"],
        dispute["reason"],
        dispute["evidence_due_at"],
        dispute["created_at"],
    )


async def write_payout(tx: Tx, payout_id: UUID, payout: Json) -> str | None:
    """Insert a payout under this id, or bring the one of the same Stripe id up to date.

    Returns:
        Its status before.
    """
    before: str | None = await tx.fetchval(
        "select status from payout where tenant_id = $1 and mode = $2 and account = $3 "
        "and stripe_payout_id = $4 for update",
        tx.tenant_id,
        tx.mode,
        payout["account"],
        payout["stripe_payout_id"],
    )
    await tx.execute(
        """
        insert into payout (tenant_id, mode, payout_id, account, collected_by, stripe_payout_id,
            status, amount_minor, currency, arrival_on, automatic, failure_code, failure_message,
            created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        on conflict (tenant_id, mode, account, stripe_payout_id) do update set
            status = excluded.status, arrival_on = excluded.arrival_on,
            failure_code = excluded.failure_code, failure_message = excluded.failure_message
        """,
        tx.tenant_id,
        tx.mode,
        payout_id,
        payout["account"],
        payout["collected_by"],
        payout["stripe_payout_id"],
        payout["status"],
        payout["amount_minor"],
        payout["currency"],
        payout["arrival_on"],
        payout["automatic"],
        payout["failure_code"],
        payout["failure_message"],
        payout["created_at"],
    )
    return before


async def page_of(
    tx: Tx,
    listed: Listed,
    mode: str,
    after: tuple[datetime, UUID] | None,
    limit: int,
    *,
    status: str | None,
    about: UUID | None,
) -> Sequence[Row]:
    """Payments, refunds, disputes or payouts in view, newest first.

    Args:
        about: the payment that refunds and disputes are of, the customer of payments.
    """
    at, row_id = after or (None, None)
    return await tx.fetch(
        f"""
        select * from {listed} where mode = $1
          and ($2::timestamptz is null or (created_at, {listed}_id) < ($2, $3::uuid))
          and ($4::text is null or status = $4) and ($5::uuid is null or {_ABOUT[listed]} = $5)
        order by created_at desc, {listed}_id desc limit $6
        """,  # noqa: S608 - words of our own
        mode,
        at,
        row_id,
        status,
        about,
        limit,
    )


async def find(tx: Tx, listed: Listed, mode: str, row_id: UUID) -> Row | None:
    """One payment, refund, dispute or payout in view."""
    return await tx.fetchrow(
        f"select * from {listed} where mode = $1 and {listed}_id = $2",  # noqa: S608 - likewise
        mode,
        row_id,
    )
