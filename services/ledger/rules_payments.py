"""Rules of money that comes in: the gross, by whichever way."""

from libs.contracts.stripe_sync import OutsidePaymentRecorded, PaymentSucceeded
from services.ledger import chart
from services.ledger.entries import Entry, credit, debit, entry


def payment_succeeded(fact: PaymentSucceeded) -> Entry | None:
    """Money arrived at Stripe: the gross, on the clearing account.

    Dr Stripe clearing; Cr receivable, or unapplied payments where it pays no invoice.
    """
    paid = chart.RECEIVABLE if fact.stripe_invoice_id else chart.UNAPPLIED_PAYMENTS
    return entry(
        fact.collected_by,
        f"payment:{fact.account}:{fact.stripe_charge_id}",
        "payment_succeeded",
        [
            debit(chart.clearing(fact.account), fact.amount_minor, fact.currency),
            credit(paid, fact.amount_minor, fact.currency),
        ],
    )


def outside_payment(fact: OutsidePaymentRecorded) -> Entry | None:
    """Money arrived at the bank without Stripe.

    Dr bank; Cr receivable, or unapplied payments where it pays no invoice.
    """
    paid = chart.RECEIVABLE if fact.stripe_invoice_id else chart.UNAPPLIED_PAYMENTS
    return entry(
        fact.collected_by,
        f"payment:outside:{fact.payment_id}",
        "payment_outside",
        [
            debit(chart.BANK, fact.amount_minor, fact.currency),
            credit(paid, fact.amount_minor, fact.currency),
        ],
    )
