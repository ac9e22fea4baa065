"""One movement of a Stripe account, as Stripe lists it and as the books hold it: do they agree?

Pure functions. A movement is known by its reference: the charge of a payment, whose gross and fee are
booked one by one, else the balance transaction. What both sides say is compared as sums by currency,
so rules may book a movement in as many entries as they like.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict

from libs.contracts.ledger import Book, BreakKind, PostedLine
from services.ledger import chart
from services.ledger.entries import debit
from services.ledger.reversal import reversal_key

Action = Literal["tell_again", "reverse", "adjust", "clear_suspense", "acknowledge"]
Sums = Mapping[str, int]
"""Minor units by currency, without zeros."""

OF_PAYMENTS = frozenset({"charge", "payment"})
"""Kinds of balance transactions whose gross is the payment's own entry, under its charge."""
BALANCE_REFERENCE = "balance_"
"""Begins the reference of a difference between balances, which no balance transaction stands for."""
PAYMENT_KEY, REPAIR_KEY = "payment:", "repair:"
SHARE_KEY = "payout_allocated:"
"""Of whose money a payout was: over all tenants it moves nothing, unless a share is not booked."""


@dataclass(frozen=True)
class Listed:
    """A balance transaction as Stripe lists it; its net is what moves the balance."""

    transaction: str
    kind: str
    currency: str
    gross_minor: int
    fee_minor: int
    net_minor: int
    created_at: datetime


@dataclass(frozen=True)
class Booked:
    """What an entry moves on the clearing account, and on suspense, in one currency.

    Attributes:
        moved_minor: debits less credits of the clearing account.
        suspense_minor: credits less debits of suspense, of money that no rule knew.
    """

    entry_id: UUID
    tenant_id: UUID
    book: Book
    source_key: str
    currency: str
    moved_minor: int
    suspense_minor: int
    booked_at: datetime


@dataclass(frozen=True)
class Movement:
    """Both sides of what has one reference.

    Attributes:
        seen_at: when Stripe made it, where an earlier statement listed it; None: none did.
    """

    reference: str
    listed: tuple[Listed, ...] = ()
    booked: tuple[Booked, ...] = ()
    seen_at: datetime | None = None


@dataclass(frozen=True)
class Extent:
    """The account and time that are compared.

    Attributes:
        statement_from: from when on Stripe's list is at hand.
        listed_from, listed_to: what was booked then must be in the list.
        due_before: what is newer may still be on its way to the other side.
        ours_from: what Stripe moved before is nobody's to book: the account was connected then.
    """

    account: str
    statement_from: datetime
    listed_from: datetime
    listed_to: datetime
    due_before: datetime
    ours_from: datetime | None = None


class Home(BaseModel):
    """Whose entry it is, and of which book."""

    model_config = ConfigDict(frozen=True)

    tenant_id: UUID
    book: Book


class Proposal(BaseModel):
    """How a break can be repaired.

    Attributes:
        transactions, charges, invoices: whose facts are to be told again: only what is not booked.
        action: `tell_again` has stripe_sync tell what is missing, and the rules book it; `reverse`
            takes entries back; `adjust` books a difference against suspense; `clear_suspense` moves
            what is in suspense to an account that whoever accepts it names; `acknowledge` books
            nothing, for nothing is wrong in the books.
        homes: of each of `entries`; on the platform's account they may be of several tenants.
        tenant_id, book: where all `entries` are, or `postings` are booked; None: in several books.
    """

    model_config = ConfigDict(frozen=True)

    action: Action
    transactions: tuple[str, ...] = ()
    charges: tuple[str, ...] = ()
    invoices: tuple[str, ...] = ()
    entries: tuple[UUID, ...] = ()
    homes: tuple[Home, ...] = ()
    tenant_id: UUID | None = None
    book: Book | None = None
    postings: tuple[PostedLine, ...] = ()


@dataclass(frozen=True)
class Finding:
    """A difference, in the currency in which it is said.

    Attributes:
        kind, reference: its business key within the account.
        occurred_at: when Stripe made the movement, else when it was booked.
    """

    kind: BreakKind
    reference: str
    currency: str
    stripe_minor: int
    ledger_minor: int
    occurred_at: datetime
    transactions: tuple[str, ...] = ()
    entries: tuple[UUID, ...] = ()
    proposal: Proposal | None = None


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a movement.

    Attributes:
        waits: the sides differ, and it is too early to call it a break.
        unlisted: sums of what is booked and need not be in this list, less what is listed and need not
            be booked.
    """

    finding: Finding | None = None
    waits: bool = False
    unlisted: Sums = field(default_factory=dict)


AGREED = Verdict()


def judge(movement: Movement, extent: Extent) -> Verdict:
    """Whether both sides agree on a movement; what differs, where it is due."""
    held = _sums((each.currency, each.moved_minor) for each in movement.booked)
    if not movement.listed:
        return _judge_unlisted(movement, extent, held)
    expected = _sums((each.currency, each.net_minor) for each in movement.listed)
    standing = _standing(movement.booked)
    moves_money = any(each.gross_minor for each in movement.listed)
    if held == expected and (standing or not moves_money):
        return _judge_suspense(movement, expected, standing)
    if not standing and not held and _was_before(movement, extent.ours_from):
        return Verdict(unlisted={currency: -minor for currency, minor in expected.items()})
    if max(each.created_at for each in movement.listed) >= extent.due_before:
        return Verdict(waits=True)
    kind, proposal = _difference(movement, extent.account, expected, held, standing)
    currency = _widest(expected, held) or movement.listed[0].currency
    return Verdict(
        Finding(
            kind=kind,
            reference=movement.reference,
            currency=currency,
            stripe_minor=expected.get(currency, 0),
            ledger_minor=held.get(currency, 0),
            occurred_at=min(each.created_at for each in movement.listed),
            transactions=tuple(each.transaction for each in movement.listed),
            entries=_entry_ids(standing),
            proposal=proposal,
        )
    )


def _was_before(movement: Movement, ours_from: datetime | None) -> bool:
    """Whether Stripe moved it before the account was connected."""
    if ours_from is None:
        return False
    return all(each.created_at < ours_from for each in movement.listed)


def _judge_unlisted(movement: Movement, extent: Extent, held: Sums) -> Verdict:
    """Of a movement that the books have and the list has not."""
    if not held:
        return AGREED
    booked_at = max(each.booked_at for each in movement.booked)
    made_before = movement.seen_at is not None and movement.seen_at < extent.statement_from
    may_be_older = movement.seen_at is None and booked_at < extent.listed_from
    of_balance = movement.reference.startswith(BALANCE_REFERENCE)
    if of_balance or made_before or may_be_older or booked_at >= extent.listed_to:
        return Verdict(unlisted=held)
    if booked_at >= extent.due_before:
        return Verdict(waits=True, unlisted=held)
    standing = [each for each in _standing(movement.booked) if each.moved_minor]
    currency = _widest({}, held)
    shares = all(each.source_key.startswith(SHARE_KEY) for each in standing)
    return Verdict(
        Finding(
            kind="missing_in_ledger" if shares else "missing_at_stripe",
            reference=movement.reference,
            currency=currency,
            stripe_minor=0,
            ledger_minor=held[currency],
            occurred_at=movement.seen_at or min(each.booked_at for each in standing),
            entries=_entry_ids(standing),
            proposal=None if shares else _reversal_of(standing),
        )
    )


def _judge_suspense(movement: Movement, expected: Sums, standing: list[Booked]) -> Verdict:
    """Of a movement that is booked as it is listed: is it known what it was?"""
    unknown = _sums((each.currency, each.suspense_minor) for each in movement.booked)
    if not unknown:
        return AGREED
    currency = _widest({}, unknown)
    first = next(each for each in standing if each.suspense_minor)
    return Verdict(
        Finding(
            kind="unknown_type",
            reference=movement.reference,
            currency=currency,
            stripe_minor=expected.get(currency, 0),
            ledger_minor=expected.get(currency, 0) - unknown[currency],
            occurred_at=movement.listed[0].created_at,
            transactions=tuple(each.transaction for each in movement.listed),
            entries=_entry_ids(standing),
            proposal=Proposal(
                action="clear_suspense",
                tenant_id=first.tenant_id,
                book=first.book,
                postings=_against_suspense(unknown),
            ),
        )
    )


def _difference(
    movement: Movement, account: str, expected: Sums, held: Sums, standing: list[Booked]
) -> tuple[BreakKind, Proposal]:
    """What kind of difference it is, and what repairs it."""
    transactions = tuple(each.transaction for each in movement.listed)
    charges = () if movement.reference in transactions else (movement.reference,)
    facts = [each for each in standing if not each.source_key.startswith(REPAIR_KEY)]
    payments = [each for each in facts if each.source_key.startswith(PAYMENT_KEY)]
    of_payment = movement.listed[0].kind in OF_PAYMENTS
    if not facts:
        told = Proposal(action="tell_again", transactions=transactions, charges=charges)
        return "missing_in_ledger", told
    if of_payment and not payments:
        return "missing_in_ledger", Proposal(action="tell_again", charges=charges)
    adjustment = _adjustment(account, expected, held, facts[0])
    if of_payment and len(movement.listed) > 1:
        return "duplicate", adjustment
    spare = _spare(facts, expected, held)
    if spare:
        return "duplicate", _reversal_of(spare)
    same_currency = held.keys() <= expected.keys()
    fee_is_absent = of_payment and len(payments) == len(facts) and movement.listed[0].fee_minor
    gross = _sums((each.currency, each.gross_minor) for each in movement.listed)
    if fee_is_absent and (held == gross or not same_currency):
        told = Proposal(action="tell_again", transactions=transactions)
        return ("late_fee" if same_currency else "currency"), told
    return ("amount" if same_currency else "currency"), adjustment


def _spare(facts: list[Booked], expected: Sums, held: Sums) -> list[Booked]:
    """The newest entry without which the books would agree; nothing where there is none."""
    by_entry: dict[tuple[UUID, UUID], list[Booked]] = defaultdict(list)
    for each in facts:
        by_entry[each.tenant_id, each.entry_id].append(each)
    if len(by_entry) < 2:
        return []
    for parts in sorted(by_entry.values(), key=lambda parts: parts[0].booked_at, reverse=True):
        without = _sums([*held.items(), *((part.currency, -part.moved_minor) for part in parts)])
        if without == expected:
            return parts
    return []


def _standing(booked: Iterable[Booked]) -> list[Booked]:
    """The entries that no reversal takes back, nor take another back; the oldest first."""
    parts = sorted(booked, key=lambda each: (each.booked_at, each.entry_id))
    keys = {(each.tenant_id, each.book, each.source_key) for each in parts}

    def stands(each: Booked, key: str) -> bool:
        taken_back_by = reversal_key(key)
        is_there = (each.tenant_id, each.book, taken_back_by) in keys
        return not (is_there and stands(each, taken_back_by))

    return [
        each
        for each in parts
        if stands(each, each.source_key) and not each.source_key.startswith("reversal:")
    ]


def _reversal_of(entries: list[Booked]) -> Proposal:
    homes = {each.entry_id: Home(tenant_id=each.tenant_id, book=each.book) for each in entries}
    first, *others = homes.values()
    is_one = all(each == first for each in others)
    return Proposal(
        action="reverse",
        entries=tuple(homes),
        homes=tuple(homes.values()),
        tenant_id=first.tenant_id if is_one else None,
        book=first.book if is_one else None,
    )


def _adjustment(account: str, expected: Sums, held: Sums, beside: Booked) -> Proposal:
    """Book what is lacking on the clearing account against suspense, beside an entry of its book."""
    return adjustment(account, expected, held, tenant_id=beside.tenant_id, book=beside.book)


def adjustment(
    account: str, expected: Sums, held: Sums, *, tenant_id: UUID, book: Book
) -> Proposal:
    """Book what is lacking on the clearing account against suspense."""
    lacking = _sums([*expected.items(), *((code, -minor) for code, minor in held.items())])
    clearing = chart.clearing(account).code
    return Proposal(
        action="adjust",
        tenant_id=tenant_id,
        book=book,
        postings=tuple(
            posted
            for currency, minor in sorted(lacking.items())
            for posted in (
                posting(clearing, minor, currency),
                posting(chart.SUSPENSE.code, -minor, currency),
            )
        ),
    )


def _against_suspense(unknown: Sums) -> tuple[PostedLine, ...]:
    """What takes money out of suspense; the account it belongs on is still to be named."""
    return tuple(
        posting(chart.SUSPENSE.code, minor, currency) for currency, minor in sorted(unknown.items())
    )


def posting(account: str, minor: int, currency: str) -> PostedLine:
    """A debit; a negative amount is a credit."""
    line = debit(chart.named(account), minor, currency)
    return PostedLine(
        account=account, side=line.side, amount_minor=line.amount_minor, currency=currency
    )


def _entry_ids(parts: Iterable[Booked]) -> tuple[UUID, ...]:
    return tuple(dict.fromkeys(each.entry_id for each in parts))


def _sums(amounts: Iterable[tuple[str, int]]) -> dict[str, int]:
    sums: dict[str, int] = defaultdict(int)
    for currency, minor in amounts:
        sums[currency] += minor
    return {currency: minor for currency, minor in sorted(sums.items()) if minor}


def _widest(expected: Sums, held: Sums) -> str:
    """The currency in which the sides differ most, those of Stripe's side first."""
    currencies = [*expected, *(code for code in held if code not in expected)]
    return max(
        currencies, key=lambda code: abs(expected.get(code, 0) - held.get(code, 0)), default=""
    )
