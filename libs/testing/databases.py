"""A database of its own for every test: cloned from a migrated template, emptied and used again.

Cloning writes the whole template to disk, and dropping waits for a checkpoint; emptying the few tables
that a test has filled takes a tenth of that. A database whose schema was changed is dropped.
"""

import asyncio
import io
import secrets
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from libs.db.pool import Database, open_database
from libs.deploy import deploy_postgres, services_with_schema

TEMPLATE = "sluice_template"
PASSWORD = "test-only"  # noqa: S105 - of a throw-away server on loopback

GONE_WITHIN_SECONDS = 5


def with_database(dsn: str, name: str, *, user: str | None = None) -> str:
    """The same server's DSN for another database, and perhaps another role."""
    parts = urlsplit(dsn)
    netloc = parts.netloc
    if user is not None:
        netloc = f"{user}:{PASSWORD}@{netloc.rpartition('@')[2]}"
    return urlunsplit((parts.scheme, netloc, f"/{name}", parts.query, ""))


@dataclass(frozen=True)
class TestDatabase:
    """One migrated database; every service has its schema and role in it."""

    __test__ = False

    admin_dsn: str

    def dsn(self, service: str) -> str:
        """The DSN of a service's own login role."""
        name = urlsplit(self.admin_dsn).path.lstrip("/")
        return with_database(self.admin_dsn, name, user=f"sluice_{service}")

    async def open_unmanaged(self, service: str) -> Database:
        """A service's database that its owner closes (a `Runtime` does)."""
        return await open_database(self.dsn(service), service)

    @asynccontextmanager
    async def open(self, service: str) -> AsyncGenerator[Database, None]:
        """A service's database, as its own role."""
        database = await open_database(self.dsn(service), service)
        try:
            yield database
        finally:
            await database.close()

    @asynccontextmanager
    async def admin(self) -> AsyncGenerator[asyncpg.Connection, None]:
        """A connection that row-level security does not hold: for assertions only."""
        connection = await asyncpg.connect(self.admin_dsn)
        try:
            yield connection
        finally:
            await connection.close()


async def make_template(server_dsn: str) -> None:
    """Create the migrated template; roles are shared by all databases of the server."""
    _POOLS.pop(server_dsn, None)
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f"drop database if exists {TEMPLATE} with (force)")
        await admin.execute(f"create database {TEMPLATE}")
    finally:
        await admin.close()
    services = services_with_schema()
    dsns = {s: with_database(server_dsn, TEMPLATE, user=f"sluice_{s}") for s in services}
    await deploy_postgres(with_database(server_dsn, TEMPLATE), dsns, services)


def leave(server_dsn: str) -> None:
    """Close what is kept of a server's databases, before it stops."""
    if pool := _POOLS.pop(server_dsn, None):
        pool.close()


@asynccontextmanager
async def clone(server_dsn: str) -> AsyncGenerator[TestDatabase, None]:
    """A database that is as the template is, for one test."""
    pool = _POOLS.setdefault(server_dsn, _Pool(server_dsn))
    name = pool.free.pop() if pool.free else await pool.create()
    try:
        yield TestDatabase(with_database(server_dsn, name))
    finally:
        if await pool.empty(name):
            pool.free.append(name)
        else:
            await pool.drop(name)


# Tables that were written to: their file is not empty. TRUNCATE makes it so again.
_FILLED = """
select c.oid::regclass::text as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
where c.relkind = 'r' and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
  and pg_relation_size(c.oid) > 0 order by 1
"""
_USED_SEQUENCES = """
select format('%I.%I', schemaname, sequencename)::regclass::text as name, start_value
from pg_sequences where last_value is not null
"""
# What DDL leaves behind; TRUNCATE and VACUUM change nothing of it. The empty schemas that temporary
# tables of a connection lay in stay for the next one.
_SCHEMA = """
select md5(concat_ws(',',
    (select string_agg(concat_ws(':', oid, relname, relowner, relacl, relrowsecurity,
        relforcerowsecurity), ',' order by oid) from pg_class where oid >= 16384),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_attribute),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_proc),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_policy),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_trigger),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_constraint),
    (select concat(count(*), ':', sum(xmin::text::bigint)) from pg_namespace
     where nspname !~ '^pg_(toast_)?temp_'),
    (select string_agg(s::text, ',') from pg_db_role_setting s
     where setdatabase = (select oid from pg_database where datname = current_database()))))
"""


@dataclass
class _Pool:
    """The databases of a server that wait for the next test.

    Attributes:
        connections: one to each database, kept from test to test: it knows the catalog already.
        schemas: what `_SCHEMA` says of each database when it was new.
        seeds: the rows that the migrations themselves have entered, by table, as COPY writes them.
    """

    server_dsn: str
    free: list[str] = field(default_factory=list)
    connections: dict[str, asyncpg.Connection] = field(default_factory=dict)
    schemas: dict[str, str] = field(default_factory=dict)
    seeds: Mapping[str, bytes] | None = None

    async def create(self) -> str:
        """A database cloned from the template."""
        name = f"test_{secrets.token_hex(6)}"
        admin = await asyncpg.connect(self.server_dsn)
        try:
            await admin.execute(f"create database {name} template {TEMPLATE}")
        finally:
            await admin.close()
        connection = await asyncpg.connect(with_database(self.server_dsn, name))
        self.connections[name] = connection
        self.schemas[name] = await connection.fetchval(_SCHEMA)
        if self.seeds is None:
            filled = [row["name"] for row in await connection.fetch(_FILLED)]
            self.seeds = {table: await _rows_of(connection, table) for table in filled}
        return name

    async def drop(self, name: str) -> None:
        """Drop a database that cannot be used again."""
        self.connections.pop(name).terminate()
        del self.schemas[name]
        admin = await asyncpg.connect(self.server_dsn)
        try:
            await admin.execute(f"drop database if exists {name} with (force)")
        finally:
            await admin.close()

    async def empty(self, name: str) -> bool:
        """Make a database as it was when it was new; False where that is not possible."""
        connection = self.connections[name]
        try:
            if not await _left_by_all(connection):
                return False
            if await connection.fetchval(_SCHEMA) != self.schemas[name]:
                return False
            await self._empty(connection)
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            return False
        return True

    def close(self) -> None:
        """Let go of every database, before its server stops."""
        for connection in self.connections.values():
            connection.terminate()

    async def _empty(self, connection: asyncpg.Connection) -> None:
        assert self.seeds is not None, "it was made by `create`"
        written = {row["name"] for row in await connection.fetch(_FILLED)} - self.seeds.keys()
        async with connection.transaction():
            # Triggers that refuse TRUNCATE guard against the services, not against this.
            await connection.execute("set local session_replication_role = replica")
            if written:
                tables = ", ".join(sorted(written))
                await connection.execute(f"truncate {tables} cascade")
            for row in await connection.fetch(_USED_SEQUENCES):
                await connection.execute(
                    "select setval($1::text::regclass, $2, false)", row["name"], row["start_value"]
                )
            for table, rows in self.seeds.items():
                if await _rows_of(connection, table) != rows:
                    await connection.execute(f"truncate {table}")
                    schema, _, plain = table.rpartition(".")
                    await connection.copy_to_table(
                        plain, schema_name=schema, source=io.BytesIO(rows)
                    )


_POOLS: dict[str, _Pool] = {}


async def _rows_of(connection: asyncpg.Connection, table: str) -> bytes:
    """Every row as COPY writes it."""
    rows = io.BytesIO()
    schema, _, plain = table.rpartition(".")
    await connection.copy_from_table(plain, schema_name=schema, output=rows)
    return rows.getvalue()


async def _left_by_all(connection: asyncpg.Connection) -> bool:
    """End what is still connected to the database; whether all are gone."""
    deadline = asyncio.get_running_loop().time() + GONE_WITHIN_SECONDS
    while await connection.fetchval(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid()"
    ):
        if asyncio.get_running_loop().time() > deadline:
            return False
        await asyncio.sleep(0.01)
    return True
