"""SQL of walks over Stripe's lists, and of comparing what they list with the mirror."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from libs.db.pool import Tx
from libs.db.tenant import Mode

Json = dict[str, Any]


@dataclass(frozen=True)
class Walk:
    """How far one list of one account was read.

    Attributes:
        enrolled_at: when the account was first walked.
        started_at: of the run under way.
        after_id: the last object of the page read last; None at the front.
        done_to: when the last run began that read the whole list.
    """

    account: str
    mode: Mode
    step: str
    enrolled_at: datetime
    started_at: datetime
    after_id: str | None
    done_to: datetime | None
    attempts: int
    is_first_page: bool


async def lacking_accounts(
    tx: Tx,
    mode: Mode,
    statuses: Sequence[str],
    steps: Sequence[str],
    limit: int,
    *,
    platform: bool,
) -> list[str]:
    """Accounts of a mode that can be called and do not have all of these steps yet.

    Args:
        platform: whether the platform's own account can be called in this mode.
        statuses: of connections that may be called.
    """
    rows = await tx.fetch(
        """
        select account from (
            select 'platform' as account where $1::boolean
            union
            select state ->> 'account_id' from seen_connection
            where mode = $2 and state ->> 'account_id' is not null
                and state ->> 'status' = any($3) and (state ->> 'is_active')::boolean) as callable
        where (select count(*) from walk w where w.account = callable.account
            and w.mode = $2 and w.step = any($4)) < cardinality($4::text[])
        limit $5
        """,
        platform,
        mode,
        statuses,
        steps,
        limit,
    )
    return [row["account"] for row in rows]


async def enrol(
    tx: Tx, account: str, mode: str, now: datetime, steps: Mapping[str, datetime]
) -> None:
    """Enter steps of an account, each with the time of its first run; known ones stay as they are."""
    await tx.executemany(
        """
        insert into walk (account, mode, step, enrolled_at, next_at)
        select $1, $2, $3, coalesce((select min(enrolled_at) from walk
            where account = $1 and mode = $2), $4), $5
        on conflict do nothing
        """,
        [(account, mode, step, now, next_at) for step, next_at in steps.items()],
    )


async def due_accounts(
    tx: Tx,
    now: datetime,
    platforms: Sequence[str],
    statuses: Sequence[str],
    but: Sequence[tuple[str, str]],
    limit: int,
) -> list[tuple[str, Mode]]:
    """(account, mode) of walks whose turn it is and whose account can be called.

    Args:
        but: those that are being worked on.
    """
    rows = await tx.fetch(
        """
        select w.account, w.mode from walk w
        where w.next_at <= $1
            and ((w.account = 'platform' and w.mode = any($2)) or exists (
                select from seen_connection s where s.mode = w.mode
                    and s.state ->> 'account_id' = w.account and s.state ->> 'status' = any($3)
                    and (s.state ->> 'is_active')::boolean))
            and not exists (select from unnest($4::text[], $5::text[]) as b(account, mode)
                where b.account = w.account and b.mode = w.mode)
        group by w.account, w.mode order by min(w.next_at) limit $6
        """,
        now,
        platforms,
        statuses,
        [account for account, _ in but],
        [mode for _, mode in but],
        limit,
    )
    return [(row["account"], row["mode"]) for row in rows]


async def take_up(tx: Tx, account: str, mode: str, now: datetime) -> Walk | None:
    """The walk of an account whose turn has come first; its run begins where none is under way."""
    row = await tx.fetchrow(
        """
        with due as (
            select account, mode, step, started_at is null as is_new from walk
            where account = $1 and mode = $2 and next_at <= $3 order by next_at, step limit 1
            for update)
        update walk w set started_at = coalesce(w.started_at, $3),
            listed = case when due.is_new then 0 else w.listed end,
            counted = case when due.is_new then 0 else w.counted end
        from due where w.account = due.account and w.mode = due.mode and w.step = due.step
        returning w.step, w.enrolled_at, w.started_at, w.after_id, w.done_to, w.attempts, w.listed
        """,
        account,
        mode,
        now,
    )
    if row is None:
        return None
    return Walk(
        account,
        "live" if mode == "live" else "test",
        row["step"],
        row["enrolled_at"],
        row["started_at"],
        row["after_id"],
        row["done_to"],
        row["attempts"],
        is_first_page=row["after_id"] is None,
    )


_AT_THIS_PAGE = """
    account = $1 and mode = $2 and step = $3 and started_at is not distinct from $4::timestamptz
        and after_id is not distinct from $5::text
"""
"""A page may have taken longer than the lease: then somebody else has gone on, or begun anew, and
what this one has to say of the walk is left out."""


async def go_on(
    tx: Tx, walk: Walk, after_id: str, *, listed: int, counted: int, now: datetime
) -> None:
    """A page was read and there are more."""
    await tx.execute(
        f"""
        update walk set after_id = $6, listed = listed + $7, counted = counted + $8, next_at = $9,
            attempts = 0, last_error = null
        where {_AT_THIS_PAGE}
        """,  # noqa: S608 - constants only
        *_place(walk),
        after_id,
        listed,
        counted,
        now,
    )


def _place(walk: Walk) -> tuple[str, str, str, datetime, str | None]:
    """The arguments of `_AT_THIS_PAGE`."""
    return walk.account, walk.mode, walk.step, walk.started_at, walk.after_id


async def finish(
    tx: Tx,
    walk: Walk,
    *,
    listed: int,
    counted: int,
    next_at: datetime | None,
    refusal: str | None = None,
) -> None:
    """The whole list was read, or Stripe refuses to show it.

    Args:
        next_at: when it is read again; None: when somebody asks for it.
        refusal: why nothing of it can be read.
    """
    finished = await tx.execute(
        f"""
        update walk set done_to = case when $9::text is null then started_at else done_to end,
            started_at = null, after_id = null, listed = listed + $6, counted = counted + $7,
            counted_before = counted + $7, next_at = coalesce($8::timestamptz, 'infinity'),
            attempts = 0, last_error = $9
        where {_AT_THIS_PAGE}
        """,  # noqa: S608 - constants only
        *_place(walk),
        listed,
        counted,
        next_at,
        refusal[:500] if refusal else None,
    )
    if not finished:
        return
    await tx.execute(
        "delete from walked_object where account = $1 and mode = $2 and step = $3",
        walk.account,
        walk.mode,
        walk.step,
    )


async def postpone(tx: Tx, walk: Walk, until: datetime, error: str, *, anew: bool) -> None:
    """A run that met an error is not done: it goes on later where it stopped.

    Args:
        anew: from the front of the list, because the place where it stopped is gone.
    """
    await tx.execute(
        f"""
        update walk set next_at = $6, attempts = attempts + 1, last_error = $7,
            after_id = case when $8 then null else after_id end
        where {_AT_THIS_PAGE}
        """,  # noqa: S608 - constants only
        *_place(walk),
        until,
        error[:500],
        anew,
    )


async def rest(tx: Tx, account: str, mode: str, until: datetime, error: str) -> None:
    """No walk of an account that cannot be called goes on before this time."""
    await tx.execute(
        "update walk set next_at = $3, last_error = $4 "
        "where account = $1 and mode = $2 and next_at < $3",
        account,
        mode,
        until,
        error[:500],
    )


async def hasten(tx: Tx, account: str) -> None:
    """All timed walks of an account are due."""
    await tx.execute(
        "update walk set next_at = '-infinity' "
        "where account = $1 and mode = $2 and next_at < 'infinity'",
        account,
        tx.mode,
    )


async def wait(tx: Tx, walk: Walk, until: datetime) -> None:
    """Leave a walk for a moment: what it found so far is to be fetched first."""
    await tx.execute(
        "update walk set next_at = $4 where account = $1 and mode = $2 and step = $3",
        walk.account,
        walk.mode,
        walk.step,
        until,
    )


async def forget(tx: Tx, account: str) -> None:
    """Forget how far an account's lists were read: it is enrolled afresh."""
    of = (account, tx.mode)
    await tx.execute("delete from walk where account = $1 and mode = $2", *of)
    await tx.execute("delete from walked_object where account = $1 and mode = $2", *of)
    await tx.execute("delete from transaction_cursor where account = $1 and mode = $2", *of)


async def counted_last(tx: Tx, step: str) -> int:
    """What the last whole runs of a step counted, over all accounts."""
    return int(
        await tx.fetchval("select coalesce(sum(counted_before), 0) from walk where step = $1", step)
    )


async def dirty_count(tx: Tx, account: str, mode: str, most: int) -> int:
    """How many objects of an account wait to be fetched now; counts no further than `most`.

    One that was put off, perhaps again and again, waits for its time and not for its turn.
    """
    return int(
        await tx.fetchval(
            "select count(*) from (select from dirty_object where account = $1 and mode = $2 "
            "and next_try_at <= now() limit $3) as found",
            account,
            mode,
            most,
        )
    )


async def see(tx: Tx, walk: Walk, object_ids: Sequence[str]) -> None:
    """Remember what a run has seen."""
    await tx.execute(
        """
        insert into walked_object (account, mode, step, object_id)
        select $1, $2, $3, unnest($4::text[]) on conflict do nothing
        """,
        walk.account,
        walk.mode,
        walk.step,
        object_ids,
    )


_OF_ITS_TENANT = """
    ($1 = 'platform' or tenant_id = (
        select (find_tenant('account', $2 || ':' || $1) ->> 'tenant_id')::uuid))
"""
"""An account may have been another tenant's before, whose mirror says nothing of it any more. On the
platform's the objects of many tenants meet."""


async def mirrored(
    tx: Tx, account: str, mode: str, kind: str, object_ids: Sequence[str]
) -> dict[str, Json]:
    """Objects as the mirror has them, by id; what Stripe has deleted is not among them."""
    rows = await tx.fetch(
        f"""
        select object_id, raw from stripe_object where account = $1 and mode = $2
            and object_type = $3 and object_id = any($4) and not deleted and {_OF_ITS_TENANT}
        """,  # noqa: S608 - constants only
        account,
        mode,
        kind,
        object_ids,
    )
    return {row["object_id"]: row["raw"] for row in rows}


async def unseen(
    tx: Tx, walk: Walk, kind: str, statuses: Sequence[str], since: datetime | None, limit: int
) -> list[str]:
    """Ids of objects that the mirror thinks are open and that the run did not see.

    Args:
        statuses: in which the mirror would have to be for the list to hold the object.
        since: from when on objects were listed by their creation.
    """
    rows = await tx.fetch(
        f"""
        select object_id from stripe_object o where account = $1 and mode = $2
            and object_type = $4 and not deleted and raw ->> 'status' = any($5)
            and fetched_at < $6 and {_OF_ITS_TENANT}
            -- What lives on a test clock is not listed unless the clock is named.
            and (object_type <> 'subscription' or raw ->> 'test_clock' is null)
            and ($7::bigint is null or (raw ->> 'created')::bigint >= $7)
            and not exists (select from walked_object w where w.account = $1 and w.mode = $2
                and w.step = $3 and w.object_id = o.object_id)
        order by object_id limit $8
        """,  # noqa: S608 - constants only
        walk.account,
        walk.mode,
        walk.step,
        kind,
        statuses,
        walk.started_at,
        int(since.timestamp()) if since else None,
        limit,
    )
    return [row["object_id"] for row in rows]


async def has_mirror_before(tx: Tx, account: str, mode: str, at: datetime) -> bool:
    """Whether something of the account was mirrored before this time, for the tenant that has it."""
    return bool(
        await tx.fetchval(
            f"""
            select exists (select from stripe_object where account = $1 and mode = $2
                and fetched_at < $3 and {_OF_ITS_TENANT})
            """,  # noqa: S608 - constants only
            account,
            mode,
            at,
        )
    )
