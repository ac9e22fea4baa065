"""What billing knows of a customer as a person, and its erasure (GDPR, articles 15 and 17).

Amounts, numbers and ids stay: the books are kept by law and name nobody.
"""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import CustomerErased
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.billing import store_customers as store


async def erase(tx: Tx, customer_id: UUID, *, actor: str, at: datetime) -> bool:
    """Forget who a customer is, and have every service forget it; False: there is none.

    Once more is as well: what came in since is forgotten too.
    """
    customer: Row | None = await store.find_customer(tx, customer_id)
    if customer is None:
        return False
    await store.forget_customer(tx, customer_id, at)
    stripe_id = customer["stripe_customer_id"]
    fact = CustomerErased(
        customer_id=customer_id, stripe_customer_ids=(stripe_id,) if stripe_id else ()
    )
    emit(tx, fact, effective_at=at)
    change = ConfigurationChanged(
        action="customer.erased", actor=actor, object_id=public_id("customer", customer_id)
    )
    emit(tx, change, effective_at=at)
    return True


async def invoices_of(tx: Tx, customer_id: UUID, limit: int) -> list[Row]:
    """The customer's newest invoices."""
    return await store.list_invoices_of(tx, customer_id, limit)
