"""Events of the ledger: what was posted, what is wanted of others, and what comparing books found."""

from datetime import date
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime

from libs.contracts.billing import Part
from libs.contracts.envelope import Fact

Book = Literal["platform", "tenant"]


class PostedLine(Part):
    """One posting: a side of an account, in minor units, always positive."""

    account: str
    side: Literal["debit", "credit"]
    amount_minor: int
    currency: str


class JournalEntryPosted(Fact):
    """A balanced journal entry exists and will never change.

    Attributes:
        source_key: the money fact it books; unique per tenant, mode and book.
        reverses: the entry that it takes back.
        belongs_to: the closed month (`2026-03`) of a fact that came late; it is booked at the first
            moment that was open.
        true_effective_at: when the late fact held.
    """

    entry_id: UUID
    book: Book
    source_key: str
    booked_at: AwareDatetime
    postings: tuple[PostedLine, ...]
    reverses: UUID | None = None
    belongs_to: str | None = None
    true_effective_at: AwareDatetime | None = None


class ReverseEntry(Fact):
    """An entry is to be taken back; its `effective_at` is that of the reversal.

    The ledger books it in the transaction that tells of it, and passes over what it booked: the
    command is there for books that are made of their topics anew.

    Attributes:
        source_key: of the entry to take back, which may be booked later than this is read.
        reversal_id: the id of the entry that takes it back.
        reason: as it stands in the audit log, without secrets and personal data.
    """

    book: Book
    source_key: str
    reversal_id: UUID
    booked_at: AwareDatetime
    reason: str
    actor: str


class PostEntry(Fact):
    """An entry is to be booked; its `effective_at` is that of the entry.

    The ledger books it in the transaction that tells of it, and passes over what it booked: the
    command is there for books that are made of their topics anew.

    Attributes:
        entry_id, source_key, booked_at: of the entry.
        metadata: the caller's own words, without secrets and personal data.
    """

    entry_id: UUID
    book: Book
    source_key: str
    booked_at: AwareDatetime
    postings: tuple[PostedLine, ...]
    metadata: dict[str, str]
    actor: str


class OpenAccount(Fact):
    """A book is to have an account of its own; its code says type and normal side.

    Attributes:
        purpose: what it is for, without secrets and personal data.
    """

    book: Book
    account: str
    purpose: str
    opened_at: AwareDatetime
    actor: str


class RecognizeRevenue(Fact):
    """A month's part of a line that was invoiced in advance is earned; `effective_at` says since when.

    The ledger tells it when the month is over by the tenant's business clock, and books it when it
    reads it: so books that are made of their topics anew hold it as well.

    Attributes:
        kind: of the line, which says what revenue it is.
        month: its first day.
        revision: 0 as invoiced. What a credit note or a void changes has the number of that, and is
            told as a difference.
        amount_minor: negative where revenue is taken back.
    """

    book: Book
    invoice_id: UUID
    line_id: UUID
    kind: Literal["flat", "proration"]
    month: date
    revision: int
    amount_minor: int
    currency: str


class LedgerHeadAnchored(Fact):
    """How far the chain of a book reached at a time.

    The ledger cannot change what it told: a book that lacks the entry, or has another hash there,
    was changed since.

    Attributes:
        chain_seq: number of the last entry.
        chain_hash: hex of that entry's hash.
    """

    book: Book
    chain_seq: int
    chain_hash: str
    anchored_at: AwareDatetime


class StatementRequested(Fact):
    """The ledger wants an account's balance transactions and payouts listed afresh from Stripe.

    Attributes:
        account: `acct_…`, or `platform` (then the request is the platform's).
        listed_from, listed_to: by Stripe's time of creation; the end is not included.
    """

    statement_id: UUID
    account: str
    listed_from: AwareDatetime
    listed_to: AwareDatetime


BreakKind = Literal[
    "missing_in_ledger",
    "missing_at_stripe",
    "amount",
    "currency",
    "duplicate",
    "late_fee",
    "unknown_type",
    "timing",
    "balance",
]
"""How Stripe and the books can differ."""


class TellTransactionsAgain(Fact):
    """The ledger misses facts about money that Stripe lists: stripe_sync is to tell them again.

    Attributes:
        transactions: balance transactions whose `BalanceTransactionRecorded` is missing.
        charges: charges whose `PaymentSucceeded` is missing.
        invoices: Stripe's invoices whose payments are missing.
    """

    request_id: UUID
    account: str
    transactions: tuple[str, ...]
    charges: tuple[str, ...]
    invoices: tuple[str, ...] = ()


class BreakFound(Fact):
    """Stripe and the books differ, or differ again, and somebody is to look.

    Attributes:
        reference: Stripe's id of the payment, movement, payout or invoice.
        stripe_minor, ledger_minor: what each side says; of an invoice the former is billing's word.
    """

    break_id: UUID
    account: str
    kind: BreakKind
    reference: str
    currency: str
    stripe_minor: int
    ledger_minor: int
    found_at: AwareDatetime


class BreakResolved(Fact):
    """A difference is no more: a reconciliation did not find it again."""

    break_id: UUID
    account: str
    kind: BreakKind
    reference: str
    resolved_at: AwareDatetime


class ReconciliationCompleted(Fact):
    """A Stripe account was compared with the books.

    Attributes:
        matched_count: movements on which both agree.
        waiting_count: movements too new to call what differs a break.
        breaks_found: differences, those known before included.
    """

    reconciliation_id: UUID
    account: str
    listed_from: AwareDatetime
    listed_to: AwareDatetime
    matched_count: int
    waiting_count: int
    breaks_found: int
    breaks_resolved: int
    completed_at: AwareDatetime
