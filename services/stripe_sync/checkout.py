"""Checkout: a page at Stripe on which a tenant subscribes to a plan, or a payer pays an amount."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.billing import Interval
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.db.tenant import Mode
from libs.directory.local import Tenant
from libs.ids import new_id
from libs.money import Money, to_stripe
from services.stripe_sync import store_checkout, store_objects, store_plans
from services.stripe_sync.client import (
    Json,
    StripeApi,
    StripeMissingError,
    StripeRefusedError,
    StripeTransientError,
)
from services.stripe_sync.customers import CustomerLinks
from services.stripe_sync.fees import application_fee
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.objects import id_of
from services.stripe_sync.once import Writer
from services.stripe_sync.payers import Asker, Payer, Till
from services.stripe_sync.plans import ensure_prices, wait_for_plan
from services.stripe_sync.store_plans import PlanVersion

SHOWN_AGAIN_FOR = timedelta(hours=23)
"""A page stays open for a day (https://docs.stripe.com/api/checkout/sessions/create, expires_at)."""
KEY_KEPT_FOR = timedelta(hours=24)
TURNS_MAX = 3
ENDED_SUBSCRIPTIONS = frozenset({"canceled", "incomplete_expired"})


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

    There is one at a time, or two might be paid: one that sells the same plan is shown again, one
    that sells another is closed at Stripe before the next is opened.

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
    wanted: Json = {
        "checkout_id": new_id(),
        "actor": buyer.actor,
        "client_key": buyer.client_key,
        "account": account,
        "customer_id": tenant.snapshot.self_customer_id,
        "plan_version_id": plan.plan_version_id,
        "request": _request(stripe_customer, prices, wish, metadata),
    }
    for _ in range(TURNS_MAX):
        async with database.tenant(tenant.id, mode) as tx:
            row = await store_checkout.reserve_session(tx, wanted | {"created_at": utc_now()})
        if row["asked_for"]:
            return await _opened(database, api, buyer, row)
        page = await _shown_again(database, api, buyer, plan, row)
        if page is not None:
            return page
    raise StripeTransientError("checkout_busy", "others open pages for the same customer")


async def _opened(database: Database, api: StripeApi, buyer: Asker, row: Row) -> Session:
    if row["stripe_session_id"] is not None:
        return Session(row["url"], row["stripe_session_id"])
    return await _create(database, api, buyer, row["checkout_id"], row["request"])


async def _shown_again(
    database: Database, api: StripeApi, buyer: Asker, plan: PlanVersion, row: Row
) -> Session | None:
    """The page that a customer has already, where it sells this plan; else None, and it is closed.

    Raises:
        AlreadySubscribedError: it was paid.
        StripeCallError: Stripe did not answer or refused.
    """
    age = utc_now() - row["created_at"]
    same = row["plan_version_id"] == plan.plan_version_id and age < SHOWN_AGAIN_FOR
    is_new = row["stripe_session_id"] is None
    if not is_new or age < KEY_KEPT_FOR:
        try:
            # Whoever began it may never have heard Stripe's answer: the same key, the same page.
            page = await _opened(database, api, buyer, row)
            status = "open" if is_new else await _status_of(api, page)
            if status == "open" and same:
                return page
            if status == "open":
                await _expire(database, api, buyer, row["checkout_id"], page)
        except StripeRefusedError:
            # It could not be opened, or was paid a moment ago: the next turn tells.
            return None
    async with database.tenant(buyer.tenant.id, buyer.mode) as tx:
        await store_checkout.close_session(tx, row["checkout_id"])
    return None


async def _status_of(api: StripeApi, page: Session) -> str:
    """Whether a page can be paid, as Stripe says: `open`, `complete` or `expired`.

    Raises:
        AlreadySubscribedError: it was paid, and what was bought on it lives.
    """
    try:
        path = f"/v1/checkout/sessions/{page.session_id}"
        shown = await api.get("checkout_session.retrieve", path)
        status: str = shown["status"]
        if status != "complete":
            return status
        bought = await api.get(
            "subscription.retrieve", f"/v1/subscriptions/{id_of(shown['subscription'])}"
        )
    except StripeMissingError:
        return "expired"
    if bought["status"] not in ENDED_SUBSCRIPTIONS:
        raise AlreadySubscribedError
    return status


async def _expire(
    database: Database, api: StripeApi, buyer: Asker, checkout_id: UUID, page: Session
) -> None:
    await Writer(database, api, buyer.tenant.id, buyer.mode).post(
        "checkout_session.expire",
        f"/v1/checkout/sessions/{page.session_id}/expire",
        {},
        key=f"checkout:{checkout_id}:expire",
    )


async def _create(
    database: Database, api: StripeApi, buyer: Asker, checkout_id: UUID, request: Json
) -> Session:
    writer = Writer(database, api, buyer.tenant.id, buyer.mode)
    try:
        created = await writer.post(
            "checkout_session.create",
            "/v1/checkout/sessions",
            request,
            key=f"checkout:{checkout_id}",
        )
    except StripeRefusedError:
        async with database.tenant(buyer.tenant.id, buyer.mode) as tx:
            await store_checkout.close_session(tx, checkout_id)
        raise
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
