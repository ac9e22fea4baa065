"""From facts to read models: what each fact changes in what reports show."""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date, datetime
from uuid import UUID

from libs.contracts.billing import InvoiceFinalized, InvoicePaid, SubscriptionChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import JournalEntryPosted
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, PaymentFailed, PaymentSucceeded
from libs.db.pool import Tx
from services.reporting import store
from services.reporting.store import Attempt, RevenueLine

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


async def count_revenue(tx: Tx, events: Iterable[Envelope[JournalEntryPosted]]) -> None:
    """Add what entries earned to the months they are effective in, once for each source key."""
    lines = [
        RevenueLine(
            tenant_id=event.tenant_id,
            book=event.data.book,
            source_key=event.data.source_key,
            entry_id=event.data.entry_id,
            account=account,
            currency=currency,
            amount_minor=amount_minor,
            month=month_of(event.effective_at),
        )
        for event in events
        for (account, currency), amount_minor in sorted(revenue_of(event.data).items())
    ]
    if lines:
        await store.add_revenue(tx, lines)


async def finalize_invoice(tx: Tx, fact: InvoiceFinalized, at: datetime) -> None:
    """An invoice is open from now on, until it is paid."""
    await store.finalize_invoice(tx, fact, at)


async def pay_invoice(tx: Tx, fact: InvoicePaid, at: datetime) -> None:
    """An invoice is paid."""
    await store.pay_invoice(tx, fact, at)


async def change_subscription(tx: Tx, fact: SubscriptionChanged) -> None:
    """A subscription has a new state."""
    await store.replace_subscription(tx, fact)


async def count_attempts(
    tx: Tx, events: Iterable[Envelope[PaymentSucceeded] | Envelope[PaymentFailed]]
) -> None:
    """Attempts to collect have come to their ends."""
    await store.add_attempts(tx, [attempt_of(event.tenant_id, event.data) for event in events])


def attempt_of(tenant_id: UUID, fact: PaymentSucceeded | PaymentFailed) -> Attempt:
    """The attempt that a fact tells the end of."""
    if isinstance(fact, PaymentSucceeded):
        return Attempt(
            tenant_id=tenant_id,
            account=fact.account,
            attempt_key=fact.stripe_charge_id,
            outcome="succeeded",
            collected_by=fact.collected_by,
            amount_minor=fact.amount_minor,
            currency=fact.currency,
            failure_code=None,
            attempted_at=fact.paid_at,
        )
    return Attempt(
        tenant_id=tenant_id,
        account=fact.account,
        attempt_key=fact.attempt_key,
        outcome="failed",
        collected_by="platform" if fact.account == PLATFORM_ACCOUNT else "tenant",
        amount_minor=fact.amount_minor,
        currency=fact.currency,
        failure_code=fact.failure_code,
        attempted_at=fact.failed_at,
    )
