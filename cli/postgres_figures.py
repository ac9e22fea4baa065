"""What waits in the services' tables: unsent events, parked records, dead letters, breaks."""

from dataclasses import dataclass

import asyncpg

CONNECT_TIMEOUT_SECONDS = 10
STATEMENT_TIMEOUT_SECONDS = 30
# The tables every service has (libs/db/migrations), and the ledger's own.
CONDITIONS = {
    "outbox": "sent_at is null",
    "parked_record": "true",
    "dead_letter": "true",
    "reconciliation_break": "state in ('open', 'proposed')",
}


@dataclass(frozen=True, slots=True)
class Waiting:
    """Rows that wait in one service's schema."""

    schema: str
    outbox_unsent: int = 0
    parked: int = 0
    dead_letters: int = 0
    breaks: int = 0


async def waiting(admin_dsn: str) -> list[Waiting]:
    """What waits in each schema that has the services' tables, by name.

    Where the administrator is no superuser, forced row-level security would show it nothing: the
    rows are counted as the service's maintenance role, which may see them.

    Raises:
        OSError, asyncpg.PostgresError: Postgres does not answer or refuses.
    """
    connection = await asyncpg.connect(
        admin_dsn, timeout=CONNECT_TIMEOUT_SECONDS, command_timeout=STATEMENT_TIMEOUT_SECONDS
    )
    try:
        superuser = await connection.fetchval(
            "select rolsuper from pg_roles where rolname = current_user"
        )
        tables = await connection.fetch(
            "select n.nspname as schema, array_agg(c.relname::text) as names"
            " from pg_class c join pg_namespace n on n.oid = c.relnamespace"
            " where c.relkind in ('r', 'p') and c.relname = any($1::text[])"
            " and (c.relname <> 'reconciliation_break' or n.nspname = 'ledger')"
            " group by 1 order by 1",
            list(CONDITIONS),
        )
        found = []
        for row in tables:
            counts = dict.fromkeys(CONDITIONS, 0)
            async with connection.transaction(readonly=True):
                if not superuser:
                    await connection.execute(f'set local role "sluice_{row["schema"]}_maintenance"')
                for table in row["names"]:
                    condition = CONDITIONS[table]
                    counts[table] = await connection.fetchval(
                        f'select count(*) from "{row["schema"]}".{table} where {condition}'  # noqa: S608 (names from the catalog)
                    )
            found.append(
                Waiting(
                    schema=row["schema"],
                    outbox_unsent=counts["outbox"],
                    parked=counts["parked_record"],
                    dead_letters=counts["dead_letter"],
                    breaks=counts["reconciliation_break"],
                )
            )
        return found
    finally:
        await connection.close()
