"""Events of stripe_sync: what is true at Stripe, in the product's words.

State events carry the complete state after a change and a `version` per object that only grows;
money facts carry the Stripe id that makes them unique.
"""

import hashlib
import json
from collections.abc import Iterable
from datetime import date
from decimal import Decimal
from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime

from libs.contracts.billing import BilledBy, Part
from libs.contracts.envelope import Fact

PLATFORM_ACCOUNT = "platform"
OUTSIDE = "outside"
"""Stands where a payment's account does, if the money never touched Stripe."""


class StripeCustomerLinked(Fact):
    """A customer has its counterpart in a Stripe account."""

    customer_id: UUID
    account: str
    stripe_customer_id: str


class StripeSubscriptionChanged(Fact):
    """A subscription at Stripe was created or changed.

    Attributes:
        version: counts the changes seen of this object.
        status: Stripe's own word.
        plan_version_id: which plan version it buys, from the price's or subscription's metadata.
    """

    version: int
    account: str
    stripe_subscription_id: str
    stripe_customer_id: str
    customer_id: UUID
    plan_version_id: UUID | None
    status: str
    period_start: AwareDatetime
    period_end: AwareDatetime
    cancel_at_period_end: bool
    ended_at: AwareDatetime | None = None


class StripeInvoiceLine(Part):
    """A line as Stripe has it.

    `line_id` is ours where we added the line (from its metadata).
    """

    stripe_line_id: str
    description: str
    amount_minor: int
    proration: bool
    price_id: str | None
    line_id: UUID | None
    period_start: AwareDatetime
    period_end: AwareDatetime


class StripeInvoiceChanged(Fact):
    """An invoice at Stripe was created or changed; the complete state after it.

    Attributes:
        held: Stripe will not finalize it by itself (`auto_advance` is false).
        period_start, period_end: for a cycle, the period that has just ended.
        credited_minor: taken back by credit notes before it was paid.
    """

    version: int
    account: str
    stripe_invoice_id: str
    stripe_subscription_id: str | None
    stripe_customer_id: str
    customer_id: UUID
    billing_reason: str
    status: Literal["draft", "open", "paid", "uncollectible", "void"]
    held: bool
    number: str | None
    currency: str
    total_minor: int
    amount_paid_minor: int
    period_start: AwareDatetime
    period_end: AwareDatetime
    lines: tuple[StripeInvoiceLine, ...]
    hosted_invoice_url: str | None = None
    finalized_at: AwareDatetime | None = None
    paid_at: AwareDatetime | None = None
    credited_minor: int = 0


class PaymentSucceeded(Fact):
    """Money arrived at Stripe: the gross amount; Stripe's fee is a fact of its own.

    Attributes:
        account: the Stripe account it arrived in.
        collected_by: whose account that is.
        stripe_invoice_id: the invoice it pays, if any.
    """

    payment_id: UUID
    account: str
    collected_by: BilledBy
    customer_id: UUID
    stripe_payment_intent_id: str | None
    stripe_charge_id: str
    stripe_invoice_id: str | None
    amount_minor: int
    currency: str
    paid_at: AwareDatetime
    stripe_payment_link_id: str | None = None


class PaymentFailed(Fact):
    """An attempt to collect failed; unique by charge or by invoice and attempt."""

    account: str
    customer_id: UUID
    stripe_payment_intent_id: str | None
    stripe_invoice_id: str | None
    attempt_key: str
    amount_minor: int
    currency: str
    failure_code: str | None
    failed_at: AwareDatetime


class OutsidePaymentRecorded(Fact):
    """Somebody says that money arrived elsewhere than at Stripe: by bank transfer, cheque, cash.

    Attributes:
        collected_by: who received it.
        reference: what finds it again there; unique for a customer.
        stripe_invoice_id: the invoice that was marked as paid by it at Stripe, if any.
    """

    payment_id: UUID
    collected_by: BilledBy
    customer_id: UUID
    stripe_invoice_id: str | None
    amount_minor: int
    currency: str
    reference: str
    paid_at: AwareDatetime


class RefundChanged(Fact):
    """A refund was made or came further; the complete state after it.

    Attributes:
        version: counts the changes seen of this refund.
        payment_id: the payment it gives back; None while that payment is not mirrored yet.
        status: Stripe's own word.
        failure_reason: Stripe's word where the payer's bank did not take it.
    """

    version: int
    account: str
    collected_by: BilledBy
    customer_id: UUID
    payment_id: UUID | None
    stripe_refund_id: str
    stripe_charge_id: str | None
    stripe_payment_intent_id: str | None
    amount_minor: int
    currency: str
    status: Literal["pending", "requires_action", "succeeded", "failed", "canceled"]
    failure_reason: str | None = None
    created_at: AwareDatetime


class DisputeChanged(Fact):
    """A payer's bank took a payment back, or the dispute about it came further.

    Attributes:
        version: counts the changes seen of this dispute.
        status: Stripe's own word: `needs_response`, `under_review`, `won`, `lost`, `warning_…`.
        evidence_due_at: until when it can be answered.
        withdrawn_minor, withdrawn_currency: what the dispute has taken out of the account's balance
            so far, less what came back, without fees. None: not told.
        lost_minor: what of that is lost for good by now. None: nothing ever was, or not told.
        lost_before_minor: the same when this dispute was last told. None: nothing had ever been.
    """

    version: int
    account: str
    collected_by: BilledBy
    customer_id: UUID
    payment_id: UUID | None
    stripe_dispute_id: str
    stripe_charge_id: str
    stripe_payment_intent_id: str | None
    amount_minor: int
    currency: str
    reason: str
    status: str
    evidence_due_at: AwareDatetime | None = None
    created_at: AwareDatetime
    withdrawn_minor: int | None = None
    withdrawn_currency: str | None = None
    lost_before_minor: int | None = None
    lost_minor: int | None = None


class PayoutChanged(Fact):
    """Stripe pays an account's balance out to its bank; the complete state after a change.

    Attributes:
        version: counts the changes seen of this payout.
        arrival_on: the day Stripe expects it at the bank.
        failure_code: Stripe's word where the bank sent it back.
    """

    version: int
    account: str
    collected_by: BilledBy
    stripe_payout_id: str
    amount_minor: int
    currency: str
    status: Literal["pending", "in_transit", "paid", "failed", "canceled"]
    arrival_on: date
    automatic: bool
    failure_code: str | None = None
    failure_message: str | None = None
    created_at: AwareDatetime


class BalanceTransactionRecorded(Fact):
    """A line of a Stripe account's balance, recorded once.

    net_minor = amount_minor - fee_minor, all in the balance's currency.

    Attributes:
        kind: Stripe's `type`.
        reporting_category: Stripe's own sorting, finer than `kind`. None: not told.
        application_fee_minor: the part of the fee that goes to the platform.
        source_amount_minor, source_currency: what moved in the currency of the payment or refund
            behind it, where that is another one; of the same sign as `amount_minor`.
        exchange_rate: Stripe's rate from that currency to the balance's.
    """

    account: str
    collected_by: BilledBy
    stripe_balance_transaction_id: str
    kind: str
    source_id: str | None
    amount_minor: int
    fee_minor: int
    net_minor: int
    currency: str
    created_at: AwareDatetime
    available_at: AwareDatetime
    reporting_category: str | None = None
    application_fee_minor: int = 0
    source_amount_minor: int | None = None
    source_currency: str | None = None
    exchange_rate: Decimal | None = None


class StripeClockAdvanced(Fact):
    """The tenant's Stripe test clock reached a hop; the business clock follows it.

    Attributes:
        reached: the time the clock shows now.
        final: nothing is left of the requested advance.
    """

    advance_id: UUID
    reached: AwareDatetime
    final: bool


class StripeCommandFailed(Fact):
    """A command to Stripe was refused for good; somebody must look."""

    command_id: UUID
    code: str
    detail: str


class StripeEventFound(Fact):
    """An event stands in Stripe's list that never arrived; the gateway takes it in like a webhook.

    Attributes:
        payload: the event as JSON text, as Stripe's list has it.
    """

    account: str
    stripe_event_id: str
    event_type: str
    created_at: AwareDatetime
    payload: str


class StatementBalance(Part):
    """What Stripe held of an account when the statement was listed."""

    currency: str
    available_minor: int
    pending_minor: int


class StatementLine(Part):
    """A balance transaction as Stripe lists it now.

    Attributes:
        payout_id: the automatic payout it left with, where that is in the statement and complete.
    """

    stripe_balance_transaction_id: str
    kind: str
    source_id: str | None
    amount_minor: int
    fee_minor: int
    net_minor: int
    currency: str
    created_at: AwareDatetime
    available_at: AwareDatetime
    payout_id: str | None = None


class StatementPayout(Part):
    """A payout as Stripe lists it now."""

    stripe_payout_id: str
    stripe_balance_transaction_id: str | None
    amount_minor: int
    currency: str
    status: str
    arrival_on: date


class StatementDigest:
    """The digest of a statement, for who has it in pieces: all lines, then all payouts, in their order."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()

    def add(self, entries: Iterable[StatementLine | StatementPayout]) -> None:
        """Go on with these."""
        for entry in entries:
            fields = entry.model_dump(mode="json")
            text = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            self._sha256.update(f"{text}\n".encode())

    def hexdigest(self) -> str:
        """Of all so far: hex SHA-256 of each entry's canonical JSON and a newline."""
        return self._sha256.hexdigest()


def statement_digest(lines: Iterable[StatementLine], payouts: Iterable[StatementPayout]) -> str:
    """The digest of a whole statement.

    Args:
        lines, payouts: in the order of the parts.
    """
    digest = StatementDigest()
    digest.add(lines)
    digest.add(payouts)
    return digest.hexdigest()


class StripeStatement(Fact):
    """A part of a Stripe account's statement, listed afresh from Stripe, never from the mirror.

    Attributes:
        statement_id: that of the request.
        part, parts: 1 to `parts`; all parts make the statement. Both 0 where it could not be listed.
        line_count, payout_count: of all parts together.
        digest: hex SHA-256 over all lines, then all payouts, as canonical JSON with newlines, in order.
        balances: in the first part only.
        error: why it could not be listed; there are no parts then.
        ours_from: when the tenant connected the account; nobody tells what moved before. None: all is told.
    """

    statement_id: UUID
    account: str
    listed_from: AwareDatetime
    listed_to: AwareDatetime
    part: int
    parts: int
    line_count: int
    payout_count: int
    digest: str
    lines: tuple[StatementLine, ...] = ()
    payouts: tuple[StatementPayout, ...] = ()
    balances: tuple[StatementBalance, ...] = ()
    listed_at: AwareDatetime
    error: str | None = None
    ours_from: AwareDatetime | None = None
