"""`PUT /api/v1/tenants/{slug}`: makes a tenant, or changes what people may change of one."""

from typing import Any
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import SubscriptionChanged
from libs.contracts.tenants import TenantCreated
from libs.ids import new_id, parse_public_id
from libs.testing.databases import TestDatabase
from tenants.conftest import World, checksums
from tenants.persons import signed_in

ACME = "/api/v1/tenants/acme"


async def put(world: World, at: str = "acme", /, **body: Any) -> Any:
    return await world.call("PUT", f"/api/v1/tenants/{at}", json={"name": "Acme", **body})


async def test_it_makes_and_then_changes(world: World) -> None:
    made = await put(
        world,
        type="organization",
        owner_email="owner@acme.example",
        currency="CHF",
        locale="de-CH",
        tax_region="ch",
        settings={"billing_email": "Billing@Acme.example"},
    )
    assert made.status_code == 201, made.text
    body = made.json()
    assert (body["slug"], body["currency"], body["tax_region"]) == ("acme", "CHF", "CH")
    assert body["owner_invitation_url"].startswith("http")
    changed = await put(
        world, name="Acme Ltd", tax_region="US-CA", settings={"billing_email": None}
    )
    assert changed.status_code == 200
    now = changed.json()
    assert (now["name"], now["locale"], now["tax_region"], now["settings"]) == (
        "Acme Ltd",
        "de-CH",
        "US-CA",
        {"billing_email": None},
    )
    assert now["id"] == body["id"]
    assert changed.headers["Sluice-Version"] == f"{body['id']}:{now['version']}"
    snapshot = world.snapshot(body["id"])
    assert (snapshot.name, snapshot.tax_region, snapshot.billing_address) == (
        "Acme Ltd",
        "US-CA",
        None,
    )
    (told,) = [
        e.data for e in world.log.events(ConfigurationChanged) if e.data.action == "tenant.changed"
    ]
    assert told.before is not None
    assert set(told.before) == {"name", "tax_region", "billing_email"}
    assert told.before["name"] == "Acme"
    assert "billing@acme.example" not in str(told)
    assert len([e for e in world.log.events(TenantCreated) if e.data.slug == "acme"]) == 1


async def test_again_is_nothing(world: World) -> None:
    body = {"owner_email": "owner@acme.example", "locale": "de"}
    made = await put(world, **body)
    events = len(world.log.events(ConfigurationChanged))
    again = await put(world, **body)
    assert (again.status_code, again.json()["version"]) == (200, made.json()["version"])
    assert len(world.log.events(ConfigurationChanged)) == events
    alias = await world.call("PUT", "/api/tenants/acme", json={"name": "Acme"})
    assert alias.json() == again.json()


async def test_what_changed_meanwhile_is_not_overwritten(world: World) -> None:
    await put(world)
    read = await world.call("GET", ACME)
    etag = read.headers["ETag"]
    first = await world.call("PUT", ACME, json={"name": "First"}, headers={"If-Match": etag})
    assert first.status_code == 200
    second = await world.call("PUT", ACME, json={"name": "Second"}, headers={"If-Match": etag})
    assert (second.status_code, second.json()["code"]) == (412, "precondition_failed")
    third = await world.call(
        "PUT", ACME, json={"name": "Third"}, headers={"If-Match": first.headers["ETag"]}
    )
    assert third.json()["name"] == "Third"
    # Changes of other things leave the tag alone.
    await world.make_key("acme", "tenants:read")
    assert (await world.call("GET", ACME)).headers["ETag"] == third.headers["ETag"]
    for slug, headers in (("acme", {"If-None-Match": "*"}), ("absent", {"If-Match": etag})):
        answer = await world.call(
            "PUT", f"/api/v1/tenants/{slug}", json={"name": "X"}, headers=headers
        )
        assert answer.status_code == 412


async def test_the_currency_is_settled_with_the_first_purchase(world: World) -> None:
    made = (await put(world)).json()
    assert (await put(world, currency="CHF")).json()["currency"] == "CHF"
    customer_id = parse_public_id("customer", made["self_customer_id"])
    subscription_id = new_id()
    for version, plan in ((1, "free"), (2, "pro"), (3, "free")):
        fact = SubscriptionChanged(
            subscription_id=subscription_id,
            version=version,
            customer_id=customer_id,
            billed_by="platform",
            plan_key=plan,
            plan_version_id=new_id(),
            status="active",
            collection="sluice",
            currency="CHF",
            period_from=None,
            period_to=None,
        )
        world.tell(made["id"], fact)
        await world.settle()
        answer = await put(world, currency="EUR" if version == 1 else "USD")
        assert answer.status_code == (200 if version == 1 else 409), answer.text
    assert answer.json()["code"] == "currency_settled"
    assert (await put(world, currency="EUR")).status_code == 200


async def test_what_is_settled_is_refused_and_nothing_is_half_done(world: World) -> None:
    made = (await put(world, owner_email="owner@acme.example")).json()
    for body, code in (
        ({"type": "user"}, "type_settled"),
        ({"owner_email": "other@acme.example"}, "owner_settled"),
    ):
        answer = await put(world, name="Changed", **body)
        assert (answer.status_code, answer.json()["code"]) == (409, code)
    assert (await world.call("GET", ACME)).json() | {"version": 0} == {
        name: value for name, value in made.items() if name != "owner_invitation_url"
    } | {"version": 0}


BAD: list[dict[str, Any]] = [
    {"name": ""},
    {"name": "x" * 201},
    {"name": "a\nb"},
    {"currency": "XXX"},
    {"locale": "not a locale"},
    {"tax_region": "Germany"},
    {"tax_region": "D"},
    {"tax_region": "DE-"},
    {"settings": {"billing_email": "nobody"}},
    {"settings": {"theme": "dark"}},
    {"settings": []},
    {"status": "canceled"},
    {"plan_key": "pro"},
    {"slug": "other"},
    {"version": 7},
]


async def test_bad_bodies_are_refused(world: World) -> None:
    await put(world)
    for body in BAD:
        for slug in ("acme", "absent"):
            assert (await put(world, slug, **body)).status_code == 422, body
    for slug in ("-x", "x_y", "new", "x" * 64, "a.b"):
        assert (await put(world, slug)).status_code == 422, slug
    assert (await put(world, str(new_id()))).status_code == 404
    assert (await world.call("GET", "/api/v1/tenants/absent")).status_code == 404


async def test_who_may_change_a_tenant(world: World) -> None:
    acme = (await put(world)).json()
    await put(world, "globex")
    for role, status in (("owner", 200), ("admin", 200), ("billing_admin", 403), ("member", 403)):
        async with signed_in(world, f"{role}@acme.example", acme=role) as person:  # type: ignore[arg-type]
            answer = await person.call("PUT", ACME, json={"name": f"By {role}"})
            assert answer.status_code == status
            if status == 403:
                assert answer.json()["permission"] == "tenants:manage"
            by_id = await person.call("PUT", f"/api/v1/tenants/{acme['id']}", json={"name": "Id"})
            assert by_id.status_code == status
            theirs = await person.call("PUT", "/api/v1/tenants/globex", json={"name": "Mine"})
            assert (theirs.status_code, theirs.json()["code"]) == (403, "tenant_forbidden")
            both = await person.call(
                "PUT", ACME, json={"name": "Two"}, headers={"X-Tenant-ID": "globex"}
            )
            assert both.status_code in (400, 403)
    key = await world.make_key("acme", "tenants:manage", "tenants:read")
    assert (await world.call("PUT", ACME, key=key, json={"name": "Key"})).status_code == 200
    narrow = await world.make_key("acme", "tenants:read")
    assert (await world.call("PUT", ACME, key=narrow, json={"name": "Key"})).status_code == 403
    made = await world.call("PUT", "/api/v1/tenants/fresh", key=key, json={"name": "Fresh"})
    assert made.status_code == 403


async def test_a_signed_in_user_makes_a_tenant_of_its_own(world: World) -> None:
    async with signed_in(world, "ada@example.com", default="member") as ada:
        made = await ada.call("PUT", "/api/v1/tenants/ada", json={"name": "Ada", "type": "user"})
        assert (made.status_code, made.json()["owner_invitation_url"]) == (201, None)
        changed = await ada.call("PUT", "/api/v1/tenants/ada", "ada", json={"name": "Ada L."})
        assert changed.json()["name"] == "Ada L."


async def test_replay_changes_nothing(world: World, database: TestDatabase) -> None:
    made = (await put(world)).json()
    await put(world, name="Acme Ltd", currency="CHF", tax_region="CH")
    assert world.snapshot(UUID(made["id"])).currency == "CHF"
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        await world.settle()
        assert await checksums(database) == before
