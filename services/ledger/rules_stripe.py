"""Rules of what moves a Stripe account's balance: fees, refunds, disputes, payouts, exchange.

The clearing account of an account moves by exactly the net of each balance transaction, so that it
stands at Stripe's balance. The gross of a payment is the payment's own (`payment_succeeded`).
"""

from collections.abc import Mapping
from decimal import Decimal

from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.stripe_sync import BalanceTransactionRecorded, DisputeChanged
from libs.money import multiply, round_half_even
from services.ledger import chart
from services.ledger.chart import Account
from services.ledger.entries import ContradictoryFactError, Entry, Line, credit, debit, entry

SUSPENSE_RULE = "suspense"
"""Of movements whose kind no rule knows."""

GROSS_BOOKED_BY_PAYMENT = frozenset({"charge", "payment"})
"""Kinds whose gross is `PaymentSucceeded`'s: of the balance transaction only the fee is booked."""

COUNTERPART_OF_KIND: Mapping[str, Account] = {
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

COUNTERPART_SINCE_CATEGORIES: Mapping[str, Account] = {"stripe_fx_fee": chart.STRIPE_FEES}
"""The same of kinds that rules know since the category is told: before, they went to suspense."""

COUNTERPART_OF_ADJUSTMENT: Mapping[str, Account] = {
    "dispute": chart.DISPUTES,
    "dispute_reversal": chart.DISPUTES,
    "refund_failure": chart.REFUNDS,
    "fee": chart.STRIPE_FEES,
}
"""The same of `adjustment`, which is many things, by Stripe's `reporting_category`.

Source: https://docs.stripe.com/reports/reporting-categories.
"""

OF_DISPUTES = frozenset({"dispute", "dispute_reversal"})


def balance_transaction(fact: BalanceTransactionRecorded) -> Entry | None:
    """A movement of a Stripe account's balance: the clearing account moves by exactly its net.

    Of a charge the gross is booked by `payment_succeeded`, here its fee alone. What was paid in
    another currency than the balance's is exchanged by way of the trading account. What no rule knows
    goes to suspense in full, never past the books.

    Raises:
        ContradictoryFactError: net is not amount less fee.
    """
    if fact.net_minor != fact.amount_minor - fact.fee_minor:
        raise ContradictoryFactError(
            f"{fact.stripe_balance_transaction_id}: net {fact.net_minor} is not "
            f"{fact.amount_minor} less {fact.fee_minor}"
        )
    key = f"balance_transaction:{fact.account}:{fact.stripe_balance_transaction_id}"
    # Facts of before the category was told are booked as they were then.
    version = 1 if fact.reporting_category is None else 2
    if fact.kind in GROSS_BOOKED_BY_PAYMENT:
        clearing = chart.clearing(fact.account)
        lines = [*_exchanged(clearing, fact), *_fee_lines(fact)]
        return entry(fact.collected_by, key, "stripe_fee", lines, rule_version=version)
    counterpart = _counterpart(fact)
    if counterpart is None:
        lines = _moved(chart.SUSPENSE, fact, fact.net_minor)
        return entry(fact.collected_by, key, SUSPENSE_RULE, lines, rule_version=version)
    gross = _exchanged(counterpart, fact) if counterpart is chart.REFUNDS else []
    lines = [*(gross or _moved(counterpart, fact, fact.amount_minor)), *_fee_lines(fact)]
    rule = f"balance_transaction_{fact.kind}"
    return entry(fact.collected_by, key, rule, lines, rule_version=version)


def dispute_changed(fact: DisputeChanged) -> Entry | None:
    """A dispute that is lost: what was withdrawn is lost for good, and the dispute open no more.

    Dr disputes lost; Cr disputes, by what is lost more than when it was last told, or less: some of it
    may come back, and all of it when the dispute is won after all. Opening and winning it move the
    balance, and are booked by that. Of before the loss was told, what a lost one had withdrawn.
    """
    lost = fact.lost_minor
    if lost is None:
        lost = fact.withdrawn_minor if fact.status == "lost" else None
    more = (lost or 0) - (fact.lost_before_minor or 0)
    if not more or fact.withdrawn_currency is None:
        return None
    key = f"dispute:{fact.account}:{fact.stripe_dispute_id}:lost"
    return entry(
        fact.collected_by,
        key if fact.lost_before_minor is None else f"{key}:{fact.version}",
        "dispute_lost",
        [
            debit(chart.DISPUTES_LOST, more, fact.withdrawn_currency),
            credit(chart.DISPUTES, more, fact.withdrawn_currency),
        ],
    )


def payout_allocated(fact: PayoutAllocated) -> Entry | None:
    """What of a payout of the platform's account was a tenant's money: it left with that tenant's books.

    Dr bank, Cr clearing by the share; the platform, whose movement the payout is, the other way round
    by the shares of all others. So over all tenants nothing moves.
    """
    moved = fact.share_minor - fact.booked_minor
    key = f"payout_allocated:{fact.account}:{fact.stripe_payout_id}"
    return entry(
        "platform",
        f"{key}:taken_back" if fact.taken_back else key,
        "payout_allocated",
        [
            debit(chart.BANK, moved, fact.currency),
            credit(chart.clearing(fact.account), moved, fact.currency),
        ],
    )


def _counterpart(fact: BalanceTransactionRecorded) -> Account | None:
    if fact.reporting_category is None:
        return COUNTERPART_OF_KIND.get(fact.kind)
    if fact.kind == "adjustment":
        return COUNTERPART_OF_ADJUSTMENT.get(fact.reporting_category)
    return COUNTERPART_OF_KIND.get(fact.kind) or COUNTERPART_SINCE_CATEGORIES.get(fact.kind)


def _moved(counterpart: Account, fact: BalanceTransactionRecorded, amount_minor: int) -> list[Line]:
    """The clearing account against another, in the direction of the sign."""
    return [
        debit(chart.clearing(fact.account), amount_minor, fact.currency),
        credit(counterpart, amount_minor, fact.currency),
    ]


def _exchanged(counterpart: Account, fact: BalanceTransactionRecorded) -> list[Line]:
    """The counterpart in its own currency, the clearing account in the balance's, trading between.

    Nothing where both are of one currency.
    """
    if fact.source_currency is None or fact.source_amount_minor is None:
        return []
    source, balance = fact.source_currency, fact.currency
    at_rate = _at_rate(fact, fact.source_amount_minor)
    return [
        credit(counterpart, fact.source_amount_minor, source),
        debit(chart.CURRENCY_TRADING, fact.source_amount_minor, source),
        credit(chart.CURRENCY_TRADING, at_rate, balance),
        credit(chart.ROUNDING, fact.amount_minor - at_rate, balance),
        debit(chart.clearing(fact.account), fact.amount_minor, balance),
    ]


def _at_rate(fact: BalanceTransactionRecorded, source_amount_minor: int) -> int:
    """What Stripe's rate makes of the amount, where that is within a minor unit of what it booked.

    The rate is printed to a few digits, so that of a large amount it says less than the amount.
    """
    if fact.exchange_rate is None:
        return fact.amount_minor
    exact = multiply(Decimal(source_amount_minor), fact.exchange_rate)
    at_rate = round_half_even(exact)
    return at_rate if abs(at_rate - fact.amount_minor) <= 1 else fact.amount_minor


def _fee_lines(fact: BalanceTransactionRecorded) -> list[Line]:
    fees = chart.DISPUTE_FEES if fact.reporting_category in OF_DISPUTES else chart.STRIPE_FEES
    platforms = fact.application_fee_minor
    return [
        *_moved(fees, fact, platforms - fact.fee_minor),
        *_moved(chart.APPLICATION_FEES, fact, -platforms),
    ]
