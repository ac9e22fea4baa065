"""SQL of payments that never touched Stripe."""

from typing import Any
from uuid import UUID

from libs.contracts.stripe_sync import OUTSIDE
from libs.db.pool import Row, Tx


async def insert(tx: Tx, payment: dict[str, Any]) -> bool:
    """Enter a payment, not yet told; False where the customer has one of this reference."""
    inserted = await tx.execute(
        """
        insert into payment (tenant_id, mode, payment_id, account, collected_by, customer_id,
            stripe_invoice_id, origin_known, status, amount_minor, currency, description,
            outside_reference, created_at, paid_at)
        values ($1, $2, $3, $4, $5, $6, $7, true, 'UNKNOWN', $8, $9, $10, $10, $11, $12)
        on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        payment["payment_id"],
        OUTSIDE,
        payment["collected_by"],
        payment["customer_id"],
        payment["stripe_invoice_id"],
        payment["amount_minor"],
        payment["currency"],
        payment["reference"],
        payment["created_at"],
        payment["paid_at"],
    )
    return inserted == 1


async def find_recorded(tx: Tx, customer_id: UUID, reference: str) -> UUID | None:
    """The payment of a customer that was recorded under a reference."""
    found: UUID | None = await tx.fetchval(
        "select payment_id from payment where tenant_id = $1 and mode = $2 and customer_id = $3 "
        "and outside_reference = $4 and account = $5",
        tx.tenant_id,
        tx.mode,
        customer_id,
        reference,
        OUTSIDE,
    )
    return found


async def complete(tx: Tx, payment_id: UUID, *, keeps_invoice: bool) -> Row | None:
    """The payment stands; None where it stood before."""
    return await tx.fetchrow(
        """
        update payment set status = 'COMPLETED',
            stripe_invoice_id = case when $5 then stripe_invoice_id end
        where tenant_id = $1 and mode = $2 and payment_id = $3 and account = $4
            and status = 'UNKNOWN'
        returning payment_id, collected_by, customer_id, stripe_invoice_id, amount_minor, currency,
            outside_reference as reference, paid_at
        """,
        tx.tenant_id,
        tx.mode,
        payment_id,
        OUTSIDE,
        keeps_invoice,
    )
