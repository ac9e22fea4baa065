"""SQL of reconciliations: when each account's turn is, and how far each run is."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx

Json = Mapping[str, Any]

UNDER_WAY = ("listing", "lines", "entries", "matching", "ending")


async def enrol_accounts(tx: Tx, first_at: datetime, limit: int) -> int:
    """Give every connected account its turn, and the platform's once money has moved there.

    As the maintenance role. Accounts that are nobody's any more have none.

    Returns:
        How many accounts are new.
    """
    await tx.execute(
        """
        delete from reconciliation_schedule s
        where s.account <> $1 and not exists (
            select from directory_account d
            where d.tenant_id = s.tenant_id and d.value = s.mode || ':' || s.account)
        """,
        PLATFORM_ACCOUNT,
    )
    return await tx.execute(
        """
        insert into reconciliation_schedule (tenant_id, mode, account, next_at)
        select * from (
            select tenant_id, split_part(value, ':', 1), split_part(value, ':', 2), $3::timestamptz
            from directory_account
            union all
            select $1, mode, $2, $3 from (values ('test'), ('live')) as modes(mode)
            where exists (select from book_chain c where c.mode = modes.mode and c.book = 'platform')
        ) as found(tenant_id, mode, account, next_at)
        where not exists (select from reconciliation_schedule s where s.tenant_id = found.tenant_id
            and s.mode = found.mode and s.account = found.account)
        limit $4 on conflict do nothing
        """,
        PLATFORM_TENANT_ID,
        PLATFORM_ACCOUNT,
        first_at,
        limit,
    )


async def due_accounts(tx: Tx, now: datetime, limit: int) -> list[Row]:
    """(tenant, mode, account) whose turn it is, the longest waiting first; as maintenance."""
    return await tx.fetch(
        "select tenant_id, mode, account from reconciliation_schedule where next_at <= $1 "
        "order by next_at, tenant_id, mode, account limit $2",
        now,
        limit,
    )


async def take_turn(tx: Tx, account: str, now: datetime, next_at: datetime) -> bool:
    """Take the turn of an account of the tenant in scope; False where somebody else has."""
    taken = await tx.execute(
        "update reconciliation_schedule set next_at = $5 "
        "where tenant_id = $1 and mode = $2 and account = $3 and next_at <= $4",
        tx.tenant_id,
        tx.mode,
        account,
        now,
        next_at,
    )
    return taken == 1


async def come_back(tx: Tx, account: str, at: datetime) -> None:
    """Have an account's next turn at this time, unless it is sooner."""
    await tx.execute(
        "update reconciliation_schedule set next_at = least(next_at, $4) "
        "where tenant_id = $1 and mode = $2 and account = $3",
        tx.tenant_id,
        tx.mode,
        account,
        at,
    )


async def insert(
    tx: Tx,
    run_id: UUID,
    account: str,
    listed_from: datetime,
    listed_to: datetime,
    *,
    statement_id: UUID,
    requested_by: str | None,
    now: datetime,
) -> None:
    """Enter a run of an account that has none under way."""
    await tx.execute(
        """
        insert into reconciliation (tenant_id, mode, id, account, listed_from, listed_to,
            statement_id, requested_by, started_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        tx.tenant_id,
        tx.mode,
        run_id,
        account,
        listed_from,
        listed_to,
        statement_id,
        requested_by,
        now,
    )


async def lock_account(tx: Tx, account: str) -> None:
    """Be the only one to begin a run of this account of the tenant in scope."""
    await tx.execute(
        "select pg_advisory_xact_lock(hashtextextended("
        "concat_ws('/', 'reconciliation', $1::uuid, $2::text, $3::text), 0))",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def under_way(tx: Tx, account: str) -> Row | None:
    """The run of an account of the tenant in scope that has not come to its end."""
    return await tx.fetchrow(
        "select * from reconciliation where tenant_id = $1 and mode = $2 and account = $3 "
        "and state not in ('completed', 'failed')",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def to_do(tx: Tx, limit: int) -> list[Row]:
    """Runs that have not come to their end, the oldest first; as the maintenance role."""
    return await tx.fetch(
        "select tenant_id, mode, id from reconciliation "
        "where state not in ('completed', 'failed') order by id limit $1",
        limit,
    )


async def lock(tx: Tx, run_id: UUID) -> Row | None:
    """A run of the tenant in scope with its statement; None where somebody else is at it."""
    return await tx.fetchrow(
        """
        select r.*, s.state as statement_state, s.error as statement_error, s.parts, s.listed_at,
            s.listed_from as statement_from, s.requested_at, s.balances as stripe_balances,
            s.ours_from
        from reconciliation r
        join statement s on s.tenant_id = r.tenant_id and s.mode = r.mode and s.id = r.statement_id
        where r.tenant_id = $1 and r.mode = $2 and r.id = $3 for update of r skip locked
        """,
        tx.tenant_id,
        tx.mode,
        run_id,
    )


async def move(tx: Tx, run_id: UUID, state: str, position: str = "") -> None:
    """A run came to another step, or further in its step."""
    await tx.execute(
        "update reconciliation set state = $4, position = $5 "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
        state,
        position,
    )


async def count(tx: Tx, run_id: UUID, **more: int) -> None:
    """Add to a run's counts: lines, entries, matched, waiting, found, resolved."""
    await tx.execute(
        """
        update reconciliation set line_count = line_count + $4, entry_count = entry_count + $5,
            matched_count = matched_count + $6, waiting_count = waiting_count + $7,
            breaks_found = breaks_found + $8, breaks_resolved = breaks_resolved + $9
        where tenant_id = $1 and mode = $2 and id = $3
        """,
        tx.tenant_id,
        tx.mode,
        run_id,
        *(more.get(name, 0) for name in _COUNTS),
    )


_COUNTS = ("lines", "entries", "matched", "waiting", "found", "resolved")


async def note_unlisted(tx: Tx, run_id: UUID, unlisted: Mapping[str, int]) -> None:
    """Keep the sums of what is booked and need not be in the list."""
    await tx.execute(
        "update reconciliation set unlisted = $4 where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
        dict(unlisted),
    )


async def end(
    tx: Tx,
    run_id: UUID,
    state: str,
    ended_at: datetime,
    *,
    error: str | None = None,
    balances: Sequence[Json] = (),
) -> None:
    """A run came to its end."""
    await tx.execute(
        "update reconciliation set state = $4, ended_at = $5, error = $6, balances = $7, "
        "position = '' where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
        state,
        ended_at,
        error,
        list(balances),
    )


async def last_balances(tx: Tx, account: str) -> list[Json]:
    """The balances that the last completed run of an account found."""
    found: list[Json] | None = await tx.fetchval(
        "select balances from reconciliation where tenant_id = $1 and mode = $2 and account = $3 "
        "and state = 'completed' order by id desc limit 1",
        tx.tenant_id,
        tx.mode,
        account,
    )
    return found or []


async def is_opened(tx: Tx, account: str) -> bool:
    """Whether the opening balance of an account of the tenant in scope was taken."""
    return bool(
        await tx.fetchval(
            "select exists (select from opened_account "
            "where tenant_id = $1 and mode = $2 and account = $3)",
            tx.tenant_id,
            tx.mode,
            account,
        )
    )


async def open_account(tx: Tx, account: str, ours_from: datetime, now: datetime) -> None:
    """Keep that the opening balance of an account of the tenant in scope was taken."""
    await tx.execute(
        "insert into opened_account (tenant_id, mode, account, ours_from, opened_at) "
        "values ($1, $2, $3, $4, $5) on conflict do nothing",
        tx.tenant_id,
        tx.mode,
        account,
        ours_from,
        now,
    )


async def find(tx: Tx, run_id: UUID) -> Row | None:
    """A run of the tenant in scope."""
    return await tx.fetchrow(
        "select * from reconciliation where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
    )


async def list_runs(
    tx: Tx, mode: str, tenant_id: UUID | None, account: str | None, before: UUID | None, limit: int
) -> list[Row]:
    """Runs in sight, newest first.

    Args:
        tenant_id: None lists those of all tenants.
    """
    return await tx.fetch(
        """
        select * from reconciliation
        where mode = $1 and ($2::uuid is null or tenant_id = $2)
            and ($3::text is null or account = $3) and ($4::uuid is null or id < $4)
        order by id desc limit $5
        """,
        mode,
        tenant_id,
        account,
        before,
        limit,
    )


async def statement_to_drop(tx: Tx, requested_before: datetime) -> Row | None:
    """(tenant, mode, id) of the oldest statement with lines that no run needs; as maintenance."""
    return await tx.fetchrow(
        """
        select s.tenant_id, s.mode, s.id from statement s
        where s.dropped_at is null and s.requested_at < $1 and not exists (
            select from reconciliation r where r.tenant_id = s.tenant_id and r.mode = s.mode
                and r.statement_id = s.id and r.state not in ('completed', 'failed'))
        order by s.requested_at limit 1
        """,
        requested_before,
    )


async def drop_lines(tx: Tx, statement: Row, now: datetime, limit: int) -> None:
    """Drop some lines of a statement, with the last ones all that is left of it; as maintenance.

    One that was never answered as a whole has failed by now: no part of it is taken any more.
    """
    key = statement["tenant_id"], statement["mode"], statement["id"]
    await tx.execute(
        "update statement set state = 'failed', error = 'not_answered' "
        "where tenant_id = $1 and mode = $2 and id = $3 and state = 'requested'",
        *key,
    )
    dropped = await tx.execute(
        """
        delete from statement_line where ctid = any(array(
            select ctid from statement_line
            where tenant_id = $1 and mode = $2 and statement_id = $3 limit $4))
        """,
        *key,
        limit,
    )
    if dropped == limit:
        return
    await tx.execute(
        "delete from statement_payout where tenant_id = $1 and mode = $2 and statement_id = $3",
        *key,
    )
    await tx.execute(
        "delete from statement_part where tenant_id = $1 and mode = $2 and statement_id = $3", *key
    )
    await tx.execute(
        "update statement set dropped_at = $4 where tenant_id = $1 and mode = $2 and id = $3",
        *key,
        now,
    )


async def oldest_turn(tx: Tx, now: datetime) -> timedelta:
    """For how long the account has waited that was not compared the longest; as maintenance.

    That is since its last completed run, or since its turn was due, whichever is later.
    """
    waited: timedelta | None = await tx.fetchval(
        """
        select max($1 - coalesce((
            select max(r.ended_at) from reconciliation r where r.tenant_id = s.tenant_id
                and r.mode = s.mode and r.account = s.account and r.state = 'completed'
        ), s.next_at)) from reconciliation_schedule s
        """,
        now,
    )
    return max(waited or timedelta(), timedelta())
