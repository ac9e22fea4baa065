"""SQL of dirty marks: which objects are to be fetched."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """

    object_type: str
    object_id: str
    marks: tuple[tuple[UUID, int], ...]
    attempts: int
    trace: Mapping[str, str] = field(default_factory=dict)


async def mark(tx: Tx, account: str, objects: Iterable[tuple[str, str]]) -> None:
    """Mark objects, or mark them anew: a fetch under way does not answer this mark.

    The fetch belongs to the trace in which the mark was made.
    """
    await mark_all(tx, account, [(tx.tenant_id, kind, object_id) for kind, object_id in objects])


async def mark_all(tx: Tx, account: str, objects: Sequence[tuple[UUID, str, str]]) -> None:
    """Mark objects of several tenants, which are in scope: (tenant, type, id)."""
    if not objects:
        return
    trace = inject()
    await tx.executemany(
        """
        insert into dirty_object (tenant_id, mode, account, object_type, object_id, generation,
            trace)
        values ($1, $2, $3, $4, $5, nextval('dirty_generation'), $6)
        on conflict (tenant_id, mode, account, object_type, object_id) do update set
            generation = excluded.generation, next_try_at = '-infinity', attempts = 0,
            trace = excluded.trace
        """,
        [
            (tenant_id, tx.mode, account, kind, object_id, trace)
            for tenant_id, kind, object_id in sorted(set(objects))
        ],
    )


async def due(tx: Tx, account: str, mode: str, now: datetime, limit: int) -> list[Dirty]:
    """Objects whose turn it is, the longest waiting first; one entry for an object."""
    rows = await tx.fetch(
        """
        select object_type, object_id, array_agg(tenant_id order by generation) as tenants,
            array_agg(generation order by generation) as generations, max(attempts) as attempts,
            (array_agg(trace order by generation desc))[1] as trace
        from dirty_object where account = $1 and mode = $2 and next_try_at <= $3
        group by object_type, object_id order by min(generation) limit $4
        """,
        account,
        mode,
        now,
        limit,
    )
    return [
        Dirty(
            row["object_type"],
            row["object_id"],
            tuple(zip(row["tenants"], row["generations"], strict=True)),
            row["attempts"],
            row["trace"],
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


async def due_accounts(
    tx: Tx, now: datetime, but: Sequence[tuple[str, str]], limit: int
) -> list[tuple[str, Mode]]:
    """(account, mode) of objects whose turn it is, the longest waiting first.

    Args:
        but: those that are being worked on.
    """
    rows = await tx.fetch(
        """
        select account, mode from dirty_object where next_try_at <= $1
            and not exists (select from unnest($2::text[], $3::text[]) as b(account, mode)
                where b.account = dirty_object.account and b.mode = dirty_object.mode)
        group by account, mode order by min(generation) limit $4
        """,
        now,
        [account for account, _ in but],
        [mode for _, mode in but],
        limit,
    )
    return [(row["account"], row["mode"]) for row in rows]


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
