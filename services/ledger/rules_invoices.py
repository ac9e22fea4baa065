"""Rules of invoices: what is owed, what of it is earned when, and what is never paid."""

from collections import defaultdict

from libs.contracts.billing import (
    InvoiceCredited,
    InvoiceFinalized,
    InvoiceLine,
    InvoiceRecovered,
    InvoiceVoided,
    InvoiceWrittenOff,
)
from libs.contracts.ledger import RecognizeRevenue
from services.ledger import chart
from services.ledger.chart import Account
from services.ledger.entries import ContradictoryFactError, Entry, credit, debit, entry
from services.ledger.recognition_periods import Credited, credited, is_deferred

REVENUE_OF_LINE: dict[str, Account] = {
    "flat": chart.REVENUE_FLAT,
    "usage": chart.REVENUE_USAGE,
    "proration": chart.REVENUE_PRORATION,
}

NOTHING = Credited({}, 0)


def invoice_finalized(fact: InvoiceFinalized) -> Entry | None:
    """A final invoice: the customer owes its total, credit is used up, revenue is made by kind.

    Dr receivable total, Dr customer credits applied; Cr revenue per kind of line, Cr tax. What a line
    is for beyond the invoice's date is deferred revenue: it is earned month by month.

    Raises:
        ContradictoryFactError: lines, credits, tax and total do not add up.
    """
    _refuse_contradiction(fact)
    lines = [
        debit(chart.RECEIVABLE, fact.total_minor, fact.currency),
        debit(chart.CUSTOMER_CREDITS, fact.credits_applied_minor, fact.currency),
        credit(chart.TAX_PAYABLE, fact.tax_minor, fact.currency),
    ]
    for account, amount_minor in _charged(fact, NOTHING):
        lines.append(credit(account, amount_minor, fact.currency))
    return entry(
        fact.billed_by,
        f"invoice:{fact.invoice_id}:finalized",
        "invoice_finalized",
        lines,
        rule_version=1 if fact.finalized_at is None else 2,
    )


def invoice_credited(fact: InvoiceCredited) -> Entry | None:
    """Credit notes on what is not paid: the customer owes less, and less is or will be earned.

    Dr deferred revenue, revenue and tax, each by its share; Cr receivable. What was earned already of
    a deferred line is put right by the recognition of its months.

    Raises:
        ContradictoryFactError: more is taken back than was charged.
    """
    final = fact.final
    before, now = credited(final, fact.credited_before_minor), credited(final, fact.credited_minor)
    left_before = dict(_charged(final, before))
    lines = [debit(chart.TAX_PAYABLE, now.tax_minor - before.tax_minor, final.currency)]
    for account, left in _charged(final, now):
        lines.append(debit(account, left_before[account] - left, final.currency))
    difference = fact.credited_minor - fact.credited_before_minor
    lines.append(credit(chart.RECEIVABLE, difference, final.currency))
    key = f"invoice:{final.invoice_id}:credited:{fact.sequence}"
    return entry(final.billed_by, key, "invoice_credited", lines)


def invoice_voided(fact: InvoiceVoided) -> Entry | None:
    """An invoice that was never owed: what is left of it is taken back, credit it used is given back.

    Dr revenue per kind of line, Dr deferred revenue, Dr tax; Cr receivable, Cr customer credits.

    Raises:
        ContradictoryFactError: the amounts of the invoice do not add up.
    """
    final = fact.final
    _refuse_contradiction(final)
    taken_back = credited(final, fact.credited_minor)
    lines = [
        credit(chart.RECEIVABLE, final.total_minor - fact.credited_minor, final.currency),
        credit(chart.CUSTOMER_CREDITS, final.credits_applied_minor, final.currency),
        debit(chart.TAX_PAYABLE, final.tax_minor - taken_back.tax_minor, final.currency),
    ]
    for account, amount_minor in _charged(final, taken_back):
        lines.append(debit(account, amount_minor, final.currency))
    key = f"invoice:{final.invoice_id}:voided"
    return entry(final.billed_by, key, "invoice_voided", lines)


def invoice_written_off(fact: InvoiceWrittenOff) -> Entry | None:
    """Nobody expects it to be paid any more: Dr bad debts, Cr receivable."""
    return entry(
        fact.billed_by,
        f"invoice:{fact.invoice_id}:written_off:{fact.sequence}",
        "invoice_written_off",
        [
            debit(chart.BAD_DEBTS, fact.amount_minor, fact.currency),
            credit(chart.RECEIVABLE, fact.amount_minor, fact.currency),
        ],
    )


def invoice_recovered(fact: InvoiceRecovered) -> Entry | None:
    """What was written off is owed after all: Dr receivable, Cr bad debts recovered.

    The payment that shows it is a fact of its own.
    """
    return entry(
        fact.billed_by,
        f"invoice:{fact.invoice_id}:recovered:{fact.sequence}",
        "invoice_recovered",
        [
            debit(chart.RECEIVABLE, fact.amount_minor, fact.currency),
            credit(chart.BAD_DEBTS_RECOVERED, fact.amount_minor, fact.currency),
        ],
    )


def revenue_recognized(fact: RecognizeRevenue) -> Entry | None:
    """A month of what was invoiced in advance is over: Dr deferred revenue, Cr revenue."""
    key = f"recognition:{fact.line_id}:{fact.month:%Y-%m}"
    return entry(
        fact.book,
        f"{key}:{fact.revision}" if fact.revision else key,
        "revenue_recognized",
        [
            debit(chart.DEFERRED_REVENUE, fact.amount_minor, fact.currency),
            credit(REVENUE_OF_LINE[fact.kind], fact.amount_minor, fact.currency),
        ],
    )


def _charged(final: InvoiceFinalized, taken_back: Credited) -> list[tuple[Account, int]]:
    """What an invoice charges by account, less what is taken back; in the order of their codes."""
    amounts: dict[Account, int] = defaultdict(int)
    for line in final.lines:
        if line.kind != "credit":
            left = line.amount_minor - taken_back.lines.get(line.line_id, 0)
            amounts[_account_of(line, final)] += left
    return sorted(amounts.items(), key=lambda charged: charged[0].code)


def _account_of(line: InvoiceLine, final: InvoiceFinalized) -> Account:
    return chart.DEFERRED_REVENUE if is_deferred(line, final) else REVENUE_OF_LINE[line.kind]


def _refuse_contradiction(fact: InvoiceFinalized) -> None:
    """Check that an invoice adds up.

    Raises:
        ContradictoryFactError: it does not.
    """
    charged = sum(line.amount_minor for line in fact.lines if line.kind != "credit")
    credits_minor, tax_minor = fact.credits_applied_minor, fact.tax_minor
    if charged + tax_minor != fact.total_minor + credits_minor or credits_minor < 0:
        raise ContradictoryFactError(
            f"invoice {fact.invoice_id}: lines of {charged} and tax of {tax_minor} do not make "
            f"a total of {fact.total_minor} with {credits_minor} of credits"
        )
