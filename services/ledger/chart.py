"""The chart of accounts: what may be booked on, of which type, with which normal side.

A code begins with its type, so that lists sort as a balance sheet reads. Each Stripe account has a
clearing account of its own, which stands at what Stripe holds of it: available and pending. What a
book opens for itself stands under `own`, so that no account of the chart to come has the same code;
the code alone says an account's type and normal side.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, cast

AccountType = Literal["asset", "liability", "equity", "revenue", "expense"]
Side = Literal["debit", "credit"]

_NORMAL_SIDES: dict[AccountType, Side] = {
    "asset": "debit",
    "expense": "debit",
    "liability": "credit",
    "equity": "credit",
    "revenue": "credit",
}


class UnknownAccountError(ValueError):
    """Not an account of the chart."""


@dataclass(frozen=True)
class Account:
    """An account of the chart.

    Attributes:
        code: its name in every book, e.g. `asset:receivable`.
        normal_side: the side that increases it.
        purpose: what it holds, for readers of the books.
    """

    code: str
    type: AccountType
    normal_side: Side
    purpose: str


def _account(
    account_type: AccountType, name: str, purpose: str, *, contra: bool = False
) -> Account:
    side = _NORMAL_SIDES[account_type]
    other: Side = "credit" if side == "debit" else "debit"
    return Account(f"{account_type}:{name}", account_type, other if contra else side, purpose)


RECEIVABLE = _account("asset", "receivable", "Invoiced and not yet paid.")
BANK = _account(
    "asset",
    "bank",
    "Paid out by Stripe to the bank, brought in from there, or paid without Stripe.",
)
CUSTOMER_CREDITS = _account(
    "liability", "customer_credits", "Credit that customers hold and later invoices use up."
)
UNAPPLIED_PAYMENTS = _account(
    "liability", "unapplied_payments", "Money received that pays no invoice yet."
)
DEFERRED_REVENUE = _account(
    "liability", "deferred_revenue", "Invoiced for a time that has not passed yet."
)
TAX_PAYABLE = _account("liability", "tax_payable", "Tax invoiced, owed to tax offices.")
SUSPENSE = _account(
    "liability", "suspense", "Money that Stripe reports and no rule knows; must return to zero."
)
CURRENCY_TRADING = _account(
    "equity", "currency_trading", "Exchanged between currencies: each side in its own."
)
OPENING_BALANCES = _account(
    "equity", "opening_balances", "What Stripe held of an account when it was connected."
)
REVENUE_FLAT = _account("revenue", "flat", "Fees per period.")
REVENUE_USAGE = _account("revenue", "usage", "Metered usage.")
REVENUE_PRORATION = _account("revenue", "proration", "Parts of periods after a change of plan.")
REVENUE_APPLICATION_FEES = _account(
    "revenue", "application_fees", "The platform's share of payments on connected accounts."
)
REFUNDS = _account("revenue", "refunds", "Given back to payers: reduces revenue.", contra=True)
STRIPE_FEES = _account("expense", "stripe_fees", "What Stripe charges.")
APPLICATION_FEES = _account(
    "expense", "application_fees", "The platform's share of payments on this account."
)
DISPUTES = _account(
    "expense", "disputes", "Withdrawn by payers' banks and not decided: what is open shows here."
)
DISPUTES_LOST = _account("expense", "disputes_lost", "Withdrawn by payers' banks for good.")
DISPUTE_FEES = _account("expense", "dispute_fees", "What Stripe charges for disputes.")
BAD_DEBTS = _account("expense", "bad_debts", "Invoiced, and not expected to be paid any more.")
BAD_DEBTS_RECOVERED = _account(
    "expense", "bad_debts_recovered", "Written off, and owed again after all.", contra=True
)
ROUNDING = _account(
    "expense", "rounding", "What an exchange rate leaves over: a minor unit at most each time."
)
CREDITS_GRANTED = _account("expense", "credits_granted", "Credit given away.")
CREDITS_EXPIRED = _account(
    "expense", "credits_expired", "Credit given away that expired unused.", contra=True
)

FIXED: tuple[Account, ...] = (
    RECEIVABLE,
    BANK,
    CUSTOMER_CREDITS,
    UNAPPLIED_PAYMENTS,
    DEFERRED_REVENUE,
    TAX_PAYABLE,
    SUSPENSE,
    CURRENCY_TRADING,
    OPENING_BALANCES,
    REVENUE_FLAT,
    REVENUE_USAGE,
    REVENUE_PRORATION,
    REVENUE_APPLICATION_FEES,
    REFUNDS,
    STRIPE_FEES,
    APPLICATION_FEES,
    DISPUTES,
    DISPUTES_LOST,
    DISPUTE_FEES,
    BAD_DEBTS,
    BAD_DEBTS_RECOVERED,
    ROUNDING,
    CREDITS_GRANTED,
    CREDITS_EXPIRED,
)
"""The accounts of every book; clearing accounts come with the Stripe accounts."""

_BY_CODE = {account.code: account for account in FIXED}
FIXED_CODES = frozenset(_BY_CODE)
_CLEARING = "stripe_clearing:"
_STRIPE_ACCOUNT = re.compile(r"[A-Za-z0-9_]{1,100}")
REMEMBERED = 4_096

OWN_NAME = r"[a-z0-9_]{1,40}(?::[a-z0-9_]{1,40}){0,3}"
"""How an account may be called that a book opens for itself: words, up to four deep."""

_OWN = re.compile(rf"(asset|liability|equity|revenue|expense):(own|own_contra):({OWN_NAME})")


@lru_cache(maxsize=REMEMBERED)
def clearing(stripe_account: str) -> Account:
    """The clearing account of a Stripe account (`acct_…`, or `platform`).

    Raises:
        UnknownAccountError: that is no Stripe account's id.
    """
    if _STRIPE_ACCOUNT.fullmatch(stripe_account) is None:
        raise UnknownAccountError("a Stripe account's id holds letters, digits and underscores")
    return _account("asset", _CLEARING + stripe_account, "What Stripe holds of this account.")


def own(account_type: AccountType, name: str, *, contra: bool = False) -> Account:
    """An account that a book opens for itself.

    Args:
        contra: its normal side is the other one than its type's.

    Raises:
        UnknownAccountError: no account may be called so.
    """
    if re.fullmatch(OWN_NAME, name) is None:
        raise UnknownAccountError("an account's name holds words of small letters and digits")
    place = "own_contra" if contra else "own"
    return _account(account_type, f"{place}:{name}", "Opened for this book alone.", contra=contra)


@lru_cache(maxsize=REMEMBERED)
def named(code: str) -> Account:
    """The account of this code.

    Raises:
        UnknownAccountError: the chart has no such account.
    """
    if code in _BY_CODE:
        return _BY_CODE[code]
    opened = _OWN.fullmatch(code)
    if opened is not None:
        account_type = cast("AccountType", opened[1])
        return own(account_type, opened[3], contra=opened[2] == "own_contra")
    prefix = f"asset:{_CLEARING}"
    if code.startswith(prefix):
        return clearing(code.removeprefix(prefix))
    raise UnknownAccountError(f"the chart of accounts has no {code[:100]!r}")
