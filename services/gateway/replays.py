"""Replays: sending archived events again, under an id of their own, so that nothing happens twice.

A replay is stored; a job goes on with it batch by batch. What a batch sends and how far the replay
has come stand in one commit, so it may be killed anywhere and goes on where it was.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.contracts.gateway import WebhookReplayCanceled
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.gateway import keeping, store, store_replays, store_spool
from services.gateway.store_replays import Selection

log = structlog.get_logger()

BATCH_EVENTS = 500
COUNTED_EVENTS = 10_000
"""So many events are counted at a time: a statement over a whole archive would take too long."""
BATCHES_MAX = 20
REPLAYS_AT_ONCE_MAX = 20
BREATH_EVENTS = 25
"""After so many events other work of the process has its turn: webhooks are being answered."""
UNSENT_EVENTS_MAX = 5_000
"""With more than this waiting for Kafka a replay waits too: it must not crowd out webhooks."""


class ReplayRunningError(Exception):
    """A replay of this tenant is under way."""


class ReplayDoneError(Exception):
    """The replay has come to its end and cannot be canceled."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants replayed.

    Attributes:
        actor: who wants it, as the audit log names callers.
    """

    selection: Selection
    dry_run: bool
    actor: str


async def begin(tx: Tx, wish: Wish) -> Row:
    """Begin the replay, in scope of the tenant it is of (the platform where it is of every one).

    Raises:
        ReplayRunningError: wait for it to end, or cancel it.
    """
    row = await store_replays.insert_replay(
        tx,
        new_id(),
        wish.selection,
        dry_run=wish.dry_run,
        actor=wish.actor,
        at=utc_now(),
    )
    if row is None:
        raise ReplayRunningError
    emit(
        tx,
        ConfigurationChanged(
            action="webhook_events.replayed",
            actor=wish.actor,
            object_id=public_id("webhook_replay", row["id"]),
            after=_told(wish.selection) | {"dry_run": wish.dry_run},
        ),
    )
    return row


async def cancel(tx: Tx, replay: Row, actor: str) -> Row:
    """End a replay before its end; what it has sent is sent.

    Raises:
        ReplayDoneError: it has come to its end by itself.
    """
    if replay["state"] == "done":
        raise ReplayDoneError
    if replay["state"] == "running":
        await store_replays.finish(tx, replay, "canceled", utc_now())
        emit(
            tx,
            ConfigurationChanged(
                action="webhook_events.replay_canceled",
                actor=actor,
                object_id=public_id("webhook_replay", replay["id"]),
                after={"replayed": replay["replayed"]},
            ),
        )
        if replay["dry_run"]:
            emit(tx, WebhookReplayCanceled(replay_id=public_id("webhook_replay", replay["id"])))
    row = await store_replays.find_replay(tx, replay["mode"], replay["id"])
    assert row is not None, "it was found before, and replays are kept"
    return row


async def run_once(database: Database, *, batches_max: int = BATCHES_MAX) -> None:
    """Some batches of the replays under way, in turn; where there are many, of the next ones."""
    async with database.maintenance() as tx:
        running = await store_replays.take_turns(tx, utc_now(), REPLAYS_AT_ONCE_MAX)
    for _ in range(batches_max):
        running = [each for each in running if await _go_on(database, each)]


async def _go_on(database: Database, which: Row) -> bool:
    """The next step of a replay: first what it chooses is counted, then it is sent.

    Returns:
        Whether there may be more to do now.
    """
    async with database.maintenance() as tx:
        if await store_spool.count_unsent(tx, UNSENT_EVENTS_MAX) >= UNSENT_EVENTS_MAX:
            return False
    tenant_id, mode = which["tenant_id"], which["mode"]
    async with _reading(database, tenant_id, mode, every_tenant=which["every_tenant"]) as tx:
        replay = await store_replays.lock_running(tx, tenant_id, mode, which["id"])
        if replay is None:
            return False
        if not replay["is_counted"]:
            await store_replays.count_on(tx, replay, COUNTED_EVENTS)
            return True
        return await _send_batch(tx, replay)


async def _send_batch(tx: Tx, replay: Row) -> bool:
    """The next batch of a replay that is locked; whether there may be more."""
    rows = await store_replays.read_on(tx, replay, BATCH_EVENTS) if replay["matched"] else []
    chosen = [row for row in rows if row["chosen"]]
    replay_id = public_id("webhook_replay", replay["id"])
    for number, row in enumerate(chosen, start=1):
        await tx.enter(Scope((row["tenant_id"],), replay["mode"]))
        kept = store.kept_event(row)
        keeping.publish(tx, kept, replay_id=replay_id, dry_run=replay["dry_run"])
        if number % BREATH_EVENTS == 0:
            await asyncio.sleep(0)
    await tx.enter(Scope((replay["tenant_id"],), replay["mode"]))
    if rows:
        await store_replays.move_on(tx, replay, rows[-1], len(chosen))
    ended = len(rows) < BATCH_EVENTS
    if ended:
        await store_replays.finish(tx, replay, "done", utc_now())
        log.info("webhooks_replayed", replay_id=replay_id, dry_run=replay["dry_run"])
    return not ended


@asynccontextmanager
async def _reading(
    database: Database, tenant_id: UUID, mode: Mode, *, every_tenant: bool
) -> AsyncGenerator[Tx, None]:
    """A transaction that sees what the replay is of, and no more."""
    if every_tenant:
        async with database.maintenance() as tx:
            yield tx
    else:
        async with database.tenant(tenant_id, mode) as tx:
            yield tx


def _told(selection: Selection) -> dict[str, str | int | bool | None]:
    """The selection as the audit log has it; ids only by their number."""
    return {
        "every_tenant": selection.every_tenant,
        "ids": None if selection.event_ids is None else len(selection.event_ids),
        "type": selection.event_type,
        "object_id": selection.object_id,
        "received_from": _text(selection.received_from),
        "received_to": _text(selection.received_to),
    }


def _text(at: datetime | None) -> str | None:
    return None if at is None else at.isoformat()
