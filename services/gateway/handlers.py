"""What the gateway consumes beside the directory, which the core takes."""

from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.stripe_sync import StripeEventFound
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.gateway import erasure, found


async def on_customer_erased(event: Envelope[CustomerErased], tx: Tx) -> None:
    """Archived webhooks of the customer say no more who it was."""
    await erasure.forget(tx, event)


async def on_stripe_event_found(event: Envelope[StripeEventFound], tx: Tx) -> None:
    """An event that never arrived is taken in like a webhook."""
    await found.take(tx, event)


HANDLERS: dict[type[Fact], Handler] = {
    CustomerErased: on_customer_erased,
    StripeEventFound: on_stripe_event_found,
}
