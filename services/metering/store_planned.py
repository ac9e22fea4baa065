"""SQL of planned usage and its occurrences."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode
from services.metering.planning import Slot, Verdict

LINE_MAX = 20_000
"""Occurrences of one limit that are looked at together: the first to come, where it has more."""


@dataclass(frozen=True)
class DueOccurrence:
    """An occurrence that is to be looked at."""

    tenant_id: UUID
    mode: Mode
    planned_id: UUID
    number: int


async def count_open(tx: Tx) -> int:
    """How much planned usage of the tenant in scope is not decided to its end."""
    counted: int = await tx.fetchval(
        "select count(distinct planned_id) from planned_occurrence "
        "where tenant_id = $1 and mode = $2 and due_at is not null",
        tx.tenant_id,
        tx.mode,
    )
    return counted


async def insert(tx: Tx, values: Mapping[str, Any]) -> None:
    """Enter planned usage, still without occurrences."""
    await tx.execute(
        """
        insert into planned_usage (tenant_id, mode, id, meter_id, customer, subject, user_id,
            quantity, every, time_zone, hold_seconds, note, actor, created_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
        """,
        tx.tenant_id,
        tx.mode,
        values["id"],
        values["meter_id"],
        values["customer"],
        values["subject"],
        values["user_id"],
        values["quantity"],
        values["every"],
        values["time_zone"],
        values["hold_seconds"],
        values["note"],
        values["actor"],
        values["created_at"],
    )


async def insert_occurrences(
    tx: Tx, slots: Sequence[Slot], foreseen: Mapping[tuple[UUID, int], Verdict], at: datetime
) -> None:
    """Enter the occurrences, with what is foreseen of each."""
    verdicts = [foreseen[slot.planned_id, slot.number] for slot in slots]
    await tx.execute(
        """
        insert into planned_occurrence (tenant_id, mode, planned_id, number, at, until, outcome,
            reason, used, limit_amount, passes_at, judged_at, due_at)
        select $1, $2, p, n, a, u, o, r, used, l, passes, $3, a
        from unnest($4::uuid[], $5::integer[], $6::timestamptz[], $7::timestamptz[], $8::text[],
            $9::text[], $10::numeric[], $11::numeric[], $12::timestamptz[])
            as s(p, n, a, u, o, r, used, l, passes)
        """,
        tx.tenant_id,
        tx.mode,
        at,
        [slot.planned_id for slot in slots],
        [slot.number for slot in slots],
        [slot.at for slot in slots],
        [slot.until for slot in slots],
        [each.outcome for each in verdicts],
        [each.reason for each in verdicts],
        [each.used for each in verdicts],
        [each.limit for each in verdicts],
        [each.passes_at for each in verdicts],
    )


async def open_slots(tx: Tx, meter_id: UUID, customer: str, last: datetime) -> list[Slot]:
    """What is planned of one limit up to a moment and not decided, the first to come first."""
    rows = await tx.fetch(
        """
        select o.at, o.planned_id, o.number, o.until, p.quantity
        from planned_usage p join planned_occurrence o
            on o.tenant_id = p.tenant_id and o.mode = p.mode and o.planned_id = p.id
        where p.tenant_id = $1 and p.mode = $2 and p.meter_id = $3 and p.customer = $4
            and o.due_at is not null and o.at <= $5
        order by o.at, o.planned_id, o.number limit $6
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
        last,
        LINE_MAX,
    )
    return [Slot(*row) for row in rows]


async def find(tx: Tx, planned_id: UUID) -> Row | None:
    """Planned usage of the tenant in scope."""
    return await tx.fetchrow(
        "select * from planned_usage where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        planned_id,
    )


async def page(
    tx: Tx,
    *,
    meter_id: UUID | None,
    customer: str | None,
    only_open: bool,
    before: UUID | None,
    limit: int,
) -> list[Row]:
    """Planned usage of the tenant in scope before an id, newest first."""
    return await tx.fetch(
        """
        select * from planned_usage p
        where tenant_id = $1 and mode = $2 and ($3::uuid is null or meter_id = $3)
            and ($4::text is null or customer = $4) and ($5::uuid is null or id < $5)
            and (not $7 or exists (
                select from planned_occurrence o
                where o.tenant_id = p.tenant_id and o.mode = p.mode and o.planned_id = p.id
                    and o.due_at is not null))
        order by id desc limit $6
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
        before,
        limit,
        only_open,
    )


_OCCURRENCE = """
    select o.*, r.state as reservation_state, r.settled_amount
    from planned_occurrence o left join reservation r
        on r.tenant_id = o.tenant_id and r.mode = o.mode and r.id = o.reservation_id
    where o.tenant_id = $1 and o.mode = $2
"""


async def occurrences_of(tx: Tx, planned_id: UUID) -> list[Row]:
    """Every occurrence, and what became of its reservation."""
    return await tx.fetch(
        f"{_OCCURRENCE} and o.planned_id = $3 order by o.number", tx.tenant_id, tx.mode, planned_id
    )


async def nearest_of(tx: Tx, planned_ids: Collection[UUID]) -> dict[tuple[UUID, bool], Row]:
    """Of each, the next occurrence to be decided (True), and the last one that was (False)."""
    rows = await tx.fetch(
        f"""
        select distinct on (n.planned_id, n.due_at is null) * from ({_OCCURRENCE}) n
        where n.planned_id = any($3::uuid[]) and n.state <> 'canceled'
        order by n.planned_id, n.due_at is null,
            case when n.due_at is null then -n.number else n.number end
        """,  # noqa: S608 - of our own words only
        tx.tenant_id,
        tx.mode,
        list(planned_ids),
    )
    return {(row["planned_id"], row["due_at"] is not None): row for row in rows}


async def cancel(tx: Tx, planned_id: UUID, at: datetime) -> list[UUID]:
    """Decide nothing more of it; the reservations of what was admitted before."""
    await tx.execute(
        "update planned_usage set canceled_at = coalesce(canceled_at, $4) "
        "where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        planned_id,
        at,
    )
    await tx.execute(
        "update planned_occurrence set state = 'canceled', due_at = null, judged_at = $4 "
        "where tenant_id = $1 and mode = $2 and planned_id = $3 and due_at is not null",
        tx.tenant_id,
        tx.mode,
        planned_id,
        at,
    )
    rows = await tx.fetch(
        f"{_OCCURRENCE} and o.planned_id = $3 and r.state = 'held' order by o.number",
        tx.tenant_id,
        tx.mode,
        planned_id,
    )
    return [row["reservation_id"] for row in rows]


async def list_due(database: Database, now: datetime, *, limit: int) -> list[DueOccurrence]:
    """Occurrences whose time has come by their tenants' clocks: one of each tenant before the second.

    What is due by the real time is found by one index, that of clocks that are ahead by another: so
    many of each clock that one which leaps over a year does not hide the others.
    """
    async with database.maintenance() as tx:
        rows = await tx.fetch(
            """
            with due as (
                (select tenant_id, mode, planned_id, number, due_at from planned_occurrence
                 where due_at <= $1 order by due_at limit 1000)
                union
                (select o.* from directory d cross join lateral (
                    select tenant_id, mode, planned_id, number, due_at from planned_occurrence p
                    where p.tenant_id = d.tenant_id and p.mode = 'test' and p.due_at
                        <= $1::timestamptz + make_interval(secs => d.clock_offset_seconds)
                    order by p.due_at limit 100
                 ) o where d.clock_offset_seconds > 0 order by o.due_at limit 1000)
            )
            select tenant_id, mode, planned_id, number from (
                select d.*, row_number() over (
                    partition by tenant_id, mode order by due_at, planned_id, number) as turn
                from due d
            ) ranked order by turn, due_at limit $2
            """,
            now,
            limit,
        )
    return [DueOccurrence(*row) for row in rows]


async def lock_due(tx: Tx, due: DueOccurrence, now: datetime) -> Row | None:
    """The occurrence, for this transaction alone, with what is planned; None where it is decided."""
    return await tx.fetchrow(
        """
        select o.*, p.meter_id, p.customer, p.subject, p.user_id, p.quantity, p.hold_seconds
        from planned_occurrence o join planned_usage p
            on p.tenant_id = o.tenant_id and p.mode = o.mode and p.id = o.planned_id
        where o.tenant_id = $1 and o.mode = $2 and o.planned_id = $3 and o.number = $4
            and o.due_at <= $5
        for update of o
        """,
        due.tenant_id,
        due.mode,
        due.planned_id,
        due.number,
        now,
    )


async def decide(
    tx: Tx,
    due: DueOccurrence,
    verdict: Verdict,
    at: datetime,
    *,
    due_at: datetime | None,
    reservation_id: UUID | None,
) -> None:
    """What was decided, and when it is looked at again: None where that is for good."""
    await tx.execute(
        """
        update planned_occurrence set state = $5, outcome = $5, reason = $6, used = $7,
            limit_amount = $8, passes_at = $9, judged_at = $10, due_at = $11, reservation_id = $12
        where tenant_id = $1 and mode = $2 and planned_id = $3 and number = $4
        """,
        due.tenant_id,
        due.mode,
        due.planned_id,
        due.number,
        verdict.outcome,
        verdict.reason,
        verdict.used,
        verdict.limit,
        verdict.passes_at,
        at,
        due_at,
        reservation_id,
    )


async def put_off(tx: Tx, due: DueOccurrence, now: datetime, by: timedelta) -> None:
    """It could not be looked at: the others have their turn first."""
    await tx.execute(
        "update planned_occurrence set due_at = greatest(due_at, $5) + $6 where tenant_id = $1 "
        "and mode = $2 and planned_id = $3 and number = $4 and due_at is not null",
        due.tenant_id,
        due.mode,
        due.planned_id,
        due.number,
        now,
        by,
    )


async def coming(
    tx: Tx, meter_id: UUID, customer: str, now: datetime, end: datetime
) -> list[tuple[datetime, Decimal]]:
    """What is planned until a time and not counted yet, by when it will be used: all of it, however much.

    What is deferred comes when there is room, what is held now.
    """
    rows = await tx.fetch(
        """
        select greatest(case o.state when 'deferred' then coalesce(o.passes_at, $5)
                when 'admitted' then $5 else o.at end, $5) as at,
            sum(case o.state when 'admitted' then r.weight else p.quantity end) as quantity
        from planned_usage p join planned_occurrence o
            on o.tenant_id = p.tenant_id and o.mode = p.mode and o.planned_id = p.id
        left join reservation r
            on r.tenant_id = o.tenant_id and r.mode = o.mode and r.id = o.reservation_id
        where p.tenant_id = $1 and p.mode = $2 and p.meter_id = $3 and p.customer = $4
            and (o.due_at is not null or (r.weight > 0 and r.state <> 'expired'))
            and case o.state when 'deferred' then coalesce(o.passes_at, $5) else o.at end < $6
        group by 1 order by 1
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
        now,
        end,
    )
    return [(row["at"], row["quantity"]) for row in rows]


async def settled(
    tx: Tx, meter_id: UUID, customer: str, since: datetime
) -> list[tuple[datetime, Decimal]]:
    """What of planned usage was used since a time, and when, in business time: by the minute."""
    rows = await tx.fetch(
        """
        select date_trunc('minute', o.judged_at + (r.ended_at - r.created_at)) as at,
            sum(r.settled_amount) as quantity
        from planned_usage p join planned_occurrence o
            on o.tenant_id = p.tenant_id and o.mode = p.mode and o.planned_id = p.id
        join reservation r
            on r.tenant_id = o.tenant_id and r.mode = o.mode and r.id = o.reservation_id
        where p.tenant_id = $1 and p.mode = $2 and p.meter_id = $3 and p.customer = $4
            and o.judged_at >= $5 and r.settled_amount > 0
        group by 1 order by 1
        """,
        tx.tenant_id,
        tx.mode,
        meter_id,
        customer,
        since,
    )
    return [(row["at"], row["quantity"]) for row in rows]
