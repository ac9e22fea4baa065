"""Checkout: a page at Stripe on which a tenant subscribes to a plan, or a payer pays an amount."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.billing import Interval
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.db.tenant import Mode
from libs.directory.local import Tenant
from libs.ids import new_id
from libs.money import Money, to_stripe
from services.stripe_sync import store_checkout, store_objects, store_plans
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.customers import CustomerLinks
from services.stripe_sync.fees import application_fee
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.once import Writer
from services.stripe_sync.payers import Asker, Payer, Till
from services.stripe_sync.plans import ensure_prices, wait_for_plan
from services.stripe_sync.store_plans import PlanVersion


class PlanUnknownError(Exception):
    """There is no such plan."""


class PlanNotSoldHereError(Exception):
    """The plan cannot be bought on a page of Stripe's; the message says why."""


class AlreadySubscribedError(Exception):
    """A second subscription would bill the tenant twice."""


class NeverBoughtError(Exception):
    """The tenant has no customer at Stripe, so there is nothing to see to."""


@dataclass(frozen=True)
class Wish:
    """What a caller wants to buy, and where the payer goes afterwards."""

    plan: str | None
    interval: Interval | None
    success_url: str
    cancel_url: str
    email: str | None


@dataclass(frozen=True)
class Sale:
    """An amount to be paid on a page, and what for."""

    amount: Money
    name: str
    quantity: int
    success_url: str
    cancel_url: str
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Session:
    """A page to send the payer to."""

    url: str
    session_id: str


async def choose_plan(
    database: Database, mode: Mode, wish: Wish, default_price_id: str | None
) -> PlanVersion:
    """The plan version that is meant.

    Raises:
        PlanUnknownError: none such.
        PlanNotSoldHereError: it is free, collected by Sluice itself, or of another interval.
    """
    if wish.plan is not None:
        plan = await wait_for_plan(database, mode, wish.plan)
    elif default_price_id is not None:
        async with database.tenant(PLATFORM_TENANT_ID, mode) as tx:
            plan = await store_plans.by_stripe_price(tx, default_price_id)
    else:
        plan = None
    if plan is None:
        raise PlanUnknownError
    if plan.collection != "stripe":
        raise PlanNotSoldHereError("it is not collected by Stripe")
    if not plan.flat_prices and plan.stripe_price_id is None:
        raise PlanNotSoldHereError("it has no fee that a page could collect")
    if wish.interval is not None and wish.interval != plan.interval:
        raise PlanNotSoldHereError(f"it is billed per {plan.interval}")
    return plan


async def open_session(
    database: Database,
    api: StripeApi,
    links: CustomerLinks,
    buyer: Asker,
    wish: Wish,
    plan: PlanVersion,
) -> Session:
    """Open the page; the same client key opens the same page.

    Raises:
        AlreadySubscribedError: the tenant has a subscription at Stripe.
        StripeCallError: Stripe did not answer or refused.
    """
    tenant, mode, account = buyer.tenant, buyer.mode, PLATFORM_ACCOUNT
    itself = Payer(tenant.snapshot.self_customer_id, tenant.snapshot.name, is_tenant=True)
    stripe_customer = await links.ensure(
        api, account, tenant, mode, itself, actor=buyer.actor, email=wish.email
    )
    async with database.tenant(tenant.id, mode) as tx:
        if await store_objects.has_live_subscription(tx, account, stripe_customer):
            raise AlreadySubscribedError
    metadata = _metadata(buyer, plan)
    prices = await ensure_prices(database, api, account, mode, plan)
    async with database.tenant(tenant.id, mode) as tx:
        session = await store_checkout.reserve_session(
            tx,
            {
                "checkout_id": new_id(),
                "actor": buyer.actor,
                "client_key": buyer.client_key,
                "account": account,
                "customer_id": tenant.snapshot.self_customer_id,
                "plan_version_id": plan.plan_version_id,
                "request": _request(stripe_customer, prices, wish, metadata),
                "created_at": utc_now(),
            },
        )
    if session["stripe_session_id"] is not None:
        return Session(session["url"], session["stripe_session_id"])
    return await _create(database, api, buyer, session["checkout_id"], session["request"])


async def _create(
    database: Database, api: StripeApi, buyer: Asker, checkout_id: UUID, request: Json
) -> Session:
    writer = Writer(database, api, buyer.tenant.id, buyer.mode)
    created = await writer.post(
        "checkout_session.create",
        "/v1/checkout/sessions",
        request,
        key=f"checkout:{checkout_id}",
    )
    async with database.tenant(buyer.tenant.id, buyer.mode) as tx:
        await store_checkout.complete_session(tx, checkout_id, created["id"], created["url"])
    return Session(created["url"], created["id"])


async def open_sale(
    database: Database, links: CustomerLinks, buyer: Asker, payer: Payer, till: Till, sale: Sale
) -> Session:
    """Open a page on which a payer pays an amount once; the same client key opens the same page.

    Raises:
        NotRepresentableError: Stripe's unit is too coarse for the amount.
        StripeCallError: Stripe did not answer or refused.
    """
    tenant, mode = buyer.tenant, buyer.mode
    unit_amount = to_stripe(sale.amount)
    stripe_customer = await links.ensure(
        till.api, till.account, tenant, mode, payer, actor=buyer.actor
    )
    metadata = metadata_of(tenant, buyer.actor, payer.customer_id, sale.metadata)
    total = Money(sale.amount.amount_minor * sale.quantity, sale.amount.currency)
    fee = to_stripe(application_fee(till.connection, total))
    product = {"name": sale.name}
    price = {
        "currency": sale.amount.currency.lower(),
        "unit_amount": unit_amount,
        "product_data": product,
    }
    request: Json = {
        "mode": "payment",
        "customer": stripe_customer,
        "line_items": [{"price_data": price, "quantity": sale.quantity}],
        "success_url": sale.success_url,
        "cancel_url": sale.cancel_url,
        "client_reference_id": str(tenant.id),
        "metadata": metadata,
        "payment_intent_data": {
            "metadata": metadata,
            **({"application_fee_amount": fee} if fee else {}),
        },
    }
    async with database.tenant(tenant.id, mode) as tx:
        session = await store_checkout.reserve_session(
            tx,
            {
                "checkout_id": new_id(),
                "actor": buyer.actor,
                "client_key": buyer.client_key,
                "account": till.account,
                "customer_id": payer.customer_id,
                "plan_version_id": None,
                "request": request,
                "created_at": utc_now(),
            },
        )
    if session["stripe_session_id"] is not None:
        return Session(session["url"], session["stripe_session_id"])
    return await _create(database, till.api, buyer, session["checkout_id"], session["request"])


async def open_portal(
    database: Database, tenant: Tenant, mode: Mode, payer: Payer, till: Till, return_url: str
) -> str:
    """The address of Stripe's portal for a payer.

    Raises:
        NeverBoughtError: the account has no such customer.
        StripeCallError: Stripe did not answer or refused.
    """
    async with database.tenant(tenant.id, mode) as tx:
        link = await store_checkout.find_link(tx, till.account, payer.customer_id)
    if link is None or link["stripe_customer_id"] is None:
        raise NeverBoughtError
    session = await till.api.post(
        "portal_session.create",
        "/v1/billing_portal/sessions",
        {"customer": link["stripe_customer_id"], "return_url": return_url},
        idempotency_key=f"portal:{new_id()}",
    )
    url: str = session["url"]
    return url


def _metadata(buyer: Asker, plan: PlanVersion) -> dict[str, str]:
    """What every object of this purchase carries (requirement P3)."""
    bought = {"plan_key": plan.key, "plan_version_id": str(plan.plan_version_id)}
    customer_id = buyer.tenant.snapshot.self_customer_id
    told = metadata_of(buyer.tenant, buyer.actor, customer_id, bought)
    return told | {"plan": plan.key}


def _request(
    stripe_customer: str, prices: list[str], wish: Wish, metadata: Mapping[str, str]
) -> Json:
    return {
        "mode": "subscription",
        "customer": stripe_customer,
        "line_items": [{"price": price, "quantity": 1} for price in prices],
        "success_url": wish.success_url,
        "cancel_url": wish.cancel_url,
        "client_reference_id": metadata["tenant_id"],
        "metadata": dict(metadata),
        "subscription_data": {"metadata": dict(metadata)},
    }
