"""Rules of credit that customers are granted; its use is part of the invoice that uses it."""

from libs.contracts.billing import CreditExpired, CreditGranted
from services.ledger import chart
from services.ledger.entries import Entry, credit, debit, entry


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


def credit_expired(fact: CreditExpired) -> Entry | None:
    """Credit expired unused: Dr customer credits, Cr credits expired.

    The other way round where an invoice of before that time used some of it after all.
    """
    return entry(
        fact.billed_by,
        f"credit:{fact.grant_id}:expired:{fact.sequence}",
        "credit_expired",
        [
            debit(chart.CUSTOMER_CREDITS, fact.amount_minor, fact.currency),
            credit(chart.CREDITS_EXPIRED, fact.amount_minor, fact.currency),
        ],
    )
