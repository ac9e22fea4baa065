"""The HTTP interface of billing: who may, what is refused, and what the answers say."""

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest

from billing.story import FLAT_MINOR, PRO, START, Story
from libs.clock import format_time, utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import (
    CreditGranted,
    CreditLimitSet,
    CustomerErased,
    PlanPublished,
)
from libs.contracts.envelope import Mode, wrap
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot
from libs.crypto import apikeys
from libs.crypto.personal import PersonalKeys
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web.auth import Gate
from services.billing import personal_data, plans, store_customers
from services.billing.app import build

PEPPER = b"p" * 32


@dataclass
class Api:
    """A client of the service, and the keys of the people who use it."""

    client: httpx.AsyncClient
    operator: str
    acme: str
    globex: str
    reader: str

    async def get(self, path: str, key: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers={"X-API-Key": key} | headers)

    async def post(self, path: str, key: str, body: Any, **headers: str) -> httpx.Response:
        headers = {"X-API-Key": key} | {n.replace("_", "-"): v for n, v in headers.items()}
        return await self.client.post(path, json=body, headers=headers)


def publish_tenant(
    log: MemoryLog,
    tenant_id: UUID,
    slug: str,
    self_customer_id: UUID,
    scopes: tuple[tuple[str, ...], ...],
    *,
    operator: bool = False,
    mode: Mode = "test",
) -> list[str]:
    keys, records = [], []
    for granted in scopes:
        key = apikeys.generate(mode)
        keys.append(key.key)
        records.append(
            ApiKeyRecord(
                key_id=new_id(),
                prefix=key.prefix,
                key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
                mode=mode,
                scopes=granted,
                operator=operator,
            )
        )
    snapshot = TenantSnapshot(
        version=1,
        slug=slug,
        name=slug,
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=self_customer_id,
        api_keys=tuple(records),
    )
    log.publish(
        wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=START)
    )
    return keys


@pytest.fixture
async def story(billing: Database, log: MemoryLog) -> Story:
    """Acme, whose first month is over; its plan is published by the test."""
    return Story(billing, log, None, usage=[{"api_calls": ["2600"], "storage": ["10"]}])


@pytest.fixture
async def api(
    billing: Database,
    log: MemoryLog,
    database: TestDatabase,
    story: Story,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncGenerator[Api, None]:
    monkeypatch.setattr(plans, "METER_WAIT_SECONDS", 0.1)
    monkeypatch.setenv("SLUICE_BILLING_PORT", "8104")
    monkeypatch.setenv("SLUICE_BILLING_POSTGRES", database.dsn("billing"))
    monkeypatch.setenv("SLUICE_KAFKA", "127.0.0.1:1")
    monkeypatch.setenv("SLUICE_KEY_PEPPER", base64.b64encode(PEPPER).decode())
    app = build()
    directory = Directory(billing)
    app.state.database, app.state.directory = billing, directory
    app.state.gate = Gate(billing, directory, PEPPER)
    app.state.personal_keys = PersonalKeys(PEPPER)
    (operator,) = publish_tenant(
        log, PLATFORM_TENANT_ID, "platform", new_id(), ((),), operator=True
    )
    acme, reader = publish_tenant(
        log,
        story.tenant_id,
        "acme",
        story.customer_id,
        (("billing:read", "billing:manage"), ("billing:read",)),
    )
    (globex,) = publish_tenant(log, new_id(), "globex", new_id(), (("billing:manage",),))
    await log.settle()
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://sluice.test") as client:
        yield Api(client, operator, acme, globex, reader)


async def test_a_published_plan_can_be_read_by_tenants(api: Api, log: MemoryLog) -> None:
    answer = await api.post("/api/v1/plans", api.operator, PRO)
    assert answer.status_code == 201, answer.text
    plan = answer.json()
    assert (plan["key"], plan["version"], plan["id"][:5]) == ("pro", 1, "plan_")
    assert plan["prices"][1]["tiers"][0] == {"up_to": "1000", "unit_amount_minor": "0.5"}
    await log.settle()
    (published,) = log.events(PlanPublished)
    assert published.tenant_id == PLATFORM_TENANT_ID
    assert published.data.plan_version_id == UUID(plan["plan_version_id"])
    for reference in ("pro", plan["id"]):
        assert (await api.get(f"/api/v1/plans/{reference}", api.reader)).json() == plan
    assert (await api.get("/api/v1/plans", api.acme)).json()["items"] == [plan]


async def test_the_same_content_is_the_same_version_and_other_content_a_new_one(
    api: Api, log: MemoryLog
) -> None:
    first = (await api.post("/api/v1/plans", api.operator, PRO)).json()
    spelled = PRO | {
        "prices": [PRO["prices"][0], PRO["prices"][1] | {"included": "1000.00"}, PRO["prices"][2]]
    }
    assert (await api.post("/api/v1/plans", api.operator, spelled)).json() == first
    renamed = (await api.post("/api/v1/plans", api.operator, PRO | {"name": "Pro+"})).json()
    assert (renamed["version"], renamed["id"]) == (2, first["id"])
    assert renamed["plan_version_id"] != first["plan_version_id"]
    await log.settle()
    assert [event.data.version for event in log.events(PlanPublished)] == [1, 2]
    assert [event.data.action for event in log.events(ConfigurationChanged)] == [
        "plan.published"
    ] * 2


METERED = PRO["prices"][1]


FLAT = PRO["prices"][0]


def tiers(*ends: Any) -> dict[str, Any]:
    return METERED | {"tiers": [{"up_to": end, "unit_amount_minor": "1"} for end in ends]}


IMPOSSIBLE: list[dict[str, Any]] = [
    {"prices": [FLAT, tiers("10", "10", None)]},
    {"prices": [FLAT, tiers("20", "10", None)]},
    {"prices": [FLAT, tiers("0", None)]},
    {"prices": [FLAT, tiers("10")]},
    {"prices": [FLAT, tiers(None, None)]},
    {"prices": [FLAT, tiers()]},
    {"prices": [FLAT, tiers(10, None)]},
    {"prices": [FLAT, tiers("1e3", None)]},
    {"prices": [FLAT, tiers("-5", None)]},
    {"prices": [FLAT, tiers("NaN", None)]},
    {"prices": [FLAT, tiers("\u0661\u0660", None)]},
    {"prices": [FLAT, tiers("9" * 16, None)]},
    {"prices": [FLAT, METERED | {"included": 1000}]},
    {"prices": [FLAT, METERED | {"included": 0.5}]},
    {"prices": [FLAT, METERED, METERED]},
    {"prices": [FLAT, METERED | {"surprise": 1}]},
    {"prices": [{"kind": "flat", "amount_minor": -1}]},
    {"prices": [{"kind": "flat", "amount_minor": 1.5}]},
    {"prices": [{"kind": "flat", "amount_minor": "49"}]},
    {"prices": [PRO["prices"][0], PRO["prices"][0]]},
    {"prices": [{"kind": "package", "amount_minor": 1}]},
    {"currency": "eur"},
    {"currency": "XXX"},
    {"currency": "KWD"},
    {"interval": "week"},
    {"collection": "sluice"},
    {"prices": [METERED]},
    {"key": "free"},
    {"key": "Pro Plan"},
    {"key": "../pro"},
    {"name": ""},
    {"name": "Pro\u0000"},
    {"name": "x" * 201},
    {"features": {"seats": 1.5}},
    {"features": {"seats": None}},
    {"limits": [{"meter": "api_calls", "amount": 5, "kind": "hard"}]},
    {"mode": "live"},
]


async def test_a_plan_that_cannot_be_is_refused(api: Api) -> None:
    for change in IMPOSSIBLE:
        answer = await api.post("/api/v1/plans", api.operator, PRO | change)
        assert answer.status_code == 422, change
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["fields"], change
    assert (await api.get("/api/v1/plans", api.operator)).json()["items"] == []


async def test_a_meter_must_exist(api: Api) -> None:
    unknown = PRO | {"prices": [FLAT, METERED | {"meter": "gigaflops"}]}
    answer = await api.post("/api/v1/plans", api.operator, unknown)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_meter")
    assert answer.json()["fields"][0]["field"] == "body.prices.1.meter"
    limited = PRO | {"limits": [{"meter": "gigaflops", "amount": "5", "kind": "hard"}]}
    answer = await api.post("/api/v1/plans", api.operator, limited)
    assert (answer.status_code, answer.json()["code"]) == (422, "unknown_meter")


async def test_only_operators_publish_plans_and_only_the_platforms(api: Api) -> None:
    answer = await api.post("/api/v1/plans", api.acme, PRO)
    assert answer.status_code == 403
    answer = await api.post("/api/v1/plans", api.operator, PRO, X_Tenant_ID="acme")
    assert answer.status_code == 400
    assert (await api.client.get("/api/v1/plans")).status_code == 401


async def bill_acme(api: Api, story: Story) -> dict[str, Any]:
    """Acme's first month, to its end; the cycle invoice as the API shows it."""
    plan = (await api.post("/api/v1/plans", api.operator, PRO)).json()
    story.plan_version_id = UUID(plan["plan_version_id"])
    story.begin()
    await story.tell_all()
    items = (await api.get("/api/v1/invoices", api.reader)).json()["items"]
    assert [item["number"] for item in items] == ["ACME-in_cycle1", "ACME-in_first"]
    return (await api.get(f"/api/v1/invoices/{items[0]['id']}", api.reader)).json()


async def test_an_invoice_and_why_it_costs_what_it_costs(api: Api, story: Story) -> None:
    invoice = await bill_acme(api, story)
    assert (invoice["status"], invoice["currency"]) == ("paid", "EUR")
    assert invoice["total_minor"] == invoice["paid_minor"] == FLAT_MINOR + 650 + 30
    assert [line["kind"] for line in invoice["lines"]] == ["flat", "usage", "usage"]
    assert [line["quantity"] for line in invoice["lines"]] == [None, "2600", "10"]
    base = f"/api/v1/invoices/{invoice['id']}/lines"
    explained = (await api.get(f"{base}/{invoice['lines'][1]['id']}/explain", api.reader)).json()
    assert explained["quantity"] == "2600"
    assert explained["tiers"] == [
        {"up_to": "1000", "quantity": "1000", "unit_amount_minor": "0.5", "amount_minor": "500"},
        {"up_to": None, "quantity": "600", "unit_amount_minor": "0.25", "amount_minor": "150"},
    ]
    assert explained["rounding"] == {
        "rule": "half_even",
        "exact_minor": "650",
        "rounded_minor": 650,
    }
    assert (explained["price_version"], explained["revision"]) == (1, 1)
    assert explained["closure"]["period_from"] == "2026-01-15T10:30:00Z"
    flat = (await api.get(f"{base}/{invoice['lines'][0]['id']}/explain", api.reader)).json()
    assert (flat["tiers"], flat["stripe_line_id"]) == ([], "il_in_cycle1")


async def test_lists_have_filters_and_cursors(api: Api, story: Story) -> None:
    await bill_acme(api, story)
    first = (await api.get("/api/v1/invoices?limit=1", api.acme)).json()
    assert len(first["items"]) == 1
    rest = (await api.get(f"/api/v1/invoices?cursor={first['next_cursor']}", api.acme)).json()
    assert [item["number"] for item in rest["items"]] == ["ACME-in_first"]
    assert rest["next_cursor"] is None
    assert (await api.get("/api/v1/invoices?status=draft", api.acme)).json()["items"] == []
    assert len((await api.get("/api/v1/invoices?status=paid", api.acme)).json()["items"]) == 2
    for wrong in ("status=late", "cursor=x", "limit=0", "limit=201"):
        assert (await api.get(f"/api/v1/invoices?{wrong}", api.acme)).status_code in (400, 422)


async def test_customers_and_subscriptions(api: Api, story: Story) -> None:
    await bill_acme(api, story)
    (customer,) = (await api.get("/api/v1/customers", api.reader)).json()["items"]
    assert (customer["billed_by"], customer["stripe_customer_id"]) == ("platform", "cus_1")
    (subscription,) = (await api.get("/api/v1/subscriptions", api.reader)).json()["items"]
    assert (subscription["plan"], subscription["status"]) == ("pro", "active")
    assert subscription["period_from"] == "2026-02-14T10:30:00Z"
    for path, item in (("customers", customer), ("subscriptions", subscription)):
        assert (await api.get(f"/api/v1/{path}/{item['id']}", api.reader)).json() == item


async def test_nobody_else_sees_an_invoice_and_operators_only_by_naming_the_tenant(
    api: Api, story: Story
) -> None:
    invoice = await bill_acme(api, story)
    subscription = invoice["subscription_id"]
    paths = [
        f"/api/v1/invoices/{invoice['id']}",
        f"/api/v1/invoices/{invoice['id']}/lines/{invoice['lines'][1]['id']}/explain",
        f"/api/v1/subscriptions/{subscription}",
        f"/api/v1/customers/{invoice['customer_id']}",
    ]
    for path in paths:
        absent = await api.get(path, api.globex)
        assert absent.status_code == 404
        assert (await api.get(path, api.operator)).status_code == 404
        named = {"X-Tenant-ID": "acme"}
        assert (await api.get(path, api.operator, **named)).status_code == 200
        assert (await api.get(path, api.globex, **named)).status_code == 403
    for path in ("invoices", "customers", "subscriptions"):
        assert (await api.get(f"/api/v1/{path}", api.globex)).json()["items"] == []
        assert (await api.get(f"/api/v1/{path}", api.operator)).json()["items"] == []
    assert (await api.get("/api/billing/balance", api.globex)).json() == {"balances": []}


async def test_what_is_not_there_is_not_found(api: Api) -> None:
    for path in (
        "invoices/nonsense",
        "invoices/inv_00000000-0000-7000-8000-000000000009",
        "plans/nothing",
        "plans/plan_00000000-0000-7000-8000-000000000009",
        "customers/cus_x",
        "subscriptions?customer=sub_1",
    ):
        answer = await api.get(f"/api/v1/{path}", api.acme)
        assert answer.status_code == 404, path
        assert answer.headers["content-type"] == "application/problem+json"
    for path in ("invoices/inv_%00", "plans/%00", "plans/%ff", f"invoices/{'x' * 101}"):
        assert (await api.get(f"/api/v1/{path}", api.acme)).status_code in (400, 404, 422), path


async def test_credit_is_given_by_operators_once_and_shows_in_the_balance(
    api: Api, story: Story, log: MemoryLog
) -> None:
    story.begin()
    await story.deliver("tenants")
    body = {"amount": {"amount_minor": 5000, "currency": "EUR"}}
    named = {"X_Tenant_ID": "acme", "Idempotency_Key": "once"}
    first = await api.post("/api/v1/credits", api.operator, body, **named)
    assert first.status_code == 201, first.text
    assert first.json()["amount"] == body["amount"]
    again = await api.post("/api/v1/credits", api.operator, body, **named)
    assert again.json() == first.json()
    other = body | {"customer": first.json()["customer_id"]}
    assert (await api.post("/api/v1/credits", api.operator, other, **named)).status_code == 409
    for path in ("/api/v1/billing/balance", "/api/billing/balance"):
        balance = (await api.get(path, api.reader)).json()
        assert balance == {"balances": [{"amount_minor": 5000, "currency": "EUR"}]}
    await log.settle()
    (granted,) = log.events(CreditGranted)
    assert (granted.tenant_id, granted.data.billed_by) == (story.tenant_id, "platform")
    by_body = body | {"tenant_id": str(story.tenant_id), "expires_at": "2999-01-01T00:00:00Z"}
    assert (await api.post("/api/v1/credits", api.operator, by_body)).status_code == 201


async def test_a_tenant_cannot_give_itself_credit(api: Api, story: Story) -> None:
    story.begin()
    await story.deliver("tenants")
    body = {"amount": {"amount_minor": 5000, "currency": "EUR"}}
    assert (await api.post("/api/v1/credits", api.acme, body)).status_code == 403
    assert (await api.post("/api/v1/credits", api.reader, body)).status_code == 403
    assert (await api.get("/api/v1/billing/balance", api.acme)).json() == {"balances": []}


async def test_the_platforms_staff_say_what_a_tenant_prepays(
    api: Api, story: Story, log: MemoryLog
) -> None:
    plan = (await api.post("/api/v1/plans", api.operator, PRO)).json()
    story.plan_version_id = UUID(plan["plan_version_id"])
    story.begin()
    for topic in ("tenants", "payments", "payments"):
        await story.deliver(topic)
    path = f"/api/v1/customers/cus_{story.customer_id}/prepaid"
    nothing = {"customer_id": f"cus_{story.customer_id}", "meters": [], "limits": []}
    assert (await api.get(path, api.reader)).json() == nothing

    async def put(key: str, body: Any) -> httpx.Response:
        headers = {"X-API-Key": key, "X-Tenant-ID": "acme"}
        return await api.client.put(path, json=body, headers=headers)

    calls = {"meters": ["api_calls", "api_calls"]}
    for key, status in ((api.acme, 403), (api.reader, 403), (api.globex, 403)):
        assert (await put(key, calls)).status_code == status
    assert (await api.get(path, api.globex)).status_code == 404
    body = {"amount": {"amount_minor": FLAT_MINOR + 500, "currency": "EUR"}}
    await api.post("/api/v1/credits", api.operator, body, X_Tenant_ID="acme")
    limit = {"meter": "api_calls", "since": "2026-01-15T10:30:00Z", "amount": "2000"}
    for _ in range(2):
        answer = await put(api.operator, calls)
        assert answer.json() == nothing | {"meters": ["api_calls"], "limits": [limit]}
    assert (await api.get(path, api.reader)).json() == answer.json()
    await log.settle()
    (told,) = log.events(CreditLimitSet)
    assert (told.tenant_id, told.data.customer_id) == (story.tenant_id, story.customer_id)
    unknown = await put(api.operator, {"meters": ["storage", "gigaflops"]})
    assert (unknown.status_code, unknown.json()["code"]) == (422, "unknown_meter")
    assert [each["field"] for each in unknown.json()["fields"]] == ["body.meters.1"]
    for wrong in ({}, {"meters": "api_calls"}, {"meters": [""]}, {"meters": ["a"] * 21}):
        assert (await put(api.operator, wrong)).status_code == 422
    assert (await api.get("/api/v1/customers/cus_1/prepaid", api.reader)).status_code == 404


async def test_credit_that_cannot_be_is_refused(api: Api, story: Story) -> None:
    story.begin()
    await story.deliver("tenants")
    amount = {"amount_minor": 5000, "currency": "EUR"}
    past = format_time(utc_now() - timedelta(seconds=1))
    for body in (
        {"amount": amount | {"amount_minor": 0}},
        {"amount": amount | {"amount_minor": -5}},
        {"amount": amount | {"amount_minor": 10**14}},
        {"amount": amount | {"amount_minor": 1.5}},
        {"amount": amount | {"currency": "EURO"}},
        {"amount": amount, "expires_at": past},
        {"amount": amount, "expires_at": "2030-01-01T00:00:00"},
        {"amount": amount, "priority": 1},
        {},
    ):
        answer = await api.post("/api/v1/credits", api.operator, body, X_Tenant_ID="acme")
        assert answer.status_code == 422, answer.text
    stranger = {"amount": amount, "customer": f"cus_{new_id()}"}
    answer = await api.post("/api/v1/credits", api.operator, stranger, X_Tenant_ID="acme")
    assert answer.status_code == 404


async def test_a_customer_is_given_out_and_erased(
    api: Api, story: Story, billing: Database, log: MemoryLog
) -> None:
    await bill_acme(api, story)
    (customer,) = (await api.get("/api/v1/customers", api.acme)).json()["items"]
    path = f"/api/v1/customers/{customer['id']}/personal-data"
    for method in ("GET", "DELETE"):
        for key, status in ((api.reader, 403), (api.globex, 404)):
            headers = {"X-API-Key": key}
            answer = await api.client.request(method, path, headers=headers)
            assert answer.status_code == status
    found = (await api.get(path, api.acme)).json()
    assert (found["customer"], found["erased_at"]) == (customer, None)
    assert len(found["invoices"]) == 2
    answer = await api.client.delete(path, headers={"X-API-Key": api.acme})
    assert answer.status_code == 204
    await log.settle()
    (told,) = log.events(CustomerErased)
    assert customer["id"].endswith(str(told.data.customer_id))
    assert [e.data.action for e in log.events(ConfigurationChanged)][-1] == "customer.erased"
    found = (await api.get(path, api.acme)).json()
    assert found["erased_at"] is not None
    # The name of the tenant itself is its record's.
    assert found["customer"]["name"] == customer["name"]
    customer_id = new_id()
    async with billing.tenant(told.tenant_id, "test") as tx:
        await store_customers.add_customer(
            tx,
            customer_id,
            billed_by="tenant",
            name="Ada Canary",
            email="ada@people.example",
            currency="EUR",
            at=utc_now(),
        )
        assert await personal_data.erase(tx, customer_id, actor="x", at=utc_now())
        row = await store_customers.find_customer(tx, customer_id)
    assert row is not None
    assert (row["name"], row["email"]) == ("Erased", None)
