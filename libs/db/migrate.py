"""Schema, roles and migrations of a service.

Files are dbmate's format (`-- migrate:up`), applied in order, each in its own transaction with a
lock time-out, under an advisory lock, and remembered with a checksum: a file that was applied and
then changed is an error. Migrations only go forward.

A statement has 60 seconds. A file whose work grows with what there is says so at its head and sets
a limit of its own: `set local statement_timeout = 0;`.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import asyncpg

ROOT = Path(__file__).resolve().parents[2]
CORE_MIGRATIONS = ROOT / "libs" / "db" / "migrations"
OWNER = "sluice_owner"
LOOKUP = "sluice_lookup"
LOCK_TIMEOUT = "4s"
STATEMENT_TIMEOUT = "60s"


class MigrationError(RuntimeError):
    """A migration cannot be applied; the message says which and why."""


@dataclass(frozen=True)
class Migration:
    """One file: its name within the service, its SQL and the SHA-256 of its bytes."""

    name: str
    sql: str
    checksum: str


def read_migrations(folder: Path, prefix: str) -> list[Migration]:
    """The migrations of a folder in order of their numbers."""
    found = []
    for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")):
        text = path.read_text()
        marker, _, sql = text.partition("-- migrate:up")
        if marker.strip() or not sql:
            raise MigrationError(f"{path.name} must begin with `-- migrate:up`")
        checksum = hashlib.sha256(text.encode()).hexdigest()
        found.append(
            Migration(f"{prefix}/{path.name}", sql.partition("-- migrate:down")[0], checksum)
        )
    return found


def service_migrations(service: str) -> list[Migration]:
    """The core's tables first, then the service's own."""
    own = ROOT / "services" / service / "migrations"
    return read_migrations(CORE_MIGRATIONS, "core") + read_migrations(own, service)


async def ensure_shared_roles(admin: Any) -> None:
    """The role that owns every table and the role of look-up functions; neither can log in."""
    for role in (OWNER, LOOKUP):
        await _create_role(admin, role, "nologin")
        await admin.execute(f"grant {role} to current_user")
    await admin.execute(f"grant {LOOKUP} to {OWNER}")


async def _create_role(admin: Any, role: str, options: str) -> None:
    if not await admin.fetchval("select true from pg_roles where rolname = $1", role):
        await admin.execute(f"create role {role} {options}")


async def ensure_service_role(admin: Any, service: str, password: str) -> None:
    """The service's login role, its maintenance role and its schema.

    NOINHERIT: the login role uses its maintenance role only by an explicit SET ROLE.
    """
    role, maintenance = f"sluice_{service}", f"sluice_{service}_maintenance"
    await _create_role(admin, role, "login noinherit nobypassrls")
    await _create_role(admin, maintenance, "nologin nobypassrls")
    quoted = await admin.fetchval("select quote_literal($1::text)", password)
    await admin.execute(f"alter role {role} password {quoted}")
    await admin.execute(f"grant {maintenance} to {role}")
    await admin.execute(f"grant {role}, {maintenance} to current_user")
    await admin.execute(f"create schema if not exists {service} authorization {OWNER}")
    await admin.execute(f"grant usage on schema {service} to {role}, {maintenance}, {LOOKUP}")
    await admin.execute(f"grant create on schema {service} to {LOOKUP}")
    await admin.execute(
        f"alter default privileges for role {OWNER} in schema {service} "
        f"grant select, insert, update, delete on tables to {role}"
    )
    await admin.execute(
        f"alter default privileges for role {OWNER} in schema {service} "
        f"grant usage, select on sequences to {role}, {maintenance}"
    )


async def migrate(admin: Any, service: str) -> list[str]:
    """Apply what is missing in the service's schema; the names of the files applied.

    Raises:
        MigrationError: an applied file has changed, or a file fails.
    """
    applied_now: list[str] = []
    await admin.execute("select pg_advisory_lock(hashtext($1))", f"sluice.migrate.{service}")
    try:
        await admin.execute(f"set search_path = {service}")
        await admin.execute(f"set role {OWNER}")
        await admin.execute(
            "create table if not exists schema_migration (name text primary key, "
            "checksum text not null, applied_at timestamptz not null default now())"
        )
        done = {
            row["name"]: row["checksum"]
            for row in await admin.fetch("select name, checksum from schema_migration")
        }
        for migration in service_migrations(service):
            if migration.name in done:
                if done[migration.name] != migration.checksum:
                    raise MigrationError(
                        f"{service}: {migration.name} was applied and has changed since; "
                        "restore it and put the change into a new migration"
                    )
                continue
            await _apply(admin, service, migration)
            applied_now.append(migration.name)
    finally:
        await admin.execute("reset role")
        await admin.execute("reset search_path")
        await admin.execute("select pg_advisory_unlock(hashtext($1))", f"sluice.migrate.{service}")
    return applied_now


async def _apply(admin: Any, service: str, migration: Migration) -> None:
    try:
        async with admin.transaction():
            await admin.execute(
                f"set local lock_timeout = '{LOCK_TIMEOUT}'; "
                f"set local statement_timeout = '{STATEMENT_TIMEOUT}'"
            )
            await admin.execute(migration.sql)
            await admin.execute(
                "insert into schema_migration (name, checksum) values ($1, $2)",
                migration.name,
                migration.checksum,
            )
    except asyncpg.PostgresError as error:
        raise MigrationError(f"{service}: {migration.name} failed: {error}") from error


def password_of(dsn: str) -> str:
    """The password inside a DSN."""
    return unquote(urlsplit(dsn).password or "")
