"""Credit: money a customer has been given beforehand, used up by its invoices.

The first to expire is used first; what is used never exceeds the grant nor the invoice. The
database holds both: what is used or expired stays within the grant, and an invoice uses a grant once.
"""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import BilledBy, CreditGranted
from libs.db.pool import Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from libs.money import Money
from services.billing import credit_expiry, prepaid
from services.billing import store_credits as store


async def grant_credit(
    tx: Tx,
    customer_id: UUID,
    billed_by: BilledBy,
    amount: Money,
    expires_at: datetime | None,
    at: datetime,
    *,
    actor: str,
) -> UUID:
    """Give a customer credit; the id of the grant."""
    grant_id = new_id()
    await store.add_grant(
        tx,
        grant_id,
        customer_id,
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        expires_at=expires_at,
        at=at,
    )
    fact = CreditGranted(
        grant_id=grant_id,
        customer_id=customer_id,
        billed_by=billed_by,
        amount_minor=amount.amount_minor,
        currency=amount.currency,
        expires_at=expires_at,
    )
    emit(tx, fact, effective_at=at)
    change = ConfigurationChanged(
        action="credit.granted",
        actor=actor,
        object_id=public_id("credit", grant_id),
        after={
            "customer": public_id("customer", customer_id),
            "amount_minor": amount.amount_minor,
            "currency": amount.currency,
            "expires_at": expires_at.isoformat() if expires_at else None,
        },
    )
    emit(tx, change, effective_at=at)
    await prepaid.renew(tx, customer_id, at)
    return grant_id


async def use_credit(
    tx: Tx, invoice_id: UUID, customer_id: UUID, amount: Money, at: datetime
) -> list[tuple[UUID, int]]:
    """Use credit on an invoice, up to `amount`: which grants, and how much of each.

    Args:
        at: business time of the invoice; credit that had expired by then is not used.
    """
    due = amount.amount_minor
    uses: list[tuple[UUID, int]] = []
    if due <= 0:
        return uses
    grants = await store.lock_usable_grants(
        tx, customer_id, amount.currency, at, store.GRANTS_PER_INVOICE_MAX
    )
    for row in grants:
        taken = min(due, row["amount_minor"] - row["used_minor"])
        uses.append((row["id"], taken))
        credit_expiry.take_back(tx, row, taken)
        due -= taken
        if due == 0:
            break
    await store.add_uses(tx, invoice_id, uses)
    return uses


async def give_back(tx: Tx, invoice_id: UUID) -> None:
    """An invoice was voided: what it had used is there again, once; what has expired since will be told."""
    await store.give_back(tx, invoice_id)


async def balances_of(tx: Tx, customer_id: UUID, at: datetime) -> list[Money]:
    """What is left at a business time, one amount per currency ever granted."""
    rows = await store.balances(tx, customer_id, at)
    return [Money(row["amount_minor"], row["currency"]) for row in rows]
