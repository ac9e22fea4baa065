"""Members: who may change whom, and that no tenant is ever without an owner."""

import asyncio
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto import tokens
from libs.db.tenant import Scope
from libs.ids import public_id
from libs.testing.databases import TestDatabase
from services.tenants import members
from services.tenants.authority import BeyondAuthorityError
from services.tenants.roles import PERMISSIONS, SCOPES
from tenants.conftest import OPERATOR_EMAIL, OPERATOR_PASSWORD, World, checksums
from tenants.persons import Person, add_person, browser, signed_in

MEMBERS = "/api/v1/members"


def path_of(user_id: UUID) -> str:
    return f"{MEMBERS}/{public_id('user', user_id)}"


async def change(person: Person, user_id: UUID, **body: Any) -> Any:
    return await person.call("PATCH", path_of(user_id), json=body)


async def test_members_are_listed_with_what_they_may(world: World) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example")
    await world.sign_up("Globex", owner_email="owner@globex.example")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        listed = (await admin.call("GET", MEMBERS)).json()
        assert [(item["email"], item["role"]) for item in listed["items"]] == [
            ("owner@acme.example", "owner"),
            ("admin@acme.example", "admin"),
        ]
        assert listed["items"][0]["all_permissions"] == sorted(SCOPES)
        first = (await admin.call("GET", f"{MEMBERS}?limit=1")).json()
        rest = (await admin.call("GET", f"{MEMBERS}?limit=1&cursor={first['next_cursor']}")).json()
        assert (rest["items"], rest["next_cursor"]) == ([listed["items"][1]], None)
        one = await admin.call("GET", f"{MEMBERS}/{listed['items'][0]['user']}")
        assert one.json() == listed["items"][0]
        stranger = await world.call("GET", MEMBERS, headers={"X-Tenant-ID": "globex"})
        (theirs,) = stranger.json()["items"]
        for absent in (theirs["user"], "usr_x", public_id("user", PLATFORM_TENANT_ID), "me"):
            for method in ("GET", "PATCH", "DELETE"):
                parts = {"json": {"role": "member"}} if method == "PATCH" else {}
                answer = await admin.call(method, f"{MEMBERS}/{absent}", **parts)
                assert answer.status_code == 404


async def test_only_who_manages_members_sees_and_changes_them(world: World) -> None:
    await world.sign_up("Acme")
    owner_id = await add_person(world, "owner@acme.example", acme="owner")
    for role in ("member", "billing_admin"):
        async with signed_in(world, f"{role}@acme.example", acme=role) as person:  # type: ignore[arg-type]
            for method, path in (
                ("GET", MEMBERS),
                ("DELETE", path_of(owner_id)),
                ("GET", "/api/v1/invitations"),
                ("GET", "/api/v1/teams"),
            ):
                answer = await person.call(method, path)
                assert (answer.status_code, answer.json()["permission"]) == (403, "members:manage")


async def test_a_role_changes_and_the_log_tells(world: World) -> None:
    acme = await world.sign_up("Acme")
    user_id = await add_person(world, "ada@acme.example", acme="member")
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        answer = await change(owner, user_id, role="billing_admin", permissions=["usage:write"])
        assert answer.status_code == 200
        assert answer.headers["Sluice-Version"].startswith(acme["id"])
        assert (answer.json()["role"], answer.json()["permissions"]) == (
            "billing_admin",
            ["usage:write"],
        )
        again = await change(owner, user_id, role="billing_admin")
        assert again.json() == answer.json()
        # What a role brings by itself is not kept beside it.
        admin = await change(owner, user_id, role="admin")
        assert admin.json()["permissions"] == []
    told = [e for e in world.log.events(ConfigurationChanged) if e.data.action == "member.changed"]
    assert [(e.data.before, e.data.after) for e in told] == [
        (
            {"role": "member", "permissions": ""},
            {"role": "billing_admin", "permissions": "usage:write"},
        ),
        (
            {"role": "billing_admin", "permissions": "usage:write"},
            {"role": "admin", "permissions": ""},
        ),
    ]


async def test_further_permissions_reach_the_assertion(world: World) -> None:
    await world.sign_up("Acme")
    async with signed_in(world, "ada@acme.example", acme="member") as ada:
        assert (await ada.call("GET", MEMBERS)).status_code == 403
        user_id = await ada.user_id()
        async with signed_in(world, "owner@acme.example", acme="owner") as owner:
            await change(owner, user_id, permissions=["members:manage"])
        assert (await ada.call("GET", MEMBERS)).status_code == 200
        made = (await ada.assert_for()).json()
        assert made["permissions"] == sorted(PERMISSIONS["member"] | {"members:manage"})


async def test_lost_rights_end_assertions_that_were_made_before(world: World) -> None:
    acme = await world.sign_up("Acme")
    await world.sign_up("Globex")
    people = {
        name: await add_person(world, f"{name}@acme.example", acme="admin", globex="member")
        for name in ("changed", "removed", "other")
    }
    async with (
        signed_in(world, "owner@acme.example", acme="owner") as owner,
        browser(world, "changed@acme.example") as changed,
        browser(world, "removed@acme.example") as removed,
        browser(world, "other@acme.example") as other,
    ):
        before: dict[str, str] = {}
        for name, person in (("changed", changed), ("removed", removed), ("other", other)):
            await person.sign_in()
            before[name] = await person.assertion("acme")
            assert (await world.call("GET", MEMBERS, key=before[name])).status_code == 200
        elsewhere = await removed.assertion("globex")
        await change(owner, people["changed"], role="member")
        await owner.call("DELETE", path_of(people["removed"]))
        assert (await world.call("GET", MEMBERS, key=before["changed"])).status_code == 401
        assert (await world.call("GET", MEMBERS, key=before["removed"])).status_code == 401
        assert (await world.call("GET", MEMBERS, key=before["other"])).status_code == 200
        assert (await world.call("GET", "/api/v1/tenants", key=elsewhere)).status_code == 200
        # A new assertion says what is so now.
        assert (await changed.call("GET", MEMBERS, "acme")).status_code == 403
        assert (await changed.call("GET", "/api/v1/tenants/acme", "acme")).status_code == 200
        assert (await removed.assert_for("acme")).status_code == 403
        revoked = world.snapshot(acme["id"]).members_revoked
        assert {each.user_id for each in revoked} == {people["changed"], people["removed"]}


async def test_gained_rights_end_nothing(world: World) -> None:
    acme = await world.sign_up("Acme")
    async with (
        signed_in(world, "owner@acme.example", acme="owner") as owner,
        signed_in(world, "ada@acme.example", acme="member") as ada,
    ):
        before = await ada.assertion()
        await change(owner, await ada.user_id(), role="admin")
        assert (await world.call("GET", "/api/v1/tenants/acme", key=before)).status_code == 200
        assert world.snapshot(acme["id"]).members_revoked == ()


async def test_an_operator_who_is_removed_is_none_anywhere(world: World) -> None:
    await world.sign_up("Acme")
    async with browser(world, OPERATOR_EMAIL) as first, browser(world, "second@ops.example") as two:
        assert (await first.sign_in(OPERATOR_PASSWORD)).status_code == 201
        second_id = await add_person(world, "second@ops.example", platform="member", acme="member")
        await two.sign_in()
        token = await two.assertion("acme")
        acted = await world.call("GET", "/api/v1/tenants/default", key=token)
        assert acted.status_code == 200
        removed = await first.call("DELETE", path_of(second_id), "platform")
        assert removed.status_code == 204
        assert (await world.call("GET", "/api/v1/tenants/default", key=token)).status_code == 401
        assert (await world.call("GET", "/api/v1/tenants/acme", key=token)).status_code == 401
        fresh = await two.assertion("acme")
        assert (await world.call("GET", "/api/v1/tenants/acme", key=fresh)).status_code == 200
        assert (await world.call("GET", "/api/v1/tenants/default", key=fresh)).status_code == 403


async def test_an_assertion_says_how_old_what_it_says_is(world: World) -> None:
    acme = await world.sign_up("Acme")
    keys = {key.key_id: key.public_key for key in world.snapshot(PLATFORM_TENANT_ID).assertion_keys}
    async with signed_in(world, "ada@acme.example", acme="admin") as ada:
        claims = tokens.verify(await ada.assertion(), keys, utc_now())
        assert claims.tenant_version == world.snapshot(acme["id"]).version
        assert claims.platform_version == 0
    async with browser(world, OPERATOR_EMAIL) as operator:
        await operator.sign_in(OPERATOR_PASSWORD)
        claims = tokens.verify(await operator.assertion(), keys, utc_now())
        assert claims.platform_version == world.snapshot(PLATFORM_TENANT_ID).version


async def test_nobody_gives_or_takes_more_than_they_have(world: World) -> None:
    await world.sign_up("Acme")
    owner_id = await add_person(world, "owner@acme.example", acme="owner")
    plain_id = await add_person(world, "plain@acme.example", acme="member")
    async with (
        signed_in(world, "admin@acme.example", acme="admin") as admin,
        signed_in(world, "clerk@acme.example", acme="member") as clerk,
    ):
        admin_id, clerk_id = await admin.user_id(), await clerk.user_id()
        assert (await change(admin, clerk_id, permissions=["members:manage"])).status_code == 200
        refused = [
            await change(admin, plain_id, role="owner"),
            await change(admin, admin_id, role="owner"),
            await change(admin, owner_id, role="member"),
            await admin.call("DELETE", path_of(owner_id)),
            await change(clerk, plain_id, role="admin"),
            await change(clerk, plain_id, role="billing_admin"),
            await change(clerk, plain_id, permissions=["ledger:read"]),
            await change(clerk, clerk_id, role="admin"),
            await change(clerk, clerk_id, permissions=["members:manage", "usage:write"]),
            await change(clerk, admin_id, role="member"),
            await clerk.call("DELETE", path_of(admin_id)),
        ]
        assert {(answer.status_code, answer.json()["code"]) for answer in refused} == {
            (403, "insufficient_permissions")
        }
        denied = [
            event
            for event in world.log.events(SecurityEventRaised)
            if event.data.kind == "permission_denied"
        ]
        assert len(denied) == len(refused)
        assert (await change(clerk, plain_id, permissions=["members:manage"])).status_code == 200
        assert (await clerk.call("DELETE", path_of(plain_id))).status_code == 204


async def test_a_key_manages_members_within_its_scopes(world: World) -> None:
    await world.sign_up("Acme")
    user_id = await add_person(world, "ada@acme.example", acme="member")
    owner_id = await add_person(world, "owner@acme.example", acme="owner")
    key = await world.make_key("acme", "members:manage", "tenants:read", "billing:read")
    for path, body, status in (
        (path_of(user_id), {"permissions": ["usage:write"]}, 403),
        (path_of(user_id), {"role": "billing_admin"}, 403),
        (path_of(owner_id), {"role": "admin"}, 403),
    ):
        answer = await world.call("PATCH", path, key=key, json=body)
        assert answer.status_code == status
    wide = await world.make_key("acme", *SCOPES)
    answer = await world.call("PATCH", path_of(user_id), key=wide, json={"role": "admin"})
    assert answer.status_code == 200
    answer = await world.call("PATCH", path_of(user_id), key=wide, json={"role": "owner"})
    assert answer.status_code == 403


async def test_the_last_owner_stays(world: World) -> None:
    await world.sign_up("Acme")
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        owner_id = await owner.user_id()
        for answer in (
            await change(owner, owner_id, role="admin"),
            await owner.call("DELETE", path_of(owner_id)),
            await world.call("DELETE", path_of(owner_id), headers={"X-Tenant-ID": "acme"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (409, "last_owner")
        second = await add_person(world, "second@acme.example", acme="admin")
        assert (await change(owner, second, role="owner")).status_code == 200
        assert (await change(owner, owner_id, role="admin")).status_code == 200
        assert (await change(owner, owner_id, role="owner")).status_code == 403


async def test_the_tenants_record_tells_its_owner(world: World) -> None:
    # Given a tenant that was made for nobody,
    acme = await world.sign_up("Acme")
    await world.settle()
    assert world.snapshot(acme["id"]).owner_user_id is None
    # when somebody older there is made its owner beside another,
    elder = await add_person(world, "elder@acme.example", acme="member")
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        first = await owner.user_id()
        assert (await change(owner, elder, permissions=["usage:read"])).status_code == 200
        before = world.snapshot(acme["id"]).version
        assert (await change(owner, elder, role="owner")).status_code == 200
        await world.settle()
        # then the record tells of the one who has been there longest,
        assert world.snapshot(acme["id"]).version > before
        assert world.snapshot(acme["id"]).owner_user_id == elder
        # and of the next once that one is gone.
        assert (await owner.call("DELETE", path_of(elder))).status_code == 204
        await world.settle()
        assert world.snapshot(acme["id"]).owner_user_id == first
    globex = await world.sign_up("Globex", owner_email="owner@globex.example")
    await world.settle()
    assert world.snapshot(globex["id"]).owner_user_id is not None


async def test_two_owners_who_leave_at_once_leave_one(world: World) -> None:
    for turn in range(5):
        tenant = await world.sign_up(f"Turn {turn}")
        slug, tenant_id = tenant["slug"], UUID(tenant["id"])
        owners = [
            await add_person(world, f"{name}@{slug}.example", **{slug: "owner"}) for name in "ab"
        ]

        async def leave(user_id: UUID, tenant_id: UUID = tenant_id) -> bool:
            actor = public_id("user", user_id)
            try:
                async with world.database.tenant(tenant_id, None) as tx:
                    await members.remove(tx, user_id, actor=actor, at=utc_now())
            except members.LastOwnerError:
                return False
            return True

        assert sorted(await asyncio.gather(*map(leave, owners))) == [False, True]
        async with world.database.tenant(tenant_id, None) as tx:
            (stayed,) = await members.list_all(tx, None, 10)
        assert stayed["role"] == "owner"


async def test_the_database_itself_keeps_the_last_owner(
    world: World, database: TestDatabase
) -> None:
    acme = await world.sign_up("Acme", owner_email="owner@acme.example")
    scope = Scope((UUID(acme["id"]),), None)
    for sql in ("delete from member", "update member set role = 'admin'"):
        with pytest.raises(asyncpg.CheckViolationError, match="last owner"):
            async with world.database.transaction(scope) as tx:
                await tx.execute(sql)
    second = await add_person(world, "second@acme.example", acme="owner")

    async def remove(one: UUID | None) -> bool:
        try:
            async with world.database.transaction(scope) as tx:
                await tx.execute(
                    "delete from member where ($1::uuid is null and user_id <> $2) or user_id = $1",
                    one,
                    second,
                )
                await asyncio.sleep(0.2)
        except asyncpg.CheckViolationError:
            return False
        return True

    assert sorted(await asyncio.gather(remove(None), remove(second))) == [False, True]
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from tenants.member where role = 'owner'") == 2


BAD_CHANGES: list[dict[str, Any]] = [
    {},
    {"role": "operator"},
    {"role": "owner", "tenant_id": str(PLATFORM_TENANT_ID)},
    {"permissions": ["operator"]},
    {"permissions": ["billing:read"] * 50},
    {"role": None, "permissions": None},
    {"user": "usr_x", "role": "member"},
]


async def test_a_bad_change_is_refused(world: World) -> None:
    await world.sign_up("Acme")
    user_id = await add_person(world, "ada@acme.example", acme="member")
    for body in BAD_CHANGES:
        answer = await world.call(
            "PATCH", path_of(user_id), json=body, headers={"X-Tenant-ID": "acme"}
        )
        assert answer.status_code == 422, body


async def test_the_actors_rights_are_those_of_this_moment(world: World) -> None:
    """An assertion of a minute ago gives nothing that was lost since, not even within two seconds."""
    acme = await world.sign_up("Acme")
    admin_id = await add_person(world, "admin@acme.example", acme="member")
    user_id = await add_person(world, "ada@acme.example", acme="member")
    async with world.database.tenant(UUID(acme["id"]), None) as tx:
        with pytest.raises(BeyondAuthorityError):
            await members.change(
                tx,
                user_id,
                role="admin",
                permissions=None,
                actor=public_id("user", admin_id),
                at=utc_now(),
            )


async def test_replay_changes_nothing(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme")
    user_id = await add_person(world, "ada@acme.example", acme="admin")
    async with signed_in(world, "owner@acme.example", acme="owner") as owner:
        await change(owner, user_id, role="member")
        await owner.call("DELETE", path_of(user_id))
    await world.settle()
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        await world.settle()
        assert await checksums(database) == before
