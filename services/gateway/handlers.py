"""What the gateway consumes beside the directory, which the core takes."""

from libs.contracts.billing import CustomerErased
from libs.contracts.envelope import Envelope, Fact
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.gateway import erasure


async def on_customer_erased(event: Envelope[CustomerErased], tx: Tx) -> None:
    """Archived webhooks of the customer say no more who it was."""
    await erasure.forget(tx, event.data)


HANDLERS: dict[type[Fact], Handler] = {CustomerErased: on_customer_erased}
