"""Checkout over HTTP: one customer, one page per key, clear refusals; payments are the tenant's own."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from libs.clock import utc_now
from libs.contracts.billing import GraduatedPrice, Tier
from libs.contracts.stripe_sync import (
    PaymentFailed,
    StripeCustomerLinked,
    StripeSubscriptionChanged,
)
from libs.ids import new_id
from services.stripe_sync import plans
from tests.services.stripe_sync.conftest import World, without_platform


async def test_ten_at_once_make_one_customer_and_one_page(world: World) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    answers = await asyncio.gather(*(world.checkout(acme) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {201}
    assert len({answer.json()["session_id"] for answer in answers}) == 1
    created = [e for e in world.sandbox.events(world.key) if e["type"] == "customer.created"]
    assert len(created) == 1
    await world.log.settle()
    assert len(world.log.events(StripeCustomerLinked)) == 1
    kinds = [event["type"] for event in world.sandbox.events(world.key)]
    assert kinds.count("product.created") == kinds.count("price.created") == 1


async def test_the_same_key_opens_the_same_page(world: World) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    key = {"idempotency-key": "order-1"}
    twins = await asyncio.gather(*(world.checkout(acme, key) for _ in range(5)))
    later = await world.checkout(acme, key)
    assert len({answer.text for answer in (*twins, later)}) == 1
    assert later.headers["idempotent-replayed"] == "true"
    other = await world.checkout(acme, key, success_url="https://acme.example/thanks")
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")


async def test_a_subscribed_tenant_is_not_billed_twice(world: World) -> None:
    await world.plan()
    await world.subscribe(world.tenants["acme"])
    again = await world.checkout(world.tenants["acme"])
    assert (again.status_code, again.json()["code"]) == (409, "already_subscribed")


async def session_at_stripe(world: World, session_id: str) -> str:
    status: str = world.sandbox.get(f"/v1/checkout/sessions/{session_id}", world.key)["status"]
    return status


async def test_the_page_of_another_plan_or_of_yesterday_is_closed_first(world: World) -> None:
    await world.plan()
    await world.plan("max", 4900)
    acme = world.tenants["acme"]
    first = (await world.checkout(acme, {"idempotency-key": "a"})).json()
    again = await world.checkout(acme, {"idempotency-key": "b"})
    assert again.json() == first
    other = (await world.checkout(acme, plan="max")).json()
    assert other["session_id"] != first["session_id"]
    assert await session_at_stripe(world, first["session_id"]) == "expired"
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.checkout_session set created_at = now() - interval '23 hours'"
        )
    fresh = (await world.checkout(acme, plan="max")).json()
    assert fresh["session_id"] != other["session_id"]
    assert await session_at_stripe(world, other["session_id"]) == "expired"
    assert await session_at_stripe(world, fresh["session_id"]) == "open"
    assert [row["open"] for row in await world.rows("checkout_session")].count(True) == 1


async def test_a_page_that_was_paid_a_moment_ago_leads_to_no_second_one(world: World) -> None:
    await world.plan()
    await world.plan("max", 4900)
    acme = world.tenants["acme"]
    page = (await world.checkout(acme)).json()
    world.sandbox.pay(page["session_id"])
    # No webhook has told of it yet.
    for plan in ("pro", "max"):
        second = await world.checkout(acme, plan=plan)
        assert (second.status_code, second.json()["code"]) == (409, "already_subscribed")
    bought = world.sandbox.get(f"/v1/checkout/sessions/{page['session_id']}", world.key)
    headers = {"authorization": f"Bearer {world.key}"}
    world.sandbox.client.delete(f"/v1/subscriptions/{bought['subscription']}", headers=headers)
    await world.take_webhooks()
    anew = await world.checkout(acme)
    assert anew.status_code == 201, anew.text
    assert anew.json()["session_id"] != page["session_id"]


async def test_a_page_whose_opener_never_heard_of_it_is_found_by_the_next(world: World) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    page = (await world.checkout(acme)).json()
    async with world.test_database.admin() as admin:
        await admin.execute(
            "update stripe_sync.checkout_session set stripe_session_id = null, url = null"
        )
    assert (await world.checkout(acme)).json() == page


async def test_a_plan_on_its_way_is_waited_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plans, "WAIT_SECONDS", 60)
    asking = asyncio.create_task(world.checkout(world.tenants["acme"]))
    await asyncio.sleep(0.3)
    await world.plan()
    assert (await asking).status_code == 201


async def test_plans_that_no_page_sells(world: World) -> None:
    acme = world.tenants["acme"]
    await world.plan("free", prices=(), collection="sluice")
    metered = GraduatedPrice(
        price_id=new_id(), meter="calls", included=0, tiers=(Tier(up_to=None, unit_amount_minor=1),)
    )
    await world.plan("metered", prices=(metered,))
    await world.plan("yearly", interval="year")
    for plan, body, status, code in (
        ("nosuch", {}, 404, "plan_not_found"),
        ("free", {}, 422, "plan_not_sold_here"),
        ("metered", {}, 422, "plan_not_sold_here"),
        ("yearly", {"billing_interval": "month"}, 422, "plan_not_sold_here"),
    ):
        answer = await world.checkout(acme, plan=plan, **body)
        assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert (await world.checkout(acme, plan="yearly", billing_interval="year")).status_code == 201


@pytest.mark.parametrize(
    "body",
    [
        {"success_url": "javascript:alert(1)"},
        {"success_url": "https://a.example/\r\nset-cookie: x"},
        {"success_url": "https://" + "a" * 3000},
        {"cancel_url": "https://user@evil.example/"},
        {"customer_email": "nobody"},
        {"customer_email": "a@b.example\nbcc: c@d.example"},
        {"plan": "a\x00b"},
        {"plan": "x" * 101},
        {"plan": 7},
        {"billing_interval": "week"},
        {"mode": "live"},
    ],
)
async def test_bad_bodies(world: World, body: dict[str, Any]) -> None:
    answer = await world.checkout(world.tenants["acme"], **body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"


async def test_whose_checkout(world: World) -> None:
    await world.plan()
    acme, globex, operator = (world.tenants[name] for name in ("acme", "globex", "platform"))
    assert (await world.checkout(acme, tenant_id=str(globex.id))).status_code == 403
    assert (await world.checkout(operator, tenant_id="globex")).status_code == 201
    await world.log.settle()
    (linked,) = world.log.events(StripeCustomerLinked)
    assert linked.tenant_id == globex.id
    assert (await world.http.post("/api/v1/billing/checkout", json={})).status_code == 401


async def test_payments_are_the_tenants_own(world: World) -> None:
    await world.plan()
    acme, globex, operator = (world.tenants[name] for name in ("acme", "globex", "platform"))
    await world.subscribe(acme)
    (item,) = (await world.get(acme, "/api/v1/payments")).json()["items"]
    assert (await world.get(globex, "/api/v1/payments")).json()["items"] == []
    assert (await world.get(globex, f"/api/v1/payments/{item['id']}")).status_code == 404
    assert (await world.get(acme, "/api/v1/payments/pay_x")).status_code == 404
    assert (await world.get(operator, "/api/v1/payments")).json()["items"] == [item]
    async with world.database.tenant(globex.id, "test") as tx:
        for table in ("payment", "stripe_object", "balance_transaction", "object_owner"):
            assert await tx.fetchval(f"select count(*) from {table}") == 0


async def test_stripe_away_says_come_back_and_does_nothing_twice(world: World) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    world.sandbox.fault(kind="error", status=500, path="/v1/checkout/sessions", count=20)
    key = {"idempotency-key": "order-1"}
    answer = await world.checkout(acme, key)
    assert answer.status_code == 503, answer.text
    assert int(answer.headers["retry-after"]) > 0
    world.sandbox.mend()
    assert (await world.checkout(acme, key)).status_code == 201
    created = [e for e in world.sandbox.events(world.key) if e["type"] == "customer.created"]
    assert len(created) == 1


async def test_without_a_key_nothing_is_sold(world: World) -> None:
    world.app.state.identities = without_platform(world.identities)
    answer = await world.checkout(world.tenants["acme"])
    assert (answer.status_code, answer.json()["code"]) == (409, "stripe_not_configured")


async def test_the_clock_of_the_customer_starts_at_business_time(world: World) -> None:
    await world.plan()
    await world.checkout(world.tenants["acme"])
    (link,) = await world.rows("customer_link")
    path = f"/v1/test_helpers/test_clocks/{link['stripe_test_clock_id']}"
    shown = world.sandbox.get(path, world.key)["frozen_time"]
    assert abs(shown - utc_now().timestamp()) < timedelta(minutes=1).total_seconds()


async def test_a_declined_renewal_is_a_failed_payment(world: World) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    await world.subscribe(acme, "4000000000000341")
    subscription = world.log.events(StripeSubscriptionChanged)[-1]
    (link,) = await world.rows("customer_link")
    clock = f"/v1/test_helpers/test_clocks/{link['stripe_test_clock_id']}"
    shown = world.sandbox.get(clock, world.key)["frozen_time"]
    draft = await world.api.post(
        "invoice.create",
        "/v1/invoices",
        {
            "customer": link["stripe_customer_id"],
            "subscription": subscription.data.stripe_subscription_id,
            "auto_advance": False,
        },
        idempotency_key=f"x{shown}",
    )
    await world.api.post(
        "invoice_item.create",
        "/v1/invoiceitems",
        {
            "customer": link["stripe_customer_id"],
            "invoice": draft["id"],
            "amount": 700,
            "currency": "eur",
        },
        idempotency_key=f"y{shown}",
    )
    await world.api.post(
        "invoice.finalize",
        f"/v1/invoices/{draft['id']}/finalize",
        {"auto_advance": True},
        idempotency_key=f"z{shown}",
    )
    await world.take_webhooks()
    failed = world.log.events(PaymentFailed)
    assert [event.data.amount_minor for event in failed] == [700]
    assert failed[0].data.stripe_invoice_id == draft["id"]
    assert failed[0].tenant_id == acme.id


async def test_the_portal_opens_for_those_who_bought(world: World) -> None:
    acme = world.tenants["acme"]
    headers = {"authorization": f"Bearer {acme.key}"}
    early = await world.http.post("/api/v1/billing/portal", json={}, headers=headers)
    assert (early.status_code, early.json()["code"]) == (409, "no_stripe_customer")
    await world.plan()
    await world.subscribe(acme)
    body = {"return_url": "https://acme.example/account"}
    answer = await world.http.post("/api/v1/billing/portal", json=body, headers=headers)
    assert answer.status_code == 201, answer.text
    assert answer.json()["url"].startswith(world.sandbox.url)
    odd = await world.http.post(
        "/api/v1/billing/portal", json={"return_url": "file:///etc"}, headers=headers
    )
    assert odd.status_code == 422
