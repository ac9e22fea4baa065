"""SQL that a service's login role could be brought to run, tried for real.

The worst case of an injection: the attacker speaks SQL as one service's role. It may then name any
tenant of that service (nothing in Postgres can tell who set `app.tenants`); everything beyond that
is denied here, statement by statement. What the catalogue says is in tests/architecture/catalog.py.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import pytest

from libs.db.pool import Database, UnsafeRoleError, open_database, refuse_unsafe_role
from libs.db.tenant import Scope
from libs.deploy import services_with_schema
from libs.ids import new_id
from libs.testing.databases import PASSWORD, TestDatabase, with_database


@dataclass(frozen=True)
class World:
    """Billing's database as billing reaches it, with a customer and a meter of acme's in it."""

    database: TestDatabase
    billing: Database
    acme: UUID
    globex: UUID
    customer: UUID

    @property
    def stranger(self) -> Scope:
        """Another tenant's scope."""
        return Scope((self.globex,), "test")


@pytest.fixture
async def world(database: TestDatabase) -> AsyncGenerator[World, None]:
    acme, customer = new_id(), new_id()
    async with database.admin() as admin:
        await admin.execute(
            "insert into billing.customer (tenant_id, mode, id, billed_by, name, currency, "
            "created_at) values ($1, 'test', $2, 'platform', 'not a number', 'EUR', now())",
            *(acme, customer),
        )
        await admin.execute("analyze billing.customer")
    async with database.open("billing") as billing:
        yield World(database, billing, acme, new_id(), customer)


async def enter_customer(world: World, scope: Scope, tenant_id: UUID, customer_id: UUID) -> None:
    async with world.billing.transaction(scope) as tx:
        await tx.execute(
            "insert into customer (tenant_id, mode, id, billed_by, name, currency, created_at) "
            "values ($1, 'test', $2, 'tenant', 'x', 'EUR', now())",
            *(tenant_id, customer_id),
        )


async def test_a5_without_a_tenant_nothing_is_seen_before_and_after_one_was_set(
    world: World,
) -> None:
    async with world.billing.pool.acquire() as connection:
        fresh = await connection.fetchval("select current_setting('app.tenants', true)")
        assert fresh is None
        assert await connection.fetchval("select count(*) from customer") == 0
    async with world.billing.tenant(world.acme, "test") as tx:
        assert await tx.fetchval("select count(*) from customer") == 1
    async with world.billing.transaction() as tx:
        # Postgres keeps the setting as '' in a session that once had it.
        assert await tx.fetchval("select current_setting('app.tenants', true)") == ""
        assert await tx.fetchval("select count(*) from customer") == 0


@pytest.mark.parametrize("power", ["superuser", "bypassrls", "owner"])
async def test_a6_a_service_does_not_start_with_a_role_that_sees_all(
    database: TestDatabase, power: str
) -> None:
    role = f"strong_{new_id().hex[-12:]}"
    async with database.admin() as admin:
        options = "" if power == "owner" else power
        await admin.execute(f"create role {role} login password '{PASSWORD}' {options}")
        await admin.execute(f"grant usage, create on schema billing to {role}")
        if power == "owner":
            await admin.execute(f"alter table billing.customer owner to {role}")
        name = database.admin_dsn.rpartition("/")[2]
        dsn = with_database(database.admin_dsn, name, user=role)
        try:
            opened = await open_database(dsn, "billing")
            with pytest.raises(UnsafeRoleError, match="plain login role"):
                await refuse_unsafe_role(opened)
            await opened.close()
        finally:
            await admin.execute(f"drop owned by {role} cascade; drop role {role}")


async def test_a6_the_roles_as_deployed_may_start(world: World) -> None:
    await refuse_unsafe_role(world.billing)


async def test_a9_a_row_cannot_refer_to_another_tenants(world: World) -> None:
    # Foreign keys are checked past row-level security: only a key with the tenant in it holds.
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        async with world.billing.transaction(world.stranger) as tx:
            await tx.execute(
                "insert into plan_version (tenant_id, mode, id, plan_id, version, content_hash, "
                "fact, published_at) values ($1, 'test', $2, $3, 1, '', '{}', now())",
                *(world.globex, new_id(), await _acmes_plan(world)),
            )


async def _acmes_plan(world: World) -> UUID:
    plan = new_id()
    async with world.billing.tenant(world.acme, "test") as tx:
        await tx.execute(
            "insert into plan (tenant_id, mode, id, key, created_at) "
            "values ($1, 'test', $2, 'gold', now())",
            *(world.acme, plan),
        )
    return plan


async def test_a10_a_taken_id_does_not_tell_that_it_is_taken(world: World) -> None:
    # Another tenant may use the very id: nothing is refused, so nothing is told.
    await enter_customer(world, world.stranger, world.globex, world.customer)
    # And a row cannot be planted for somebody else.
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
        await enter_customer(world, world.stranger, world.acme, new_id())


DENIED = {
    "be the owner": "set role sluice_owner",
    "be a look-up": "set role sluice_lookup",
    "be another service": "set role sluice_ledger",
    "be another's maintenance": "set role sluice_ledger_maintenance",
    "be the superuser": "set session authorization {superuser}",
    "grant itself": "grant sluice_ledger to sluice_billing",
    "make a role": "create role mallory superuser",
    "turn the policies off": "alter table customer disable row level security",
    "add a policy": "create policy all_of_it on customer using (true)",
    "drop a policy": "drop policy tenant_isolation on customer",
    "own the table": "alter table customer owner to sluice_billing",
    "empty the table": "truncate customer",
    "see past the policies": "set row_security = off; select * from customer",
    "copy past the policies": "set row_security = off; copy customer to stdout",
    "make a function": "create function f() returns int language sql as 'select 1'",
    "make a leaky operator": (
        "create function public.f(text, text) returns bool language sql as 'select true'"
    ),
    "make a view": "create view v as select * from customer",
    "make a trigger": (
        "create trigger t before insert on customer "
        "for each row execute function suppress_redundant_updates_trigger()"
    ),
    "run a program": "copy (select 1) to program 'true'",
    "read a file": "select pg_read_file('/etc/passwd')",
    "write a file": "copy (select 1) to '/tmp/sluice_attack'",
    "import a file": "select lo_import('/etc/passwd')",
    "see the passwords": "select rolpassword from pg_authid",
    "load an extension": "create extension dblink",
    "change a setting for all": "alter system set row_security = off",
    "have a tenant by default": "alter role sluice_billing set app.tenants = '{tenant}'",
    "replicate": "select pg_create_logical_replication_slot('s', 'test_decoding')",
    "end others' sessions": "select pg_terminate_backend({pid})",
}
"""A7, A8, A13, A14: what the role of a service may not, however it is asked."""


@pytest.mark.parametrize("sql", DENIED.values(), ids=DENIED.keys())
async def test_a13_the_role_of_a_service_may_not(world: World, sql: str) -> None:
    async with world.database.admin() as admin, world.billing.pool.acquire() as connection:
        row = await admin.fetchrow(
            "select current_user::text as superuser, pg_backend_pid() as pid"
        )
        filled = sql.format(tenant=world.acme, **dict(row))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            # One by one: together they would be one transaction, which some of them refuse to be in.
            for statement in filled.split("; "):
                await connection.execute(statement)
        await connection.execute("reset all")


async def test_a13_no_table_is_open_to_more_than_its_rows(world: World) -> None:
    """The rights to truncate, to refer and to trigger are no role's of any service."""
    async with world.database.admin() as admin:
        found = await admin.fetch(
            "select r.rolname, c.oid::regclass::text as name from pg_roles r, pg_class c "
            "join pg_namespace n on n.oid = c.relnamespace "
            "where r.rolname like 'sluice\\_%' and r.rolname <> 'sluice_owner' "
            "and c.relkind in ('r', 'p') and n.nspname = any ($1::text[]) "
            "and has_table_privilege(r.oid, c.oid, 'truncate, references, trigger')",
            services_with_schema(),
        )
    assert [tuple(row) for row in found] == []


async def test_a13_a_copy_holds_the_own_rows_only(world: World) -> None:
    await enter_customer(world, world.stranger, world.globex, new_id())
    async with world.billing.transaction(world.stranger) as tx:
        lines: list[bytes] = []

        async def keep(data: bytes) -> None:
            lines.append(data)

        await tx.connection.copy_from_query("select tenant_id from customer", output=keep)
    assert b"".join(lines).split() == [str(world.globex).encode()]


async def test_a14_statistics_and_errors_tell_nothing_of_others_rows(world: World) -> None:
    async with world.billing.transaction(world.stranger) as tx:
        # The planner's samples hold values: hidden where row-level security holds.
        stats = "select count(*) from pg_stats where tablename = 'customer'"
        assert await tx.fetchval(stats) == 0
        # A condition that would fail on acme's row, and quote it, is never tried on it.
        assert await tx.fetch("select id from customer where name::integer = 1") == []
    async with world.billing.tenant(world.acme, "test") as tx:
        with pytest.raises(asyncpg.InvalidTextRepresentationError, match="not a number"):
            await tx.fetch("select id from customer where name::integer = 1")
