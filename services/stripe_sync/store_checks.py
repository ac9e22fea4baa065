"""SQL of replays that only ask what would change."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Mode

Json = dict[str, Any]


@dataclass(frozen=True)
class Check:
    """An object to be compared for a replay."""

    tenant_id: UUID
    mode: Mode
    replay_id: str
    account: str
    object_type: str
    object_id: str
    attempts: int


async def enter(
    tx: Tx, replay_id: str, account: str, objects: Sequence[tuple[str, str]], at: datetime
) -> None:
    """Enter objects to be compared, each once per replay."""
    await tx.executemany(
        """
        insert into replay_check (tenant_id, mode, replay_id, account, object_type, object_id,
            entered_at)
        values ($1, $2, $3, $4, $5, $6, $7) on conflict do nothing
        """,
        [
            (tx.tenant_id, tx.mode, replay_id, account, kind, object_id, at)
            for kind, object_id in objects
        ],
    )


async def due_accounts(
    tx: Tx,
    now: datetime,
    but: Sequence[tuple[str, str]],
    served: Sequence[tuple[str, str]],
    limit: int,
) -> list[tuple[str, Mode]]:
    """(account, mode) of objects that are to be compared, the account served longest ago first.

    Args:
        but: those that are being worked on.
        served: those that had a turn, in the order of their last ones.
    """
    rows = await tx.fetch(
        """
        select c.account, c.mode from replay_check c
        left join unnest($4::text[], $5::text[]) with ordinality as s(account, mode, turn)
            on s.account = c.account and s.mode = c.mode
        where c.state = 'pending' and c.next_try_at <= $1
            and not exists (select from unnest($2::text[], $3::text[]) as b(account, mode)
                where b.account = c.account and b.mode = c.mode)
        group by c.account, c.mode, s.turn order by s.turn nulls first, min(c.entered_at) limit $6
        """,
        now,
        [account for account, _ in but],
        [mode for _, mode in but],
        [account for account, _ in served],
        [mode for _, mode in served],
        limit,
    )
    return [(row["account"], row["mode"]) for row in rows]


async def due(tx: Tx, account: str, mode: Mode, now: datetime, limit: int) -> list[Check]:
    """Objects of an account that are to be compared, of each replay as many.

    So a long one is not in the way of the others. Of one replay the longest waiting come first.
    """
    rows = await tx.fetch(
        """
        select tenant_id, replay_id, object_type, object_id, attempts from (
            select *, row_number() over (
                partition by tenant_id, replay_id order by entered_at) as place
            from replay_check
            where account = $1 and mode = $2 and state = 'pending' and next_try_at <= $3) as waiting
        order by place, entered_at limit $4
        """,
        account,
        mode,
        now,
        limit,
    )
    return [
        Check(
            row["tenant_id"],
            mode,
            row["replay_id"],
            account,
            row["object_type"],
            row["object_id"],
            row["attempts"],
        )
        for row in rows
    ]


async def end(tx: Tx, check: Check, state: str, changes: Json, error: str | None) -> None:
    """An object was compared."""
    await tx.execute(
        """
        update replay_check set state = $7, changes = $8, last_error = $9
        where tenant_id = $1 and mode = $2 and replay_id = $3 and account = $4
            and object_type = $5 and object_id = $6 and state = 'pending'
        """,
        check.tenant_id,
        check.mode,
        check.replay_id,
        check.account,
        check.object_type,
        check.object_id,
        state,
        changes,
        error[:500] if error else None,
    )


async def postpone(tx: Tx, check: Check, until: datetime, error: str) -> None:
    """Compare an object later."""
    await tx.execute(
        """
        update replay_check set attempts = attempts + 1, next_try_at = $7, last_error = $8
        where tenant_id = $1 and mode = $2 and replay_id = $3 and account = $4
            and object_type = $5 and object_id = $6 and state = 'pending'
        """,
        check.tenant_id,
        check.mode,
        check.replay_id,
        check.account,
        check.object_type,
        check.object_id,
        until,
        error[:500],
    )


async def count(tx: Tx, mode: str, replay_id: str) -> dict[str, int]:
    """How many objects of a replay, in view, are in each state."""
    rows = await tx.fetch(
        "select state, count(*) as objects from replay_check "
        "where mode = $1 and replay_id = $2 group by state",
        mode,
        replay_id,
    )
    return {row["state"]: row["objects"] for row in rows}


async def list_differing(
    tx: Tx, mode: str, replay_id: str, after: tuple[str, str, str] | None, limit: int
) -> Sequence[Row]:
    """Objects of a replay, in view, that differ or could not be compared, by account, type, id."""
    account, kind, object_id = after or (None, None, None)
    return await tx.fetch(
        """
        select tenant_id, account, object_type, object_id, state, changes, last_error
        from replay_check
        where mode = $1 and replay_id = $2 and state in ('different', 'failed')
            and ($3::text is null or (account, object_type, object_id) > ($3, $4, $5))
        order by account, object_type, object_id limit $6
        """,
        mode,
        replay_id,
        account,
        kind,
        object_id,
        limit,
    )


async def note_canceled(tx: Tx, replay_id: str, at: datetime) -> None:
    """Remember once that a replay of the tenant in scope was canceled."""
    await tx.execute(
        "insert into canceled_replay (tenant_id, mode, replay_id, canceled_at) "
        "values ($1, $2, $3, $4) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        replay_id,
        at,
    )


async def drop_pending(tx: Tx, replay_id: str) -> None:
    """Forget what of a replay the tenant in scope has waiting."""
    await tx.execute(
        "delete from replay_check where tenant_id = $1 and mode = $2 and replay_id = $3 "
        "and state = 'pending'",
        tx.tenant_id,
        tx.mode,
        replay_id,
    )


async def drop_canceled(tx: Tx, since: datetime) -> None:
    """Forget what waits of replays that were canceled since then, over all tenants."""
    await tx.execute(
        """
        delete from replay_check c using canceled_replay d
        where d.canceled_at >= $1 and d.mode = c.mode and d.replay_id = c.replay_id
            and (d.tenant_id = c.tenant_id or d.tenant_id = $2) and c.state = 'pending'
        """,
        since,
        PLATFORM_TENANT_ID,
    )


async def prune(tx: Tx, before: datetime) -> None:
    """Forget comparisons and cancellations of long ago."""
    await tx.execute("delete from replay_check where entered_at < $1", before)
    await tx.execute("delete from canceled_replay where canceled_at < $1", before)
