"""SQL as the service's role in another tenant's scope sees nothing of a tenant's."""

from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest

from libs.clock import utc_now
from libs.db.tenant import NOBODY, Mode, Scope
from libs.ids import new_id
from services.tenants import jobs, sessions, store_people
from tenants.conftest import OPERATOR_EMAIL, OPERATOR_PASSWORD, World

OF_A_TENANT = (
    "tenant",
    "tenant_slug",
    "platform_subscription",
    "stripe_object",
    "api_key",
    "clock_advance",
    "data_key",
    "signing_key",
    "member",
    "session_revocation",
    "audit_entry",
    "outbox",
    "directory",
    "directory_account",
    "directory_lookup",
)
OF_PEOPLE = ("user_account", "session", "session_end")


async def seen(world: World, scope: Scope, table: str) -> list[UUID | None]:
    async with world.database.transaction(scope) as tx:
        rows = await tx.fetch(f"select to_jsonb(t) ->> 'tenant_id' as tenant from {table} t")
    return [row["tenant"] and UUID(row["tenant"]) for row in rows]


MODES: tuple[Mode | None, ...] = ("test", "live", None)


async def test_another_tenants_scope_sees_nothing(world: World) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    globex = await world.sign_up("Globex", owner_email="owner@globex.example")
    for slug in ("acme", "globex"):
        await world.make_key(slug, "usage:write")
    await world.client.post(
        "/api/v1/session", json={"email": OPERATOR_EMAIL, "password": OPERATOR_PASSWORD}
    )
    for mode in MODES:
        stranger, own = Scope((UUID(globex["id"]),), mode), Scope((UUID(acme["id"]),), mode)
        for table in OF_A_TENANT:
            assert UUID(acme["id"]) not in await seen(world, stranger, table), table
            assert await seen(world, NOBODY, table) == [], table
        assert UUID(acme["id"]) in await seen(world, own, "api_key")
        for table in OF_PEOPLE:
            for scope in (stranger, NOBODY, own):
                assert await seen(world, scope, table) == [], table


async def test_another_tenants_rows_cannot_be_changed_or_planted(world: World) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    globex = await world.sign_up("Globex")
    stranger = Scope((UUID(globex["id"]),), "test")
    async with world.database.transaction(stranger) as tx:
        for table in ("tenant", "api_key", "member"):
            assert (
                await tx.execute(f"delete from {table} where tenant_id = $1", UUID(acme["id"])) == 0
            )
        owner = await store_people.find_account(tx, "owner@acme.example")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.transaction(stranger) as tx:
            await tx.execute(
                "insert into member (tenant_id, user_id, role, created_at) "
                "values ($1, $2, 'owner', now())",
                UUID(acme["id"]),
                owner["user_id"] if owner else None,
            )
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with world.database.transaction(stranger) as tx:
            await tx.execute("update user_account set password_hash = null")


async def test_what_has_no_meaning_any_more_is_deleted(world: World) -> None:
    now = utc_now()
    old = now - timedelta(days=3)
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    session_id = new_id()
    async with world.database.transaction() as tx:
        owner = await store_people.find_account(tx, "owner@acme.example")
        assert owner is not None
        hashed = sessions.hash_token("cookie")
        await store_people.insert_session(tx, session_id, hashed, owner["user_id"], old, old, None)
        assert await store_people.end_sessions(tx, [session_id], old) == [session_id]
        token, _ = await sessions.begin(tx, owner["user_id"], now, 1)
        await store_people.count_attempt(tx, "email", b"d" * 32, old, old)
        await tx.enter(Scope((UUID(acme["id"]),), None))
        user_id = owner["user_id"]
        await store_people.insert_revocations(tx, [session_id], user_id, 1, old)
    await jobs.prune(world.database)
    async with world.database.transaction() as tx:
        assert await store_people.find_session(tx, sessions.hash_token(token)) is not None
        assert await tx.fetchval("select count(*) from sign_in_failure") == 0
        await tx.enter(Scope((UUID(acme["id"]),), None))
        assert await store_people.revoked_sessions(tx, 10) == []
    async with world.database.maintenance() as tx:
        assert await tx.fetchval("select count(*) from session") == 1
