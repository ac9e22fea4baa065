"""Timed work: each a bounded `run_once` over what is due."""

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from services.stripe_sync import store_marks
from services.stripe_sync.client import Identities
from services.stripe_sync.clocks import ClockWorker
from services.stripe_sync.commands import CommandWorker
from services.stripe_sync.concurrency import all_of
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.refresh import AccountWorker


async def refresh_dirty(database: Database, directory: Directory, identities: Identities) -> None:
    """Fetch what is dirty, each account on its own: a slow one holds up nobody."""

    async def refresh(worker: AccountWorker) -> None:
        await worker.run_once()

    await all_of(
        refresh(AccountWorker(database, directory, api, account, mode))
        for account, mode, api in identities.all()
    )


async def carry_out_commands(database: Database, identities: Identities) -> None:
    """Do what billing wants done at Stripe."""
    await CommandWorker(database, identities).run_once()


async def move_clocks(database: Database, identities: Identities) -> None:
    """Take every requested advance of a test clock a step further."""
    await ClockWorker(database, identities).run_once()


async def ask_for_transactions(database: Database, identities: Identities) -> None:
    """Have balance transactions listed afresh, so that none without an event is missed."""
    for account, mode, _ in identities.all():
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            await store_marks.mark(tx, account, [BALANCE])
