"""Payment links: addresses at Stripe where whoever has one may pay, as often as it is followed.

What is paid by a link names it, its tenant and the customer it was made for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from libs.money import Money, MoneyError, from_stripe, to_stripe
from services.stripe_sync import store_links
from services.stripe_sync.client import PAGE_SIZE, Json, StripeApi
from services.stripe_sync.fees import application_fee
from services.stripe_sync.fetching import path_of
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.once import Writer
from services.stripe_sync.payers import Asker, Payer, Till

LOOK_PAGES_MAX = 50


class PriceNotSoldHereError(Exception):
    """A link cannot sell this price; the message says why."""


@dataclass(frozen=True)
class LinkWish:
    """What is sold: an amount with a name, or a price that stands at Stripe.

    Attributes:
        price: Stripe's `price_…` in the account.
    """

    quantity: int
    amount: Money | None = None
    name: str | None = None
    price: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def create(
    database: Database, asker: Asker, payer: Payer | None, till: Till, wish: LinkWish
) -> Row:
    """Make a link; the same client key makes one.

    Args:
        payer: for whom it is meant; None: for anybody.

    Raises:
        PriceNotSoldHereError: the price recurs, or has no fixed amount that can be read.
        NotRepresentableError: Stripe's unit is too coarse for the amount.
        StripeCallError: Stripe did not answer or refused.
    """
    tenant, mode, link_id = asker.tenant, asker.mode, new_id()
    amount = wish.amount or await _amount_of(till.api, wish.price or "")
    total = Money(amount.amount_minor * wish.quantity, amount.currency)
    fee = application_fee(till.connection, total)
    told = dict(wish.metadata) | {"payment_link_id": str(link_id)}
    metadata = metadata_of(tenant, asker.actor, payer.customer_id if payer else None, told)
    async with database.tenant(tenant.id, mode) as tx:
        row = await store_links.reserve(
            tx,
            {
                "link_id": link_id,
                "actor": asker.actor,
                "client_key": asker.client_key,
                "account": till.account,
                "collected_by": till.collected_by,
                "customer_id": payer.customer_id if payer else None,
                "name": wish.name,
                "amount_minor": amount.amount_minor,
                "currency": amount.currency,
                "quantity": wish.quantity,
                "application_fee_minor": fee.amount_minor,
                "request": _request(wish, amount, to_stripe(fee), metadata),
                "created_at": utc_now(),
            },
        )
    if row["stripe_payment_link_id"] is not None:
        return row
    writer = Writer(database, till.api, tenant.id, mode)
    link = await writer.post(
        "payment_link.create",
        "/v1/payment_links",
        row["request"],
        key=f"link:{row['link_id']}",
        look=partial(_look, till.api, str(row["link_id"])),
        asked_at=row["created_at"],
    )
    async with database.tenant(tenant.id, mode) as tx:
        if await store_links.complete(tx, row["link_id"], link["id"], link["url"]):
            _record(tx, asker, row, "payment_link.created", link["id"])
        found = await store_links.find(tx, mode, row["link_id"])
    assert found is not None, "it was completed above, here or by a twin"
    return found


async def _amount_of(api: StripeApi, price_id: str) -> Money:
    price = await api.get("price.retrieve", path_of("price", price_id))
    if price["type"] != "one_time":
        raise PriceNotSoldHereError("it recurs, so it is sold as a plan")
    if price.get("unit_amount") is None:
        raise PriceNotSoldHereError("it has no fixed amount")
    try:
        return from_stripe(price["unit_amount"], price["currency"])
    except MoneyError as error:
        raise PriceNotSoldHereError(f"its amount cannot be read, {error}") from None


def _request(wish: LinkWish, amount: Money, fee: int, metadata: Mapping[str, str]) -> Json:
    if wish.price is not None:
        item: Json = {"price": wish.price}
    else:
        item = {
            "price_data": {
                "currency": amount.currency.lower(),
                "unit_amount": to_stripe(amount),
                "product_data": {"name": wish.name},
            }
        }
    return {
        "line_items": [item | {"quantity": wish.quantity}],
        "metadata": dict(metadata),
        "payment_intent_data": {"metadata": dict(metadata)},
        **({"application_fee_amount": fee} if fee else {}),
    }


async def _look(api: StripeApi, link_id: str) -> Json | None:
    """The link that an earlier try made although nobody heard of it.

    Stripe lists the newest first and has no filter by creation: one made just before is on the first
    pages, one of days ago among the newest few thousand, or nowhere.
    """
    query: Json = {"active": True, "limit": PAGE_SIZE}
    for _ in range(LOOK_PAGES_MAX):
        page = await api.get("payment_link.list", "/v1/payment_links", query)
        for each in page["data"]:
            if (each["metadata"] or {}).get("payment_link_id") == link_id:
                found: Json = each
                return found
        if not page["has_more"] or not page["data"]:
            break
        query["starting_after"] = page["data"][-1]["id"]
    return None


async def deactivate(database: Database, asker: Asker, till: Till, link: Row) -> Row:
    """Switch a link off for good; once more does nothing.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    writer = Writer(database, till.api, asker.tenant.id, asker.mode)
    if link["active"]:
        await writer.post(
            "payment_link.deactivate",
            f"/v1/payment_links/{link['stripe_payment_link_id']}",
            {"active": False},
            key=f"link:{link['link_id']}:deactivate",
        )
    async with database.tenant(asker.tenant.id, asker.mode) as tx:
        if await store_links.deactivate(tx, link["link_id"], utc_now()):
            _record(tx, asker, link, "payment_link.deactivated", link["stripe_payment_link_id"])
        found = await store_links.find(tx, asker.mode, link["link_id"])
    assert found is not None, "links are never deleted"
    return found


def _record(tx: Tx, asker: Asker, link: Row, action: str, stripe_id: str) -> None:
    """Have the audit log tell who made a link, or switched it off."""
    change = ConfigurationChanged(
        action=action,
        actor=asker.actor,
        object_id=public_id("payment_link", link["link_id"]),
        after={
            "amount_minor": link["amount_minor"],
            "currency": link["currency"],
            "quantity": link["quantity"],
            "stripe_payment_link_id": stripe_id,
        },
    )
    emit(tx, change, effective_at=business_now(asker.tenant, asker.mode))
