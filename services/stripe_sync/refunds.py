"""Money given back: never more than is left, however many ask at once."""

from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from libs.clock import utc_now
from libs.db.pool import Database, Row
from libs.ids import new_id
from libs.money import Money, to_stripe
from services.stripe_sync import requests, store_requests
from services.stripe_sync.client import Json
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.objects_payments import PAID_STATUSES
from services.stripe_sync.payers import Asker, Till
from services.stripe_sync.requests import Wish

Reason = Literal["duplicate", "fraudulent", "requested_by_customer"]


class NotRefundableError(Exception):
    """Nothing of this payment can be given back; the message says why."""


class TooMuchError(Exception):
    """More than is left of the payment."""

    def __init__(self, left: Money) -> None:
        super().__init__(f"{left} is left")
        self.left = left


@dataclass(frozen=True)
class RefundWish:
    """What is to be given back.

    Attributes:
        amount_minor: in the payment's currency; None for all that is left.
    """

    payment_id: UUID
    amount_minor: int | None = None
    reason: Reason | None = None


async def ask(
    database: Database, asker: Asker, till: Till, wish: RefundWish, *, returns_fee: bool
) -> Row:
    """Enter a refund and the request for it; the same client key finds the same one.

    The payment is locked meanwhile, and refunds without an answer count as made, so that of two who
    ask for the same money one is refused here, before Stripe is asked.

    Args:
        returns_fee: the platform took a share of the payment, and gives it back in proportion.

    Raises:
        NotRefundableError: it was not paid, or nothing is left of it.
        TooMuchError: less is left.
        NotRepresentableError: Stripe's unit is too coarse for the amount.
    """
    async with database.tenant(asker.tenant.id, asker.mode) as tx:
        payment = await store_requests.lock_payment(tx, wish.payment_id)
        if asker.client_key is not None:
            known = await store_requests.find_by_key(tx, asker.actor, asker.client_key)
            if known is not None:
                return known
        if payment is None or payment["status"] not in PAID_STATUSES:
            raise NotRefundableError("it has not been paid")
        given_back = await store_requests.given_back_minor(tx, wish.payment_id)
        left = payment["amount_minor"] - max(given_back, payment["refunded_minor"])
        if left <= 0:
            raise NotRefundableError("all of it has been given back, or is being")
        amount = Money(wish.amount_minor or left, payment["currency"])
        if amount.amount_minor > left:
            raise TooMuchError(Money(left, payment["currency"]))
        refund_id = new_id()
        row, _ = await requests.enter(
            tx, asker, _asked(asker, till, payment, refund_id, amount, wish, returns_fee), refund_id
        )
        await store_requests.insert_refund(
            tx,
            {
                "refund_id": refund_id,
                "amount_minor": amount.amount_minor,
                "reason": wish.reason,
                "created_at": utc_now(),
                **{
                    name: payment[name]
                    for name in (
                        "account",
                        "collected_by",
                        "customer_id",
                        "payment_id",
                        "stripe_charge_id",
                        "stripe_payment_intent_id",
                        "currency",
                    )
                },
            },
        )
    return row


def _asked(
    asker: Asker,
    till: Till,
    payment: Json,
    refund_id: UUID,
    amount: Money,
    wish: RefundWish,
    returns_fee: bool,
) -> Wish:
    intent = payment["stripe_payment_intent_id"]
    told = {"payment_id": str(wish.payment_id), "refund_id": str(refund_id)}
    params: Json = {
        **({"payment_intent": intent} if intent else {"charge": payment["stripe_charge_id"]}),
        "amount": to_stripe(amount),
        "metadata": metadata_of(asker.tenant, asker.actor, payment["customer_id"], told),
    }
    if wish.reason is not None:
        params["reason"] = wish.reason
    if returns_fee:
        params["refund_application_fee"] = True
    return Wish(
        kind="refund",
        payment_id=wish.payment_id,
        account=till.account,
        path="/v1/refunds",
        params=params,
        told={
            "refund_id": str(refund_id),
            "amount_minor": amount.amount_minor,
            "currency": amount.currency,
            "reason": wish.reason,
        },
    )


async def has_application_fee(till: Till, payment: Row) -> bool:
    """Whether the platform took a share of a payment, as Stripe has it.

    Raises:
        StripeCallError: Stripe did not answer or refused.
    """
    if till.connection is None or till.connection.kind == "RAW_KEYS":
        return False
    intent, charge = payment["stripe_payment_intent_id"], payment["stripe_charge_id"]
    if intent:
        found = await till.api.get("payment_intent.retrieve", f"/v1/payment_intents/{intent}")
    else:
        found = await till.api.get("charge.retrieve", f"/v1/charges/{charge}")
    return bool(found.get("application_fee_amount"))
