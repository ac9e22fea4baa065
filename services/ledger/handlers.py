"""One function per consumed event: (event, tx) -> one domain call."""

from collections.abc import Sequence

from libs.contracts.envelope import Envelope, Fact
from libs.contracts.ledger import ReverseEntry
from libs.contracts.stripe_sync import StripeStatement
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Tx
from libs.messaging.apply import Delivery, Handler, Together
from services.ledger import money, posting, reversal, statements
from services.ledger.rules import RULES


async def on_tenant_created(_: Envelope[TenantCreated] | Envelope[TenantWentLive], tx: Tx) -> None:
    """Open the tenant's books of the mode of the event."""
    await posting.open_books(tx)


async def on_money(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Book what was invoiced, paid, moved and given away, all of it in one call."""
    await money.book_facts(tx, deliveries)


async def on_reverse_entry(event: Envelope[ReverseEntry], tx: Tx) -> None:
    """Take an entry back, unless that is done; where it is not booked yet, with it."""
    await reversal.take_command(tx, event)


async def on_statement(event: Envelope[StripeStatement], tx: Tx) -> None:
    """Keep a part of what Stripe itself lists of an account."""
    await statements.take_part(tx, event)


HANDLERS: dict[type[Fact], Handler] = {
    TenantCreated: on_tenant_created,
    TenantWentLive: on_tenant_created,
    **dict.fromkeys(RULES, Together(on_money)),
    ReverseEntry: on_reverse_entry,
    StripeStatement: on_statement,
}
