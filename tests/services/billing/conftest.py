"""Billing on a database of its own, attached to a log in memory."""

from collections.abc import AsyncGenerator

import pytest

from billing.story import meter_created
from libs.db.pool import Database
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.billing.handlers import HANDLERS


@pytest.fixture
async def billing(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[Database, None]:
    """The service's database, as its own role; the platform's two meters are known."""
    async with database.open("billing") as opened:
        log.add(opened, HANDLERS, parks=True)
        for key in ("api_calls", "storage"):
            log.publish(meter_created(key))
        await log.settle()
        yield opened
