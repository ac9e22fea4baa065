"""Personal data of people: sealed, given out, and erased by destroying a key."""

import json
from uuid import UUID

from structlog.testing import capture_logs

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.directory.local import Directory
from libs.ids import new_id, public_id
from libs.testing.databases import TestDatabase
from services.tenants import audit, jobs, store_people
from tenants.conftest import OPERATOR_EMAIL, PEPPER, World
from tenants.persons import PASSWORD, add_person, browser, invite, signed_in

ADA = "ada.canary@people.example"
NAME = "Ada Canary"
OWN = "/api/v1/session/personal-data"


def path_of(user_id: UUID) -> str:
    return f"/api/v1/members/{public_id('user', user_id)}/personal-data"


async def dump(database: TestDatabase, *only: str) -> str:
    """Every row of the service's schema as text, or of some of its tables."""
    async with database.admin() as admin:
        tables = await admin.fetch(
            "select relname from pg_class where relnamespace = 'tenants'::regnamespace "
            "and relkind = 'r'"
        )
        rows = [
            await admin.fetchval(f"select coalesce(json_agg(t), '[]')::text from tenants.{name} t")
            for (name,) in tables
            if not only or name in only
        ]
    return "\n".join(rows)


async def test_people_stand_sealed_in_the_database(world: World, database: TestDatabase) -> None:
    await world.sign_up("Acme", owner_email="owner@acme.example")
    async with world.database.transaction() as tx:
        at = utc_now()
        assert await store_people.insert_user(tx, new_id(), ADA, NAME, None, at)
        assert not await store_people.insert_user(tx, new_id(), ADA, "Another", None, at)
        found = await store_people.find_account(tx, ADA)
    assert found is not None
    assert (found["email"], found["name"]) == (ADA, NAME)
    text = await dump(database)
    for canary in (ADA, NAME, "canary", OPERATOR_EMAIL):
        assert canary not in text


async def test_what_stood_in_the_clear_is_sealed(world: World, database: TestDatabase) -> None:
    user_id = new_id()
    async with database.admin() as admin:
        await admin.execute(
            "insert into tenants.user_account (user_id, email, name, created_at) "
            "values ($1, $2, $3, now())",
            user_id,
            ADA,
            NAME,
        )
    for sealed in (False, True):
        if sealed:
            await jobs.seal_people(world.database)
            await jobs.seal_people(world.database)
        async with world.database.transaction() as tx:
            found = await store_people.find_account(tx, ADA)
            assert found is not None
            assert (found["user_id"], found["email"], found["name"]) == (user_id, ADA, NAME)
            again = await store_people.insert_user(tx, new_id(), ADA, None, None, utc_now())
            assert not again
        assert (ADA in await dump(database)) is not sealed


async def test_an_odd_row_holds_no_other_up(world: World, database: TestDatabase) -> None:
    people = [(new_id(), f"person{number}@people.example") for number in range(5)]
    odd = people[1][0]
    async with database.admin() as admin:
        for user_id, email in people:
            await admin.execute(
                "insert into tenants.user_account (user_id, email, name, created_at) "
                "values ($1, $2, 'Somebody', now())",
                *(user_id, email),
            )
        # A key from nowhere: this account cannot be given one.
        await admin.execute(
            "insert into tenants.person_key (user_id, wrapped, created_at) "
            "values ($1, '\\x00', now())",
            odd,
        )
    with capture_logs() as logs:
        await jobs.seal_people(world.database)
    (told,) = [entry for entry in logs if entry["event"] == "personal_data_not_sealed"]
    assert (told["what"], told["row_id"]) == ("account", str(odd))
    assert "person1" not in str(logs)
    async with database.admin() as admin:
        rows = await admin.fetch("select user_id from tenants.user_account where email is not null")
    assert [row["user_id"] for row in rows] == [odd]


async def test_invitations_and_billing_addresses_stand_sealed(
    world: World, database: TestDatabase
) -> None:
    acme = await world.sign_up("Acme", settings={"billing_email": f"bills.{ADA}"})
    await world.sign_up("Globex")
    await add_person(world, "owner@acme.example", acme="owner")
    await invite(world, "acme", ADA)
    # Neither in its own rows, nor on its way to the other services, nor as they hold it.
    assert "canary" not in await dump(database, "tenant", "invitation", "outbox", "directory")
    assert "canary" not in str([each.value for each in world.log.topics["tenants.directory"]])
    assert world.snapshot(acme["id"]).billing_address is not None
    shown = (await world.call("GET", "/api/v1/tenants/acme")).json()
    assert shown["settings"]["billing_email"] == f"bills.{ADA}"
    headers = {"X-Tenant-ID": "acme"}
    listed = (await world.call("GET", "/api/v1/invitations", headers=headers)).json()["items"]
    assert [each["email"] for each in listed] == [ADA]
    # Invited again, the earlier one is void: it is found by its digest.
    await invite(world, "acme", ADA)
    again = (await world.call("GET", "/api/v1/invitations", headers=headers)).json()["items"]
    assert [each["email"] for each in again] == [ADA]
    assert again[0]["id"] != listed[0]["id"]
    # Another row's address does not open in this one.
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.tenant t set billing_personal = f.billing_personal, "
            "billing_wrapped = f.billing_wrapped, billing_email_digest = f.billing_email_digest "
            "from tenants.tenant f where f.slug = 'acme' and t.slug = 'globex'"
        )
    answer = await world.call("GET", "/api/v1/tenants/globex")
    assert answer.status_code == 500
    assert "canary" not in answer.text


async def test_addresses_that_stood_in_the_clear_are_sealed(
    world: World, database: TestDatabase
) -> None:
    await world.sign_up("Acme")
    await add_person(world, "owner@acme.example", acme="owner")
    await invite(world, "acme", "twice@people.example")
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.tenant set billing_email = 'Bills.Canary@acme.example' "
            "where slug = 'acme'"
        )
        for number, email in enumerate((ADA, "twice@people.example")):
            await admin.execute(
                "insert into tenants.invitation (tenant_id, invitation_id, token_hash, email, role, "
                "created_by, created_at, expires_at) select tenant_id, $1, $2, $3, 'member', "
                "'test', now(), now() + interval '1 day' from tenants.tenant where slug = 'acme'",
                *(new_id(), bytes([number]) * 32, email),
            )
    headers = {"X-Tenant-ID": "acme"}
    for sealed in (False, True):
        if sealed:
            await jobs.seal_people(world.database)
            await jobs.seal_people(world.database)
            text = await dump(database, "tenant", "invitation")
            assert "anary" not in text
            assert "twice@" not in text
        shown = (await world.call("GET", "/api/v1/tenants/acme")).json()
        assert shown["settings"]["billing_email"] == "bills.canary@acme.example"
        listed = (await world.call("GET", "/api/v1/invitations", headers=headers)).json()["items"]
        emails = sorted(each["email"] for each in listed)
        # The one from before gives way to the one that was made since.
        assert emails == [ADA, "twice@people.example"] + (
            [] if sealed else ["twice@people.example"]
        )


async def test_records_of_an_earlier_form_are_told_anew_once(
    world: World, database: TestDatabase
) -> None:
    acme = await world.sign_up("Acme")
    before = world.snapshot(acme["id"])
    async with database.admin() as admin:
        await admin.execute(
            "update tenants.tenant set record_format = 1, billing_email = $1 where slug = 'acme'",
            f"bills.{ADA}",
        )
    for _ in range(2):
        await jobs.tell_anew(world.database)
        await world.settle()
    told = world.snapshot(acme["id"])
    assert (told.version, told.billing_email) == (before.version + 1, None)
    # It opens for who has the pepper, in this tenant's record alone, and for nobody else.
    tenant_id = UUID(acme["id"])
    for pepper, email in ((PEPPER, f"bills.{ADA}"), (None, None), (b"q" * 32, None)):
        with capture_logs() as logs:
            found = await Directory(world.database, pepper).by_id(tenant_id)
        assert found is not None
        assert found.snapshot.billing_email == email
        failed = [each["event"] for each in logs if each["log_level"] == "error"]
        assert failed == (["billing_address_does_not_open"] if pepper == b"q" * 32 else [])


async def test_nobody_is_read_with_anothers_key(world: World, database: TestDatabase) -> None:
    one, two = [await add_person(world, f"{name}@people.example") for name in ("one", "two")]
    async with database.admin() as admin:
        for table, column in (("user_account", "personal"), ("person_key", "wrapped")):
            await admin.execute(
                f"update tenants.{table} set {column} = "
                f"(select {column} from tenants.{table} where user_id = $1) where user_id = $2",
                one,
                two,
            )
    async with browser(world, "two@people.example") as person:
        assert (await person.sign_in()).status_code == 500


async def test_a_member_is_given_out_and_erased(world: World, database: TestDatabase) -> None:
    acme = await world.sign_up("Acme", settings={"billing_email": ADA})
    await add_person(world, "owner@acme.example", acme="owner")
    user_id = await add_person(world, ADA, acme="member")
    await invite(world, "acme", "another@people.example")
    async with browser(world, ADA) as ada:
        assert (await ada.sign_in()).status_code == 201
        key = await ada.assertion()
        async with signed_in(world, "admin@acme.example", acme="admin") as admin:
            found = (await admin.call("GET", path_of(user_id))).json()
            assert (found["email"], found["user"]) == (ADA, public_id("user", user_id))
            (place,) = found["tenants"]
            assert (place["tenant_id"], place["role"]) == (acme["id"], "member")
            assert "signed_in" in {entry["action"] for entry in place["audit_entries"]}
            assert found["sessions"] is None

            assert (await admin.call("DELETE", path_of(user_id))).status_code == 204
            for method in ("GET", "DELETE"):
                assert (await admin.call(method, path_of(user_id))).status_code == 404
            listed = (await admin.call("GET", "/api/v1/members")).json()["items"]
            assert public_id("user", user_id) not in {item["user"] for item in listed}
        assert (await ada.assert_for()).status_code == 401
        assert (await ada.sign_in()).status_code == 401
        assert (await world.call("GET", "/api/v1/members", key=key)).status_code == 401
    # Nothing says any more who it was, nor ever did on the topics that are kept for ever.
    assert "canary" not in await dump_without_outbox(database)
    assert world.snapshot(acme["id"]).billing_address is None
    (told,) = [
        e for e in world.log.events(ConfigurationChanged) if e.data.action == "person.erased"
    ]
    assert told.data.object_id == public_id("user", user_id)
    for topic in ("tenants.events", "audit.events"):
        assert "canary" not in str([record.value for record in world.log.topics[topic]])
    assert (await audit.verify(world.database, UUID(acme["id"]))).broken is None
    # The e-mail is free again, and whoever comes with it is somebody else.
    assert await add_person(world, ADA, acme="member") != user_id


async def dump_without_outbox(database: TestDatabase) -> str:
    """What stays: outbox rows that were sent go within the hour, and answers within a day."""
    async with database.admin() as admin:
        await admin.execute("delete from tenants.outbox where sent_at is not null")
        await admin.execute("delete from tenants.idempotency_key")
    return await dump(database)


async def test_a_tenant_erases_only_those_who_belong_to_it_alone(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    both = await add_person(world, ADA, acme="member", globex="owner")
    alone = await add_person(world, "alone@acme.example", acme="owner")
    async with signed_in(world, "admin@acme.example", acme="admin") as admin:
        answer = await admin.call("DELETE", path_of(both))
        assert (answer.status_code, answer.json()["code"]) == (409, "belongs_elsewhere")
        # What the other tenant knows is not told here.
        assert len((await admin.call("GET", path_of(both))).json()["tenants"]) == 1
        answer = await admin.call("DELETE", path_of(alone))
        assert answer.status_code == 403
    headers = {"X-Tenant-ID": "acme"}
    for user_id in (both, alone):
        answer = await world.call("DELETE", path_of(user_id), headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (409, "last_owner")
    async with world.database.transaction() as tx:
        assert await store_people.find_account(tx, ADA) is not None
    await add_person(world, "second@globex.example", globex="owner")
    answer = await world.call("DELETE", path_of(both), headers=headers)
    assert answer.status_code == 204
    async with world.database.transaction() as tx:
        assert await store_people.find_account(tx, ADA) is None


async def test_everybody_has_their_own_data_and_may_go(world: World) -> None:
    await world.sign_up("Acme")
    await world.sign_up("Globex")
    await add_person(world, "owner@acme.example", acme="owner")
    async with signed_in(world, ADA, acme="member", globex="member") as ada:
        found = (await ada.call("GET", OWN)).json()
        assert len(found["tenants"]) == 2
        assert len(found["sessions"]) == 1
        assert PASSWORD not in json.dumps(found)
        user = found["user"]
        for wrong in ("", "yes", "usr_" + str(new_id())):
            answer = await ada.call("DELETE", OWN, params={"confirm": wrong})
            assert (answer.status_code, answer.json()["code"]) == (400, "not_confirmed")
        assert (await ada.call("DELETE", OWN)).status_code == 422
        assert (await ada.call("DELETE", OWN, params={"confirm": user})).status_code == 204
        assert (await ada.assert_for()).status_code == 401
    key = await world.make_key("acme", "members:manage")
    for method in ("GET", "DELETE"):
        answer = await world.call(method, OWN, key=key, params={"confirm": user})
        assert answer.status_code == 403
