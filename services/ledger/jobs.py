"""Timed work of the ledger, each a bounded `run_once`."""

from datetime import timedelta

from libs.clock import utc_now
from libs.contracts.billing import InvoiceFinalized
from libs.contracts.ledger import RecognizeRevenue
from libs.contracts.topics import TOPIC_OF
from libs.db.pool import Database
from services.ledger import anchoring, bounds, holds, recognition, reconciling
from services.ledger.reconciling_sides import Terms
from services.ledger.settings import Settings

RECOGNIZED_TENANTS_MAX = 100

TOPICS_OF_RECOGNITION = (TOPIC_OF[InvoiceFinalized].name, TOPIC_OF[RecognizeRevenue].name)
"""What is to be read before a month is told: what is earned, and what was told of that already."""


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


async def reconcile(database: Database, settings: Settings) -> None:
    """Begin the runs of Stripe accounts whose turn it is, and bring all runs further."""
    terms = Terms(
        every=timedelta(hours=settings.ledger_reconciliation_hours),
        window=timedelta(days=settings.ledger_reconciliation_days),
        settles_in=timedelta(minutes=settings.ledger_reconciliation_settle_minutes),
        repairs=settings.ledger_reconciliation_repairs,
    )
    await reconciling.begin_due(database, terms)
    await reconciling.advance_all(database, terms)


async def look_at_breaks(database: Database, settings: Settings) -> None:
    """Give new Stripe accounts their turn, show how many breaks are open, drop what is compared."""
    every = timedelta(hours=settings.ledger_reconciliation_hours)
    await reconciling.enrol(database, every)
    await reconciling.measure(database)
    await reconciling.drop_compared(database)


async def expire_holds(database: Database) -> None:
    """Free what was held until now."""
    await holds.expire(database, utc_now())


async def tell_overruns(database: Database) -> None:
    """Tell where facts took accounts beyond their bounds."""
    await bounds.tell_overruns(database, utc_now())
