"""What stands at Stripe for our plans: a product and a price per flat price, created when needed."""

import asyncio
import time
from datetime import datetime
from functools import partial
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.billing import PlanPublished
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.money import Money, to_stripe
from services.stripe_sync import store_plans
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.lookups import LOOK_BACK, PAGES_MAX, named
from services.stripe_sync.once import Writer
from services.stripe_sync.store_plans import PlanVersion

WAIT_SECONDS = 2.0
POLL_SECONDS = 0.05


async def take_plan(tx: Tx, plan: PlanPublished) -> None:
    """Keep a version of a plan; nothing is created at Stripe before somebody buys it."""
    await store_plans.insert(tx, plan)


async def wait_for_plan(database: Database, mode: Mode, key: str) -> PlanVersion | None:
    """The newest version of a plan of the platform; one that is on its way has two seconds."""
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            plan = await store_plans.latest(tx, key)
        if plan is not None or time.monotonic() >= deadline:
            return plan
        await asyncio.sleep(POLL_SECONDS)


async def ensure_prices(
    database: Database, api: StripeApi, account: str, mode: Mode, plan: PlanVersion
) -> list[str]:
    """The Stripe prices of a plan version, created where they are missing.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    if plan.stripe_price_id is not None:
        return [plan.stripe_price_id]
    return [await _ensure_price(database, api, account, mode, plan, p) for p in plan.flat_prices]


async def _ensure_price(
    database: Database, api: StripeApi, account: str, mode: Mode, plan: PlanVersion, price: Json
) -> str:
    price_id, version_id = price["price_id"], plan.plan_version_id
    async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
        row = await store_plans.reserve_price(tx, account, price_id, version_id, utc_now())
    if row["stripe_price_id"] is not None:
        known: str = row["stripe_price_id"]
        return known
    asked_at = row["asked_at"]
    metadata = {
        "plan_id": str(plan.plan_id),
        "plan_key": plan.key,
        "plan_version_id": str(version_id),
    }
    writer = Writer(database, api, PLATFORM_TENANT_ID, mode)
    product = await writer.post(
        "product.create",
        "/v1/products",
        {"name": plan.name, "metadata": metadata},
        key=f"product:{price_id}",
        look=partial(_look_for_product, api, version_id, asked_at),
        asked_at=asked_at,
    )
    created = await writer.post(
        "price.create",
        "/v1/prices",
        {
            "product": product["id"],
            "currency": plan.currency.lower(),
            "unit_amount": to_stripe(Money(price["amount_minor"], plan.currency)),
            "recurring": {"interval": plan.interval},
            "metadata": metadata | {"price_id": str(price_id)},
        },
        key=f"price:{price_id}",
        look=partial(_look_for_price, api, product["id"], UUID(str(price_id))),
        asked_at=asked_at,
    )
    async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
        await store_plans.complete_price(tx, account, price_id, product["id"], created["id"])
    stripe_price_id: str = created["id"]
    return stripe_price_id


async def _look_for_product(api: StripeApi, version_id: UUID, asked_at: datetime) -> Json | None:
    """The product that an earlier try made although nobody heard of it.

    One of another price of the same version is as good: they differ in nothing.
    """
    query: Json = {"active": True, "created": {"gte": int((asked_at - LOOK_BACK).timestamp())}}
    found = await api.list_all("product.list", "/v1/products", query, pages_max=PAGES_MAX)
    return named(found, "plan_version_id", version_id)


async def _look_for_price(api: StripeApi, product_id: str, price_id: UUID) -> Json | None:
    """The price that an earlier try made although nobody heard of it."""
    query: Json = {"active": True, "product": product_id}
    found = await api.list_all("price.list", "/v1/prices", query, pages_max=PAGES_MAX)
    return named(found, "price_id", price_id)
