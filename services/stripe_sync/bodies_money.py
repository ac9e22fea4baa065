"""What the API shows of payments, refunds, disputes and payouts."""

from datetime import date, datetime
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, Field

from libs.db.pool import Row
from libs.ids import public_id

PaymentStatus = Literal[
    "UNKNOWN",
    "PENDING",
    "REQUIRES_ACTION",
    "PROCESSING",
    "AUTHORIZED",
    "COMPLETED",
    "FAILED",
    "CANCELED",
    "PARTIALLY_REFUNDED",
    "REFUNDED",
]
RefundStatus = Literal["unknown", "pending", "requires_action", "succeeded", "failed", "canceled"]
DisputeStatus = Literal[
    "warning_needs_response",
    "warning_under_review",
    "warning_closed",
    "needs_response",
    "under_review",
    "won",
    "lost",
    "prevented",
]
PayoutStatus = Literal["pending", "in_transit", "paid", "failed", "canceled"]


class Amount(BaseModel):
    """Money in whole minor units."""

    amount_minor: int
    currency: str


class Collected(BaseModel):
    """What payments, refunds, disputes and payouts have in common."""

    id: str
    tenant_id: UUID
    mode: str
    collected_by: str = Field(description="`platform` or `tenant`: whose Stripe account it is.")
    stripe_account: str = Field(description="`acct_…`, or `platform`.")
    amount: Amount
    created_at: datetime


class PaymentBody(Collected):
    """A payment: one payment intent at Stripe with its latest charge, or a charge without one."""

    customer_id: str
    status: PaymentStatus = Field(
        description="`UNKNOWN`: Stripe was asked and has not answered yet; `PENDING`: waits for a "
        "payment method or its confirmation; `REQUIRES_ACTION`: the payer must confirm it, on the "
        "page of `confirmation_url` where there is one; `PROCESSING`: the bank takes its time; "
        "`AUTHORIZED`: not captured yet; `FAILED`: the last attempt failed, another may follow."
    )
    refunded: Amount
    disputed: bool = Field(description="The payer's bank took it back, or did for a while.")
    confirmation_url: str | None = Field(description="Where the payer confirms the payment.")
    description: str | None
    stripe_charge_id: str | None = Field(description="The latest attempt.")
    stripe_payment_intent_id: str | None
    stripe_invoice_id: str | None
    stripe_payment_link_id: str | None
    failure_code: str | None
    receipt_number: str | None
    receipt_url: str | None
    receipt_email: str | None
    paid_at: datetime | None


PERSONAL = ("description", "receipt_email", "receipt_url")
"""What a payment says of the payer: goes where the customer is erased, and is in no kept answer."""


class RefundBody(Collected):
    """Money given back."""

    customer_id: str
    payment_id: str | None
    status: RefundStatus = Field(
        description="Stripe's own word; `unknown`: Stripe was asked and has not answered yet."
    )
    reason: str | None
    failure_reason: str | None = Field(description="Why the payer's bank did not take it.")
    stripe_refund_id: str | None
    stripe_charge_id: str | None
    stripe_payment_intent_id: str | None


class DisputeBody(Collected):
    """A payment that the payer's bank took back, or threatens to."""

    customer_id: str
    payment_id: str | None
    status: str = Field(description="Stripe's own word, e.g. `needs_response`, `won`, `lost`.")
    reason: str
    evidence_due_at: datetime | None = Field(description="Until when it can be answered.")
    stripe_dispute_id: str
    stripe_charge_id: str
    stripe_payment_intent_id: str | None


class PayoutBody(Collected):
    """Money that Stripe pays out to the account's bank."""

    status: PayoutStatus
    arrival_on: date = Field(description="The day Stripe expects it at the bank.")
    automatic: bool
    failure_code: str | None = Field(description="Stripe's word where it failed.")
    failure_message: str | None
    stripe_payout_id: str


def payment_body(row: Row) -> PaymentBody:
    """A row of payments as the API shows it."""
    currency = row["currency"]
    return PaymentBody(
        id=public_id("payment", row["payment_id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        customer_id=public_id("customer", row["customer_id"]),
        status=row["status"],
        amount=Amount(amount_minor=row["amount_minor"], currency=currency),
        refunded=Amount(amount_minor=row["refunded_minor"], currency=currency),
        disputed=row["disputed"],
        confirmation_url=row["confirmation_url"],
        description=row["description"],
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_charge_id=row["stripe_charge_id"],
        stripe_payment_intent_id=row["stripe_payment_intent_id"],
        stripe_invoice_id=row["stripe_invoice_id"],
        stripe_payment_link_id=row["stripe_payment_link_id"],
        failure_code=row["failure_code"],
        receipt_number=row["receipt_number"],
        receipt_url=row["receipt_url"],
        receipt_email=row["receipt_email"],
        created_at=row["created_at"],
        paid_at=row["paid_at"],
    )


def refund_body(row: Row) -> RefundBody:
    """A row of refunds as the API shows it."""
    return RefundBody(
        id=public_id("refund", row["refund_id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        customer_id=public_id("customer", row["customer_id"]),
        payment_id=_payment_id(row),
        status=row["status"],
        amount=Amount(amount_minor=row["amount_minor"], currency=row["currency"]),
        reason=row["reason"],
        failure_reason=row["failure_reason"],
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_refund_id=row["stripe_refund_id"],
        stripe_charge_id=row["stripe_charge_id"],
        stripe_payment_intent_id=row["stripe_payment_intent_id"],
        created_at=row["created_at"],
    )


def dispute_body(row: Row) -> DisputeBody:
    """A row of disputes as the API shows it."""
    return DisputeBody(
        id=public_id("dispute", row["dispute_id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        customer_id=public_id("customer", row["customer_id"]),
        payment_id=_payment_id(row),
        status=row["status"],
        amount=Amount(amount_minor=row["amount_minor"], currency=row["currency"]),
        reason=row["reason"],
        evidence_due_at=row["evidence_due_at"],
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_dispute_id=row["stripe_dispute_id"],
        stripe_charge_id=row["stripe_charge_id"],
        stripe_payment_intent_id=row["stripe_payment_intent_id"],
        created_at=row["created_at"],
    )


def payout_body(row: Row) -> PayoutBody:
    """A row of payouts as the API shows it."""
    return PayoutBody(
        id=public_id("payout", row["payout_id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        status=row["status"],
        amount=Amount(amount_minor=row["amount_minor"], currency=row["currency"]),
        arrival_on=row["arrival_on"],
        automatic=row["automatic"],
        failure_code=row["failure_code"],
        failure_message=row["failure_message"],
        collected_by=row["collected_by"],
        stripe_account=row["account"],
        stripe_payout_id=row["stripe_payout_id"],
        created_at=row["created_at"],
    )


def _payment_id(row: Row) -> str | None:
    payment_id = row["payment_id"]
    return public_id("payment", payment_id) if payment_id is not None else None
