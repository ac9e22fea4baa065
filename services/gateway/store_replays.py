"""SQL of replays: what was asked for, how far it has come, and the next events."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from libs.db.pool import Row, Tx
from services.gateway.store import EVENT_COLUMNS, FIRST


@dataclass(frozen=True)
class Selection:
    """Which events of the archive a replay sends again; None means any.

    Attributes:
        every_tenant: of all tenants, or of the one the replay belongs to.
    """

    every_tenant: bool
    event_ids: Sequence[UUID] | None = None
    event_type: str | None = None
    object_id: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None


EARLIEST_AT, EARLIEST_ID = FIRST

_COLUMNS = """
    tenant_id, mode, id, every_tenant, event_ids, event_type, object_id, received_from, received_to,
    dry_run, actor, state, matched, is_counted, counted_at, counted_id, replayed, reached_at,
    reached_id, started_at, finished_at
"""

_WITHIN = """
    mode = $2 and ($3 or tenant_id = $1) and received_at >= $4 and received_at < $5
"""
_CHOSEN = """
    quarantine_reason is null and ($6::text is null or event_type = $6)
    and ($7::text is null or object_id = $7)
"""


async def insert_replay(
    tx: Tx,
    replay_id: UUID,
    wanted: Selection,
    *,
    dry_run: bool,
    actor: str,
    at: datetime,
) -> Row | None:
    """Begin a replay of the tenant in scope; None while another of it runs."""
    return await tx.fetchrow(
        f"""
        insert into webhook_replay (tenant_id, mode, id, every_tenant, event_ids, event_type,
            object_id, received_from, received_to, dry_run, actor, state, matched, started_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'running', 0, $12)
        on conflict (tenant_id, mode) where state = 'running' do nothing returning {_COLUMNS}
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        tx.mode,
        replay_id,
        wanted.every_tenant,
        wanted.event_ids,
        wanted.event_type,
        wanted.object_id,
        wanted.received_from,
        wanted.received_to,
        dry_run,
        actor,
        at,
    )


async def list_replays(
    tx: Tx, mode: str, before: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """Replays in scope, the newest first."""
    at, replay_id = before or (None, None)
    return await tx.fetch(
        f"""
        select {_COLUMNS} from webhook_replay where mode = $1
            and ($2::timestamptz is null or (started_at, id) < ($2, $3::uuid))
        order by started_at desc, id desc limit $4
        """,  # noqa: S608 - constants only
        mode,
        at,
        replay_id,
        limit,
    )


async def find_replay(
    tx: Tx, mode: str, replay_id: UUID, *, for_update: bool = False
) -> Row | None:
    """One replay in scope."""
    return await tx.fetchrow(
        f"select {_COLUMNS} from webhook_replay where mode = $1 and id = $2 "  # noqa: S608
        f"{'for update' if for_update else ''}",
        mode,
        replay_id,
    )


async def take_turns(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """(tenant_id, mode, id, every_tenant) of replays under way, of any tenant, whose turn it is now.

    Those that were served longest ago come first, so that however many there are each comes to its
    end.
    """
    return await tx.fetch(
        """
        with next as (
            select tenant_id, mode, id, served_at, started_at from webhook_replay
            where state = 'running' order by served_at nulls first, started_at limit $2
            for update skip locked),
        served as (
            update webhook_replay r set served_at = $1 from next n
            where r.tenant_id = n.tenant_id and r.mode = n.mode and r.id = n.id
            returning r.tenant_id, r.mode, r.id, r.every_tenant,
                n.served_at as served_before, r.started_at)
        select tenant_id, mode, id, every_tenant from served
        order by served_before nulls first, started_at
        """,
        now,
        limit,
    )


async def lock_running(tx: Tx, tenant_id: UUID, mode: str, replay_id: UUID) -> Row | None:
    """A replay that is under way, for this transaction alone; None: it ended, or another has it."""
    return await tx.fetchrow(
        f"select {_COLUMNS} from webhook_replay where tenant_id = $1 and mode = $2 and id = $3 "  # noqa: S608
        "and state = 'running' for update skip locked",
        tenant_id,
        mode,
        replay_id,
    )


_NEXT = """
    (received_at, id) > ($8, $9::uuid) and received_at <= $10
"""
_READ = f"""
    {EVENT_COLUMNS}, headers, {_CHOSEN} as chosen, case when {_CHOSEN} then payload end as payload
"""


def _page_after(replay: Row, at: datetime | None, event_id: UUID | None, limit: int) -> list[Any]:
    """The arguments of `_WITHIN`, `_CHOSEN` and `_NEXT` for a page after a place, and its length.

    What came after the replay began is not its own: it has just been sent.
    """
    since = replay["received_from"] or EARLIEST_AT
    return [
        replay["tenant_id"],
        replay["mode"],
        replay["every_tenant"],
        since,
        replay["received_to"] or replay["started_at"] + timedelta(seconds=1),
        replay["event_type"],
        replay["object_id"],
        at or since,
        event_id or EARLIEST_ID,
        replay["started_at"],
        limit,
    ]


async def read_on(tx: Tx, replay: Row, limit: int) -> list[Row]:
    """The next events of the archive after the place reached, `chosen` or passed over."""
    arguments = _page_after(replay, replay["reached_at"], replay["reached_id"], limit)
    if replay["event_ids"] is None:
        return await tx.fetch(
            f"select {_READ} from webhook_event where {_WITHIN} and {_NEXT} "  # noqa: S608 - constants only
            "order by received_at, id limit $11",
            *arguments,
        )
    return await tx.fetch(
        f"select {_READ} from webhook_event where {_WITHIN} and {_NEXT} "  # noqa: S608 - likewise
        "and id = any($12::uuid[]) order by received_at, id limit $11",
        *arguments,
        replay["event_ids"],
    )


async def count_on(tx: Tx, replay: Row, limit: int) -> bool:
    """Count what the replay chooses among the next events; whether all are counted with them."""
    named = replay["event_ids"]
    row = await tx.fetchrow(
        f"""
        with page as (
            select received_at, id, {_CHOSEN} as chosen from webhook_event
            where {_WITHIN} and {_NEXT}
                {"" if named is None else "and id = any($13::uuid[])"}
            order by received_at, id limit $11),
        last as (select received_at, id from page order by received_at desc, id desc limit 1),
        counted as (
            select count(*) filter (where chosen) as chosen, count(*) < $11 as ended from page)
        update webhook_replay r set is_counted = c.ended,
            -- The release before counted all when the replay began, and may still run.
            matched = case when counted_at is null then 0 else matched end + c.chosen,
            counted_at = coalesce(l.received_at, r.counted_at), counted_id = coalesce(l.id, r.counted_id)
        from counted c left join last l on true
        where r.tenant_id = $1 and r.mode = $2 and r.id = $12 returning c.ended, r.matched
        """,  # noqa: S608 - constants only
        *_page_after(replay, replay["counted_at"], replay["counted_id"], limit),
        replay["id"],
        *([] if named is None else [named]),
    )
    assert row is not None, "the caller holds the replay's lock"
    return bool(row["ended"])


async def move_on(tx: Tx, replay: Row, reached: Row, sent: int) -> None:
    """Note the place reached, in the commit that sends what lies before it."""
    await tx.execute(
        "update webhook_replay set reached_at = $4, reached_id = $5, replayed = replayed + $6 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        replay["tenant_id"],
        replay["mode"],
        replay["id"],
        reached["received_at"],
        reached["id"],
        sent,
    )


async def finish(tx: Tx, replay: Row, state: str, at: datetime) -> None:
    """End a replay: `done`, or `canceled`."""
    await tx.execute(
        "update webhook_replay set state = $4, finished_at = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3 and state = 'running'",
        replay["tenant_id"],
        replay["mode"],
        replay["id"],
        state,
        at,
    )
