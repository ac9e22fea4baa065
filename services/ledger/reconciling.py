"""Reconciliation: a Stripe account as Stripe itself lists it, compared with the books.

A run asks for a statement, waits for all of it, gathers both sides, judges each movement and looks at
payouts and balances, in bounded steps that each commit: one that was cut short goes on where it was.
"""

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import get_args
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.ledger import Book, BreakKind
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode
from libs.ids import new_id
from libs.observability.metrics import (
    JOB_ITEMS_FAILED_TOTAL,
    LEDGER_BREAK_OLDEST_AGE_SECONDS,
    LEDGER_OPEN_BREAKS,
    LEDGER_RECONCILIATION_AGE_SECONDS,
    LEDGER_UNCLEARED_OLDEST_AGE_SECONDS,
)
from services.ledger import (
    breaks,
    chart,
    reconciling_ends,
    reconciling_sides,
    statements,
    store_ages,
    store_breaks,
)
from services.ledger import store_reconciliations as store
from services.ledger.reconciling_sides import Terms, Work
from services.ledger.statements import ANSWERED_WITHIN
from services.ledger.store_matching import Run

log = structlog.get_logger()

LEAD = timedelta(days=10)
"""A statement begins so much earlier: what is booked late was made before the time compared."""
REACH_MAX = timedelta(days=366)
DONE_WITHIN = timedelta(days=1)
ENROLLED_AT_ONCE = 1_000
RUNS_AT_ONCE = 20
STEPS_AT_ONCE = 50
LINES_KEPT_FOR = timedelta(days=7)
LINES_DROPPED_AT_ONCE = 20_000


def begins(listed_from: datetime) -> datetime:
    """From when on Stripe's list is asked for, to compare what was booked since a time.

    Raises:
        OverflowError: there is no such time.
    """
    return listed_from - LEAD


async def start(
    tx: Tx,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    *,
    requested_by: str | None,
    now: datetime,
) -> UUID:
    """Begin a run for an account of the tenant in scope, or join the one that is under way."""
    await store.lock_account(tx, account)
    under_way = await store.under_way(tx, account)
    if under_way is not None:
        joined: UUID = under_way["id"]
        return joined
    run_id = new_id()
    statement_id = await statements.request(
        tx,
        account,
        begins(listed_from),
        listed_to,
        requested_by=requested_by or breaks.ITSELF,
        now=now,
    )
    await store.insert(
        tx,
        run_id,
        account,
        listed_from,
        listed_to,
        statement_id=statement_id,
        requested_by=requested_by,
        now=now,
    )
    return run_id


async def take_turn(tx: Tx, account: str, terms: Terms, now: datetime) -> None:
    """Begin the run of an account whose turn it is, back to its oldest break."""
    if not await store.take_turn(tx, account, now, now + terms.every):
        return
    since = now - terms.window
    oldest = await store_breaks.oldest_unsettled(tx, account)
    if oldest is not None:
        since = min(since, oldest - timedelta(days=1))
    await start(tx, account, max(since, now - REACH_MAX), now, requested_by=None, now=now)


async def advance(
    database: Database, tenant_id: UUID, mode: Mode, run_id: UUID, terms: Terms, now: datetime
) -> bool:
    """Bring a run one step further; whether there is more to do at once."""
    async with database.tenant(tenant_id, mode) as tx:
        row = await store.lock(tx, run_id)
        if row is None or row["state"] not in _STEPS:
            return False
        book: Book = "platform" if row["account"] == PLATFORM_ACCOUNT else "tenant"
        work = Work(Run(tenant_id, mode, run_id, row["account"], book), row, terms, now)
        if now - row["started_at"] > DONE_WITHIN:
            return await _fail(tx, work, "took_too_long")
        return await _STEPS[row["state"]](tx, work)


async def enrol(database: Database, every: timedelta) -> None:
    """Give accounts their turn that have none yet: the first one comes after a whole pause."""
    async with database.maintenance() as tx:
        await store.enrol_accounts(tx, utc_now() + every, ENROLLED_AT_ONCE)


async def begin_due(database: Database, terms: Terms) -> None:
    """Begin the runs of accounts whose turn it is."""
    now = utc_now()
    async with database.maintenance() as tx:
        due = await store.due_accounts(tx, now, RUNS_AT_ONCE)
    for row in due:
        async with database.tenant(row["tenant_id"], row["mode"]) as tx:
            await take_turn(tx, row["account"], terms, now)


async def advance_all(database: Database, terms: Terms) -> None:
    """Bring the oldest runs as far as they go, each so far at most that others have their turn."""
    async with database.maintenance() as tx:
        runs = await store.to_do(tx, RUNS_AT_ONCE)
    for row in runs:
        try:
            for _ in range(STEPS_AT_ONCE):
                if not await advance(
                    database, row["tenant_id"], row["mode"], row["id"], terms, utc_now()
                ):
                    break
        except Exception:
            JOB_ITEMS_FAILED_TOTAL.labels(job="reconcile").inc()
            log.exception("reconciliation_step_failed", reconciliation_id=str(row["id"]))


async def drop_compared(database: Database) -> None:
    """Drop lines of statements that were asked for some days ago; some at a time."""
    now = utc_now()
    async with database.maintenance() as tx:
        statement = await store.statement_to_drop(tx, now - LINES_KEPT_FOR)
        if statement is not None:
            await store.drop_lines(tx, statement, now, LINES_DROPPED_AT_ONCE)


async def measure(database: Database) -> None:
    """Show how many breaks are open, how old they and what is not cleared are, and when was compared."""
    now = utc_now()
    async with database.maintenance() as tx:
        counted = {row["kind"]: row for row in await store_breaks.count_open(tx)}
        waited = await store.oldest_turn(tx, now)
        standing = {
            row["is_suspense"]: row["since"]
            for row in await store_ages.oldest(tx, chart.SUSPENSE.code)
        }
    for kind in get_args(BreakKind):
        found = counted[kind]["breaks"] if kind in counted else 0
        LEDGER_OPEN_BREAKS.labels(kind=kind).set(found)
    oldest = min((row["oldest_at"] for row in counted.values()), default=now)
    LEDGER_BREAK_OLDEST_AGE_SECONDS.set((now - oldest).total_seconds())
    LEDGER_RECONCILIATION_AGE_SECONDS.set(waited.total_seconds())
    for is_suspense, account in ((False, "stripe_clearing"), (True, "suspense")):
        age = now - standing.get(is_suspense, now)
        LEDGER_UNCLEARED_OLDEST_AGE_SECONDS.labels(account=account).set(age.total_seconds())


async def _await_statement(tx: Tx, work: Work) -> bool:
    """Wait until Stripe's list is here as a whole."""
    state = work.row["statement_state"]
    if state == "complete":
        await store.move(tx, work.run.id, "lines", "0")
        return True
    if state != "requested":
        return await _fail(tx, work, work.row["statement_error"] or state)
    if work.now - work.row["started_at"] > ANSWERED_WITHIN:
        return await _fail(tx, work, "not_answered")
    return False


async def _fail(tx: Tx, work: Work, error: str) -> bool:
    log.error("reconciliation_failed", account=work.run.account, error=error)
    await reconciling_sides.drop_items(tx, work)
    await store.end(tx, work.run.id, "failed", work.now, error=error[:200])
    return False


_STEPS: Mapping[str, Callable[[Tx, Work], Awaitable[bool]]] = {
    "listing": _await_statement,
    "lines": reconciling_sides.gather_lines,
    "entries": reconciling_sides.gather_entries,
    "matching": reconciling_sides.match,
    "ending": reconciling_ends.end,
}
