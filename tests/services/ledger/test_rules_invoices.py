"""Rules of invoices: what is earned at once and what later, taken back, given up and recovered."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.final_invoices import about, added, at, credited, final, line, moved, voided
from libs.contracts.billing import CreditExpired, InvoiceRecovered, InvoiceWrittenOff
from libs.contracts.ledger import RecognizeRevenue
from libs.ids import new_id
from services.ledger import rules_credits, rules_invoices
from services.ledger.entries import ContradictoryFactError
from services.ledger.recognition_periods import slices


def year(amount_minor: int = 1200) -> Any:
    """A fee for a year in advance."""
    return line("flat", amount_minor, "2031-01-15T12:00", "2032-01-15T12:00")


def test_what_is_for_a_time_to_come_is_not_earned_yet() -> None:
    """A fee in advance and the part of one that comes back; usage of a time that is over."""
    invoice = final(
        year(),
        line("proration", -300, "2031-01-15", "2031-02-01"),
        line("usage", 450, "2030-12-15", "2031-01-15T12:00"),
        line("flat", 80, "2030-12-15", "2031-01-15T12:00"),
        line("flat", 7),
        date="2031-01-15T12:00",
        credits_minor=100,
        tax_minor=200,
    )
    made = rules_invoices.invoice_finalized(invoice)
    assert moved(made) == {
        "asset:receivable EUR": 1537,
        "liability:customer_credits EUR": 100,
        "liability:tax_payable EUR": -200,
        "liability:deferred_revenue EUR": -900,
        "revenue:flat EUR": -87,
        "revenue:usage EUR": -450,
    }
    assert made is not None
    assert made.rule_version == 2


def test_what_was_told_without_a_date_is_booked_as_it_was_then() -> None:
    invoice = final(year(), date=None)
    made = rules_invoices.invoice_finalized(invoice)
    assert moved(made) == {"asset:receivable EUR": 1200, "revenue:flat EUR": -1200}
    assert made is not None
    assert made.rule_version == 1
    assert added(made, rules_invoices.invoice_voided(voided(invoice))) == {}


def test_a_month_of_it_is_earned() -> None:
    fact = RecognizeRevenue(
        book="tenant",
        invoice_id=new_id(),
        line_id=new_id(),
        kind="proration",
        month=date(2031, 1, 1),
        revision=0,
        amount_minor=55,
        currency="EUR",
    )
    made = rules_invoices.revenue_recognized(fact)
    assert moved(made) == {"liability:deferred_revenue EUR": 55, "revenue:proration EUR": -55}
    assert made is not None
    assert (made.book, made.source_key) == ("tenant", f"recognition:{fact.line_id}:2031-01")
    again = rules_invoices.revenue_recognized(fact.model_copy(update={"revision": 3}))
    assert again is not None
    assert again.source_key == f"recognition:{fact.line_id}:2031-01:3"


def test_a_credit_note_falls_upon_lines_and_tax_by_what_they_add() -> None:
    invoice = final(
        year(600), line("usage", 200), line("proration", -100), date="2031-01-15", tax_minor=200
    )
    made = rules_invoices.invoice_credited(credited(invoice, 500))
    assert moved(made) == {
        "asset:receivable EUR": -500,
        "liability:deferred_revenue EUR": 300,
        "liability:tax_payable EUR": 100,
        "revenue:usage EUR": 100,
    }
    more = rules_invoices.invoice_credited(credited(invoice, 501, 500, sequence=2))
    assert moved(more)["asset:receivable EUR"] == -1
    assert made is not None
    assert more is not None
    assert made.source_key != more.source_key
    for wrong in (-1, 1001):
        with pytest.raises(ContradictoryFactError):
            rules_invoices.invoice_credited(credited(invoice, wrong))


def test_a_void_invoice_was_never_owed_and_its_credit_is_there_again() -> None:
    invoice = final(year(600), line("usage", 200), date="2031-01-15", credits_minor=50)
    entries = [
        rules_invoices.invoice_finalized(invoice),
        rules_invoices.invoice_credited(credited(invoice, 120)),
        rules_invoices.invoice_voided(voided(invoice, 120)),
    ]
    assert moved(entries[-1])["liability:customer_credits EUR"] == -50
    assert added(*entries) == {}


def test_what_is_given_up_and_what_is_recovered() -> None:
    off = rules_invoices.invoice_written_off(about(InvoiceWrittenOff, 700))
    assert moved(off) == {"expense:bad_debts EUR": 700, "asset:receivable EUR": -700}
    back = rules_invoices.invoice_recovered(about(InvoiceRecovered, 200))
    assert moved(back) == {"asset:receivable EUR": 200, "expense:bad_debts_recovered EUR": -200}


@pytest.mark.parametrize("amount", [300, -120])
def test_credit_that_expired_and_was_used_after_all(amount: int) -> None:
    fact = CreditExpired(
        grant_id=new_id(),
        customer_id=new_id(),
        billed_by="platform",
        currency="EUR",
        sequence=1,
        amount_minor=amount,
    )
    assert moved(rules_credits.credit_expired(fact)) == {
        "liability:customer_credits EUR": amount,
        "expense:credits_expired EUR": -amount,
    }


AMOUNTS = st.integers(-(10**12), 10**12)
DAYS = st.integers(0, 4000)


@given(amount=AMOUNTS, start=DAYS, length=st.integers(1, 2000))
def test_the_slices_of_a_line_are_its_months_and_add_up(
    amount: int, start: int, length: int
) -> None:
    first = date.fromordinal(date(2028, 1, 1).toordinal() + start)
    until = date.fromordinal(first.toordinal() + length)
    found = slices(amount, first, until)
    assert sum(each.amount_minor for each in found) == amount
    assert found[-1].until == until
    assert [each.month for each in found] == sorted({each.month for each in found})
    day = first
    for each in found:
        assert each.month == day.replace(day=1)
        days = (each.until - day).days
        assert abs(each.amount_minor * length - amount * days) < length, "less than a unit off"
        assert each.last_instant.date().replace(day=1) == each.month
        day = each.until


def test_a_day_belongs_to_the_period_that_begins_on_it() -> None:
    """A month from noon to noon, over the end of February; and one of no day, which is one day."""
    assert [(each.until, each.amount_minor) for each in slices(31, *_days("01-15", "02-15"))] == [
        (date(2031, 2, 1), 17),
        (date(2031, 2, 15), 14),
    ]
    assert slices(31, date(2031, 2, 28), date(2031, 3, 1))[0].due_at == datetime(
        2031, 3, 1, tzinfo=UTC
    )
    assert rules_invoices.invoice_finalized(
        final(line("flat", 5, "2031-01-15T12:00", "2031-01-15T13:00"), date="2031-01-15T12:00")
    )


def _days(first: str, until: str) -> tuple[date, date]:
    return at(f"2031-{first}").date(), at(f"2031-{until}").date()


LINES = st.lists(
    st.tuples(st.sampled_from(["flat", "usage", "proration"]), AMOUNTS, st.booleans()), max_size=6
)


@given(lines=LINES, tax=st.integers(0, 10**9), part=st.lists(st.integers(0, 100), max_size=4))
def test_an_invoice_credited_in_parts_and_voided_leaves_nothing(
    lines: list[tuple[Any, int, bool]], tax: int, part: list[int]
) -> None:
    """Whatever it charges: each entry balances (or is refused), and all of them come to nothing."""
    ahead = ("2031-01-15", "2031-07-01")
    invoice = final(
        *(line(kind, amount, *(ahead if later else ())) for kind, amount, later in lines),
        date="2031-01-15",
        tax_minor=tax,
    )
    charged = sum(amount for _, amount, _ in lines if amount > 0) + tax
    entries = [rules_invoices.invoice_finalized(invoice)]
    before = 0
    for sequence, percent in enumerate(part):
        now = charged * percent // 100
        entries.append(
            rules_invoices.invoice_credited(credited(invoice, now, before, sequence=sequence))
        )
        before = now
    entries.append(rules_invoices.invoice_voided(voided(invoice, before)))
    assert added(*entries) == {}
