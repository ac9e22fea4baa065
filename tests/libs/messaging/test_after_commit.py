"""What is done after the commit is done for what was committed, and once."""

from collections.abc import AsyncGenerator
from functools import partial
from typing import Any
from uuid import UUID

import pytest

from libs.contracts.billing import CreditGranted
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Database, Tx
from libs.messaging.outbox import SIGNAL
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from tests.libs.messaging.test_exactly_once import ACME, GLOBEX, Poison, Sums, credit


@pytest.fixture
async def ledger(database: TestDatabase) -> AsyncGenerator[Database, None]:
    async with database.open("ledger") as opened:
        yield opened


@pytest.mark.parametrize("emits", [True, False])
async def test_what_is_taken_back_is_not_done_after_the_commit(
    ledger: Database, log: MemoryLog, monkeypatch: pytest.MonkeyPatch, *, emits: bool
) -> None:
    sums, signalled = Sums(), []
    done: list[UUID] = []
    monkeypatch.setattr(SIGNAL, "set", lambda: signalled.append(True))
    events = [credit(ACME), credit(GLOBEX), credit(ACME), credit(GLOBEX)]
    poisoned = events[1].id

    async def note(event: Envelope[Any], tx: Tx) -> None:
        tx.after_commit.append(partial(done.append, event.id))
        if emits:
            await sums.on_credit(event, tx)
        if event.id == poisoned:
            raise Poison("cannot be booked")

    log.add(ledger, {CreditGranted: note}, parks=False)
    for event in events:
        log.publish(event)
    await log.settle()
    wanted = [event.id for event in events if event.id != poisoned]
    assert done == wanted
    assert bool(signalled) is emits
    assert len(log.events(JournalEntryPosted)) == (len(wanted) if emits else 0)
