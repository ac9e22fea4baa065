"""Bounds of accounts: what a balance may come to, and who is refused beyond it.

Staff and programs that post or hold at once are refused by the database, in the call that would
overrun and under the lock of the book. A fact is not: it has happened, at Stripe or on an invoice,
and topics have no order among each other, so that what uses credit up may be read before what granted
it. It is booked, and the overrun is told and counted for somebody to look at.

For the same reason only accounts that keep what belongs to somebody have bounds and holds: credit of
customers, payments that pay nothing yet, and assets and liabilities that a book opened for itself.
"""

from dataclasses import dataclass
from datetime import datetime

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book
from libs.contracts.ledger_holds import AccountOverrun, BoundAccount
from libs.db.pool import Cause, Database, Tx
from libs.messaging.outbox import emit
from libs.observability.metrics import LEDGER_ACCOUNT_OVERRUNS_TOTAL
from services.ledger import chart, store, store_accounts, store_bounds, store_reversals
from services.ledger.auditing import tell_change
from services.ledger.chart import Account
from services.ledger.store_bounds import OverrunError

__all__ = ["OverrunError"]

KEEPING = frozenset({chart.CUSTOMER_CREDITS.code, chart.UNAPPLIED_PAYMENTS.code})
"""Accounts of the chart that keep what belongs to somebody."""

_FIXED = {account.code: account for account in chart.FIXED}

TOLD_BOOKS_MAX = 100
TOLD_OVERRUNS_MAX = 500


class NoSuchAccountError(LookupError):
    """The book has no such account."""


class NotKeepingError(ValueError):
    """The account keeps nothing that belongs to somebody: it takes no bounds and no holds."""


@dataclass(frozen=True)
class Bounds:
    """What a balance may come to, on the account's normal side; None: anything.

    Attributes:
        min_minor: of what is available: the balance less holds.
        max_minor: of the balance.
    """

    min_minor: int | None
    max_minor: int | None


def keeps(account: Account) -> bool:
    """Whether the account keeps what belongs to somebody."""
    place = account.code.split(":")[1]
    is_own = place in ("own", "own_contra") and account.type in ("asset", "liability")
    return account.code in KEEPING or is_own


async def opened(tx: Tx, book: Book, code: str) -> Account:
    """An account that a book of the tenant in scope has; those that every book has are opened.

    Called with the book locked: who books opens accounts under that lock, and whoever had opened them
    without it would wait for one who waits for them.

    Raises:
        NoSuchAccountError: see there.
    """
    if code in _FIXED:
        await store.open_accounts(tx, [(tx.tenant_id, book, _FIXED[code])])
    elif await store_accounts.find(tx, tx.tenant_id, tx.mode, book, code) is None:
        raise NoSuchAccountError
    return chart.named(code)


async def keeping_account(tx: Tx, book: Book, code: str) -> Account:
    """The same for an account that is to be bounded or held on.

    Raises:
        NoSuchAccountError, NotKeepingError: see there.
    """
    account = await opened(tx, book, code)
    if not keeps(account):
        raise NotKeepingError
    return account


async def put(
    tx: Tx, book: Book, account: str, currency: str, bounds: Bounds, *, actor: str, now: datetime
) -> None:
    """Bound an account of the tenant in scope; what stands on it already stays.

    Raises:
        NoSuchAccountError, NotKeepingError: see there.
    """
    await store_reversals.lock_book(tx, book)
    await keeping_account(tx, book, account)
    known = await store_bounds.find_guard(tx, book, account, currency)
    before = Bounds(known["min_minor"], known["max_minor"]) if known else Bounds(None, None)
    if before == bounds:
        return
    version = known["bounds_version"] + 1 if known else 1
    change = ConfigurationChanged(
        action="ledger_account.bounded",
        actor=actor,
        object_id=f"{book} {account} {currency}",
        before={"min_minor": before.min_minor, "max_minor": before.max_minor},
        after={"min_minor": bounds.min_minor, "max_minor": bounds.max_minor},
    )
    asked = await tell_change(tx, book, change, now=now)
    command = BoundAccount(
        book=book,
        account=account,
        currency=currency,
        min_minor=bounds.min_minor,
        max_minor=bounds.max_minor,
        version=version,
        actor=actor,
    )
    emit(tx, command, effective_at=now, cause=Cause(asked.id, asked.correlation_id))
    await _store(tx, command)


async def take_command(tx: Tx, event: Envelope[BoundAccount]) -> None:
    """Bound an account as it is told, unless it is bounded so or later."""
    await store_reversals.lock_book(tx, event.data.book)
    await _store(tx, event.data)


async def _store(tx: Tx, fact: BoundAccount) -> None:
    await store_bounds.put_bounds(
        tx,
        fact.book,
        fact.account,
        fact.currency,
        min_minor=fact.min_minor,
        max_minor=fact.max_minor,
        version=fact.version,
    )


async def tell_overruns(database: Database, now: datetime) -> None:
    """Tell where facts took accounts beyond their bounds, each once."""
    async with database.maintenance() as tx:
        books = await store_bounds.overrun_books(tx, TOLD_BOOKS_MAX)
    for place in books:
        scope = (place["tenant_id"], place["mode"])
        async with database.tenant(*scope, books=(place["book"],)) as tx:
            for row in await store_bounds.take_overruns(tx, place["book"], now, TOLD_OVERRUNS_MAX):
                emit(tx, AccountOverrun(book=place["book"], **dict(row)), effective_at=now)
                count = LEDGER_ACCOUNT_OVERRUNS_TOTAL.labels(bound=row["bound"]).inc
                tx.after_commit.append(count)
