"""Payment intents that we begin: what Stripe is asked for, and the payment that stands for it.

The payment is entered before the call, with the status `UNKNOWN`, so that whatever happens next there
is a row that says what was asked for. A payment that the payer must confirm leads to the page that
Stripe names in the intent's `next_action`; that is why every confirmation says where to return to.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from libs.clock import utc_now
from libs.db.pool import Database, Row
from libs.ids import new_id
from libs.money import Money, to_stripe
from services.stripe_sync import refunds, requests, store_requests
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.customers import CustomerLinks
from services.stripe_sync.fees import application_fee
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.payers import Asker, Payer, Till
from services.stripe_sync.requests import EXPANDED, Wish

Capture = Literal["automatic", "manual"]


@dataclass(frozen=True)
class IntentWish:
    """What is to be paid, and how.

    Attributes:
        return_url: where the payer comes back to from its bank's page.
    """

    amount: Money
    return_url: str
    payment_method: str | None = None
    confirm: bool = False
    off_session: bool = False
    capture: Capture = "automatic"
    description: str | None = None
    receipt_email: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def begin(
    database: Database,
    links: CustomerLinks,
    asker: Asker,
    payer: Payer,
    till: Till,
    wish: IntentWish,
) -> Row:
    """Enter a payment and the request for it; the same client key finds the same one.

    Raises:
        NotRepresentableError: Stripe's unit is too coarse for the amount.
        StripeCallError: the payer could not be entered at Stripe; nothing was asked for.
    """
    tenant, mode = asker.tenant, asker.mode
    if asker.client_key is not None:
        async with database.tenant(tenant.id, mode) as tx:
            known = await store_requests.find_by_key(tx, asker.actor, asker.client_key)
        if known is not None:
            return known
    to_stripe(wish.amount)
    stripe_customer = await links.ensure(
        till.api, till.account, tenant, mode, payer, actor=asker.actor
    )
    payment_id = new_id()
    metadata = metadata_of(tenant, asker.actor, payer.customer_id, wish.metadata)
    params = _params(wish, till, stripe_customer, metadata | {"payment_id": str(payment_id)})
    asked = Wish(
        kind="intent",
        payment_id=payment_id,
        account=till.account,
        path="/v1/payment_intents",
        params=params,
        told={
            "amount_minor": wish.amount.amount_minor,
            "currency": wish.amount.currency,
            "customer_id": str(payer.customer_id),
            "account": till.account,
        },
    )
    async with database.tenant(tenant.id, mode) as tx:
        row, entered = await requests.enter(tx, asker, asked, payment_id)
        if entered:
            payment = {
                "payment_id": payment_id,
                "account": till.account,
                "collected_by": till.collected_by,
                "customer_id": payer.customer_id,
                "amount_minor": wish.amount.amount_minor,
                "currency": wish.amount.currency,
                "description": wish.description,
                "receipt_email": wish.receipt_email,
                "created_at": utc_now(),
            }
            await store_requests.insert_payment(tx, payment, stripe_customer)
    return row


def _params(
    wish: IntentWish, till: Till, stripe_customer: str, metadata: Mapping[str, str]
) -> Json:
    fee = application_fee(till.connection, wish.amount)
    wanted: Json = {
        "payment_method": wish.payment_method,
        "description": wish.description,
        "receipt_email": wish.receipt_email,
        "application_fee_amount": to_stripe(fee) or None,
        "capture_method": "manual" if wish.capture == "manual" else None,
    }
    if wish.confirm:
        wanted |= confirmation(wish.return_url, off_session=wish.off_session) | {"confirm": True}
    return {
        "amount": to_stripe(wish.amount),
        "currency": wish.amount.currency.lower(),
        "customer": stripe_customer,
        "automatic_payment_methods": {"enabled": True},
        "metadata": dict(metadata),
        **{name: value for name, value in wanted.items() if value is not None},
        **EXPANDED,
    }


def confirmation(return_url: str, *, off_session: bool) -> Json:
    """What a confirmation says: the payer is away, or comes back to an address."""
    return {"off_session": True} if off_session else {"return_url": return_url}


async def part(till: Till, payment: Row, amount: Money) -> Json:
    """What a capture of a part says: the platform's share is of that part, not of all.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    params: Json = {"amount_to_capture": to_stripe(amount)}
    whole = amount.amount_minor == payment["amount_minor"]
    if not whole and await refunds.has_application_fee(till, payment):
        params["application_fee_amount"] = to_stripe(application_fee(till.connection, amount))
    return params


async def client_secret(api: StripeApi, intent_id: str) -> str | None:
    """What a payer's browser confirms an intent with; read afresh each time, never kept.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    intent = await api.get("payment_intent.retrieve", f"/v1/payment_intents/{intent_id}")
    secret: str | None = intent.get("client_secret")
    return secret
