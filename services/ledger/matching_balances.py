"""What a run looks at when every movement is judged: payouts, and the balance as a whole. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from libs.clock import format_time
from libs.db.pool import Row
from services.ledger.matching import BALANCE_REFERENCE, Finding, Proposal, Sums, adjustment
from services.ledger.store_matching import Run

ARRIVES_WITHIN = timedelta(days=3)
"""A payout that is not at the bank so long after it was expected is late."""
LEAVES_WITHIN = timedelta(days=14)
"""What an automatic payout is made of came at most so long before it."""
LISTED_AT_ONCE = timedelta(minutes=10)
"""Balances are compared where the list ends so shortly before the balance was asked for."""

ACKNOWLEDGE = Proposal(action="acknowledge")


@dataclass(frozen=True)
class Balance:
    """What Stripe holds in a currency, and the clearing accounts.

    Attributes:
        unexplained_minor: what Stripe holds more than the movements and the books before them explain.
    """

    currency: str
    stripe_minor: int
    ledger_minor: int
    unexplained_minor: int

    def as_json(
        self, held_since: datetime | None, suspense_since: datetime | None
    ) -> dict[str, Any]:
        """For the run's row; since when the oldest of it, and of what is in suspense, has stood there."""
        return asdict(self) | {
            "held_since": format_time(held_since) if held_since else None,
            "suspense_since": format_time(suspense_since) if suspense_since else None,
        }


def compare(
    at_stripe: Sequence[Mapping[str, Any]],
    listed: Sums,
    booked: Sums,
    opening: Sums,
    unlisted: Sums,
) -> list[Balance]:
    """The balances of an account by currency.

    Args:
        at_stripe: available and pending, as the statement has them.
        listed, booked: sums of what was gathered of both sides.
        opening: what stood on the clearing accounts before.
        unlisted: of `booked`, what need not be in the list.
    """
    held = {each["currency"]: each["available_minor"] + each["pending_minor"] for each in at_stripe}
    return [
        Balance(
            currency=code,
            stripe_minor=held.get(code, 0),
            ledger_minor=opening.get(code, 0) + booked.get(code, 0),
            unexplained_minor=held.get(code, 0)
            - opening.get(code, 0)
            - listed.get(code, 0)
            - unlisted.get(code, 0),
        )
        for code in sorted({*held, *booked, *opening})
    ]


def findings(
    run: Run, balances: Sequence[Balance], before: Sequence[Mapping[str, Any]], now: datetime
) -> list[Finding]:
    """Balances that no movement explains, in two runs after each other the same.

    What moved between the list and the balance shows once: the next run has it in the list.

    Args:
        before: the balances that the run before found.
    """
    last = {each["currency"]: each["unexplained_minor"] for each in before}
    return [
        Finding(
            kind="balance",
            reference=f"{BALANCE_REFERENCE}{each.currency}",
            currency=each.currency,
            stripe_minor=each.stripe_minor,
            ledger_minor=each.stripe_minor - each.unexplained_minor,
            occurred_at=now,
            proposal=adjustment(
                run.account,
                {each.currency: each.unexplained_minor},
                {},
                tenant_id=run.tenant_id,
                book=run.book,
            ),
        )
        for each in balances
        if each.unexplained_minor and last.get(each.currency) == each.unexplained_minor
    ]


def payout_findings(payouts: Sequence[Row], gone: Sequence[Row]) -> list[Finding]:
    """What is wrong with payouts.

    Args:
        payouts: those that differ from their balance transaction, their contents or their day.
        gone: (currency, excess_minor) of movements that Stripe lists no more: a payout that was made
            of one is no second break.
    """
    return [found for payout in payouts if (found := _payout_finding(payout, gone)) is not None]


def _payout_finding(payout: Row, gone: Sequence[Row]) -> Finding | None:
    amount, currency = payout["amount_minor"], payout["currency"]
    listed, made_of = payout["listed_minor"], payout["made_of_minor"]
    transaction = payout["stripe_balance_transaction_id"]

    def finding(kind: Any, ledger_minor: int) -> Finding:
        return Finding(
            kind=kind,
            reference=payout["stripe_payout_id"],
            currency=currency,
            stripe_minor=amount,
            ledger_minor=ledger_minor,
            occurred_at=payout["created_at"],
            transactions=(transaction,) if transaction else (),
            proposal=ACKNOWLEDGE,
        )

    if listed is not None and payout["listed_currency"] != currency:
        return finding("currency", 0)
    if listed is not None and listed != amount:
        return finding("amount", listed)
    if made_of is not None and made_of != amount:
        missing = [each["excess_minor"] for each in gone if each["currency"] == currency]
        if amount - made_of not in {*missing, sum(missing)}:
            return finding("amount", made_of)
    return finding("timing", 0) if payout["overdue"] else None
