"""One function per consumed event: (event, tx) -> one domain call."""

from collections.abc import Sequence

from libs.contracts.billing import InvoicePaid
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.ledger import OpenAccount, PostEntry, ReverseEntry
from libs.contracts.ledger_holds import BoundAccount, CaptureHold, HoldAmount, ReleaseHold
from libs.contracts.ledger_periods import ClosePeriod, ReopenPeriod
from libs.contracts.stripe_sync import StripeStatement
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Tx
from libs.messaging.apply import Delivery, Handler, Together
from services.ledger import (
    bounds,
    commands_told,
    holds,
    matching_invoices,
    money,
    own_accounts,
    periods,
    posting,
    recognition,
    reversal,
    statements,
)
from services.ledger.rules import RULES


async def on_tenant_created(_: Envelope[TenantCreated] | Envelope[TenantWentLive], tx: Tx) -> None:
    """Open the tenant's books of the mode of the event."""
    await posting.open_books(tx)


async def on_money(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Book what was invoiced, paid, moved and given away, all of it in one call."""
    booked = await money.book_facts(tx, deliveries)
    await recognition.follow(tx, deliveries)
    await matching_invoices.follow_payments(tx, deliveries, booked)
    await matching_invoices.follow_final(tx, deliveries)


async def on_invoice_paid(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Keep what billing says is paid, to compare it with what is booked."""
    await matching_invoices.follow_invoices(tx, deliveries)


async def on_reverse_entry(event: Envelope[ReverseEntry], tx: Tx) -> None:
    """Take an entry back, unless that is done; where it is not booked yet, with it."""
    await reversal.take_command(tx, event)


async def on_post_entry(deliveries: Sequence[Delivery], tx: Tx) -> None:
    """Book what was asked for, unless that is done, all of it in one call."""
    await commands_told.take_commands(tx, deliveries)


async def on_open_account(event: Envelope[OpenAccount], tx: Tx) -> None:
    """Open an account of a book's own, unless that is done."""
    await own_accounts.take_command(tx, event)


async def on_hold_amount(event: Envelope[HoldAmount], tx: Tx) -> None:
    """Hold an amount, unless it is held."""
    await holds.take_hold(tx, event)


async def on_capture_hold(event: Envelope[CaptureHold], tx: Tx) -> None:
    """Book what was captured of a hold, unless that is done."""
    await holds.take_capture(tx, event)


async def on_release_hold(event: Envelope[ReleaseHold], tx: Tx) -> None:
    """Free what is held, unless that is done."""
    await holds.take_release(tx, event)


async def on_bound_account(event: Envelope[BoundAccount], tx: Tx) -> None:
    """Bound an account, unless it is bounded so or later."""
    await bounds.take_command(tx, event)


async def on_close_period(event: Envelope[ClosePeriod], tx: Tx) -> None:
    """Close a month, unless that is done."""
    await periods.take_close(tx, event)


async def on_reopen_period(event: Envelope[ReopenPeriod], tx: Tx) -> None:
    """Open a month again, unless that is done."""
    await periods.take_reopening(tx, event)


async def on_statement(event: Envelope[StripeStatement], tx: Tx) -> None:
    """Keep a part of what Stripe itself lists of an account."""
    await statements.take_part(tx, event)


HANDLERS: dict[type[Fact], Handler] = {
    TenantCreated: on_tenant_created,
    TenantWentLive: on_tenant_created,
    **dict.fromkeys(RULES, Together(on_money, ahead=money.draft_of)),
    InvoicePaid: Together(on_invoice_paid),
    ReverseEntry: on_reverse_entry,
    PostEntry: Together(on_post_entry),
    OpenAccount: on_open_account,
    HoldAmount: on_hold_amount,
    CaptureHold: on_capture_hold,
    ReleaseHold: on_release_hold,
    BoundAccount: on_bound_account,
    ClosePeriod: on_close_period,
    ReopenPeriod: on_reopen_period,
    StripeStatement: on_statement,
}
