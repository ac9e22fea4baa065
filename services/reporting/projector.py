"""From facts to read models: what each fact changes in what reports show."""

from collections import defaultdict
from datetime import date, datetime

from libs.contracts.billing import InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, PaymentFailed, PaymentSucceeded
from libs.db.pool import Tx
from services.reporting import store
from services.reporting.store import Attempt

REVENUE_PREFIX = "revenue:"


def month_of(at: datetime) -> date:
    """The first day of the month (UTC) that a time belongs to."""
    return at.date().replace(day=1)


def revenue_of(fact: JournalEntryPosted) -> dict[tuple[str, str], int]:
    """Credits less debits of an entry's revenue accounts, by account and currency."""
    earned: dict[tuple[str, str], int] = defaultdict(int)
    for line in fact.postings:
        if line.account.startswith(REVENUE_PREFIX):
            signed = line.amount_minor if line.side == "credit" else -line.amount_minor
            earned[line.account, line.currency] += signed
    return dict(earned)


async def count_revenue(tx: Tx, fact: JournalEntryPosted, effective_at: datetime) -> None:
    """Add what an entry earned to the month it is effective in, once for each source key."""
    month = month_of(effective_at)
    for (account, currency), amount_minor in sorted(revenue_of(fact).items()):
        if await store.add_revenue_line(tx, fact, account, currency, amount_minor, month):
            await store.add_to_month(tx, fact.book, month, account, currency, amount_minor)


async def finalize_invoice(tx: Tx, fact: InvoiceFinalized, at: datetime) -> None:
    """An invoice is open from now on, until it is paid."""
    await store.finalize_invoice(tx, fact, at)


async def pay_invoice(tx: Tx, fact: InvoicePaid, at: datetime) -> None:
    """An invoice is paid."""
    await store.pay_invoice(tx, fact, at)


async def change_subscription(tx: Tx, fact: SubscriptionChanged) -> None:
    """A subscription has a new state."""
    await store.replace_subscription(tx, fact)


async def count_success(tx: Tx, fact: PaymentSucceeded) -> None:
    """An attempt to collect succeeded."""
    await store.add_attempt(
        tx,
        Attempt(
            account=fact.account,
            attempt_key=fact.stripe_charge_id,
            outcome="succeeded",
            collected_by=fact.collected_by,
            amount_minor=fact.amount_minor,
            currency=fact.currency,
            failure_code=None,
            attempted_at=fact.paid_at,
        ),
    )


async def count_failure(tx: Tx, fact: PaymentFailed) -> None:
    """An attempt to collect failed."""
    await store.add_attempt(
        tx,
        Attempt(
            account=fact.account,
            attempt_key=fact.attempt_key,
            outcome="failed",
            collected_by="platform" if fact.account == PLATFORM_ACCOUNT else "tenant",
            amount_minor=fact.amount_minor,
            currency=fact.currency,
            failure_code=fact.failure_code,
            attempted_at=fact.failed_at,
        ),
    )
