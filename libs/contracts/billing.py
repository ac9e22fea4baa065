"""Events of billing, and its requests to stripe_sync."""

from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from libs.contracts.envelope import Fact

BilledBy = Literal["platform", "tenant"]
Interval = Literal["month", "year"]
Collection = Literal["stripe", "sluice"]
SubscriptionStatus = Literal[
    "trialing", "active", "past_due", "incomplete", "unpaid", "paused", "canceled"
]

NAME_NOT_TOLD = ""
"""A text to consumers of the release before, which need one, and a name to nobody."""


class Part(BaseModel):
    """A value inside an event."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class FlatPrice(Part):
    """A fee per interval, in advance."""

    kind: Literal["flat"] = "flat"
    price_id: UUID
    amount_minor: int


class Tier(Part):
    """Quantities up to and including `up_to` (None: without end) cost this much each."""

    up_to: Decimal | None
    unit_amount_minor: Decimal


class GraduatedPrice(Part):
    """A metered price: what exceeds `included` is priced tier by tier, in arrears."""

    kind: Literal["graduated"] = "graduated"
    price_id: UUID
    meter: str
    included: Decimal
    tiers: tuple[Tier, ...]


Price = Annotated[FlatPrice | GraduatedPrice, Field(discriminator="kind")]


class PlanLimit(Part):
    """How much of a meter the plan allows per period."""

    meter: str
    amount: Decimal
    kind: Literal["soft", "hard"]


class CustomerCreated(Fact):
    """A payer exists.

    Attributes:
        name, email: not told any more: this topic is kept for ever, and people must be erasable. The
            name that Stripe is told travels as `NameCustomer`. Empty is as good as absent.
    """

    customer_id: UUID
    billed_by: BilledBy
    name: str | None = None
    email: str | None = None


class NameCustomer(Fact):
    """Stripe is to be told this name of a customer of the tenant's own.

    It is sealed under a key of the customer's own (`libs.crypto.personal`), on a topic that forgets.

    Attributes:
        personal: base64 of the sealed name.
        wrapped: base64 of the key, wrapped under the installation's pepper.
    """

    customer_id: UUID
    personal: str
    wrapped: str


class CustomerErased(Fact):
    """A customer is to be forgotten: whoever keeps personal data of it destroys it.

    Amounts, numbers and ids stay. It may be told again.

    Attributes:
        stripe_customer_ids: the customer's counterparts at Stripe.
    """

    customer_id: UUID
    stripe_customer_ids: tuple[str, ...] = ()


class PlanPublished(Fact):
    """A version of a plan can be bought; its tenant is the biller."""

    plan_id: UUID
    plan_version_id: UUID
    version: int
    key: str
    name: str
    interval: Interval
    currency: str
    collection: Collection
    prices: tuple[Price, ...]
    limits: tuple[PlanLimit, ...] = ()
    features: dict[str, bool | int | str] = Field(default_factory=dict)
    upgrades_to: tuple[str, ...] = ()
    stripe_price_id: str | None = None


class SubscriptionChanged(Fact):
    """A subscription was created or changed; the complete state after it.

    Attributes:
        version: counts the changes of this subscription; only a higher one is applied.
        period_from, period_to: the current period in whole minutes; None on a free plan.
    """

    subscription_id: UUID
    version: int
    customer_id: UUID
    billed_by: BilledBy
    plan_key: str
    plan_version_id: UUID
    status: SubscriptionStatus
    collection: Collection
    currency: str
    period_from: AwareDatetime | None
    period_to: AwareDatetime | None
    cancel_at_period_end: bool = False
    stripe_subscription_id: str | None = None


class UsagePeriodClosed(Fact):
    """Billing asks metering for the quantities of one period; answered by `PeriodUsage` per meter.

    Attributes:
        closure_id: unique per (subscription, period).
        grace_seconds: how long metering waits in business time for late events.
    """

    closure_id: UUID
    subscription_id: UUID
    customer_id: UUID
    meters: tuple[str, ...]
    period_from: AwareDatetime
    period_to: AwareDatetime
    grace_seconds: int = 0


class InvoiceLine(Part):
    """One line of an invoice, in the invoice's currency.

    `kind` says what it is: a fee in advance, usage in arrears, proration, or a credit used
    (negative).
    """

    line_id: UUID
    kind: Literal["flat", "usage", "proration", "credit"]
    description: str
    amount_minor: int
    meter: str | None = None
    quantity: Decimal | None = None
    period_from: AwareDatetime | None = None
    period_to: AwareDatetime | None = None


class InvoiceFinalized(Fact):
    """An invoice became final: its amounts never change again.

    total_minor = sum of the lines = subtotal_minor - credits_applied_minor + tax_minor.

    Attributes:
        finalized_at: the date of the invoice: what its lines are for beyond it is not earned yet.
            None was told when everything counted as earned at once.
    """

    invoice_id: UUID
    number: str
    customer_id: UUID
    subscription_id: UUID | None
    billed_by: BilledBy
    currency: str
    subtotal_minor: int
    credits_applied_minor: int
    tax_minor: int
    total_minor: int
    lines: tuple[InvoiceLine, ...]
    stripe_invoice_id: str | None = None
    finalized_at: AwareDatetime | None = None


class InvoiceCredited(Fact):
    """Credit notes took some of a final invoice back before it was paid, or more or less than before.

    Attributes:
        final: the invoice as it was told.
        sequence: counts what was told of the invoice after it became final; never twice the same.
        credited_before_minor, credited_minor: by all credit notes together, before and now.
    """

    final: InvoiceFinalized
    sequence: int
    credited_before_minor: int
    credited_minor: int


class InvoiceVoided(Fact):
    """A final invoice was declared never to have been owed; the credit it used is given back.

    Attributes:
        final: the invoice as it was told.
        sequence: counts what was told of the invoice after it became final; never twice the same.
        credited_minor: what credit notes had taken back of it before.
    """

    final: InvoiceFinalized
    sequence: int
    credited_minor: int


class InvoiceWrittenOff(Fact):
    """Nobody expects the rest of a final invoice to be paid any more.

    Attributes:
        sequence: counts what was told of the invoice after it became final; never twice the same.
        amount_minor: what is written off by this, always positive.
    """

    invoice_id: UUID
    number: str
    customer_id: UUID
    billed_by: BilledBy
    currency: str
    sequence: int
    amount_minor: int


class InvoiceRecovered(Fact):
    """Of what was written off, this much is owed again: it was paid after all, or the invoice voided.

    Attributes:
        sequence: counts what was told of the invoice after it became final; never twice the same.
        amount_minor: what is not written off any more, always positive.
    """

    invoice_id: UUID
    number: str
    customer_id: UUID
    billed_by: BilledBy
    currency: str
    sequence: int
    amount_minor: int


class InvoicePaid(Fact):
    """Everything due on an invoice has been paid.

    Attributes:
        billed_by: in whose name it was made out; None: it was not told yet then.
    """

    invoice_id: UUID
    number: str
    customer_id: UUID
    currency: str
    paid_minor: int
    stripe_invoice_id: str | None = None
    billed_by: BilledBy | None = None


class CreditGranted(Fact):
    """A customer was given credit that later invoices use up."""

    grant_id: UUID
    customer_id: UUID
    billed_by: BilledBy
    amount_minor: int
    currency: str
    expires_at: AwareDatetime | None = None


class CreditExpired(Fact):
    """What was left of a grant when it expired is lost; its `effective_at` is that time.

    Attributes:
        sequence: counts what was told of the grant's expiry; never twice the same.
        amount_minor: lost by this. Negative where an invoice of before that time, made later, used
            some of it after all.
    """

    grant_id: UUID
    customer_id: UUID
    billed_by: BilledBy
    currency: str
    sequence: int
    amount_minor: int


class CreditLimitSet(Fact):
    """How much of a meter a customer's credit pays for: metering bounds usage and knows no price.

    Whatever is used from `since` on counts against it, in whichever period. It is told anew, with a
    later `since` and what is left then, as usage is rated and as credit is granted.

    Attributes:
        version: counts what was told of this customer and meter; only a higher one is applied.
        since: a whole minute.
        amount: the greatest quantity; None: credit does not bound the meter any more.
    """

    customer_id: UUID
    billed_by: BilledBy
    meter: str
    version: int
    since: AwareDatetime
    amount: Annotated[Decimal, Field(ge=0)] | None


class CommandLine(Part):
    """A line to add to a held Stripe draft; `line_id` makes adding it twice harmless."""

    line_id: UUID
    description: str
    amount_minor: int
    period_from: AwareDatetime | None = None
    period_to: AwareDatetime | None = None


class CompleteInvoice(Fact):
    """Add these lines to the held draft and finalize it; Stripe then collects."""

    command_id: UUID
    invoice_id: UUID
    stripe_invoice_id: str
    currency: str
    lines: tuple[CommandLine, ...]
