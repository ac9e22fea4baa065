"""The API's answers that the pages of the ledger read."""

from datetime import datetime

from pydantic import Field

from services.console.shapes import Answer


class BalanceRow(Answer):
    """An account's sums."""

    account: str
    currency: str
    debit_minor: int
    credit_minor: int


class BalanceTotal(Answer):
    """The sums of a currency; the two sides are equal in a book that is right."""

    currency: str
    debit_minor: int
    credit_minor: int


class TrialBalance(Answer):
    """The trial balance of a book."""

    rows: list[BalanceRow]
    totals: list[BalanceTotal]


class Posting(Answer):
    """One side of a journal entry."""

    account: str
    side: str
    amount_minor: int
    currency: str


class Entry(Answer):
    """A journal entry; `source_key` is the money fact that it books."""

    id: str
    source_key: str
    tenant_id: str | None = None
    effective_at: datetime
    booked_at: datetime
    rule: str
    rule_version: int = 1
    reverses: str | None = None
    belongs_to: str | None = None
    chain_seq: int
    postings: list[Posting]


class AccountRow(Answer):
    """An account of a book in one currency: what stands on it, and what of it is held."""

    account: str
    currency: str
    balance_minor: int
    held_minor: int = 0
    available_minor: int | None = None


class AccountAmount(Answer):
    """What stands on an account in one currency, and what of it is held."""

    currency: str
    balance_minor: int
    held_minor: int = 0
    available_minor: int | None = None


class AccountBalance(Answer):
    """An account and what stands on it; positive on its normal side."""

    account: str
    type: str
    normal_side: str
    balances: list[AccountAmount]


class StatementLine(Answer):
    """A posting of an account, with the balance after it."""

    account_seq: int
    entry_id: str
    source_key: str
    rule: str
    reverses: str | None = None
    effective_at: datetime
    booked_at: datetime
    side: str
    amount_minor: int
    balance_after_minor: int


class PeriodStep(Answer):
    """A closing or reopening of a month."""

    kind: str
    taken_at: datetime
    taken_by: str
    reason: str | None = None
    chain_seq: int | None = None


class Period(Answer):
    """A month of a book that was closed, at least once."""

    tenant_id: str
    book: str
    period: str
    state: str
    steps: list[PeriodStep]


class Hold(Answer):
    """An amount that is held, or was."""

    id: str
    tenant_id: str
    key: str
    account: str
    currency: str
    amount_minor: int
    captured_minor: int
    remaining_minor: int
    state: str
    placed_at: datetime
    expires_at: datetime


class StripeBalance(Answer):
    """What Stripe holds in a currency, and what the books say it does."""

    currency: str
    stripe_minor: int
    ledger_minor: int
    unexplained_minor: int = 0
    held_since: datetime | None = None
    suspense_since: datetime | None = None


class Reconciliation(Answer):
    """A comparison of a Stripe account with the books."""

    id: str
    tenant_id: str
    account: str
    from_: datetime = Field(alias="from")
    to: datetime
    state: str
    error: str | None = None
    requested_by: str | None = None
    started_at: datetime
    ended_at: datetime | None = None
    lines: int
    entries: int
    matched: int
    waiting: int
    breaks_found: int
    breaks_resolved: int
    balances: tuple[StripeBalance, ...] = ()


class Proposal(Answer):
    """How a break can be repaired."""

    action: str
    transactions: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    book: str | None = None
    postings: tuple[Posting, ...] = ()


class BreakChange(Answer):
    """Something that happened to a break."""

    at: datetime
    change: str
    actor: str | None = None
    detail: str | None = None


class Break(Answer):
    """A difference between Stripe and the books; `history` comes with a single one."""

    id: str
    tenant_id: str
    account: str
    kind: str
    reference: str
    state: str
    currency: str
    stripe_minor: int
    ledger_minor: int
    difference_minor: int
    occurred_at: datetime
    found_at: datetime
    last_found_at: datetime
    age_seconds: int
    times_found: int
    owner: str | None = None
    reason: str | None = None
    transactions: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()
    proposal: Proposal | None = None
    history: tuple[BreakChange, ...] = ()

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing left to decide."""
        return self.state == "resolved"


BREAK_KINDS = {
    "missing_in_ledger": "Stripe lists it, and the books have nothing of it.",
    "missing_at_stripe": "The books have it, and Stripe does not list it.",
    "amount": "Both have it, with different amounts.",
    "currency": "Both have it, in different currencies.",
    "duplicate": "The books have it more than once.",
    "late_fee": "The payment is booked, its fee is not.",
    "unknown_type": "It went to suspense: no rule knows what it is.",
    "timing": "The books have it at another time than Stripe.",
    "balance": "What Stripe holds is not what the books say, and no movement explains it.",
}

REPAIRS = {
    "tell_again": "Have the facts told again: the rules book what is missing, and nothing twice.",
    "reverse": "Take these entries back.",
    "adjust": "Book the difference against suspense.",
    "clear_suspense": "Move the money from suspense to the account where it belongs.",
    "acknowledge": "Book nothing, and let it be known.",
}
