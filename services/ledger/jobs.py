"""Timed work of the ledger, each a bounded `run_once`."""

from datetime import timedelta

from libs.clock import utc_now
from libs.db.pool import Database
from services.ledger import anchoring, recognition
from services.ledger.settings import Settings

RECOGNIZED_TENANTS_MAX = 100


async def anchor_chains(database: Database, settings: Settings) -> None:
    """Tell the heads of the chains that are due, on `ledger.events`."""
    now = utc_now()
    every = timedelta(seconds=settings.ledger_anchor_seconds)
    async with database.maintenance() as tx:
        due = await anchoring.due(tx, now, every, settings.ledger_anchor_entries)
    for row in due:
        async with database.tenant(row["tenant_id"], row["mode"], books=(row["book"],)) as tx:
            await anchoring.anchor(tx, row["book"], now)


async def recognize_revenue(database: Database) -> None:
    """Tell which months of what was invoiced in advance are over, by each tenant's clock."""
    await recognition.recognize_due(database, limit=RECOGNIZED_TENANTS_MAX)
