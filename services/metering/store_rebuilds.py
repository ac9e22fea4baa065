"""SQL of rebuilds: the runs, the tables they build in, and the comparison with the live ones.

A rebuild has one connection of its own. Its tables are temporary: they hide the live tables of the same
name from every statement that does not say which schema it means, and go with the connection.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any
from uuid import UUID

from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Mode

READ_ONLY = ("meter", "directory", "usage_producer", "platform_marks")
"""What the consumer reads of others' making; everything else is hidden by a table of the run's own."""

COMPARED: Mapping[str, str] = {
    "usage_series": """
        select id, meter_id, customer, user_id, group_values from {schema}.usage_series s
        where tenant_id = $1 and mode = $2 and exists (
            select from {schema}.usage_minute m where m.tenant_id = s.tenant_id
                and m.mode = s.mode and m.series_id = s.id)
    """,
    "usage_minute": """
        select series_id, minute, event_count, trim_scale(total) as total,
            trim_scale(minimum) as minimum, trim_scale(maximum) as maximum,
            trim_scale(latest) as latest, latest_at, first_at
        from {schema}.usage_minute where tenant_id = $1 and mode = $2
    """,
    "usage_unique": """
        select series_id, minute, value_hash from {schema}.usage_unique
        where tenant_id = $1 and mode = $2
    """,
    "usage_rank": """
        select series_id, minute, trim_scale(value) as value, event_count
        from {schema}.usage_rank where tenant_id = $1 and mode = $2
    """,
}
"""By table, the rows that must agree; numbers without zeros that say nothing.

`latest_id` is left out: of an event that former versions counted it is another hash of the same id.
"""

TEMPORARY = "pg_temp"
SAMPLES_MAX = 20
COMPARE_SECONDS = 300.0


@dataclass(frozen=True)
class Run:
    """A rebuild to be worked on."""

    tenant_id: UUID
    mode: Mode
    id: UUID
    source: str
    attempts: int


async def add_run(tx: Tx, run_id: UUID, source: str, at: datetime) -> None:
    """Enter a run of the tenant in scope."""
    await tx.execute(
        """
        insert into usage_rebuild (tenant_id, mode, id, source, state, requested_at)
        values ($1, $2, $3, $4, 'waiting', $5)
        """,
        tx.tenant_id,
        tx.mode,
        run_id,
        source,
        at,
    )


async def find_run(tx: Tx, run_id: UUID) -> Row | None:
    """A run of the tenant in scope."""
    return await tx.fetchrow(
        "select * from usage_rebuild where tenant_id = $1 and mode = $2 and id = $3",
        tx.tenant_id,
        tx.mode,
        run_id,
    )


async def open_run(tx: Tx) -> Row | None:
    """The run of the tenant in scope that has not ended."""
    return await tx.fetchrow(
        "select * from usage_rebuild where tenant_id = $1 and mode = $2 "
        "and state in ('waiting', 'running')",
        tx.tenant_id,
        tx.mode,
    )


async def claim(database: Database, now: datetime, left_before: datetime) -> Run | None:
    """The oldest run that waits, or that its worker left; it is this worker's now."""
    async with database.maintenance() as tx:
        row = await tx.fetchrow(
            """
            update usage_rebuild r set state = 'running', worked_at = $1, records_read = 0,
                attempts = r.attempts + 1
            from (
                select tenant_id, mode, id from usage_rebuild
                where state = 'waiting' or (state = 'running' and worked_at < $2)
                order by requested_at limit 1 for update skip locked
            ) next
            where r.tenant_id = next.tenant_id and r.mode = next.mode and r.id = next.id
            returning r.tenant_id, r.mode, r.id, r.source, r.attempts
            """,
            now,
            left_before,
        )
    return None if row is None else Run(*row)


async def note(database: Database, run: Run, read: int, expected: int, at: datetime) -> None:
    """How far a run is."""
    async with database.tenant(run.tenant_id, run.mode) as tx:
        await tx.execute(
            """
            update usage_rebuild set records_read = $4, records_expected = $5, worked_at = $6
            where tenant_id = $1 and mode = $2 and id = $3
            """,
            run.tenant_id,
            run.mode,
            run.id,
            read,
            expected,
            at,
        )


async def end(
    database: Database,
    run: Run,
    state: str,
    at: datetime,
    *,
    compared: Mapping[str, Any] | None = None,
    error: str | None = None,
) -> None:
    """A run has come to its end."""
    async with database.tenant(run.tenant_id, run.mode) as tx:
        await tx.execute(
            """
            update usage_rebuild set state = $4, ended_at = $5, compared = $6, error = $7
            where tenant_id = $1 and mode = $2 and id = $3
            """,
            run.tenant_id,
            run.mode,
            run.id,
            state,
            at,
            compared,
            error,
        )


async def hide_live_tables(tx: Tx) -> None:
    """Make the run's own tables, empty; the connection writes to no live one from now on."""
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await tx.execute("select set_config($1, $2, false)", limit, f"{COMPARE_SECONDS:.0f}s")
    names = await tx.fetch(
        """
        select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition
            and c.relname <> all($2::text[])
        order by 1
        """,
        tx.service,
        list(READ_ONLY),
    )
    for row in names:
        await tx.execute(
            f'create temporary table "{row["relname"]}" '
            f'(like {tx.service}."{row["relname"]}" including defaults including indexes)'
        )


async def forget_ids(tx: Tx, received_before: date) -> None:
    """What was forgotten when a record came in is forgotten in the run's own table too."""
    await tx.execute(
        f"delete from {TEMPORARY}.usage_event_id where received_day < $1",  # noqa: S608
        received_before,
    )


async def count_rows(tx: Tx) -> None:
    """Let the planner know how large the run's tables have become."""
    for table in COMPARED:
        await tx.execute(f"analyze {TEMPORARY}.{table}")


async def compare(tx: Tx, run: Run, table: str) -> dict[str, Any]:
    """How many rows each side has, how many are on one side only, and the first of those."""
    live = COMPARED[table].format(schema=tx.service)
    rebuilt = COMPARED[table].format(schema=TEMPORARY)
    counts = await tx.connection.fetchrow(
        f"""
        with live as ({live}), rebuilt as ({rebuilt}),
            only_live as (select * from live except all select * from rebuilt),
            only_rebuilt as (select * from rebuilt except all select * from live)
        select (select count(*) from live) as live, (select count(*) from rebuilt) as rebuilt,
            (select count(*) from only_live) as only_live,
            (select count(*) from only_rebuilt) as only_rebuilt,
            array(select l::text from only_live l limit {SAMPLES_MAX}) as live_rows,
            array(select r::text from only_rebuilt r limit {SAMPLES_MAX}) as rebuilt_rows
        """,  # noqa: S608 - of our own words only
        run.tenant_id,
        run.mode,
        timeout=COMPARE_SECONDS,
    )
    return dict(counts)


async def live_answers(tx: Tx, run: Run) -> list[Row]:
    """The last answers to the closed periods that nothing has changed since."""
    return await tx.fetch(
        f"""
        select c.id, c.customer_id, c.period_from, c.period_to, u.meter, u.quantity, u.event_count
        from {tx.service}.closure c
        join {tx.service}.closure_usage u on u.tenant_id = c.tenant_id and u.mode = c.mode
            and u.closure_id = c.id
        where c.tenant_id = $1 and c.mode = $2 and c.settled order by c.id, u.meter
        """,  # noqa: S608 - of our own words only
        run.tenant_id,
        run.mode,
    )


async def live_fences(tx: Tx) -> dict[int, int]:
    """How far `usage.events` is counted in what this transaction sees."""
    rows = await tx.fetch(
        f"select partition, next_offset from {tx.service}.fence "  # noqa: S608
        "where consumer = $1 and topic = 'usage.events'",
        tx.service,
    )
    return {row["partition"]: row["next_offset"] for row in rows}
