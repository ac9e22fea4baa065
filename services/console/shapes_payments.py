"""The API's answers that the pages of payments and webhooks read."""

from datetime import date, datetime
from typing import Any

from pydantic import Field

from libs.clock import format_time
from services.console.shapes import Amount, Answer


class Payment(Answer):
    """A payment; `status` is one of the words of `PAYMENT_STATES`."""

    id: str
    tenant_id: str
    customer_id: str | None = None
    status: str
    amount: Amount
    refunded: Amount
    collected_by: str
    disputed: bool = False
    description: str | None = None
    confirmation_url: str | None = None
    stripe_account: str
    stripe_charge_id: str | None = None
    stripe_payment_intent_id: str | None = None
    stripe_invoice_id: str | None = None
    stripe_payment_link_id: str | None = None
    failure_code: str | None = None
    receipt_number: str | None = None
    receipt_url: str | None = None
    receipt_email: str | None = None
    created_at: datetime
    paid_at: datetime | None = None

    @property
    def refundable_minor(self) -> int:
        """What of it can still be given back."""
        paid = self.status in ("COMPLETED", "PARTIALLY_REFUNDED")
        return self.amount.amount_minor - self.refunded.amount_minor if paid else 0


PAYMENT_STATES = {
    "UNKNOWN": "Asked for, and Stripe has not answered yet. It is looked up before anything is "
    "tried again, so that nothing is taken twice.",
    "PENDING": "Waits for the payer to choose how to pay, or to confirm.",
    "REQUIRES_ACTION": "The payer's bank wants the payer to confirm it.",
    "PROCESSING": "On its way: this way of paying takes days.",
    "AUTHORIZED": "Held on the payer's card, not taken yet.",
    "COMPLETED": "Paid.",
    "FAILED": "Not paid: the last attempt was declined.",
    "CANCELED": "Called off before it was paid.",
    "PARTIALLY_REFUNDED": "Paid, and a part given back.",
    "REFUNDED": "Paid, and all of it given back.",
}


class Refund(Answer):
    """Money given back."""

    id: str
    payment_id: str | None = None
    status: str
    amount: Amount
    reason: str | None = None
    failure_reason: str | None = None
    created_at: datetime


class Payout(Answer):
    """A transfer of an account's balance to its bank."""

    id: str
    tenant_id: str | None = None
    status: str
    amount: Amount
    arrival_on: date
    automatic: bool = False
    stripe_account: str
    stripe_payout_id: str
    failure_code: str | None = None
    failure_message: str | None = None
    created_at: datetime


class Dispute(Answer):
    """A payment that the payer's bank took back until it is decided who is right."""

    id: str
    tenant_id: str | None = None
    payment_id: str | None = None
    status: str
    amount: Amount
    reason: str
    evidence_due_at: datetime | None = None
    stripe_account: str
    stripe_dispute_id: str
    created_at: datetime

    @property
    def waits(self) -> bool:
        """Whether it can still be answered."""
        return self.status.endswith("needs_response")


class WebhookEvent(Answer):
    """An event of Stripe's in the archive."""

    id: str
    tenant_id: str
    account: str
    stripe_event_id: str
    type: str
    api_version: str | None = None
    object_type: str | None = None
    object_id: str | None = None
    assignment: str
    quarantine_reason: str | None = None
    bytes: int
    created_at: datetime
    received_at: datetime


class WebhookEventDetail(WebhookEvent):
    """An event with what Stripe sent."""

    payload: Any
    headers: dict[str, str]


class Released(Answer):
    """What became of an event that was let go, or would."""

    outcome: str
    tenant_id: str
    account: str


class Replay(Answer):
    """A run that sends archived events again; a dry run sends them only to be compared."""

    id: str
    state: str
    dry_run: bool
    matched: int
    counted: bool = True
    replayed: int
    ids: int | None = None
    type: str | None = None
    object_id: str | None = None
    received_from: datetime | None = None
    received_to: datetime | None = None
    started_by: str
    started_at: datetime
    finished_at: datetime | None = None

    @property
    def running(self) -> bool:
        """Whether it still sends."""
        return self.state == "running"

    @property
    def filters(self) -> dict[str, str]:
        """The filters of its events as the API takes them, but for events named by their ids."""
        given = {
            "type": self.type,
            "object_id": self.object_id,
            "received_from": format_time(self.received_from) if self.received_from else None,
            "received_to": format_time(self.received_to) if self.received_to else None,
        }
        return {name: value for name, value in given.items() if value is not None}

    @property
    def selection(self) -> list[tuple[str, str]]:
        """What its events have in common: a filter and its value each."""
        named = [] if self.ids is None else [("named events", str(self.ids))]
        return named + [(FILTERS[name], value) for name, value in self.filters.items()]


FILTERS = {
    "type": "type",
    "object_id": "object",
    "received_from": "from",
    "received_to": "before",
}


class Difference(Answer):
    """An object that would change, or that could not be compared."""

    object_type: str
    object_id: str
    changes: dict[str, Any] = Field(default_factory=dict)
    error: str | None = None

    @property
    def fields(self) -> list[tuple[str, Any, Any]]:
        """Each field that would change: its value here, and at Stripe."""
        return [
            (name, pair.get("before"), pair.get("after"))
            for name, pair in self.changes.items()
            if isinstance(pair, dict)
        ]


class Differences(Answer):
    """What a dry run found: how many objects were compared, and which differ."""

    items: list[Difference]
    next_cursor: str | None = None
    checked: int
    different: int
    pending: int
    failed: int
