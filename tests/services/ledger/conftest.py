"""The ledger on a database of its own, attached to a log in memory."""

from collections.abc import AsyncGenerator

import pytest

from ledger.callers import Api, open_api
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.ledger import coalescing
from services.ledger.handlers import HANDLERS


@pytest.fixture(autouse=True)
def _callers_with_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to leave the line of those who post."""
    monkeypatch.setattr(coalescing, "WAIT_SECONDS", 120.0)


@pytest.fixture
async def ledger(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[Database, None]:
    """The service's database, as its own role, consuming from the log."""
    async with database.open("ledger") as opened:
        log.add(opened, HANDLERS, parks=True)
        yield opened


@pytest.fixture
async def api(
    ledger: Database, log: MemoryLog, database: TestDatabase, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Api, None]:
    """The service, its callers, and five entries in its books."""
    async with open_api(ledger, log, database, monkeypatch) as opened:
        yield opened
