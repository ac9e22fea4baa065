"""Facts of other services in any order: what comes too early waits here and is taken up later.

Order holds inside a topic only. A fact about a customer may come before the tenant signed up, an
invoice before its subscription. Such a fact is kept as it came and applied, in the order it came,
as soon as what it refers to is known; the result is the same as if it had come then.
"""

from typing import Any, cast
from uuid import UUID

from libs.contracts.envelope import Envelope, Fact
from libs.contracts.stripe_sync import (
    PLATFORM_ACCOUNT,
    StripeCustomerLinked,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.contracts.topics import EVENT_TYPES
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.billing import invoices, prepaid, store_customers, store_waiting, subscriptions


async def tenant_created(event: Envelope[TenantCreated] | Envelope[TenantWentLive], tx: Tx) -> None:
    """The tenant's self customer and subscription exist from now on, in the mode of the event."""
    await store_customers.lock_tenant(tx)
    await subscriptions.sign_up(tx, event.data, event.effective_at)
    await _take_up(tx, _customer(event.data.self_customer_id))


async def customer_linked(event: Envelope[StripeCustomerLinked], tx: Tx) -> None:
    """A customer has its counterpart at Stripe."""
    if event.data.account != PLATFORM_ACCOUNT:
        return
    await store_customers.lock_tenant(tx)
    if not await _customer_known(event, event.data.customer_id, tx):
        return
    await subscriptions.link_customer(tx, event.data)


async def subscription_changed(event: Envelope[StripeSubscriptionChanged], tx: Tx) -> None:
    """A Stripe subscription of the platform's account was created or changed."""
    fact = event.data
    if fact.account != PLATFORM_ACCOUNT:
        return
    await store_customers.lock_tenant(tx)
    if not await _customer_known(event, fact.customer_id, tx):
        return
    if await subscriptions.follow_stripe(tx, fact, event.effective_at):
        await _take_up(tx, _subscription(fact.stripe_subscription_id))
    await prepaid.renew(tx, fact.customer_id, event.effective_at)


async def invoice_changed(event: Envelope[StripeInvoiceChanged], tx: Tx) -> None:
    """An invoice of the platform's account was created or changed."""
    fact = event.data
    if fact.account != PLATFORM_ACCOUNT:
        return
    await store_customers.lock_tenant(tx)
    if not await _customer_known(event, fact.customer_id, tx):
        return
    subscription_id: UUID | None = None
    if fact.stripe_subscription_id is not None:
        found = await store_customers.find_stripe_subscription(tx, fact.stripe_subscription_id)
        if found is None:
            await _keep(tx, event, _subscription(fact.stripe_subscription_id))
            return
        subscription_id = found["subscription_id"]
    await invoices.record(tx, fact, subscription_id, event.effective_at)
    await prepaid.renew(tx, fact.customer_id, event.effective_at)


async def _customer_known(event: Envelope[Any], customer_id: UUID, tx: Tx) -> bool:
    """Whether the customer exists; if not, the event is kept until it does."""
    if await store_customers.find_customer(tx, customer_id) is not None:
        return True
    await _keep(tx, event, _customer(customer_id))
    return False


def _customer(customer_id: UUID) -> str:
    return f"customer:{customer_id}"


def _subscription(stripe_subscription_id: str) -> str:
    return f"subscription:{stripe_subscription_id}"


async def _keep(tx: Tx, event: Envelope[Any], waits_for: str) -> None:
    await store_waiting.keep(tx, event.id, waits_for, event.type, event.model_dump(mode="json"))


async def _take_up(tx: Tx, waited_for: str) -> None:
    for row in await store_waiting.take(tx, waited_for):
        kind = EVENT_TYPES[row["event_type"]]
        model = cast("type[Envelope[Any]]", Envelope.__class_getitem__(kind))
        await _AGAIN[kind](model.model_validate(row["event"]), tx)


_AGAIN: dict[type[Fact], Handler] = {
    StripeCustomerLinked: customer_linked,
    StripeSubscriptionChanged: subscription_changed,
    StripeInvoiceChanged: invoice_changed,
}
