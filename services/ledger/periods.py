"""Periods: a month of a book is closed, and what it says stays so.

A book is closed up to a moment, the end of its last closed month: months are closed one after the
other, and only the last one is opened again. What comes in later and belongs before that moment is
booked at the moment itself, the first of the open month, with a link to the month it belongs to and
with its true effective time; so every balance, statement and trial balance of a closed month, by
effective time, is as it was when it was closed. Closing takes the lock of the book: an entry is
booked before, or knows of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

import msgspec

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import Book
from libs.contracts.ledger_periods import (
    ClosePeriod,
    PeriodClosed,
    PeriodReopened,
    ReopenPeriod,
)
from libs.db.pool import Cause, Row, Tx
from libs.messaging.outbox import emit
from services.ledger import store_chains, store_periods
from services.ledger.auditing import tell_change
from services.ledger.store import Booking


class NotOverError(Exception):
    """The month is not over yet in the tenant's time."""


class NextToCloseError(Exception):
    """Months are closed one after the other; the message is the one to close next."""


class ClosedByLaterError(Exception):
    """The book is closed beyond this month; the message is the last closed one."""


class NotClosedError(Exception):
    """The month is open."""


@dataclass(frozen=True)
class Period:
    """A calendar month in UTC, `[from, to)`."""

    year: int
    month: int

    @classmethod
    def named(cls, name: str) -> "Period":
        """The month of a name of the form `2026-03`, which the caller has checked."""
        return cls(int(name[:4]), int(name[5:]))

    @classmethod
    def of(cls, at: datetime) -> "Period":
        """The month that a time lies in."""
        in_utc = at.astimezone(UTC)
        return cls(in_utc.year, in_utc.month)

    @property
    def name(self) -> str:
        """`2026-03`."""
        return f"{self.year:04}-{self.month:02}"

    @property
    def starts_at(self) -> datetime:
        """Its first moment."""
        return datetime(self.year, self.month, 1, tzinfo=UTC)

    @property
    def ends_at(self) -> datetime:
        """The first moment after it."""
        return self.next.starts_at

    @property
    def next(self) -> "Period":
        """The month after it."""
        return Period(self.year + self.month // 12, self.month % 12 + 1)


async def close(
    tx: Tx, book: Book, period: Period, *, actor: str, business_now: datetime, now: datetime
) -> None:
    """Close a month of a book of the tenant in scope; one that is closed stays as it is.

    Raises:
        NotOverError, NextToCloseError, ClosedByLaterError: see there.
    """
    open_from = (await store_periods.lock_books(tx, [(tx.tenant_id, book)])).get(
        (tx.tenant_id, book)
    )
    last = await store_periods.last_step(tx, book, period.name)
    if last is not None and last["kind"] == "close":
        return
    if open_from is not None and period.starts_at < open_from:
        raise ClosedByLaterError(_last_before(open_from).name)
    if open_from is not None and period.starts_at > open_from:
        raise NextToCloseError(Period.of(open_from).name)
    if business_now < period.ends_at:
        raise NotOverError
    head = await store_chains.lock_head(tx, book)
    chain_seq = head["last_seq"] if head else 0
    asked = await tell_change(tx, book, _change("closed", book, period, actor, None), now=now)
    cause = Cause(asked.id, asked.correlation_id)
    command = ClosePeriod(
        book=book,
        period=period.name,
        step=_step_after(last),
        closed_at=now,
        chain_seq=chain_seq,
        actor=actor,
    )
    emit(tx, command, effective_at=now, cause=cause)
    fact = PeriodClosed(
        book=book,
        period=period.name,
        step=command.step,
        closed_at=now,
        chain_seq=chain_seq,
        chain_hash=head["last_hash"].hex() if head else None,
    )
    emit(tx, fact, effective_at=now, cause=cause)
    await _store_close(tx, command)


async def reopen(
    tx: Tx, book: Book, period: Period, *, reason: str, actor: str, now: datetime
) -> None:
    """Open the last closed month of a book of the tenant in scope again.

    Raises:
        NotClosedError, ClosedByLaterError: see there.
    """
    open_from = (await store_periods.lock_books(tx, [(tx.tenant_id, book)])).get(
        (tx.tenant_id, book)
    )
    if open_from is None or period.starts_at >= open_from:
        raise NotClosedError
    last = await store_periods.last_step(tx, book, period.name)
    if last is None or last["kind"] != "close" or period.ends_at != open_from:
        raise ClosedByLaterError(_last_before(open_from).name)
    asked = await tell_change(tx, book, _change("reopened", book, period, actor, reason), now=now)
    cause = Cause(asked.id, asked.correlation_id)
    command = ReopenPeriod(
        book=book,
        period=period.name,
        step=_step_after(last),
        reopened_at=now,
        reason=_reason_of(asked, reason),
        actor=actor,
    )
    emit(tx, command, effective_at=now, cause=cause)
    fact = PeriodReopened(
        book=book,
        period=period.name,
        step=command.step,
        reopened_at=now,
        reason=command.reason,
    )
    emit(tx, fact, effective_at=now, cause=cause)
    await _store_reopening(tx, command)


async def take_close(tx: Tx, event: Envelope[ClosePeriod]) -> None:
    """Close a month as it is told, unless that is done."""
    await store_periods.lock_books(tx, [(event.tenant_id, event.data.book)])
    await _store_close(tx, event.data)


async def take_reopening(tx: Tx, event: Envelope[ReopenPeriod]) -> None:
    """Open a month again as it is told, unless that is done."""
    await store_periods.lock_books(tx, [(event.tenant_id, event.data.book)])
    await _store_reopening(tx, event.data)


async def into_open(tx: Tx, bookings: Sequence[Booking]) -> list[Booking]:
    """These bookings, those of closed months moved to the first moment that is open.

    Their books are locked: nobody closes a month until they are booked.
    """
    opened = await store_periods.lock_books(
        tx, {(booking.tenant_id, booking.entry.book) for booking in bookings}
    )
    return moved(bookings, opened)


def moved(
    bookings: Sequence[Booking], open_from: Mapping[tuple[UUID, str], datetime]
) -> list[Booking]:
    """These bookings, in books (tenant, book) of which some are open from a moment only."""
    if not open_from:
        return list(bookings)
    return [_moved(booking, open_from) for booking in bookings]


async def link(tx: Tx, booked: Sequence[Booking]) -> None:
    """Keep where the late ones of these bookings belong."""
    late: list[tuple[UUID, str, UUID, str, datetime]] = []
    for booking in booked:
        if booking.true_effective_at is not None and booking.belongs_to is not None:
            place = (booking.tenant_id, booking.entry.book, booking.id)
            late.append((*place, booking.belongs_to, booking.true_effective_at))
    if late:
        await store_periods.link_late(tx, late)


def _moved(booking: Booking, opened: Mapping[tuple[UUID, str], datetime]) -> Booking:
    open_from = opened.get((booking.tenant_id, booking.entry.book))
    if open_from is None or booking.effective_at >= open_from:
        return booking
    return msgspec.structs.replace(
        booking,
        effective_at=open_from,
        belongs_to=Period.of(booking.effective_at).name,
        true_effective_at=booking.effective_at,
    )


def _last_before(open_from: datetime) -> Period:
    """The month that ends where the book is open from."""
    first = Period.of(open_from)
    return Period(first.year - (first.month == 1), (first.month - 2) % 12 + 1)


def _step_after(last: Row | None) -> int:
    return last["step"] + 1 if last is not None else 1


def _change(
    done: Literal["closed", "reopened"], book: Book, period: Period, actor: str, reason: str | None
) -> ConfigurationChanged:
    after: dict[str, str | int | bool | None] = {"book": book, "period": period.name}
    if reason is not None:
        after["reason"] = reason
    return ConfigurationChanged(
        action=f"ledger_period.{done}", actor=actor, object_id=f"{book} {period.name}", after=after
    )


def _reason_of(asked: Envelope[ConfigurationChanged], reason: str) -> str:
    """The reason as it may stand on topics for ever: as the audit log has it."""
    return str((asked.data.after or {}).get("reason", reason))


async def _store_close(tx: Tx, fact: ClosePeriod) -> None:
    await store_periods.insert_step(
        tx,
        fact.book,
        fact.period,
        fact.step,
        "close",
        ends_at=Period.named(fact.period).ends_at,
        taken_at=fact.closed_at,
        taken_by=fact.actor,
        reason="",
        chain_seq=fact.chain_seq,
    )


async def _store_reopening(tx: Tx, fact: ReopenPeriod) -> None:
    await store_periods.insert_step(
        tx,
        fact.book,
        fact.period,
        fact.step,
        "reopen",
        ends_at=Period.named(fact.period).ends_at,
        taken_at=fact.reopened_at,
        taken_by=fact.actor,
        reason=fact.reason,
        chain_seq=0,
    )
