"""What is said of balance transactions and disputes: exchange, the platform's share, withdrawals."""

from decimal import Decimal
from typing import Any

import pytest

from libs.ids import new_id
from services.stripe_sync.objects import UNTOLD_FIELDS, as_said_now
from services.stripe_sync.objects_money import dispute_fact, transaction_fact, with_loss

CHARGE = {
    "object": "charge",
    "id": "ch_1",
    "amount": 6000,
    "amount_captured": 5000,
    "captured": True,
    "currency": "usd",
}
REFUND = {"object": "refund", "id": "re_1", "amount": 1000, "currency": "usd"}


def transaction(**changes: Any) -> Any:
    raw = {
        "id": "txn_1",
        "type": "charge",
        "source": CHARGE,
        "amount": 4601,
        "fee": 163,
        "net": 4438,
        "fee_details": [
            {"type": "stripe_fee", "amount": 113},
            {"type": "application_fee", "amount": 50},
        ],
        "currency": "eur",
        "exchange_rate": 0.920123,
        "reporting_category": "charge",
        "created": 1_767_225_600,
        "available_on": 1_767_830_400,
    }
    return transaction_fact(raw | changes, account="platform", collected_by="platform")


def exchanged(fact: Any) -> tuple[int | None, str | None, Decimal | None]:
    return fact.source_amount_minor, fact.source_currency, fact.exchange_rate


def test_a_payment_in_another_currency_tells_what_it_was_in_its_own() -> None:
    """What was captured of it; the rate digit by digit as Stripe wrote it."""
    fact = transaction()
    assert exchanged(fact) == (5000, "USD", Decimal("0.920123"))
    assert (fact.source_id, fact.reporting_category) == ("ch_1", "charge")
    assert fact.application_fee_minor == 50


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"source": REFUND, "amount": -920}, (-1000, "USD")),
        ({"source": REFUND, "amount": 920}, (1000, "USD")),
        ({"source": CHARGE | {"captured": False}}, (6000, "USD")),
        ({"source": CHARGE | {"currency": "jpy"}}, (5000, "JPY")),
        ({"source": CHARGE | {"currency": "eur"}}, (None, None)),
        (
            {"source": {"object": "dispute", "id": "du_1", "amount": 1, "currency": "usd"}},
            (None, None),
        ),
        ({"source": "ch_1"}, (None, None)),
        ({"source": None}, (None, None)),
    ],
)
def test_which_movements_are_of_another_currency(changes: Any, expected: Any) -> None:
    assert exchanged(transaction(exchange_rate=None, **changes)) == (*expected, None)


def test_a_share_that_comes_back_is_negative() -> None:
    back = [{"type": "application_fee", "amount": -50}]
    assert transaction(fee_details=back).application_fee_minor == -50
    assert transaction(fee_details=[]).application_fee_minor == 0


def dispute(transactions: Any, **changes: Any) -> Any:
    raw = {
        "id": "du_1",
        "charge": "ch_1",
        "payment_intent": None,
        "amount": 2200,
        "currency": "usd",
        "reason": "fraudulent",
        "status": "needs_response",
        "created": 1_767_225_600,
        "balance_transactions": transactions,
    }
    return dispute_fact(
        raw | changes,
        account="platform",
        collected_by="platform",
        customer_id=new_id(),
        payment_id=None,
        version=1,
    )


@pytest.mark.parametrize(
    ("amounts", "expected"),
    [([], (0, None)), ([-2000], (2000, "EUR")), ([-2000, 2000], (0, "EUR")), (None, (None, None))],
)
def test_what_a_dispute_has_withdrawn(amounts: list[int] | None, expected: Any) -> None:
    moved = None if amounts is None else [{"amount": each, "currency": "eur"} for each in amounts]
    fact = dispute(moved)
    assert (fact.withdrawn_minor, fact.withdrawn_currency) == expected


def test_what_is_lost_by_a_dispute_is_told_with_what_it_was_before() -> None:
    """Lost, seen again, partly brought back, won though Stripe names no movement; what was said before."""
    out, back = {"amount": -4900, "currency": "eur"}, {"amount": 1000, "currency": "eur"}
    said: Any = None
    told = []
    for status, moved in (
        ("needs_response", [out]),
        ("lost", [out]),
        ("lost", [out]),
        ("lost", [out, back]),
        ("won", []),
    ):
        fact: Any = with_loss(dispute(moved, status=status), said)
        seen, said = said, fact.model_dump(mode="json", exclude=UNTOLD_FIELDS)
        seen = seen and {**seen, "customer_id": said["customer_id"]}
        assert (as_said_now(fact, seen) == said) == (len(told) == 2), "seen again, it is not told"
        told.append((fact.lost_before_minor, fact.lost_minor, fact.withdrawn_currency))
    assert told == [
        (None, None, "EUR"),
        (None, 4900, "EUR"),
        (4900, 4900, "EUR"),
        (4900, 3900, "EUR"),
        (3900, 0, "EUR"),
    ]
    earlier = dispute([out], status="lost").model_dump(mode="json", exclude={"lost_minor"})
    again: Any = with_loss(dispute([out, back], status="lost"), earlier)
    assert (again.lost_before_minor, again.lost_minor) == (4900, 3900)
    assert with_loss(None, earlier) is None


def test_a_field_that_is_new_is_no_change_unless_it_says_something() -> None:
    """What an earlier release said lacks the field; of a dispute it says what was withdrawn."""
    nothing, something = dispute(None), dispute([{"amount": -2000, "currency": "eur"}])
    new = {"withdrawn_minor", "withdrawn_currency"}
    said = nothing.model_dump(mode="json", exclude={"version", *new})
    assert as_said_now(nothing, said) == nothing.model_dump(mode="json", exclude=UNTOLD_FIELDS)
    told = something.model_dump(mode="json", exclude=UNTOLD_FIELDS)
    assert as_said_now(something, said | {"customer_id": told["customer_id"]}) != told
    assert as_said_now(nothing, None) is None
