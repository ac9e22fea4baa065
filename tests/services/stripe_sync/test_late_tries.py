"""What is made once is looked for before it is sent again so late that Stripe has forgotten the key."""

from typing import Any

import pytest

from services.stripe_sync.client import StripeApi
from tests.services.stripe_sync.conftest import World
from tests.services.stripe_sync.paying import EUR, Shop, open_shop


def lose(world: World, path: str) -> None:
    """The next call has its effect, but nobody hears of it, and no further one gets through."""
    fault: dict[str, Any] = {
        "kind": "error",
        "status": 503,
        "stored": False,
        "method": "POST",
        "path": path,
    }
    world.sandbox.fault(**fault, moment="after", count=1)
    world.sandbox.fault(**fault, moment="before", count=99)


async def a_day_passes(world: World, monkeypatch: pytest.MonkeyPatch, table: str, at: str) -> None:
    """30 hours: Stripe answers again, and remembers no key of before."""
    world.sandbox.mend()
    async with world.test_database.admin() as admin:
        await admin.execute(f"update stripe_sync.{table} set {at} = {at} - interval '30 hours'")
    post = StripeApi.post

    async def under_an_unknown_key(
        self: StripeApi, *call: Any, idempotency_key: str, **options: Any
    ) -> Any:
        return await post(self, *call, idempotency_key=f"{idempotency_key}:later", **options)

    monkeypatch.setattr(StripeApi, "post", under_an_unknown_key)


@pytest.fixture
async def shop(world: World) -> Shop:
    return await open_shop(world, "RAW_KEYS")


async def test_one_customer(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    lose(shop.world, "/v1/customers")
    assert (await shop.pay("order-1")).status_code == 503
    (lost,) = shop.listed("customers")
    await a_day_passes(shop.world, monkeypatch, "customer_link", "created_at")
    paid = await shop.pay("order-2")
    assert paid.status_code == 201, paid.text
    assert [each["id"] for each in shop.listed("customers")] == [lost["id"]]
    (intent,) = shop.listed("payment_intents")
    assert intent["customer"] == lost["id"]


async def test_one_customer_on_a_test_clock(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await world.plan()
    lose(world, "/v1/customers")
    assert (await world.checkout(world.tenants["acme"])).status_code == 503
    await a_day_passes(world, monkeypatch, "customer_link", "created_at")
    assert (await world.checkout(world.tenants["acme"])).status_code == 201
    kinds = [event["type"] for event in world.sandbox.events(world.key)]
    assert kinds.count("customer.created") == 1


async def test_one_link(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    wish = {"name": "Tea", "amount": EUR}
    lose(shop.world, "/v1/payment_links")
    assert (await shop.post("payment-links", wish, once="l-1")).status_code == 503
    (lost,) = shop.listed("payment_links")
    await a_day_passes(shop.world, monkeypatch, "payment_link", "created_at")
    made = await shop.post("payment-links", wish, once="l-1")
    assert made.status_code == 201, made.text
    assert made.json()["stripe_payment_link_id"] == lost["id"]
    assert [each["id"] for each in shop.listed("payment_links")] == [lost["id"]]


@pytest.mark.parametrize("path", ["/v1/products", "/v1/prices"])
async def test_one_product_and_price_of_a_plan(
    world: World, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    lose(world, path)
    assert (await world.checkout(acme)).status_code == 503
    await a_day_passes(world, monkeypatch, "plan_price", "asked_at")
    page = await world.checkout(acme)
    assert page.status_code == 201, page.text
    kinds = [event["type"] for event in world.sandbox.events(world.key)]
    assert kinds.count("product.created") == kinds.count("price.created") == 1
    (known,) = await world.rows("plan_price")
    (price,) = world.sandbox.get("/v1/prices", world.key)["data"]
    assert (known["stripe_product_id"], known["stripe_price_id"]) == (price["product"], price["id"])


@pytest.mark.parametrize("path", ["/v1/products", "/v1/prices"])
async def test_an_error_that_stripe_keeps_makes_no_second_price(world: World, path: str) -> None:
    await world.plan()
    acme = world.tenants["acme"]
    world.sandbox.fault(kind="error", status=500, method="POST", path=path, moment="after", count=1)
    assert (await world.checkout(acme)).status_code == 503
    world.sandbox.mend()
    assert (await world.checkout(acme)).status_code == 201
    kinds = [event["type"] for event in world.sandbox.events(world.key)]
    assert kinds.count("product.created") == kinds.count("price.created") == 1
