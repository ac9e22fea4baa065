"""The posting rules: one pure function per money fact, by what they are about (`rules_<noun>.py`).

A rule names the fact by its business key, so that a fact is booked once however often and by
whichever event it is told. Rules need nothing but the fact, so they need no order between topics.

A rule that changes keeps booking what was told before as it was booked then: what it does otherwise
hangs on something that only facts since then tell. So neither a replay nor books that are made anew
contradict what is booked, and `rule_version` says which of the two it was.
"""

from collections.abc import Callable, Mapping
from typing import Any

from libs.contracts.billing import (
    CreditExpired,
    CreditGranted,
    InvoiceCredited,
    InvoiceFinalized,
    InvoiceRecovered,
    InvoiceVoided,
    InvoiceWrittenOff,
)
from libs.contracts.envelope import Fact
from libs.contracts.ledger import RecognizeRevenue
from libs.contracts.stripe_payouts import PayoutAllocated
from libs.contracts.stripe_sync import (
    BalanceTransactionRecorded,
    DisputeChanged,
    OutsidePaymentRecorded,
    PaymentSucceeded,
)
from services.ledger import rules_credits, rules_invoices, rules_payments, rules_stripe
from services.ledger.entries import Entry

RULES: Mapping[type[Fact], Callable[[Any], Entry | None]] = {
    InvoiceFinalized: rules_invoices.invoice_finalized,
    RecognizeRevenue: rules_invoices.revenue_recognized,
    InvoiceCredited: rules_invoices.invoice_credited,
    InvoiceVoided: rules_invoices.invoice_voided,
    InvoiceWrittenOff: rules_invoices.invoice_written_off,
    InvoiceRecovered: rules_invoices.invoice_recovered,
    PaymentSucceeded: rules_payments.payment_succeeded,
    OutsidePaymentRecorded: rules_payments.outside_payment,
    BalanceTransactionRecorded: rules_stripe.balance_transaction,
    DisputeChanged: rules_stripe.dispute_changed,
    PayoutAllocated: rules_stripe.payout_allocated,
    CreditGranted: rules_credits.credit_granted,
    CreditExpired: rules_credits.credit_expired,
}
"""The rule of each money fact."""
