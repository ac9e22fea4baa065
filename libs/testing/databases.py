"""A database of its own for every test, cloned from a migrated template."""

import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from libs.db.pool import Database, open_database
from libs.deploy import deploy_postgres, services_with_schema

TEMPLATE = "sluice_template"
PASSWORD = "test-only"  # noqa: S105 - of a throw-away server on loopback


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
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f"drop database if exists {TEMPLATE} with (force)")
        await admin.execute(f"create database {TEMPLATE}")
    finally:
        await admin.close()
    services = services_with_schema()
    dsns = {s: with_database(server_dsn, TEMPLATE, user=f"sluice_{s}") for s in services}
    await deploy_postgres(with_database(server_dsn, TEMPLATE), dsns, services)


@asynccontextmanager
async def clone(server_dsn: str) -> AsyncGenerator[TestDatabase, None]:
    """A fresh copy of the template, dropped afterwards."""
    name = f"test_{secrets.token_hex(6)}"
    admin = await asyncpg.connect(server_dsn)
    try:
        await admin.execute(f"create database {name} template {TEMPLATE}")
        try:
            yield TestDatabase(with_database(server_dsn, name))
        finally:
            await admin.execute(f"drop database {name} with (force)")
    finally:
        await admin.close()
