"""Timed work of the gateway: each a bounded `run_once`."""

from libs.clock import utc_now
from libs.db.pool import Database
from services.gateway import erasure, months, quarantine, replays


async def release_quarantined(database: Database) -> None:
    """Give waiting events of accounts that were connected since to their tenants."""
    await quarantine.release(database)


async def tell_quarantine(database: Database) -> None:
    """Show what is in quarantine; say of an account that it stays unknown."""
    await quarantine.tell(database, utc_now())


async def go_on_with_replays(database: Database) -> None:
    """Send the next batches of the replays under way."""
    await replays.run_once(database)


async def forget_erased(database: Database) -> None:
    """Blank the next pages of the archive for customers that were erased."""
    await erasure.run_once(database, utc_now())


async def keep_months(database: Database, kept_months: int) -> None:
    """Make the archive's next months and drop those that are too old."""
    await months.make_ahead(database, utc_now())
    await months.drop_old(database, utc_now(), kept_months)
