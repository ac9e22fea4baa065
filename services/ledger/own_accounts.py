"""Accounts that a book opens for itself: typed, for ever, and never by a posting.

The same commit tells `ledger.commands`, so that books that are made of their topics anew have them.
"""

from datetime import datetime

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book, OpenAccount
from libs.db.pool import Cause, Tx
from libs.messaging.outbox import emit
from libs.observability.redaction import redact_text
from services.ledger import chart, store, store_commands, store_reversals
from services.ledger.auditing import tell_change
from services.ledger.chart import Account

OPEN_MAX = 1_000
"""Accounts of its own that a book may have."""


class AccountTakenError(ValueError):
    """The book has this account already, for another purpose."""


class TooManyAccountsError(RuntimeError):
    """The book has as many accounts of its own as it may."""


async def open_account(
    tx: Tx, book: Book, account: Account, *, purpose: str, actor: str, now: datetime
) -> tuple[str, datetime, bool]:
    """Open an account in a book of the tenant in scope: its purpose, since when, whether it is new.

    Raises:
        AccountTakenError: it is there for another purpose.
        TooManyAccountsError: see `OPEN_MAX`.
    """
    purpose = redact_text(purpose)
    await store_reversals.lock_book(tx, book)
    known = await store_commands.find_own_account(tx, book, account.code)
    if known is not None:
        if known["purpose"] != purpose:
            raise AccountTakenError(account.code)
        return purpose, known["opened_at"], False
    if await store_commands.count_own_accounts(tx, book) >= OPEN_MAX:
        raise TooManyAccountsError
    change = ConfigurationChanged(
        action="ledger_account.opened",
        actor=actor,
        object_id=account.code,
        after={"book": book, "purpose": purpose},
    )
    asked = await tell_change(tx, book, change, now=now)
    command = OpenAccount(
        book=book, account=account.code, purpose=purpose, opened_at=now, actor=actor
    )
    emit(tx, command, effective_at=now, cause=Cause(asked.id, asked.correlation_id))
    await _enter(tx, command)
    return purpose, now, True


async def take_command(tx: Tx, event: Envelope[OpenAccount]) -> None:
    """Open an account that is told, unless it is open."""
    await store_reversals.lock_book(tx, event.data.book)
    await _enter(tx, event.data)


async def _enter(tx: Tx, command: OpenAccount) -> None:
    await store.open_accounts(tx, [(tx.tenant_id, command.book, chart.named(command.account))])
    await store_commands.note_own_account(
        tx,
        command.book,
        command.account,
        purpose=command.purpose,
        opened_at=command.opened_at,
        opened_by=command.actor,
    )
