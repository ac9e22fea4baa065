"""What a statement is made of, as Stripe lists it: balance transactions and payouts of a time."""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from datetime import datetime

from libs.clock import from_unix
from libs.contracts.stripe_sync import StatementBalance, StatementLine, StatementPayout
from libs.money import from_stripe
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.objects import id_of

PAYOUT_PAGES_MAX = 1_000
"""Of what left with one payout: 100,000 balance transactions."""


@dataclass(frozen=True)
class Slice:
    """What Stripe lists of a time, oldest first.

    Attributes:
        settled: payouts of which Stripe says what left with them.
    """

    lines: Sequence[StatementLine]
    payouts: Sequence[StatementPayout]
    settled: Sequence[str]


async def list_slice(
    api: StripeApi, listed_from: datetime, listed_to: datetime, *, pages_max: int
) -> Slice:
    """List an account's balance transactions and payouts of a time.

    Raises:
        StripeCallError: Stripe did not answer, refused, or there are more pages than that.
        KeyError, MoneyError: an object is not as this API version has it.
    """
    created = {"gte": _whole_seconds_up(listed_from), "lt": _whole_seconds_up(listed_to)}
    lines = await api.list_all(
        "balance_transaction.list",
        "/v1/balance_transactions",
        {"created": created},
        pages_max=pages_max,
    )
    payouts = await api.list_all(
        "payout.list", "/v1/payouts", {"created": created}, pages_max=pages_max
    )
    return Slice(
        [_line(raw) for raw in reversed(lines)],
        [_payout(raw) for raw in reversed(payouts)],
        [raw["id"] for raw in payouts if _is_settled(raw)],
    )


async def left_with(
    api: StripeApi, payouts: Sequence[str]
) -> AsyncGenerator[tuple[str, list[str]]]:
    """Each payout with the balance transactions that left with it.

    Raises:
        StripeCallError: see `list_slice`.
    """
    for payout in payouts:
        lines = await api.list_all(
            "balance_transaction.list",
            "/v1/balance_transactions",
            {"payout": payout},
            pages_max=PAYOUT_PAGES_MAX,
        )
        yield payout, [line["id"] for line in lines]


async def list_balances(api: StripeApi) -> list[StatementBalance]:
    """What Stripe holds of an account now.

    Raises:
        StripeCallError: Stripe did not answer, or refused.
        KeyError, MoneyError: the object is not as this API version has it.
    """
    raw = await api.get("balance.retrieve", "/v1/balance")
    held: dict[str, dict[str, int]] = {}
    for status in ("available", "pending"):
        for entry in raw[status]:
            amount = from_stripe(entry["amount"], entry["currency"])
            by_status = held.setdefault(amount.currency, {})
            by_status[status] = by_status.get(status, 0) + amount.amount_minor
    return [
        StatementBalance(
            currency=currency,
            available_minor=by_status.get("available", 0),
            pending_minor=by_status.get("pending", 0),
        )
        for currency, by_status in sorted(held.items())
    ]


def _is_settled(payout: Json) -> bool:
    """Whether Stripe says what left with a payout.

    It does of payouts that it made by itself, once it has put together what is in them
    (docs.stripe.com/payouts/reconciliation).
    """
    return bool(payout["automatic"]) and payout.get("reconciliation_status") == "completed"


def _whole_seconds_up(at: datetime) -> int:
    """Stripe's times are whole seconds: the first that is not before `at`."""
    return -int(-at.timestamp() // 1)


def _line(raw: Json) -> StatementLine:
    currency = raw["currency"]
    return StatementLine(
        stripe_balance_transaction_id=raw["id"],
        kind=raw["type"],
        source_id=id_of(raw["source"]),
        amount_minor=from_stripe(raw["amount"], currency).amount_minor,
        fee_minor=from_stripe(raw["fee"], currency).amount_minor,
        net_minor=from_stripe(raw["net"], currency).amount_minor,
        currency=currency.upper(),
        created_at=from_unix(raw["created"]),
        available_at=from_unix(raw["available_on"]),
    )


def _payout(raw: Json) -> StatementPayout:
    currency = raw["currency"]
    return StatementPayout(
        stripe_payout_id=raw["id"],
        stripe_balance_transaction_id=id_of(raw["balance_transaction"]),
        amount_minor=from_stripe(raw["amount"], currency).amount_minor,
        currency=currency.upper(),
        status=raw["status"],
        arrival_on=from_unix(raw["arrival_date"]).date(),
    )
