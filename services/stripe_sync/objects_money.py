"""Refunds, disputes, payouts and balance transactions in the product's words: pure functions."""

from collections.abc import Mapping, Sequence
from datetime import UTC
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.clock import from_unix
from libs.contracts.billing import BilledBy
from libs.contracts.envelope import Fact
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    DisputeChanged,
    PayoutChanged,
    RefundChanged,
)
from libs.money import from_stripe
from services.stripe_sync.objects import Json, UnreadableObjectError, id_of, required, time_of


def refund_fact(
    raw: Json,
    *,
    account: str,
    collected_by: BilledBy,
    customer_id: UUID,
    payment_id: UUID | None,
    version: int,
) -> RefundChanged:
    """What is said of a refund.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        return RefundChanged(
            version=version,
            account=account,
            collected_by=collected_by,
            customer_id=customer_id,
            payment_id=payment_id,
            stripe_refund_id=raw["id"],
            stripe_charge_id=id_of(raw["charge"]),
            stripe_payment_intent_id=id_of(raw["payment_intent"]),
            amount_minor=from_stripe(raw["amount"], currency).amount_minor,
            currency=currency.upper(),
            status=raw["status"] or "pending",
            failure_reason=raw.get("failure_reason"),
            created_at=from_unix(raw["created"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"refund: {error!r}") from None


def dispute_fact(
    raw: Json,
    *,
    account: str,
    collected_by: BilledBy,
    customer_id: UUID,
    payment_id: UUID | None,
    version: int,
) -> DisputeChanged:
    """What is said of a dispute.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        return DisputeChanged(
            version=version,
            account=account,
            collected_by=collected_by,
            customer_id=customer_id,
            payment_id=payment_id,
            stripe_dispute_id=raw["id"],
            stripe_charge_id=required(id_of(raw["charge"])),
            stripe_payment_intent_id=id_of(raw["payment_intent"]),
            amount_minor=from_stripe(raw["amount"], currency).amount_minor,
            currency=currency.upper(),
            reason=raw["reason"],
            status=raw["status"],
            evidence_due_at=time_of((raw.get("evidence_details") or {}).get("due_by")),
            created_at=from_unix(raw["created"]),
            **_withdrawn(raw.get("balance_transactions")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"dispute: {error!r}") from None


def _withdrawn(transactions: Sequence[Json] | None) -> dict[str, Any]:
    """What a dispute has taken out of the balance, less what came back, in the balance's currency."""
    if transactions is None:
        return {}
    if not transactions:
        return {"withdrawn_minor": 0}
    currency = transactions[0]["currency"]
    moved = sum(from_stripe(each["amount"], currency).amount_minor for each in transactions)
    return {"withdrawn_minor": -moved, "withdrawn_currency": currency.upper()}


def with_loss(fact: Fact | None, said: Json | None) -> Fact | None:
    """A dispute with what is lost by it, now and when it was last told; any other fact as it is.

    Args:
        said: what was last said of the object.
    """
    if not isinstance(fact, DisputeChanged):
        return fact
    said = said or {}
    before = said.get("lost_minor")
    if before is None and said.get("status") == "lost":
        before = said.get("withdrawn_minor") or None
    now = (fact.withdrawn_minor or 0) if fact.status == "lost" else 0
    if before is None and not now:
        return fact
    return fact.model_copy(
        update={
            "lost_before_minor": before,
            "lost_minor": now,
            # Stripe may name no movement any more, and what comes back is still of a currency.
            "withdrawn_currency": fact.withdrawn_currency or said.get("withdrawn_currency"),
        }
    )


def payout_fact(raw: Json, *, account: str, collected_by: BilledBy, version: int) -> PayoutChanged:
    """What is said of a payout.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        return PayoutChanged(
            version=version,
            account=account,
            collected_by=collected_by,
            stripe_payout_id=raw["id"],
            amount_minor=from_stripe(raw["amount"], currency).amount_minor,
            currency=currency.upper(),
            status=raw["status"],
            arrival_on=from_unix(raw["arrival_date"]).astimezone(UTC).date(),
            automatic=raw["automatic"],
            failure_code=raw["failure_code"],
            failure_message=raw["failure_message"],
            created_at=from_unix(raw["created"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"payout: {error!r}") from None


def transaction_fact(
    raw: Json, *, account: str, collected_by: BilledBy
) -> BalanceTransactionRecorded:
    """A balance transaction as a fact.

    Args:
        raw: with `source` expanded, where what is behind it may be of another currency.

    Raises:
        UnreadableObjectError: a field is missing.
    """
    try:
        currency = raw["currency"]
        return BalanceTransactionRecorded(
            account=account,
            collected_by=collected_by,
            stripe_balance_transaction_id=raw["id"],
            kind=raw["type"],
            source_id=id_of(raw["source"]),
            amount_minor=from_stripe(raw["amount"], currency).amount_minor,
            fee_minor=from_stripe(raw["fee"], currency).amount_minor,
            net_minor=from_stripe(raw["net"], currency).amount_minor,
            currency=currency.upper(),
            created_at=from_unix(raw["created"]),
            available_at=from_unix(raw["available_on"]),
            reporting_category=raw.get("reporting_category"),
            application_fee_minor=_application_fee(raw),
            **_exchanged(raw),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UnreadableObjectError(f"balance transaction: {error!r}") from None


def _application_fee(raw: Json) -> int:
    """The platform's part of the fee, or of what comes back of it."""
    fees = [each for each in raw.get("fee_details") or () if each["type"] == "application_fee"]
    return sum(from_stripe(each["amount"], raw["currency"]).amount_minor for each in fees)


def _exchanged(raw: Json) -> dict[str, Any]:
    """What moved in the payment's or refund's own currency, where that is not the balance's."""
    source = raw["source"]
    if not isinstance(source, Mapping) or source.get("object") not in ("charge", "refund"):
        return {}
    currency = source["currency"]
    if currency == raw["currency"]:
        return {}
    captured = source["object"] == "charge" and source["captured"]
    amount = from_stripe(source["amount_captured" if captured else "amount"], currency)
    rate = raw.get("exchange_rate")
    return {
        "source_amount_minor": amount.amount_minor if raw["amount"] >= 0 else -amount.amount_minor,
        "source_currency": currency.upper(),
        # JSON knows no decimals; the shortest text of a float is what Stripe wrote.
        "exchange_rate": None if rate is None else Decimal(str(rate)),
    }


def source_of(transaction: Json) -> tuple[str, str] | None:
    """(type, id) of the mirrored object that moved the money, where it was expanded.

    It leads to the object should the object's own events have been lost.
    """
    source: Any = transaction.get("source")
    if not isinstance(source, dict):
        return None
    kind, object_id = source.get("object"), id_of(source)
    if kind == "charge":
        intent_id = id_of(source.get("payment_intent"))
        kind, object_id = ("payment_intent", intent_id) if intent_id else (kind, object_id)
    if kind not in MOVERS or object_id is None:
        return None
    return kind, object_id


MOVERS = frozenset({"charge", "dispute", "payment_intent", "payout", "refund"})
