"""Entries that somebody asks for: judged, booked at once, and told as commands.

The same commit tells `ledger.commands`, so that books that are made of their topics anew hold these
entries as well. Source keys are the caller's own in a name space of their own (`api:…`): nobody can
take a fact's. Who sends a key again gets the entry of the first time, as long as it says the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Literal
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.ledger import Book, PostEntry
from libs.db.pool import TRANSIENT_ERRORS, Cause, Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import Letter, compose, send
from services.ledger import chart, periods, posting, reversal, store, store_commands
from services.ledger.auditing import tell_change
from services.ledger.commands_asked import (
    Command,
    FullAccountError,
    Group,
    Key,
    OtherContentError,
    Posted,
    RefusedError,
    UnopenedAccountError,
    Verdict,
)
from services.ledger.entries import entry_id
from services.ledger.store import Booking
from services.ledger.store_commands import Looked


class ApartError(Exception):
    """The group is not booked yet: it is to be tried without those of other tenants."""


Apart = Literal["groups", "tenants", "nothing"]
"""What is told apart where not all can be booked."""

Wanted = tuple[int, list[Command]]
"""Which group, and those of its commands that must be booked."""

Told = tuple[Booking, Letter]
"""The booking of a command, and the event that tells of the command."""


async def post(
    tx: Tx, book: Book, groups: Sequence[Group], *, apart: Apart = "groups"
) -> list[Verdict]:
    """Book what groups of commands ask for, all in this book; a verdict for each group.

    The books are locked first: what is not known then stays unknown until it is booked here.

    Args:
        apart: how far to look for what cannot be booked: for groups; for tenants whose groups cannot
            be booked together, which get `ApartError`, as groups do that ask for what another one
            asks for; or not at all: the reason is raised then, and nothing is booked.
    """
    commands = [command for group in groups for command in group]
    keys = {command.key for command in commands}
    accounts = {
        (each.tenant_id, line.account.code) for each in commands for line in each.entry.lines
    }
    audited = any(command.is_audited for command in commands)
    if apart == "nothing" and len(keys) == len(commands) and not audited:
        looked, booked = await _look_and_book(tx, book, keys, accounts, commands)
        if booked:
            return [[booked[command.key] for command in group] for group in groups]
    else:
        looked = await store_commands.look(tx, book, keys, accounts)
    standing = await _standing(tx, book, looked.booked) if looked.booked else {}
    maker: dict[Key, int] = {}
    failed: dict[int, Exception] = {}
    left: Sequence[int] = range(len(groups))
    while left:
        fresh: set[Key] = set()
        wanted: list[Wanted] = []
        later: list[int] = []
        for at in left:
            keys = {command.key for command in groups[at]}
            if not fresh.isdisjoint(keys):
                # What becomes of it depends on what becomes of those before it.
                fresh |= keys
                later.append(at)
                continue
            try:
                new = _judge(groups[at], standing, looked)
            except RefusedError as error:
                failed[at] = error
                continue
            if new:
                wanted.append((at, list(new.values())))
                fresh |= new.keys()
        booked, unbooked = await _book_wanted(tx, looked, wanted, apart)
        standing |= booked
        failed |= unbooked
        maker |= {each.key: at for at, new in wanted if at not in failed for each in new}
        if apart != "groups":
            failed |= {at: ApartError() for at in later}
        left = later if apart == "groups" else []
    return [
        failed[at] if at in failed else _verdict(at, group, standing, maker)
        for at, group in enumerate(groups)
    ]


def _verdict(
    at: int, group: Group, standing: Mapping[Key, Posted], maker: Mapping[Key, int]
) -> list[Posted]:
    """The entries of a group."""
    return [
        replace(standing[command.key], is_new=maker.get(command.key) == at) for command in group
    ]


def _judge(group: Group, standing: Mapping[Key, Posted], looked: Looked) -> dict[Key, Command]:
    """The commands of a group that must be booked.

    Args:
        standing: entries that are booked.

    Raises:
        RefusedError: the group is not booked.
    """
    new: dict[Key, Command] = {}
    for command in group:
        booked, first = standing.get(command.key), new.get(command.key)
        if booked is not None:
            row = booked.row
            held_at = row["true_effective_at"] or row["effective_at"]
            is_same = command.says(row["content_hash"], held_at, row["metadata"])
        elif first is not None:
            is_same = command.says(
                first.entry.content_hash, first.effective_at, dict(first.metadata)
            )
        else:
            _check_accounts(command, looked)
            new[command.key] = command
            continue
        if not is_same:
            raise OtherContentError(command.entry.source_key)
    return new


def _check_accounts(command: Command, looked: Looked) -> None:
    """Every account is open and takes more.

    Raises:
        AccountError: one does not.
    """
    for line in command.entry.lines:
        code = line.account.code
        if (command.tenant_id, code) in looked.unopened and code not in chart.FIXED_CODES:
            raise UnopenedAccountError(command.entry.source_key, code)
        if (command.tenant_id, code) in looked.full:
            raise FullAccountError(command.entry.source_key, code)


async def _book_wanted(
    tx: Tx, looked: Looked, wanted: Sequence[Wanted], apart: Apart
) -> tuple[dict[Key, Posted], dict[int, Exception]]:
    """Book what is wanted: the entries, and which groups cannot be booked, and why."""
    if apart == "nothing" and wanted:
        return await _book(tx, looked, [command for _, new in wanted for command in new]), {}
    if apart == "groups":
        return await _book_apart(tx, looked, [[each] for each in wanted])
    units: dict[UUID, list[Wanted]] = {}
    for each in wanted:
        units.setdefault(each[1][0].tenant_id, []).append(each)
    return await _book_apart(tx, looked, list(units.values()))


async def _book_apart(
    tx: Tx, looked: Looked, units: Sequence[Sequence[Wanted]]
) -> tuple[dict[Key, Posted], dict[int, Exception]]:
    """Book units together: the entries, and by bisection those that cannot be booked, and why."""
    if not units:
        return {}, {}
    emitted, before, after = len(tx.emitted), len(tx.before_commit), len(tx.after_commit)
    try:
        async with tx.connection.transaction():
            return await _book(
                tx, looked, [c for unit in units for _, new in unit for c in new]
            ), {}
    except TRANSIENT_ERRORS:
        raise
    except Exception as error:  # noqa: BLE001 - whoever asked for it is told, and nobody else
        # With what was emitted goes what is done at and after the commit on its account.
        del tx.emitted[emitted:], tx.before_commit[before:], tx.after_commit[after:]
        if len(units) == 1:
            (unit,) = units
            return {}, {at: error if len(unit) == 1 else ApartError() for at, _ in unit}
        middle = len(units) // 2
        booked, failed = await _book_apart(tx, looked, units[:middle])
        more_booked, more_failed = await _book_apart(tx, looked, units[middle:])
        return booked | more_booked, failed | more_failed


async def _look_and_book(
    tx: Tx, book: Book, keys: set[Key], accounts: set[Key], commands: Sequence[Command]
) -> tuple[Looked, dict[Key, Posted]]:
    """Look into the books, and book commands in the same call where nothing stands in their way.

    Nearly always nothing does: all of them are new, on open accounts, of open months.

    Returns:
        What is known of the books, and the entries; none of them where something does.
    """
    looked: Looked | None = None

    async def post(tx: Tx, bookings: Sequence[Booking]) -> set[UUID]:
        nonlocal looked
        looked, booked = await store_commands.look_and_post(tx, book, keys, accounts, bookings)
        return booked

    now = utc_now()
    told = [await _told(tx, command, now) for command in commands]
    booked = await posting.book_in_open(tx, [booking for booking, _ in told], post=post)
    assert looked is not None, "it was looked into them"
    if not booked:
        return looked, {}
    entries = await _tell(tx, commands, told, booked)
    return looked, {key: replace(posted, is_new=True) for key, posted in entries.items()}


async def _book(tx: Tx, looked: Looked, commands: Sequence[Command]) -> dict[Key, Posted]:
    """Book commands whose source keys are new, and tell of them; the entries."""
    now = utc_now()
    told = [await _told(tx, command, now) for command in commands]
    bookings = periods.moved([booking for booking, _ in told], looked.open_from)
    return await _tell(tx, commands, told, await posting.book_in_open(tx, bookings))


async def _tell(
    tx: Tx, commands: Sequence[Command], told: Sequence[Told], booked: Sequence[Booking]
) -> dict[Key, Posted]:
    """Tell of commands that were booked, and keep what was said of them; the entries."""
    assert len(booked) == len(commands), "nobody else books while the books are locked"
    book = commands[0].entry.book
    for _, letter in told:
        send(tx, letter)
    said = [(each.metadata, each.actor) for each in commands]
    asked = [(each, *words) for each, words in zip(booked, said, strict=True)]
    noted = await store_commands.note_asked(tx, book, asked)
    awaited = [each for each, row in zip(booked, noted, strict=True) if row["is_awaited"]]
    await reversal.book_waiting(tx, awaited)
    return {
        command.key: _as_booked(booking, command, row)
        for booking, command, row in zip(booked, commands, noted, strict=True)
    }


def _as_booked(booking: Booking, command: Command, noted: Row) -> Posted:
    """The entry as it stands in the book since just now."""
    entry = booking.entry
    row = dict(noted) | {
        "tenant_id": booking.tenant_id,
        "book": entry.book,
        "id": booking.id,
        "source_key": entry.source_key,
        "content_hash": entry.content_hash,
        "effective_at": booking.effective_at,
        "booked_at": booking.booked_at,
        "causation_id": booking.cause.causation_id,
        "rule": entry.rule,
        "rule_version": entry.rule_version,
        "reverses": None,
        "metadata": dict(command.metadata),
        "belongs_to": booking.belongs_to,
        "true_effective_at": booking.true_effective_at,
    }
    places = zip(entry.lines, noted["account_seqs"], noted["balances_after"], strict=True)
    return Posted(
        row,
        [
            {
                "account": line.account.code,
                "side": line.side,
                "amount_minor": line.amount_minor,
                "currency": line.currency,
                "account_seq": account_seq,
                "balance_after_minor": balance_after_minor,
            }
            for line, account_seq, balance_after_minor in places
        ],
    )


async def _told(tx: Tx, command: Command, now: datetime) -> Told:
    """The booking of a command, and the letter that tells of it once it is booked."""
    entry = command.entry
    booking_id = entry_id(command.tenant_id, tx.mode, entry.book, entry.source_key, now)
    cause = Cause(trace=command.trace)
    if command.is_audited:
        change = ConfigurationChanged(
            action="ledger_entry.posted",
            actor=command.actor,
            object_id=public_id("entry", booking_id),
            after={"book": entry.book, "source_key": entry.source_key},
            remote_address=command.remote_address,
        )
        asked = await tell_change(
            tx, entry.book, change, tenant_id=command.tenant_id, now=now, cause=cause
        )
        cause = Cause(asked.id, asked.correlation_id, command.trace)
    fact = {
        "entry_id": booking_id,
        "book": entry.book,
        "source_key": entry.source_key,
        "booked_at": now,
        "postings": posting.told_lines(entry),
        "metadata": dict(command.metadata),
        "actor": command.actor,
    }
    letter = compose(
        tx,
        PostEntry,
        fact,
        tenant_id=command.tenant_id,
        effective_at=command.effective_at,
        cause=cause,
    )
    booking = Booking(
        id=booking_id,
        tenant_id=command.tenant_id,
        entry=entry,
        effective_at=command.effective_at,
        booked_at=now,
        cause=Cause(letter.event_id, cause.correlation_id or letter.event_id, command.trace),
    )
    return booking, letter


async def _standing(tx: Tx, book: Book, keys: Sequence[Key]) -> dict[Key, Posted]:
    """Entries that are booked, with their postings."""
    rows = await store_commands.find_booked(tx, book, keys)
    lines: dict[UUID, list[Row]] = {row["id"]: [] for row in rows}
    for line in await store.postings_of(tx, tx.mode, book, rows):
        lines[line["entry_id"]].append(line)
    return {(row["tenant_id"], row["source_key"]): Posted(row, lines[row["id"]]) for row in rows}
