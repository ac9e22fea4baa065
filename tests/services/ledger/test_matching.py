"""Judging one movement: pure, by example, and for any amounts."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.ids import new_id
from services.ledger.matching import AGREED, Booked, Extent, Listed, Movement, judge

NOW = datetime(2026, 3, 1, tzinfo=UTC)
MADE = NOW - timedelta(days=2)
TENANT, OTHER = UUID(int=1), UUID(int=2)
EXTENT = Extent(
    account="acct_1",
    statement_from=NOW - timedelta(days=40),
    listed_from=NOW - timedelta(days=30),
    listed_to=NOW,
    due_before=NOW - timedelta(hours=1),
)


def listed(net: int = 970, fee: int = 30, kind: str = "charge", **changes: Any) -> Listed:
    values: dict[str, Any] = {
        "transaction": "txn_1",
        "kind": kind,
        "currency": "EUR",
        "gross_minor": net + fee,
        "fee_minor": fee,
        "net_minor": net,
        "created_at": MADE,
    }
    return Listed(**(values | changes))


def booked(minor: int, key: str = "payment:acct_1:ch_1", **changes: Any) -> Booked:
    values: dict[str, Any] = {
        "entry_id": new_id(),
        "tenant_id": TENANT,
        "book": "tenant",
        "source_key": key,
        "currency": "EUR",
        "moved_minor": minor,
        "suspense_minor": 0,
        "booked_at": MADE,
    }
    return Booked(**(values | changes))


FEE = "balance_transaction:acct_1:txn_1"
SHARE = "payout_allocated:acct_1:po_1"


def movement(*sides: Listed | Booked, **changes: Any) -> Movement:
    return Movement(
        "ch_1",
        tuple(each for each in sides if isinstance(each, Listed)),
        tuple(each for each in sides if isinstance(each, Booked)),
        **changes,
    )


def kind_of(found: Movement) -> str | None:
    finding = judge(found, EXTENT).finding
    return finding.kind if finding else None


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (movement(listed(), booked(1000), booked(-30, FEE)), None),
        (movement(listed(0, 0)), None),
        (movement(listed(), booked(1000)), "late_fee"),
        (movement(listed(), booked(-30, FEE)), "missing_in_ledger"),
        (movement(listed()), "missing_in_ledger"),
        (movement(listed(0, 1000)), "missing_in_ledger"),
        (movement(booked(1000), booked(-30, FEE)), "missing_at_stripe"),
        (movement(listed(), booked(1000), booked(-31, FEE)), "amount"),
        (movement(listed(), booked(1000), booked(1000), booked(-30, FEE)), "duplicate"),
        (
            movement(listed(), booked(1000), booked(-30, FEE), booked(1000, tenant_id=OTHER)),
            "duplicate",
        ),
        (movement(listed(), listed(transaction="txn_2"), booked(1000)), "duplicate"),
        (movement(listed(1000, 0), booked(1000, currency="USD")), "currency"),
        # Exchanged: the payment's currency goes out of the account as it comes in.
        (
            movement(
                listed(880, 20),
                booked(1000, currency="USD"),
                booked(-1000, FEE, currency="USD"),
                booked(880, FEE),
            ),
            None,
        ),
        (movement(listed(880, 20), booked(1000, currency="USD")), "currency"),
        (movement(listed(-70, 0, "strange"), booked(-70, FEE, suspense_minor=-70)), "unknown_type"),
        # What of a payout was whose adds up to nothing, or a share is missing.
        (movement(booked(-70, SHARE), booked(70, SHARE, tenant_id=OTHER)), None),
        (movement(booked(-70, SHARE)), "missing_in_ledger"),
        # Taken back, it is as if it had never been booked.
        (movement(booked(1000), booked(-1000, "reversal:payment:acct_1:ch_1")), None),
        (
            movement(listed(), booked(1000), booked(-1000, "reversal:payment:acct_1:ch_1")),
            "missing_in_ledger",
        ),
    ],
)
def test_what_differs_has_a_kind(found: Movement, kind: str | None) -> None:
    assert kind_of(found) == kind


def test_only_what_is_not_booked_is_told_again() -> None:
    wanted = {
        "nothing": (movement(listed()), ("txn_1",), ("ch_1",)),
        "no fee": (movement(listed(), booked(1000)), ("txn_1",), ()),
        "no payment": (movement(listed(), booked(-30, FEE)), (), ("ch_1",)),
    }
    for name, (found, transactions, charges) in wanted.items():
        finding = judge(found, EXTENT).finding
        assert finding is not None, name
        assert finding.proposal is not None, name
        assert (finding.proposal.transactions, finding.proposal.charges) == (transactions, charges)


@pytest.mark.parametrize(
    ("booked_at", "seen_at", "waits", "breaks"),
    [
        (MADE, None, False, True),
        (MADE, MADE, False, True),
        # Just now: Stripe's list may be a moment older.
        (NOW - timedelta(minutes=5), None, True, False),
        # After the time compared.
        (NOW + timedelta(minutes=5), None, False, False),
        # Booked late, of a time before the list begins.
        (MADE, EXTENT.statement_from - timedelta(days=1), False, False),
        # Nobody knows how old what was booked before the time compared is.
        (EXTENT.listed_from - timedelta(days=1), None, False, False),
        (EXTENT.listed_from - timedelta(days=1), EXTENT.listed_from, False, True),
    ],
)
def test_what_need_not_be_in_the_list_is_no_break(
    booked_at: datetime, seen_at: datetime | None, waits: bool, breaks: bool
) -> None:
    verdict = judge(movement(booked(1000, booked_at=booked_at), seen_at=seen_at), EXTENT)
    assert (verdict.waits, verdict.finding is not None) == (waits, breaks)
    assert verdict.unlisted == ({} if breaks else {"EUR": 1000})


def test_what_is_new_waits() -> None:
    fresh = listed(created_at=NOW - timedelta(minutes=5))
    assert judge(movement(fresh), EXTENT).waits
    assert judge(movement(fresh, booked(1000), booked(-30, FEE)), EXTENT) == AGREED


amounts = st.integers(-(10**12), 10**12)
codes = st.sampled_from(["EUR", "USD", "JPY"])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(amounts, codes), max_size=4), st.lists(st.tuples(amounts, codes), max_size=4)
)
def test_an_adjustment_makes_both_sides_agree(
    at_stripe: list[tuple[int, str]], in_books: list[tuple[int, str]]
) -> None:
    found = Movement(
        "txn_1",
        tuple(
            listed(minor, 0, "refund", transaction=f"txn_{place}", currency=code)
            for place, (minor, code) in enumerate(at_stripe)
        ),
        tuple(
            booked(minor, f"balance_transaction:acct_1:txn_{place}", currency=code)
            for place, (minor, code) in enumerate(in_books)
        ),
    )
    finding = judge(found, EXTENT).finding
    if finding is None or finding.proposal is None or finding.proposal.action != "adjust":
        return
    sums: dict[tuple[str, str], int] = {}
    for line in finding.proposal.postings:
        minor = line.amount_minor if line.side == "debit" else -line.amount_minor
        key = line.currency, line.account
        sums[key] = sums.get(key, 0) + minor
    clearing = {code: minor for (code, name), minor in sums.items() if "clearing" in name}
    for code in ("EUR", "USD", "JPY"):
        lacking = sum(minor for minor, each in at_stripe if each == code)
        lacking -= sum(minor for minor, each in in_books if each == code)
        assert clearing.get(code, 0) == lacking
        assert sums.get((code, "liability:suspense"), 0) == -lacking
