"""SQL of a shadow: the service's schema once more, as temporary objects of one connection.

Tables hide the live ones of the same name. Functions and triggers are copies that work on them: what
is booked on such a connection goes through the very statements that the live books go through, and
the connection's transactions are read-only, which Postgres holds for everything but temporary tables.
All of it goes with the connection.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from libs.db.pool import Row, Tx

SHADOW = "pg_temp"
LIVE_ONLY = ("directory", "directory_lookup", "directory_account")
"""Read and never written by what is done in a shadow."""

LOCK = "pg_advisory_xact_lock"
"""A shadow is one connection's: its books need no lock, and must not hold up the live ones."""

ANALYZED = ("account", "account_balance", "inbox", "journal_entry", "posting", "waiting_reversal")


@dataclass
class ShadowTx(Tx):
    """A transaction on a shadow: functions are called in the copies of this connection.

    Postgres looks for tables among temporary objects by itself, for functions it never does.

    Attributes:
        functions: finds calls of what there is a copy of.
    """

    functions: re.Pattern[str] = field(kw_only=True)

    async def execute(self, sql: str, *args: Any) -> int:
        """As `Tx` does."""
        return await super().execute(self._own(sql), *args)

    async def executemany(self, sql: str, rows: Iterable[Any]) -> None:
        """As `Tx` does."""
        await super().executemany(self._own(sql), rows)

    async def fetch(self, sql: str, *args: Any) -> list[Row]:
        """As `Tx` does."""
        return await super().fetch(self._own(sql), *args)

    async def fetchrow(self, sql: str, *args: Any) -> Row | None:
        """As `Tx` does."""
        return await super().fetchrow(self._own(sql), *args)

    async def fetchval(self, sql: str, *args: Any) -> Any:
        """As `Tx` does."""
        return await super().fetchval(self._own(sql), *args)

    def _own(self, sql: str) -> str:
        return self.functions.sub(rf"{SHADOW}.\1(", sql)


async def make_shadow(tx: Tx, *, statement_seconds: float) -> re.Pattern[str]:
    """Copy the schema, empty; the connection writes to no live table from now on.

    Returns:
        What finds calls of the copied functions, for `ShadowTx`.
    """
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        await tx.execute(
            "select set_config($1, $2, false)", limit, f"{statement_seconds * 1000:.0f}"
        )
    await tx.execute("set check_function_bodies = off")
    for row in await tx.fetch(_TABLES, tx.service, list(LIVE_ONLY)):
        await tx.execute(
            f'create temporary table "{row["relname"]}" '
            f'(like {tx.service}."{row["relname"]}" including all)'
        )
    made = await tx.fetch(_FUNCTIONS, tx.service)
    names = "|".join(sorted({re.escape(row["name"]) for row in made} | {LOCK}))
    # A call, bare or with the schema's name; not a column or a table of the same name.
    functions = re.compile(rf"(?<![\w.])(?:{tx.service}\.)?({names})\(")
    await tx.execute(
        f"create function {SHADOW}.{LOCK}(bigint) returns void language sql as 'select'"
    )
    for row in made:
        await tx.execute(_copy_of(row["definition"], tx.service, functions))
    for row in await tx.fetch(_TRIGGERS, tx.service, list(LIVE_ONLY)):
        await tx.execute(_copy_of(row["definition"], tx.service, functions))
    await tx.execute("select set_config('default_transaction_read_only', 'on', false)")
    return functions


def _copy_of(definition: str, schema: str, functions: re.Pattern[str]) -> str:
    """A function or trigger that does the same to the connection's own tables.

    It runs as the service, which owns these, and looks for tables where its connection does.
    """
    text = re.sub(r"^ SECURITY DEFINER\n", "", definition, flags=re.MULTILINE)
    text = re.sub(r"^ SET search_path TO .*\n", "", text, flags=re.MULTILINE)
    text = functions.sub(rf"{SHADOW}.\1(", text)
    return re.sub(rf"(?<![\w.]){schema}\.(?=[a-z_\"])", f"{SHADOW}.", text)


_TABLES = """
select c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition
    and c.relname <> all($2::text[])
order by 1
"""

# What looks tenants up belongs to another role and reads live tables only.
_FUNCTIONS = """
select p.proname as name, pg_get_functiondef(p.oid) as definition
from pg_proc p join pg_namespace n on n.oid = p.pronamespace
join pg_language l on l.oid = p.prolang
where n.nspname = $1 and p.prokind = 'f' and l.lanname in ('sql', 'plpgsql')
    and p.proname not in ('isolate', 'isolate_by_book', 'open_to_maintenance', 'find_tenant')
order by p.oid
"""

_TRIGGERS = """
select pg_get_triggerdef(t.oid) as definition
from pg_trigger t join pg_class c on c.oid = t.tgrelid join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and not t.tgisinternal and c.relname <> all($2::text[]) order by t.oid
"""


async def count_rows(tx: Tx) -> None:
    """Let the planner know how large the shadow's tables have become."""
    for table in ANALYZED:
        await tx.execute(f"analyze {SHADOW}.{table}")
