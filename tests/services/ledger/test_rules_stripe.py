"""Rules of what moves a Stripe account's balance: fees that come late, disputes, refunds, exchange."""

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.facts import START, Tenant
from ledger.final_invoices import added, moved
from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.stripe_sync import DisputeChanged
from services.ledger import rules_payments, rules_stripe

ACME = Tenant()
CLEARING = "asset:stripe_clearing:platform EUR"


def transaction(kind: str, amount_minor: int, fee_minor: int = 0, **changes: Any) -> Any:
    """A movement as it is told since its category is."""
    changes.setdefault("reporting_category", kind)
    return ACME.transaction(kind, amount_minor, fee_minor, **changes).data


def dispute(status: str, withdrawn_minor: int | None = 2000, **changes: Any) -> DisputeChanged:
    members: dict[str, Any] = {
        "version": 1,
        "account": "platform",
        "collected_by": "platform",
        "customer_id": ACME.customer_id,
        "payment_id": None,
        "stripe_dispute_id": "du_1",
        "stripe_charge_id": "ch_1",
        "stripe_payment_intent_id": None,
        "amount_minor": 2200,
        "currency": "USD",
        "reason": "fraudulent",
        "status": status,
        "created_at": START,
        "withdrawn_minor": withdrawn_minor,
        "withdrawn_currency": "EUR" if withdrawn_minor else None,
    }
    return DisputeChanged(**(members | changes))


def test_a_fee_that_comes_late_is_an_entry_of_its_own() -> None:
    paid = rules_payments.payment_succeeded(ACME.payment(4900, stripe_charge_id="ch_1").data)
    fee = rules_stripe.balance_transaction(transaction("charge", 4900, 172))
    assert paid is not None
    assert fee is not None
    assert paid.source_key != fee.source_key
    assert added(paid, fee) == {
        CLEARING: 4728,
        "expense:stripe_fees EUR": 172,
        "asset:receivable EUR": -4900,
    }


def withdrawn() -> Any:
    return rules_stripe.balance_transaction(
        transaction("adjustment", -2000, 1500, reporting_category="dispute")
    )


def test_a_dispute_that_is_open_shows() -> None:
    assert moved(withdrawn()) == {
        CLEARING: -3500,
        "expense:disputes EUR": 2000,
        "expense:dispute_fees EUR": 1500,
    }
    assert rules_stripe.dispute_changed(dispute("needs_response")) is None


def test_a_dispute_that_is_won_leaves_its_fee() -> None:
    back = rules_stripe.balance_transaction(
        transaction("adjustment", 2000, reporting_category="dispute_reversal")
    )
    assert rules_stripe.dispute_changed(dispute("won", 0)) is None
    assert added(withdrawn(), back) == {CLEARING: -1500, "expense:dispute_fees EUR": 1500}


def test_a_dispute_that_is_lost_is_open_no_more() -> None:
    """By what was withdrawn in the balance's currency; told once more, it is the same entry."""
    lost = rules_stripe.dispute_changed(dispute("lost"))
    assert added(withdrawn(), lost) == {
        CLEARING: -3500,
        "expense:disputes_lost EUR": 2000,
        "expense:dispute_fees EUR": 1500,
    }
    again = rules_stripe.dispute_changed(dispute("lost", version=7, evidence_due_at=START))
    assert again == lost


def test_a_loss_that_changes_is_told_by_its_differences() -> None:
    """Lost, partly brought back, won after all, lost again: each an entry of its own."""
    told = [
        dispute("lost", 4900, version=2, lost_minor=4900),
        dispute("lost", 3900, version=3, lost_minor=3900, lost_before_minor=4900),
        dispute("won", 0, version=4, lost_minor=0, lost_before_minor=3900),
        dispute("lost", 4900, version=5, lost_minor=4900, lost_before_minor=0),
    ]
    told[2] = told[2].model_copy(update={"withdrawn_currency": "EUR"})
    booked = [rules_stripe.dispute_changed(fact) for fact in told]
    lost = "expense:disputes_lost EUR"
    assert [added(*booked[: count + 1]).get(lost, 0) for count in range(4)] == [4900, 3900, 0, 4900]
    keys = [each.source_key for each in booked if each]
    assert keys == [f"dispute:platform:du_1:lost{more}" for more in ("", ":3", ":4", ":5")]
    # The first is the entry that it was before the loss was told.
    assert booked[0] == rules_stripe.dispute_changed(dispute("lost", 4900))
    assert rules_stripe.dispute_changed(told[1].model_copy(update={"lost_minor": 4900})) is None


@pytest.mark.parametrize("told", [dispute("lost", None), dispute("lost", 0)])
def test_a_lost_dispute_of_which_no_withdrawal_is_told_moves_nothing(told: DisputeChanged) -> None:
    assert rules_stripe.dispute_changed(told) is None


def test_a_refund_that_fails_comes_back() -> None:
    made = rules_stripe.balance_transaction(transaction("refund", -500))
    failed = rules_stripe.balance_transaction(transaction("refund_failure", 500))
    assert moved(made) == {CLEARING: -500, "revenue:refunds EUR": 500}
    assert added(made, failed) == {}


def test_a_payout_that_fails_and_a_top_up() -> None:
    out = rules_stripe.balance_transaction(transaction("payout", -900))
    back = rules_stripe.balance_transaction(
        transaction("payout_failure", 900, reporting_category="payout_reversal")
    )
    assert moved(out) == {CLEARING: -900, "asset:bank EUR": 900}
    assert added(out, back) == {}
    assert moved(rules_stripe.balance_transaction(transaction("topup", 70))) == {
        CLEARING: 70,
        "asset:bank EUR": -70,
    }


@pytest.mark.parametrize("taken_back", [False, True])
def test_the_shares_of_a_payout_move_nothing_over_all_tenants(taken_back: bool) -> None:
    """Two tenants and the platform, whose book the payout itself stands in."""
    sign = -1 if taken_back else 1
    shares = {"platform": 100, "acme": 900, "globex": -50}
    entries = {
        name: rules_stripe.payout_allocated(
            PayoutAllocated(
                account="platform",
                stripe_payout_id="po_1",
                part=number,
                parts=3,
                share_minor=sign * share,
                booked_minor=sign * 950 if name == "platform" else 0,
                currency="EUR",
                taken_back=taken_back,
            )
        )
        for number, (name, share) in enumerate(shares.items(), 1)
    }
    assert moved(entries["acme"]) == {"asset:bank EUR": sign * 900, CLEARING: -sign * 900}
    assert moved(entries["globex"]) == {"asset:bank EUR": -sign * 50, CLEARING: sign * 50}
    assert moved(entries["platform"]) == {"asset:bank EUR": -sign * 850, CLEARING: sign * 850}
    assert added(*entries.values()) == {}


def test_the_platforms_share_of_a_payment_is_no_fee_of_stripes() -> None:
    charged = transaction("charge", 1000, 149, application_fee_minor=90)
    assert moved(rules_stripe.balance_transaction(charged)) == {
        CLEARING: -149,
        "expense:stripe_fees EUR": 59,
        "expense:application_fees EUR": 90,
    }
    refund = transaction("refund", -1000, -90, application_fee_minor=-90)
    assert moved(rules_stripe.balance_transaction(refund)) == {
        CLEARING: -910,
        "revenue:refunds EUR": 1000,
        "expense:application_fees EUR": -90,
    }


def test_an_adjustment_that_is_no_dispute_is_looked_at_by_somebody() -> None:
    made = rules_stripe.balance_transaction(
        transaction("adjustment", -40, reporting_category="other_adjustment")
    )
    assert made is not None
    assert made.rule == rules_stripe.SUSPENSE_RULE
    assert moved(made) == {CLEARING: -40, "liability:suspense EUR": 40}


@pytest.mark.parametrize(
    ("kind", "category", "account"),
    [
        ("adjustment", "dispute", "expense:stripe_fees EUR"),
        ("charge", "charge", "expense:stripe_fees EUR"),
    ],
)
def test_what_was_told_without_a_category_is_booked_as_it_was_then(
    kind: str, category: str, account: str
) -> None:
    """The same key: a replay of what an earlier release booked contradicts nothing."""
    told = ACME.transaction(kind, -500, 15).data
    before = rules_stripe.balance_transaction(told)
    now = rules_stripe.balance_transaction(told.model_copy(update={"reporting_category": category}))
    assert before is not None
    assert now is not None
    assert (before.rule_version, now.rule_version) == (1, 2)
    assert before.source_key == now.source_key
    assert moved(before)[account] == 15


def test_a_payment_in_another_currency_is_exchanged() -> None:
    """Dollars arrive and are owed no more; what Stripe holds of it are euros."""
    paid = rules_payments.payment_succeeded(ACME.payment(5000, currency="USD").data)
    made = rules_stripe.balance_transaction(
        transaction(
            "charge",
            4601,
            163,
            source_amount_minor=5000,
            source_currency="USD",
            exchange_rate=Decimal("0.92"),
        )
    )
    assert added(paid, made) == {
        "asset:receivable USD": -5000,
        "equity:currency_trading USD": 5000,
        "equity:currency_trading EUR": -4600,
        "expense:rounding EUR": -1,
        CLEARING: 4438,
        "expense:stripe_fees EUR": 163,
    }


def test_a_refund_in_another_currency_reduces_revenue_in_that() -> None:
    made = rules_stripe.balance_transaction(
        transaction("refund", -920, source_amount_minor=-1000, source_currency="USD")
    )
    assert moved(made) == {
        "revenue:refunds USD": 1000,
        "equity:currency_trading USD": -1000,
        "equity:currency_trading EUR": 920,
        CLEARING: -920,
    }


def test_where_the_printed_rate_says_too_little_the_amount_counts() -> None:
    told = transaction(
        "charge",
        151_234,
        source_amount_minor=25_000_000,
        source_currency="JPY",
        exchange_rate=Decimal("0.00605"),
    )
    assert moved(rules_stripe.balance_transaction(told))["equity:currency_trading EUR"] == -151_234


@given(
    kind=st.sampled_from([*rules_stripe.COUNTERPART_OF_KIND, "charge", "never_heard_of"]),
    category=st.sampled_from([None, "dispute", "dispute_reversal", "fee", "other_adjustment"]),
    amount=st.integers(-(10**12), 10**12),
    fee=st.integers(-(10**6), 10**6),
    platforms=st.integers(-(10**6), 10**6),
    source=st.one_of(st.none(), st.integers(-(10**12), 10**12)),
    rate=st.one_of(st.none(), st.decimals("0.000001", "20000", places=6)),
)
def test_the_clearing_account_moves_by_the_net_whatever_is_told(
    kind: str,
    category: str | None,
    amount: int,
    fee: int,
    platforms: int,
    source: int | None,
    rate: Decimal | None,
) -> None:
    """Together with the payment's gross; that the entry balances, its making has checked."""
    told = transaction(
        kind,
        amount,
        fee,
        reporting_category=category,
        application_fee_minor=platforms,
        source_amount_minor=source,
        source_currency=None if source is None else "USD",
        exchange_rate=rate,
    )
    net = moved(rules_stripe.balance_transaction(told))
    gross_is_the_payments = kind == "charge" and source is None
    assert net.get(CLEARING, 0) == (-fee if gross_is_the_payments else amount - fee)
    assert abs(net.get("expense:rounding EUR", 0)) <= 1
