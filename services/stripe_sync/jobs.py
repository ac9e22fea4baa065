"""Timed work: each a bounded `run_once` over what is due."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta

import structlog

from libs.clock import utc_now
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import TRANSIENT_ERRORS, Database
from libs.db.tenant import Mode
from libs.directory.local import Directory
from services.stripe_sync import store_connections, store_marks
from services.stripe_sync.clocks import ClockWorker
from services.stripe_sync.commands import CommandWorker
from services.stripe_sync.identities import Identities
from services.stripe_sync.marks import BALANCE
from services.stripe_sync.refresh import STOPPED_PAUSE, AccountWorker, rest

log = structlog.get_logger()

ACCOUNTS_AT_ONCE_MAX = 16
BROKEN_PAUSE_SECONDS = 10.0
UNCLAIMED_FOR = timedelta(days=7)
"""Long enough for a directory that is being read anew, or a connection that is made again."""


class Refreshing:
    """Fetches what is dirty, each account in a task of its own: a slow one holds up nobody."""

    def __init__(self, database: Database, directory: Directory, identities: Identities) -> None:
        self._database = database
        self._directory = directory
        self._identities = identities
        self._tasks: dict[tuple[str, Mode], asyncio.Task[None]] = {}
        self._stopped = False

    async def run_once(self) -> None:
        """Start a task for every due account that has none, as long as there is room."""
        busy = list(self._tasks)
        async with self._database.maintenance() as tx:
            room = 0 if self._stopped else ACCOUNTS_AT_ONCE_MAX - len(busy)
            due = await store_marks.due_accounts(tx, utc_now(), busy, room)
            if due:
                await store_marks.note_served(tx, due, utc_now())
        for account, mode in due:
            self._tasks[account, mode] = asyncio.create_task(self._refresh(account, mode))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """End every task when the block ends."""
        try:
            yield
        finally:
            self._stopped = True
            tasks = list(self._tasks.values())
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _refresh(self, account: str, mode: Mode) -> None:
        try:
            identity = await self._identities.of(account, mode)
            if identity is None:
                await rest(self._database, account, mode, "nobody has connected the account")
            else:
                await AccountWorker(self._database, self._directory, identity).run_once()
        except TRANSIENT_ERRORS as error:
            log.warning("refresh_failed", account=account, error=type(error).__name__)
            await asyncio.sleep(1.0)
        except Exception:
            log.exception("refresh_broken", account=account)
            await asyncio.sleep(BROKEN_PAUSE_SECONDS)
        finally:
            self._tasks.pop((account, mode), None)


async def carry_out_commands(database: Database, identities: Identities) -> None:
    """Do what billing wants done at Stripe."""
    await CommandWorker(database, identities).run_once()


async def move_clocks(database: Database, identities: Identities) -> None:
    """Take every requested advance of a test clock a step further."""
    await ClockWorker(database, identities).run_once()


async def leave_unclaimed(database: Database) -> None:
    """Let accounts rest that nobody has, and forget what nobody has had for days."""
    now = utc_now()
    async with database.maintenance() as tx:
        await store_connections.drop_ended(tx)
        await store_marks.set_aside_unclaimed(tx, now, now + STOPPED_PAUSE)
        dropped = await store_marks.drop_unclaimed(tx, now - UNCLAIMED_FOR)
    if dropped:
        log.warning("unclaimed_marks_dropped", dropped=dropped)


async def ask_for_transactions(database: Database, identities: Identities) -> None:
    """Have the platform's balance transactions listed, so that none without an event is missed."""
    for mode in identities.platforms():
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            await store_marks.mark(tx, PLATFORM_ACCOUNT, [BALANCE])
