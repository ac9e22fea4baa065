"""SQL of revenue that was invoiced in advance, and of what is earned of it month by month."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

from libs.contracts.ledger import Book
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode


@dataclass(frozen=True)
class Schedule:
    """A line that is earned over days, as it is to stand.

    Attributes:
        amount_minor: what of it is revenue by this revision.
        invoiced_at: the date of the invoice.
        first_day, until_day: the days it is for, the second one not included.
        not_before: nothing of this revision counts as earned before.
        next_month: the first day of the month to recognize next.
        due_at: when that month, or the line's part of it, is over.
    """

    tenant_id: UUID
    book: Book
    line_id: UUID
    invoice_id: UUID
    kind: str
    currency: str
    amount_minor: int
    invoiced_at: datetime
    first_day: date
    until_day: date
    revision: int
    not_before: datetime
    next_month: date
    due_at: datetime


@dataclass(frozen=True)
class Recognized:
    """What was told of a month of a line."""

    tenant_id: UUID
    book: Book
    line_id: UUID
    month: date
    revision: int
    amount_minor: int


@dataclass(frozen=True)
class DueTenant:
    """A tenant with something to recognize, and how far its business clock is ahead."""

    tenant_id: UUID
    mode: Mode
    clock_offset: timedelta


async def add_schedules(tx: Tx, schedules: Sequence[Schedule]) -> None:
    """Enter lines of tenants in scope; those that are known stay as they are."""
    await tx.execute(
        """
        insert into recognition (tenant_id, mode, book, line_id, invoice_id, kind, currency,
            amount_minor, invoiced_at, first_day, until_day, not_before, next_month, due_at)
        select t, $1, b, l, i, k, c, a, e, f, u, n, m, d
        from unnest($2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::text[], $7::text[],
            $8::bigint[], $9::timestamptz[], $10::date[], $11::date[], $12::timestamptz[],
            $13::date[], $14::timestamptz[]) as s(t, b, l, i, k, c, a, e, f, u, n, m, d)
        order by t, b, l
        on conflict do nothing
        """,
        tx.mode,
        [each.tenant_id for each in schedules],
        [each.book for each in schedules],
        [each.line_id for each in schedules],
        [each.invoice_id for each in schedules],
        [each.kind for each in schedules],
        [each.currency for each in schedules],
        [each.amount_minor for each in schedules],
        [each.invoiced_at for each in schedules],
        [each.first_day for each in schedules],
        [each.until_day for each in schedules],
        [each.not_before for each in schedules],
        [each.next_month for each in schedules],
        [each.due_at for each in schedules],
    )


async def revise(tx: Tx, schedules: Sequence[Schedule]) -> None:
    """Begin a higher revision of lines that are known: other amounts, from the first month on."""
    await tx.execute(
        """
        update recognition r set amount_minor = a, revision = v, not_before = n, next_month = m,
            due_at = d
        from unnest($2::uuid[], $3::text[], $4::uuid[], $5::bigint[], $6::integer[],
            $7::timestamptz[], $8::date[], $9::timestamptz[]) as s(t, b, l, a, v, n, m, d)
        where r.tenant_id = t and r.mode = $1 and r.book = b and r.line_id = l and r.revision < v
        """,
        tx.mode,
        [each.tenant_id for each in schedules],
        [each.book for each in schedules],
        [each.line_id for each in schedules],
        [each.amount_minor for each in schedules],
        [each.revision for each in schedules],
        [each.not_before for each in schedules],
        [each.next_month for each in schedules],
        [each.due_at for each in schedules],
    )


async def add_recognized(tx: Tx, told: Sequence[Recognized]) -> set[tuple[UUID, date, int]]:
    """Enter what is told of months, of tenants in scope; (line, month, revision) of what was new."""
    rows = await tx.fetch(
        """
        insert into recognized_month (tenant_id, mode, book, line_id, month, revision, amount_minor)
        select t, $1, b, l, m, r, a
        from unnest($2::uuid[], $3::text[], $4::uuid[], $5::date[], $6::integer[], $7::bigint[])
            as s(t, b, l, m, r, a)
        order by t, b, l, m, r
        on conflict do nothing
        returning line_id, month, revision
        """,
        tx.mode,
        [each.tenant_id for each in told],
        [each.book for each in told],
        [each.line_id for each in told],
        [each.month for each in told],
        [each.revision for each in told],
        [each.amount_minor for each in told],
    )
    return {(row["line_id"], row["month"], row["revision"]) for row in rows}


async def list_due(database: Database, now: datetime, *, limit: int) -> list[DueTenant]:
    """Tenants with months that are over by their business time; those waiting longest are among them.

    Who waits by the real time is found by the one index, whose clock is ahead by the other.
    """
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            with due as (
                (select tenant_id, mode from recognition where due_at <= $1
                 order by due_at limit $2)
                union
                (select r.tenant_id, r.mode
                 from directory d join recognition r using (tenant_id)
                 where d.clock_offset_seconds > 0 and r.mode = 'test'
                    and r.due_at <= $1::timestamptz + make_interval(secs => d.clock_offset_seconds)
                 limit $2)
            )
            select due.tenant_id, due.mode, case when due.mode = 'test'
                then make_interval(secs => coalesce(d.clock_offset_seconds, 0))
                else make_interval() end as clock_offset
            from due left join directory d using (tenant_id)
            """,
            now,
            limit,
        )
    return [DueTenant(row["tenant_id"], row["mode"], row["clock_offset"]) for row in rows]


async def lock_due(tx: Tx, at: datetime, *, limit: int) -> list[Row]:
    """Lines of the tenant in scope with a month that is over, locked; what another one does is not."""
    return await tx.fetch(
        """
        select book, line_id, invoice_id, kind, currency, amount_minor, first_day, until_day,
               revision, not_before, next_month
        from recognition where tenant_id = $1 and mode = $2 and due_at <= $3
        order by due_at, line_id limit $4 for update skip locked
        """,
        tx.tenant_id,
        tx.mode,
        at,
        limit,
    )


async def recognized_before(tx: Tx, rows: Sequence[Row]) -> dict[tuple[UUID, date], int]:
    """What earlier revisions of these lines told, added up, by line and month."""
    found = await tx.fetch(
        """
        select m.line_id, m.month, sum(m.amount_minor)::bigint as amount_minor
        from unnest($3::text[], $4::uuid[], $5::integer[]) as s(b, l, r)
        join recognized_month m on m.tenant_id = $1 and m.mode = $2 and m.book = s.b
            and m.line_id = s.l and m.revision < s.r
        group by 1, 2
        """,
        tx.tenant_id,
        tx.mode,
        [row["book"] for row in rows],
        [row["line_id"] for row in rows],
        [row["revision"] for row in rows],
    )
    return {(row["line_id"], row["month"]): row["amount_minor"] for row in found}


async def go_on(tx: Tx, progress: Sequence[tuple[Row, date | None, datetime | None]]) -> None:
    """Note the next month of each line, and when it will be over; None where all is recognized."""
    await tx.execute(
        """
        update recognition r set next_month = m, due_at = d
        from unnest($3::text[], $4::uuid[], $5::date[], $6::timestamptz[]) as s(b, l, m, d)
        where r.tenant_id = $1 and r.mode = $2 and r.book = s.b and r.line_id = s.l
        """,
        tx.tenant_id,
        tx.mode,
        [row["book"] for row, _, _ in progress],
        [row["line_id"] for row, _, _ in progress],
        [month for _, month, _ in progress],
        [due_at for _, _, due_at in progress],
    )


async def put_off(tx: Tx, at: datetime, until: datetime) -> None:
    """What was due of the tenant in scope has failed: the others have their turn first."""
    await tx.execute(
        "update recognition set due_at = $4 where tenant_id = $1 and mode = $2 and due_at <= $3",
        tx.tenant_id,
        tx.mode,
        at,
        until,
    )


async def lines_between(
    tx: Tx,
    mode: Mode,
    book: str,
    *,
    tenant_id: UUID | None,
    currency: str | None,
    since: date,
    until: date,
    limit: int,
) -> list[Row]:
    """Lines that are earned on some of the days `[since, until)`.

    Args:
        tenant_id: None lists those of all tenants that are in sight.
    """
    return await tx.fetch(
        """
        select tenant_id, line_id, kind, currency, amount_minor, invoiced_at, first_day, until_day
        from recognition
        where ($1::uuid is null or tenant_id = $1) and mode = $2 and book = $3
            and ($4::text is null or currency = $4) and until_day > $5 and first_day < $6
        limit $7
        """,
        tenant_id,
        mode,
        book,
        currency,
        since,
        until,
        limit,
    )


async def recognized_between(
    tx: Tx, mode: Mode, book: str, lines: Sequence[Row], since: date, until: date
) -> dict[tuple[UUID, date], int]:
    """What was told of these lines of the months `[since, until)`, added up, by line and month."""
    found = await tx.fetch(
        """
        select m.line_id, m.month, sum(m.amount_minor)::bigint as amount_minor
        from unnest($3::uuid[], $4::uuid[]) as s(t, l)
        join recognized_month m on m.tenant_id = s.t and m.mode = $1 and m.book = $2
            and m.line_id = s.l
        where m.month >= $5 and m.month < $6
        group by 1, 2
        """,
        mode,
        book,
        [row["tenant_id"] for row in lines],
        [row["line_id"] for row in lines],
        since,
        until,
    )
    return {(row["line_id"], row["month"]): row["amount_minor"] for row in found}
