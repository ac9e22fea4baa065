"""The posting rules: one pure function per money fact.

A rule names the fact by its business key, so that a fact is booked once however often and by
whichever event it is told. Rules need nothing but the fact, so they need no order between topics.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from libs.contracts.billing import CreditGranted, InvoiceFinalized
from libs.contracts.envelope import Fact
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    OutsidePaymentRecorded,
    PaymentSucceeded,
)
from services.ledger import chart
from services.ledger.chart import Account
from services.ledger.entries import Entry, Line, credit, debit, entry

log = structlog.get_logger()

REVENUE_OF_LINE: dict[str, Account] = {
    "flat": chart.REVENUE_FLAT,
    "usage": chart.REVENUE_USAGE,
    "proration": chart.REVENUE_PRORATION,
}

SUSPENSE_RULE = "suspense"
"""Of movements whose kind no rule knows."""

GROSS_BOOKED_BY_PAYMENT = frozenset({"charge", "payment"})
"""Kinds whose gross is `PaymentSucceeded`'s: of the balance transaction only the fee is booked."""

COUNTERPART_OF_KIND: dict[str, Account] = {
    "refund": chart.REFUNDS,
    "payment_refund": chart.REFUNDS,
    "refund_failure": chart.REFUNDS,
    "payment_failure_refund": chart.REFUNDS,
    "payment_reversal": chart.REFUNDS,
    "adjustment": chart.DISPUTES,
    "payout": chart.BANK,
    "payout_cancel": chart.BANK,
    "payout_failure": chart.BANK,
    "topup": chart.BANK,
    "topup_reversal": chart.BANK,
    "stripe_fee": chart.STRIPE_FEES,
    "tax_fee": chart.STRIPE_FEES,
    "application_fee": chart.REVENUE_APPLICATION_FEES,
    "application_fee_refund": chart.REVENUE_APPLICATION_FEES,
}
"""Where the gross of a balance transaction comes from or goes to, by Stripe's `type`.

Source: https://docs.stripe.com/reports/balance-transaction-types.
"""


class ContradictoryFactError(ValueError):
    """A fact whose amounts do not add up; nobody may book it as it is."""


def invoice_finalized(fact: InvoiceFinalized) -> Entry | None:
    """A final invoice: the customer owes its total, credit is used up, revenue is made by kind.

    Dr receivable total, Dr customer credits applied; Cr revenue per kind of line, Cr tax.

    Raises:
        ContradictoryFactError: lines, credits, tax and total do not add up.
    """
    revenue: dict[str, int] = defaultdict(int)
    for line in fact.lines:
        if line.kind != "credit":
            revenue[line.kind] += line.amount_minor
    earned = sum(revenue.values())
    credits_minor, tax_minor = fact.credits_applied_minor, fact.tax_minor
    if earned + tax_minor != fact.total_minor + credits_minor or credits_minor < 0:
        raise ContradictoryFactError(
            f"invoice {fact.invoice_id}: lines of {earned} and tax of {tax_minor} do not make "
            f"a total of {fact.total_minor} with {credits_minor} of credits"
        )
    lines = [
        debit(chart.RECEIVABLE, fact.total_minor, fact.currency),
        debit(chart.CUSTOMER_CREDITS, credits_minor, fact.currency),
        credit(chart.TAX_PAYABLE, tax_minor, fact.currency),
    ]
    for kind, amount_minor in sorted(revenue.items()):
        lines.append(credit(REVENUE_OF_LINE[kind], amount_minor, fact.currency))
    key = f"invoice:{fact.invoice_id}:finalized"
    return entry(fact.billed_by, key, "invoice_finalized", lines)


def payment_succeeded(fact: PaymentSucceeded) -> Entry | None:
    """Money arrived at Stripe: the gross, on the clearing account.

    Dr Stripe clearing; Cr receivable, or unapplied payments where it pays no invoice.
    """
    paid = chart.RECEIVABLE if fact.stripe_invoice_id else chart.UNAPPLIED_PAYMENTS
    return entry(
        fact.collected_by,
        f"payment:{fact.account}:{fact.stripe_charge_id}",
        "payment_succeeded",
        [
            debit(chart.clearing(fact.account), fact.amount_minor, fact.currency),
            credit(paid, fact.amount_minor, fact.currency),
        ],
    )


def outside_payment(fact: OutsidePaymentRecorded) -> Entry | None:
    """Money arrived at the bank without Stripe.

    Dr bank; Cr receivable, or unapplied payments where it pays no invoice.
    """
    paid = chart.RECEIVABLE if fact.stripe_invoice_id else chart.UNAPPLIED_PAYMENTS
    return entry(
        fact.collected_by,
        f"payment:outside:{fact.payment_id}",
        "payment_outside",
        [
            debit(chart.BANK, fact.amount_minor, fact.currency),
            credit(paid, fact.amount_minor, fact.currency),
        ],
    )


def balance_transaction(fact: BalanceTransactionRecorded) -> Entry | None:
    """A movement of a Stripe account's balance: the clearing account moves by exactly its net.

    Of a charge the gross is booked by `payment_succeeded`, here its fee alone. What no rule knows
    goes to suspense in full, with an error in the log, never past the books.

    Raises:
        ContradictoryFactError: net is not amount less fee.
    """
    if fact.net_minor != fact.amount_minor - fact.fee_minor:
        raise ContradictoryFactError(
            f"{fact.stripe_balance_transaction_id}: net {fact.net_minor} is not "
            f"{fact.amount_minor} less {fact.fee_minor}"
        )
    key = f"balance_transaction:{fact.account}:{fact.stripe_balance_transaction_id}"
    if fact.kind in GROSS_BOOKED_BY_PAYMENT:
        return entry(fact.collected_by, key, "stripe_fee", _fee_lines(fact))
    counterpart = COUNTERPART_OF_KIND.get(fact.kind)
    if counterpart is None:
        log.error(
            "money_in_suspense",
            kind=fact.kind,
            object_id=fact.stripe_balance_transaction_id,
            net_minor=fact.net_minor,
            currency=fact.currency,
        )
        return entry(
            fact.collected_by, key, SUSPENSE_RULE, _moved(chart.SUSPENSE, fact, fact.net_minor)
        )
    lines = [*_moved(counterpart, fact, fact.amount_minor), *_fee_lines(fact)]
    return entry(fact.collected_by, key, f"balance_transaction_{fact.kind}", lines)


def credit_granted(fact: CreditGranted) -> Entry | None:
    """Credit was given away: Dr credits granted, Cr customer credits."""
    return entry(
        fact.billed_by,
        f"credit:{fact.grant_id}:granted",
        "credit_granted",
        [
            debit(chart.CREDITS_GRANTED, fact.amount_minor, fact.currency),
            credit(chart.CUSTOMER_CREDITS, fact.amount_minor, fact.currency),
        ],
    )


def _moved(counterpart: Account, fact: BalanceTransactionRecorded, amount_minor: int) -> list[Line]:
    """The clearing account against another, in the direction of the sign."""
    return [
        debit(chart.clearing(fact.account), amount_minor, fact.currency),
        credit(counterpart, amount_minor, fact.currency),
    ]


def _fee_lines(fact: BalanceTransactionRecorded) -> list[Line]:
    return _moved(chart.STRIPE_FEES, fact, -fact.fee_minor)


RULES: Mapping[type[Fact], Callable[[Any], Entry | None]] = {
    InvoiceFinalized: invoice_finalized,
    PaymentSucceeded: payment_succeeded,
    OutsidePaymentRecorded: outside_payment,
    BalanceTransactionRecorded: balance_transaction,
    CreditGranted: credit_granted,
}
"""The rule of each money fact."""
