"""Sessions that end: many at once, by several at the same time, all refused and nobody stuck."""

import asyncio
from typing import Any
from uuid import UUID

import pytest

from libs.clock import utc_now
from libs.db.tenant import Scope
from libs.web.auth import VOIDED
from services.tenants import invitations, sessions, snapshot, store_people, store_tenants
from tenants.conftest import World
from tenants.persons import add_person, browser, signed_in, token_of

READ = "/api/v1/tenants/acme/status"


async def begin(world: World, user_id: UUID, count: int) -> list[UUID]:
    """Sessions of a user; their ids."""
    async with world.database.transaction() as tx:
        for _ in range(count):
            await sessions.begin(tx, user_id, utc_now(), 12)
        return [row["session_id"] for row in await sessions.list_all(tx, user_id, utc_now())]


async def test_more_sessions_than_a_record_names_are_refused_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "REVOKED_SESSIONS_MAX", 3)
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    async with (
        signed_in(world, "ada@acme.example", acme="member") as ada,
        signed_in(world, "bob@acme.example", acme="member") as bob,
    ):
        async with browser(world, "ada@acme.example") as another:
            first = await ada.assertion("acme")
            assert (await another.sign_in()).status_code == 201
            second = await another.assertion("acme")
            bobs = await bob.assertion("acme")
            user_id = await ada.user_id()
        await begin(world, user_id, 6)
        async with world.database.transaction() as tx:
            assert await sessions.end_all(tx, user_id, utc_now()) == 8
        await world.settle()
        for assertion in (first, second):
            answer = await world.call("GET", READ, key=assertion)
            assert (answer.status_code, answer.json()["detail"]) == (401, VOIDED)
        # Somebody else's is as good as before.
        assert (await world.call("GET", READ, key=bobs)).status_code == 200
    told = world.snapshot(acme["id"])
    assert len(told.sessions_revoked) == 3
    assert [(each.user_id, each.version) for each in told.members_revoked] == [
        (user_id, told.version)
    ]
    assert told.assertions_void_before == 0


async def test_more_people_than_a_record_names_void_all_that_was_made_before(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "REVOKED_MEMBERS_MAX", 1)
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    async with signed_in(world, "ada@acme.example", acme="member") as ada:
        before = await ada.assertion("acme")
        for email in ("bob@acme.example", "cleo@acme.example"):
            user_id = await add_person(world, email, acme="member")
            headers = {"X-Tenant-ID": "acme"}
            path = f"/api/v1/members/usr_{user_id}"
            assert (await world.call("DELETE", path, headers=headers)).status_code == 204
        assert (await world.call("GET", READ, key=before)).status_code == 401
        told = world.snapshot(acme["id"])
        assert 0 < told.assertions_void_before < told.version
        # The next one is made for the newest version.
        assert (await ada.call("GET", READ, "acme")).status_code == 200


async def test_250_sessions_of_one_person_are_all_refused(world: World) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    user_id = await add_person(world, "ada@acme.example", acme="member")
    ended = await begin(world, user_id, 250)
    async with world.database.transaction() as tx:
        await sessions.end_all(tx, user_id, utc_now())
    await world.settle()
    told = world.snapshot(acme["id"])
    by_name = set(told.sessions_revoked)
    assert len(by_name) == snapshot.REVOKED_SESSIONS_MAX < len(ended)
    assert [each.user_id for each in told.members_revoked] == [user_id]


async def test_ending_all_from_several_sides_at_once_locks_nobody_out(world: World) -> None:
    """Each transaction locks some of the same tenants and ends the same sessions."""
    await world.sign_up("Acme", owner_email="owner@acme.example")
    await world.sign_up("Globex", owner_email="owner@globex.example")
    roles: dict[str, Any] = {"acme": "admin", "globex": "admin"}
    one = await add_person(world, "one@acme.example", **roles)
    two = await add_person(world, "two@acme.example", **roles)
    for _ in range(6):
        for user_id in (one, two):
            await begin(world, user_id, 3)

        async def end(user_id: UUID) -> None:
            async with world.database.transaction() as tx:
                await sessions.end_all(tx, user_id, utc_now())

        await asyncio.gather(*(end(user_id) for user_id in (one, two) * 3))
    await world.settle()


async def test_an_invitation_that_ends_sessions_locks_in_the_same_order(world: World) -> None:
    """Its own tenant is the last in the order, and somebody else is on the way from the first to it."""
    first = UUID((await world.sign_up("Acme"))["id"])
    # An account nobody has vouched for, with sessions of whoever opened it.
    user_id = await add_person(world, "ada@acme.example", acme="member")
    await begin(world, user_id, 2)
    made = await world.sign_up("Globex", owner_email="ada@acme.example")
    last, url = UUID(made["id"]), made["owner_invitation_url"]
    assert first < last
    on_the_way = asyncio.Event()

    async def lock_both() -> None:
        async with world.database.transaction(Scope((first,), None)) as tx:
            await store_tenants.lock_tenant(tx)
            on_the_way.set()
            await asyncio.sleep(0.3)
            await tx.enter(Scope((last,), None))
            await store_tenants.lock_tenant(tx)

    async def accept() -> None:
        await on_the_way.wait()
        proof = invitations.Proof(new_password_hash="x")
        async with world.database.transaction() as tx:
            await invitations.accept(tx, token_of(url), proof, utc_now())

    await asyncio.gather(lock_both(), accept())
    async with world.database.transaction() as tx:
        assert await store_people.list_sessions(tx, user_id) == []
