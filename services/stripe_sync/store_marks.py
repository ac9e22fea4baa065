"""SQL of dirty marks: which objects are to be fetched."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from libs.db.pool import Tx
from libs.db.tenant import Mode
from libs.observability.tracing import inject


@dataclass(frozen=True)
class Dirty:
    """An object to fetch, with every mark made on it so far.

    Attributes:
        marks: (tenant the webhook came under, generation of the mark).
        attempts: fetches that led to nothing yet.
        trace: of the latest mark (W3C Trace Context headers).
        made_at: when the object was made, or something made after it; None: nobody told.
        told_at: when the latest change happened that is known; None: just now.
        fetched_at: how new the mirror is; None: it has no such object.
    """

    object_type: str
    object_id: str
    marks: tuple[tuple[UUID, int], ...]
    attempts: int
    trace: Mapping[str, str] = field(default_factory=dict)
    made_at: datetime | None = None
    told_at: datetime | None = None
    fetched_at: datetime | None = None


@dataclass(frozen=True)
class Mark:
    """That an object is to be fetched.

    Attributes:
        tenant_id: in scope; where an event says so, the one it came under.
        made_at: see `Dirty`.
        told_at: see `Dirty`.
        trace: of whatever marks it; None: the current one.
    """

    tenant_id: UUID
    account: str
    object_type: str
    object_id: str
    made_at: datetime | None = None
    told_at: datetime | None = None
    trace: Mapping[str, str] | None = None

    @property
    def key(self) -> tuple[UUID, str, str, str]:
        """What there is one mark of."""
        return self.tenant_id, self.account, self.object_type, self.object_id

    def after(self, earlier: "Mark") -> "Mark":
        """This mark with what an earlier one of the same object knew."""
        made = [at for at in (self.made_at, earlier.made_at) if at is not None]
        told = (self.told_at, earlier.told_at)
        return replace(
            self,
            made_at=min(made, default=None),
            told_at=None if told[0] is None or told[1] is None else max(told[0], told[1]),
        )


async def mark(tx: Tx, account: str, objects: Iterable[tuple[str, str]]) -> None:
    """Mark objects, or mark them anew: a fetch under way does not answer this mark.

    The fetch belongs to the trace in which the mark was made.
    """
    await mark_all(tx, account, [(tx.tenant_id, kind, object_id) for kind, object_id in objects])


async def mark_all(tx: Tx, account: str, objects: Iterable[tuple[UUID, str, str]]) -> None:
    """Mark objects of several tenants, which are in scope: (tenant, type, id)."""
    await mark_each(tx, [Mark(tenant, account, kind, name) for tenant, kind, name in objects])


async def mark_each(tx: Tx, marks: Iterable[Mark]) -> None:
    """Mark objects in their order, in one statement; of what is marked twice the later mark counts.

    Rows are locked in one order everywhere, so that nobody waits for somebody who waits for them.
    """
    latest: dict[tuple[UUID, str, str, str], Mark] = {}
    for each in marks:
        earlier = latest.pop(each.key, None)
        latest[each.key] = each if earlier is None else each.after(earlier)
    if not latest:
        return
    here = json.dumps(inject())
    await tx.execute(
        """
        insert into dirty_object as d (tenant_id, mode, account, object_type, object_id, generation,
            trace, made_at, told_at)
        select tenant_id, $1, account, object_type, object_id, generation, trace::jsonb, made_at,
            coalesce(told_at, now())
        from (select *, nextval('dirty_generation') as generation
            from unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[],
                $7::timestamptz[], $8::timestamptz[])
                as u(tenant_id, account, object_type, object_id, trace, made_at, told_at)) as m
        order by tenant_id, account, object_type, object_id
        on conflict (tenant_id, mode, account, object_type, object_id) do update set
            generation = excluded.generation, next_try_at = '-infinity', attempts = 0,
            trace = excluded.trace, made_at = least(d.made_at, excluded.made_at),
            told_at = greatest(d.told_at, excluded.told_at)
        """,
        tx.mode,
        [each.tenant_id for each in latest.values()],
        [each.account for each in latest.values()],
        [each.object_type for each in latest.values()],
        [each.object_id for each in latest.values()],
        [here if each.trace is None else json.dumps(each.trace) for each in latest.values()],
        [each.made_at for each in latest.values()],
        [each.told_at for each in latest.values()],
    )


async def due(
    tx: Tx,
    account: str,
    mode: str,
    now: datetime,
    limit: int,
    only: tuple[str, str] | None = None,
) -> list[Dirty]:
    """Objects whose turn it is, the longest waiting first; one entry for an object.

    Args:
        only: type and id of the one object to look for.
    """
    rows = await tx.fetch(
        """
        select d.*, (select max(o.fetched_at) from stripe_object o
            where o.account = $1 and o.mode = $2 and o.object_type = d.object_type
                and o.object_id = d.object_id) as fetched_at
        from (
            select object_type, object_id, array_agg(tenant_id order by generation) as tenants,
                array_agg(generation order by generation) as generations,
                max(attempts) as attempts, (array_agg(trace order by generation desc))[1] as trace,
                min(made_at) as made_at, max(told_at) as told_at
            from dirty_object where account = $1 and mode = $2 and next_try_at <= $3
                and ($5::text is null or (object_type = $5 and object_id = $6))
            group by object_type, object_id order by min(generation) limit $4) as d
        order by d.generations[1]
        """,
        account,
        mode,
        now,
        limit,
        *(only or (None, None)),
    )
    return [
        Dirty(
            row["object_type"],
            row["object_id"],
            tuple(zip(row["tenants"], row["generations"], strict=True)),
            row["attempts"],
            row["trace"],
            row["made_at"],
            row["told_at"],
            row["fetched_at"],
        )
        for row in rows
    ]


async def clear_all(tx: Tx, account: str, objects: Sequence[Dirty]) -> None:
    """Take marks away that were not made anew meanwhile; their tenants are in scope.

    A mark that is just being made anew is left to whoever makes it: nobody waits for a batch of
    webhooks that may itself wait for this.
    """
    await tx.execute(
        """
        delete from dirty_object d using (
            select o.ctid as place
            from unnest($3::uuid[], $4::text[], $5::text[], $6::bigint[])
                as m(tenant_id, object_type, object_id, generation)
            join dirty_object o on o.tenant_id = m.tenant_id and o.mode = $1 and o.account = $2
                and o.object_type = m.object_type and o.object_id = m.object_id
                and o.generation = m.generation
            for update of o skip locked) as answered
        where d.ctid = answered.place
        """,
        tx.mode,
        account,
        *_columns(objects),
    )


async def postpone_all(tx: Tx, account: str, late: Sequence[tuple[Dirty, datetime, str]]) -> None:
    """Try again later, each at its time and for its reason, unless marked anew meanwhile.

    The tenants of the marks are in scope.
    """
    marks = [(dirty, until, error) for dirty, until, error in late for _ in dirty.marks]
    await tx.execute(
        """
        update dirty_object d
        set next_try_at = m.until, attempts = d.attempts + 1, last_error = m.error
        from unnest($3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::timestamptz[],
            $8::text[]) as m(tenant_id, object_type, object_id, generation, until, error)
        where d.tenant_id = m.tenant_id and d.mode = $1 and d.account = $2
            and d.object_type = m.object_type and d.object_id = m.object_id
            and d.generation = m.generation
        """,
        tx.mode,
        account,
        *_columns([dirty for dirty, _, _ in late]),
        [until for _, until, _ in marks],
        [error[:500] for _, _, error in marks],
    )


def _columns(objects: Sequence[Dirty]) -> tuple[list[UUID], list[str], list[str], list[int]]:
    """The marks of objects by column: tenant, type, id, generation."""
    marks = [(each, tenant, generation) for each in objects for tenant, generation in each.marks]
    return (
        [tenant for _, tenant, _ in marks],
        [each.object_type for each, _, _ in marks],
        [each.object_id for each, _, _ in marks],
        [generation for _, _, generation in marks],
    )


_IS_CLAIMED = """
    (d.account = 'platform'
        or exists (select from directory_account a where a.value = d.mode || ':' || d.account)
        or exists (select from directory_lookup l
            where l.kind = 'account' and l.value = d.mode || ':' || d.account))
"""
"""Marks of an account that nobody has cost no turn: any number of them holds up nobody."""


async def due_accounts(
    tx: Tx, now: datetime, but: Sequence[tuple[str, str]], limit: int
) -> list[tuple[str, Mode]]:
    """(account, mode) of objects whose turn it is, the account served longest ago first.

    Args:
        but: those that are being worked on.
    """
    rows = await tx.fetch(
        f"""
        select d.account, d.mode from (
            select account, mode, min(generation) as generation from dirty_object
            where next_try_at <= $1
                and not exists (select from unnest($2::text[], $3::text[]) as b(account, mode)
                    where b.account = dirty_object.account and b.mode = dirty_object.mode)
            group by account, mode) as d
        left join account_turn t using (account, mode)
        where {_IS_CLAIMED} order by t.served_at nulls first, d.generation limit $4
        """,  # noqa: S608 - constants only
        now,
        [account for account, _ in but],
        [mode for _, mode in but],
        limit,
    )
    return [(row["account"], row["mode"]) for row in rows]


async def note_served(tx: Tx, accounts: Sequence[tuple[str, str]], now: datetime) -> None:
    """These accounts have their turn now."""
    await tx.execute(
        """
        insert into account_turn (account, mode, served_at)
        select account, mode, $3 from unnest($1::text[], $2::text[]) as u(account, mode)
        order by account, mode
        on conflict (account, mode) do update set served_at = excluded.served_at
        """,
        [account for account, _ in accounts],
        [mode for _, mode in accounts],
        now,
    )


async def set_aside_unclaimed(tx: Tx, now: datetime, until: datetime) -> None:
    """Let rest what is due of accounts that nobody has, and note since when nobody has them."""
    await tx.execute(
        f"""
        with account as materialized (
            select d.account, d.mode, {_IS_CLAIMED} as is_claimed from (
                select distinct account, mode from dirty_object where next_try_at <= $1) as d),
        mark as (
            select o.ctid as place, account.is_claimed
            from dirty_object o join account using (account, mode)
            where o.next_try_at <= $1
                and (not account.is_claimed or o.unclaimed_since is not null)
            for update of o skip locked)
        update dirty_object d set
            next_try_at = case when mark.is_claimed then d.next_try_at else $2 end,
            unclaimed_since = case when mark.is_claimed then null
                else coalesce(d.unclaimed_since, $1) end
        from mark where d.ctid = mark.place
        """,  # noqa: S608 - constants only
        now,
        until,
    )


async def drop_unclaimed(tx: Tx, unclaimed_before: datetime) -> int:
    """Take away marks of accounts that nobody has had for long; how many."""
    return await tx.execute(
        f"delete from dirty_object d where unclaimed_since < $1 and not {_IS_CLAIMED}",  # noqa: S608 - constants only
        unclaimed_before,
    )


async def postpone_account(tx: Tx, account: str, mode: str, until: datetime, error: str) -> None:
    """Let an account rest that cannot be called now; no try of any object is counted."""
    await tx.execute(
        "update dirty_object set next_try_at = $3, last_error = $4 "
        "where account = $1 and mode = $2 and next_try_at < $3",
        account,
        mode,
        until,
        error[:500],
    )


async def wake(tx: Tx, account: str) -> None:
    """The marks of an account of the tenant in scope are due again at once."""
    await tx.execute(
        "update dirty_object set next_try_at = '-infinity' "
        "where tenant_id = $1 and mode = $2 and account = $3 and next_try_at <> '-infinity'",
        tx.tenant_id,
        tx.mode,
        account,
    )


async def drop(tx: Tx, account: str) -> None:
    """Take away all marks of an account of the tenant in scope: nothing of it can be fetched."""
    await tx.execute(
        "delete from dirty_object where tenant_id = $1 and mode = $2 and account = $3",
        tx.tenant_id,
        tx.mode,
        account,
    )
