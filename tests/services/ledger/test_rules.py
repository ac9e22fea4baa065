"""The posting rules, one money fact each: pure functions."""

from typing import Any

import pytest

from ledger.facts import START, Tenant
from libs.contracts.billing import InvoiceLine
from libs.contracts.stripe_sync import OutsidePaymentRecorded
from libs.ids import new_id
from services.ledger import chart, rules_invoices, rules_payments, rules_stripe
from services.ledger.entries import (
    ContradictoryFactError,
    Entry,
    UnbalancedError,
    credit,
    debit,
    entry,
)

ACME = Tenant()


def told(made: Entry | None) -> list[tuple[str, str, int]]:
    assert made is not None
    return [(line.account.code, line.side, line.amount_minor) for line in made.lines]


def test_an_invoice_with_credit_tax_and_every_kind_of_line() -> None:
    event = ACME.invoice(
        {"flat": 4900, "usage": 1350, "proration": -200}, credits_minor=1000, tax_minor=960
    )
    assert told(rules_invoices.invoice_finalized(event.data)) == [
        ("asset:receivable", "debit", 6010),
        ("liability:customer_credits", "debit", 1000),
        ("liability:tax_payable", "credit", 960),
        ("revenue:flat", "credit", 4900),
        ("revenue:proration", "debit", 200),
        ("revenue:usage", "credit", 1350),
    ]


def test_lines_of_a_kind_make_one_posting() -> None:
    event = ACME.invoice({"usage": 1350})
    more = InvoiceLine(line_id=new_id(), kind="usage", description="late", amount_minor=-350)
    fact = event.data.model_copy(
        update={"lines": (*event.data.lines, more), "total_minor": 1000, "subtotal_minor": 1000}
    )
    assert told(rules_invoices.invoice_finalized(fact)) == [
        ("asset:receivable", "debit", 1000),
        ("revenue:usage", "credit", 1000),
    ]


def test_an_invoice_that_credits_the_customer() -> None:
    assert told(rules_invoices.invoice_finalized(ACME.invoice({"proration": -300}).data)) == [
        ("asset:receivable", "credit", 300),
        ("revenue:proration", "debit", 300),
    ]


@pytest.mark.parametrize("lines", [{}, {"flat": 0}, {"flat": 0, "usage": 0}])
def test_where_no_money_moves_nothing_is_booked(lines: dict[str, int]) -> None:
    assert rules_invoices.invoice_finalized(ACME.invoice(lines).data) is None
    assert rules_payments.payment_succeeded(ACME.payment(0).data) is None
    assert rules_stripe.balance_transaction(ACME.transaction("charge", 100, 0).data) is None


@pytest.mark.parametrize(
    "changes", [{"total_minor": 4899}, {"total_minor": 4901}, {"credits_applied_minor": 5}]
)
def test_an_invoice_that_does_not_add_up(changes: dict[str, Any]) -> None:
    with pytest.raises(ContradictoryFactError):
        rules_invoices.invoice_finalized(ACME.invoice({"flat": 4900}, **changes).data)


def test_a_payment_without_an_invoice_waits_to_be_applied() -> None:
    made = rules_payments.payment_succeeded(
        ACME.payment(700, stripe_invoice_id=None, account="acct_1", collected_by="tenant").data
    )
    assert made is not None
    assert made.book == "tenant"
    assert told(made) == [
        ("asset:stripe_clearing:acct_1", "debit", 700),
        ("liability:unapplied_payments", "credit", 700),
    ]


@pytest.mark.parametrize(
    ("invoice", "applied"),
    [("in_1", "asset:receivable"), (None, "liability:unapplied_payments")],
)
def test_money_that_never_touched_stripe_is_at_the_bank(invoice: str | None, applied: str) -> None:
    fact = OutsidePaymentRecorded(
        payment_id=new_id(),
        collected_by="tenant",
        customer_id=new_id(),
        stripe_invoice_id=invoice,
        amount_minor=700,
        currency="EUR",
        reference="transfer 4711",
        paid_at=START,
    )
    made, again = rules_payments.outside_payment(fact), rules_payments.outside_payment(fact)
    assert made is not None
    assert made == again
    assert made.book == "tenant"
    assert told(made) == [("asset:bank", "debit", 700), (applied, "credit", 700)]


@pytest.mark.parametrize(
    ("kind", "amount_minor", "fee_minor", "counterpart"),
    [
        ("refund", -500, 0, "revenue:refunds"),
        ("payment_refund", -500, 0, "revenue:refunds"),
        ("refund_failure", 500, 0, "revenue:refunds"),
        ("adjustment", -500, 1500, "expense:disputes"),
        ("adjustment", 500, -1500, "expense:disputes"),
        ("payout", -900, 0, "asset:bank"),
        ("payout_failure", 900, 0, "asset:bank"),
        ("stripe_fee", -25, 0, "expense:stripe_fees"),
        ("application_fee", 90, 0, "revenue:application_fees"),
        ("application_fee_refund", -90, 0, "revenue:application_fees"),
    ],
)
def test_the_clearing_account_moves_by_the_net(
    kind: str, amount_minor: int, fee_minor: int, counterpart: str
) -> None:
    fact = ACME.transaction(kind, amount_minor, fee_minor).data
    moved: dict[str, int] = {}
    for account, side, minor in told(rules_stripe.balance_transaction(fact)):
        moved[account] = moved.get(account, 0) + (minor if side == "debit" else -minor)
    assert moved.pop("asset:stripe_clearing:platform") == fact.net_minor
    assert moved.pop(counterpart) == -amount_minor
    assert moved == ({"expense:stripe_fees": fee_minor} if fee_minor else {})


def test_of_a_charge_the_fee_alone_is_booked() -> None:
    assert told(rules_stripe.balance_transaction(ACME.transaction("charge", 4900, 172).data)) == [
        ("asset:stripe_clearing:platform", "credit", 172),
        ("expense:stripe_fees", "debit", 172),
    ]


def test_a_net_that_is_none() -> None:
    with pytest.raises(ContradictoryFactError):
        rules_stripe.balance_transaction(ACME.transaction("refund", -500, net_minor=-499).data)


def test_an_entry_must_balance_in_each_currency() -> None:
    with pytest.raises(UnbalancedError):
        entry("tenant", "k", "trial", [debit(chart.BANK, 5, "EUR"), credit(chart.BANK, 5, "USD")])


def test_the_hash_is_that_of_what_is_booked() -> None:
    paid = ACME.payment(700).data
    first, again = (
        rules_payments.payment_succeeded(paid),
        rules_payments.payment_succeeded(paid.model_copy(update={"payment_id": new_id()})),
    )
    other = rules_payments.payment_succeeded(paid.model_copy(update={"amount_minor": 701}))
    assert first is not None
    assert again is not None
    assert other is not None
    assert first.content_hash == again.content_hash != other.content_hash
    turned = Entry(first.book, first.source_key, first.rule, first.lines[::-1])
    assert turned.content_hash == first.content_hash


def test_the_chart_knows_its_accounts_and_no_others() -> None:
    for account in (*chart.FIXED, chart.clearing("acct_1Nv0")):
        assert chart.named(account.code) == account
        assert account.code.startswith(account.type)
    for code in ("asset:petty_cash", "asset:stripe_clearing:", "asset:stripe_clearing:a b", ""):
        with pytest.raises(chart.UnknownAccountError):
            chart.named(code)
