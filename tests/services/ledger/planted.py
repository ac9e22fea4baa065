"""Mistakes that somebody could make in the ledger, each put in where it would be made.

The machines of `model.py` and `model_kept.py` must notice every one of them.
"""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from ledger.model import Books, Twice
from ledger.model_kept import Closed, Held
from libs.db.pool import Tx
from services.ledger import entries, holds, periods, reversal, store, store_accounts, store_holds
from services.ledger.store import Booking

Plant = Callable[[asyncpg.Connection, pytest.MonkeyPatch], Awaitable[None]]


@dataclass(frozen=True)
class Planted:
    """One mistake.

    Attributes:
        quick: it is in Python alone and shows soon.
        machine: that notices it.
    """

    name: str
    plant: Plant
    quick: bool = False
    machine: type[Twice] = Books


def _in_sql(functions: str, right: str, wrong: str) -> Plant:
    """These words of functions of the database are others."""

    async def plant(admin: asyncpg.Connection, _: pytest.MonkeyPatch) -> None:
        await admin.execute("set search_path = ledger")
        for function in functions.split():
            written = await admin.fetchval(f"select pg_get_functiondef('{function}'::regproc)")
            assert written.count(right) == 1, f"{function} does not say {right!r} once"
            await admin.execute(written.replace(right, wrong))

    return plant


def _in_python(owner: object, name: str, wrong: object) -> Plant:
    """A name of a module stands for something else."""

    async def plant(_: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(owner, name, wrong)

    return plant


_post_entries = store.post_entries


async def _post_and_call_all_new(tx: Tx, bookings: Sequence[Booking]) -> set[UUID]:
    await _post_entries(tx, bookings)
    return {booking.id for booking in bookings}


async def _find_nothing(*_: object) -> None:
    """Nothing is there, and nothing is done."""


def _refuse_nothing(*_: object) -> None:
    """Nobody is refused."""


def _hash_of_the_key_alone(entry: Any) -> bytes:
    return hashlib.sha256(entry.source_key.encode()).digest()


PLANTED = (
    Planted(
        "what held by a time is taken for what was recorded by then",
        _in_python(store_accounts, "_EFFECTIVE_BALANCES", store_accounts._BOOKED_BALANCES),
        quick=True,
    ),
    Planted(
        "nobody waits for the lock of a book",
        _in_sql(
            "lock_books post_entries",
            "pg_advisory_xact_lock(hashtextextended(concat_ws('/', 'book', t, in_mode, b), 0))",
            "t",
        ),
    ),
    Planted(
        "a balance is replaced, not carried on",
        _in_sql("post_entries", "known.debit_minor + excluded.debit_minor", "excluded.debit_minor"),
    ),
    Planted(
        "the running balance begins where it should end",
        _in_sql(
            "post_entries",
            "m.balance_minor - (g.debit_minor - g.credit_minor)",
            "m.balance_minor",
        ),
    ),
    Planted(
        "the postings of a call are numbered by their amount",
        _in_sql("post_entries", "p.place order by l.n", "p.place order by l.amount_minor, l.n"),
    ),
    Planted(
        "a key with other content is passed over",
        _in_sql("post_entries", "told.h <> coalesce(j.content_hash, told.first_hash)", "false"),
    ),
    Planted(
        "a key twice in a call is booked twice",
        _in_sql("post_entries", "nth = 1 and j.id is null", "j.id is null"),
    ),
    Planted(
        "a posting holds since it was recorded",
        _in_sql("post_entries", "e.f as effective_at", "e.o as effective_at"),
    ),
    Planted(
        "each call begins the chain anew",
        _in_sql("post_entries", "coalesce(h.last_hash,", "coalesce(null::bytea,"),
    ),
    Planted(
        "sums over blocks leave credits out",
        _in_sql("add_up_blocks", "else -p.amount_minor end", "else 0 end"),
    ),
    Planted(
        "hours of a block replace what was added up before",
        _in_sql(
            "add_up_blocks", "known.change_minor + excluded.change_minor", "excluded.change_minor"
        ),
    ),
    Planted(
        "a reversal leaves every side as it was",
        _in_python(reversal, "OTHER_SIDE", {"debit": "debit", "credit": "credit"}),
    ),
    Planted(
        "what is over is captured still",
        _in_python(holds, "_refuse_ended", _refuse_nothing),
        quick=True,
        machine=Held,
    ),
    Planted(
        "what is held already does not weigh",
        _in_sql(
            "fold_hold",
            "if balance - guard.held_minor < coalesce(guard.min_minor, 0)",
            "if balance < coalesce(guard.min_minor, 0)",
        ),
        machine=Held,
    ),
    Planted(
        "what is captured stays held",
        _in_sql("fold_hold", "held_minor = g.held_minor - released", "held_minor = g.held_minor"),
        machine=Held,
    ),
    Planted(
        "a hold ends with its first capture",
        _in_sql("fold_hold", "steps.captured = held.amount_minor", "true"),
        machine=Held,
    ),
    Planted(
        "a part of a hold is captured under a key of its own each time",
        _in_python(store_holds, "find_step", _find_nothing),
        machine=Held,
    ),
    Planted(
        "what expires in the way of a hold is not freed",
        _in_python(holds, "_expire_on", _find_nothing),
        machine=Held,
    ),
    Planted(
        "a book is open since its first closed month",
        _in_sql("lock_books", "max(last.ends_at)", "min(last.ends_at)"),
        machine=Closed,
    ),
    Planted(
        "a month that was opened again stays closed",
        _in_sql("lock_books", "where last.kind = 'close'", "where true"),
        machine=Closed,
    ),
    Planted(
        "nobody knows where a late entry belongs",
        _in_python(periods, "link", _find_nothing),
        machine=Closed,
    ),
    Planted(
        "what was booked before is told once more",
        _in_python(store, "post_entries", _post_and_call_all_new),
    ),
    Planted(
        "the content of an entry is its key",
        _in_python(entries, "hash_content", _hash_of_the_key_alone),
    ),
)
