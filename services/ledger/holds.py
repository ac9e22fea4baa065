"""Holds: an amount of an account is set aside, so that nobody else takes it before it is captured.

A hold weighs from the commit that places it: what is available is the balance less what is held.
Capturing books an entry for the whole or a part; the rest stays held or is free again, as whoever
captures says. What is neither captured nor released expires.

All of it happens under the lock of the book, so that a capture, a release and the expiry of one hold
have one order, and the first of them decides. Each is told on `ledger.commands` in its own commit,
for books that are made of their topics anew.
"""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book
from libs.contracts.ledger_holds import CaptureHold, HoldAmount, ReleaseHold
from libs.db.pool import Cause, Database, Row, Tx
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.ledger import bounds, chart, posting, store_bounds, store_commands
from services.ledger import store_holds as holds
from services.ledger import store_reversals as locks
from services.ledger.entries import Entry, Line, entry_id
from services.ledger.reversal import OTHER_SIDE, book_waiting
from services.ledger.store import Booking

CAPTURE_RULE = "hold_captured"
OPEN_HOLDS_MAX = 10_000
"""On one account and currency: whoever holds more forgot to capture or release."""
CAPTURES_MAX = 1_000
"""Of one hold: each adds up those before it while the book is locked."""
HELD_MAX = timedelta(days=366)
EXPIRED_AT_ONCE_MAX = 500
SERVICE = "ledger"
"""Who ends what expires."""


class NoSuchHoldError(LookupError):
    """The books in scope have no such hold."""


class OtherContentError(ValueError):
    """The key was used before with other content."""


class TooManyHoldsError(Exception):
    """So many holds are open on the account that no more are placed."""


class ExpiryError(ValueError):
    """The time to hold until is over already, or too far away."""


class EndedError(Exception):
    """The hold was captured to its end, released, or its time is over; the message says which."""


class AmountError(ValueError):
    """More than is held; the message is what is."""


class SameAccountError(ValueError):
    """What is captured would go where it is."""


class FullAccountError(Exception):
    """So much was booked on an account that only facts may be from now on; the message names it."""


class TooManyCapturesError(Exception):
    """The hold was captured in so many parts that no more are taken."""


@dataclass(frozen=True)
class Wish:
    """What is to be held.

    Attributes:
        key: the business fact it is held for; a book holds it once.
    """

    key: str
    account: str
    currency: str
    amount_minor: int
    expires_at: datetime


@dataclass(frozen=True)
class Capture:
    """What is taken of a hold.

    Attributes:
        key: the business fact it is captured for; a hold is captured for it once.
        to: the account that gets it.
        amount_minor: None is all that is held still.
        rest: whether what is left stays held or is free again.
    """

    key: str
    to: str
    amount_minor: int | None
    rest: Literal["stays", "released"]
    effective_at: datetime


async def place(tx: Tx, book: Book, wish: Wish, *, actor: str, now: datetime) -> tuple[Row, bool]:
    """Hold an amount of an account of the tenant in scope, once; also whether it is held now.

    Raises:
        NoSuchAccountError, NotKeepingError, OtherContentError, ExpiryError, TooManyHoldsError: see
            there.
        OverrunError: so much is not available.
    """
    await locks.lock_book(tx, book)
    await bounds.keeping_account(tx, book, wish.account)
    known = await holds.find_by_key(tx, book, wish.key)
    if known is not None:
        if _wish_of(known) != wish:
            raise OtherContentError
        return known, False
    if not now < wish.expires_at <= now + HELD_MAX:
        raise ExpiryError
    await _expire_on(tx, book, wish, now)
    guard = await store_bounds.find_guard(tx, book, wish.account, wish.currency)
    if guard is not None and guard["open_holds"] >= OPEN_HOLDS_MAX:
        raise TooManyHoldsError
    command = HoldAmount(
        book=book,
        hold_id=new_id(),
        key=wish.key,
        account=wish.account,
        currency=wish.currency,
        amount_minor=wish.amount_minor,
        expires_at=wish.expires_at,
        placed_at=now,
        actor=actor,
    )
    await store_bounds.keep_bounds(tx)
    await _store(tx, command)
    emit(tx, command, effective_at=now)
    return await _read(tx, book, command.hold_id), True


async def capture(
    tx: Tx, hold: Row, wish: Capture, *, actor: str, now: datetime
) -> tuple[UUID, bool]:
    """Take what is held, in whole or in part; the entry that books it, and whether that is new.

    Args:
        hold: as it was found; it is read again under the lock.

    Raises:
        NoSuchAccountError: the book has no account to capture to.
        SameAccountError, OtherContentError, EndedError, AmountError, FullAccountError,
            TooManyCapturesError: see there.
        OverrunError: the account that gets it would pass its maximum.
    """
    book, account = hold["book"], hold["account"]
    await locks.lock_book(tx, book)
    await bounds.opened(tx, book, wish.to)
    if wish.to == account:
        raise SameAccountError
    known = await holds.find_step(tx, book, hold["id"], _capture_key(wish.key))
    if known is not None:
        _refuse_other(known, wish)
        return known["entry_id"], False
    hold = await _read(tx, book, hold["id"])
    _refuse_ended(hold, now)
    amount_minor = wish.amount_minor or hold["remaining_minor"]
    if amount_minor > hold["remaining_minor"]:
        raise AmountError(str(hold["remaining_minor"]))
    await _refuse_full(tx, book, (account, wish.to))
    if await holds.count_captures(tx, book, hold["id"]) >= CAPTURES_MAX:
        raise TooManyCapturesError
    source_key = _source_key(hold["id"], wish.key)
    command = CaptureHold(
        book=book,
        hold_id=hold["id"],
        key=wish.key,
        account=account,
        to=wish.to,
        currency=hold["currency"],
        amount_minor=amount_minor,
        ends=wish.rest == "released",
        entry_id=entry_id(tx.tenant_id, tx.mode, book, source_key, now),
        captured_at=now,
        actor=actor,
    )
    told = emit(tx, command, effective_at=wish.effective_at)
    await store_bounds.keep_bounds(tx, capturing=account)
    await _store_capture(tx, told, Cause(told.id, told.correlation_id))
    return command.entry_id, True


async def release(tx: Tx, hold: Row, *, actor: str, now: datetime) -> Row:
    """Free all that is held still; a hold that was released stays so.

    Raises:
        EndedError: it was captured to its end, or its time is over.
    """
    await locks.lock_book(tx, hold["book"])
    hold = await _read(tx, hold["book"], hold["id"])
    if hold["ended_by"] == "release":
        return hold
    _refuse_ended(hold, now)
    await _end(tx, hold["book"], hold["id"], "release", actor=actor, now=now)
    return await _read(tx, hold["book"], hold["id"])


async def expire(database: Database, now: datetime) -> None:
    """Free what was held too long, of all tenants: the oldest, and not without end."""
    async with database.maintenance() as tx:
        due = await holds.expired(tx, now, EXPIRED_AT_ONCE_MAX)
    due = sorted(due, key=lambda row: (row["tenant_id"], row["mode"], row["book"]))
    for place_of, rows in itertools.groupby(
        due, key=lambda row: (row["tenant_id"], row["mode"], row["book"])
    ):
        tenant_id, mode, book = place_of
        async with database.tenant(tenant_id, mode, books=(book,)) as tx:
            await locks.lock_book(tx, book)
            await _expire(tx, book, [row["id"] for row in rows], now)


async def take_hold(tx: Tx, event: Envelope[HoldAmount]) -> None:
    """Hold what a command tells of, unless it is held: nobody is refused, it was held before."""
    await locks.lock_book(tx, event.data.book)
    await _store(tx, event.data)


async def take_capture(tx: Tx, event: Envelope[CaptureHold]) -> None:
    """Capture what a command tells of, unless that is done; also before its hold is read."""
    await locks.lock_book(tx, event.data.book)
    await _store_capture(tx, event, tx.cause)


async def take_release(tx: Tx, event: Envelope[ReleaseHold]) -> None:
    """End a hold as a command tells, unless it ended; also before the hold is read."""
    await locks.lock_book(tx, event.data.book)
    await _store_end(tx, event.data)


async def _store(tx: Tx, fact: HoldAmount) -> None:
    await holds.insert(
        tx,
        fact.book,
        fact.hold_id,
        fact.key,
        account=fact.account,
        currency=fact.currency,
        amount_minor=fact.amount_minor,
        expires_at=fact.expires_at,
        placed_at=fact.placed_at,
        placed_by=fact.actor,
    )


async def _store_capture(tx: Tx, told: Envelope[CaptureHold], cause: Cause) -> None:
    """Free what is captured, then book it: nothing weighs twice."""
    fact = told.data
    await holds.insert_step(
        tx,
        fact.book,
        fact.hold_id,
        _capture_key(fact.key),
        "capture",
        ends=fact.ends,
        taken_at=fact.captured_at,
        captured_minor=fact.amount_minor,
        captured_to=fact.to,
        entry_id=fact.entry_id,
    )
    held, to = chart.named(fact.account), chart.named(fact.to)
    lines = (
        Line(held, OTHER_SIDE[held.normal_side], fact.amount_minor, fact.currency),
        Line(to, held.normal_side, fact.amount_minor, fact.currency),
    )
    booking = Booking(
        id=fact.entry_id,
        tenant_id=told.tenant_id,
        entry=Entry(fact.book, _source_key(fact.hold_id, fact.key), CAPTURE_RULE, lines),
        effective_at=told.effective_at,
        booked_at=fact.captured_at,
        cause=cause,
    )
    await book_waiting(tx, await posting.book(tx, [booking]))


async def _store_end(tx: Tx, fact: ReleaseHold) -> bool:
    return await holds.insert_step(
        tx,
        fact.book,
        fact.hold_id,
        fact.because,
        fact.because,
        ends=True,
        taken_at=fact.released_at,
    )


async def _end(
    tx: Tx,
    book: Book,
    hold_id: UUID,
    because: Literal["release", "expiry"],
    *,
    actor: str,
    now: datetime,
) -> None:
    command = ReleaseHold(book=book, hold_id=hold_id, because=because, released_at=now, actor=actor)
    if await _store_end(tx, command):
        emit(tx, command, effective_at=now)


async def _expire_on(tx: Tx, book: Book, wish: Wish, now: datetime) -> None:
    """Free what should be free by now, so that nobody is refused for it."""
    due = await holds.expired_on(tx, book, wish.account, wish.currency, now, EXPIRED_AT_ONCE_MAX)
    await _expire(tx, book, [row["id"] for row in due], now)


async def _expire(tx: Tx, book: Book, hold_ids: Iterable[UUID], now: datetime) -> None:
    for hold_id in hold_ids:
        hold = await _read(tx, book, hold_id)
        if hold["ended_by"] is None:
            await _end(tx, book, hold_id, "expiry", actor=SERVICE, now=now)


def _refuse_other(known: Row, wish: Capture) -> None:
    """Compare a capture with the one of before under the same key.

    Raises:
        OtherContentError: it is another.
    """
    before = (known["captured_to"], known["captured_minor"], known["ends"])
    amount_minor = wish.amount_minor or known["captured_minor"]
    if before != (wish.to, amount_minor, wish.rest == "released"):
        raise OtherContentError


def _refuse_ended(hold: Row, now: datetime) -> None:
    """A hold whose time is over is not captured, whether or not it was freed yet.

    Raises:
        EndedError: nothing is held.
    """
    if hold["ended_by"] is not None:
        raise EndedError(state_of(hold))
    if hold["expires_at"] <= now:
        raise EndedError("expired")


async def _refuse_full(tx: Tx, book: Book, accounts: Iterable[str]) -> None:
    """Leave room for facts, as for every entry that somebody asks for; the book is locked.

    Raises:
        FullAccountError: an account takes no more on request.
    """
    named = [(tx.tenant_id, code) for code in accounts]
    for found in await store_commands.find_accounts(tx, book, named):
        if found["is_full"]:
            raise FullAccountError(found["code"])


State = Literal["open", "captured", "released", "expired"]
_STATES: dict[str | None, State] = {
    None: "open",
    "capture": "captured",
    "release": "released",
    "expiry": "expired",
}


def state_of(hold: Row) -> State:
    """What became of a hold."""
    return _STATES[hold["ended_by"]]


async def _read(tx: Tx, book: Book, hold_id: UUID) -> Row:
    hold = await holds.find(tx, (book,), hold_id)
    assert hold is not None, "holds are kept"
    return hold


def _wish_of(hold: Row) -> Wish:
    return Wish(
        hold["key"], hold["account"], hold["currency"], hold["amount_minor"], hold["expires_at"]
    )


def _capture_key(key: str) -> str:
    return f"capture:{key}"


def _source_key(hold_id: UUID, key: str) -> str:
    return f"hold:{hold_id}:captured:{key}"
