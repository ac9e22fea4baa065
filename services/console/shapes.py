"""The API's answers as far as the pages read them; members they do not show are ignored."""

from datetime import date, datetime
from decimal import Decimal
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class Answer(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Listed(Answer, Generic[T]):
    """One page of a list."""

    items: list[T]
    next_cursor: str | None = None


class Tenant(Answer):
    """A tenant."""

    id: str
    slug: str
    name: str
    type: str
    status: str
    plan_key: str | None = None
    currency: str | None = None
    self_customer_id: str | None = None
    stripe_customer_id: str | None = None
    stripe_subscription_id: str | None = None
    stripe_account_id: str | None = None
    created_at: datetime | None = None


class Clock(Answer):
    """Where a tenant's business clock stands."""

    business_now: datetime
    status: str
    advance_to: datetime | None = None
    failure: str | None = None


class Subscription(Answer):
    """What a customer has bought; its period is null on a plan without fees."""

    id: str
    customer_id: str
    plan: str
    status: str
    collection: str
    period_from: datetime | None = None
    period_to: datetime | None = None
    cancel_at_period_end: bool = False
    stripe_subscription_id: str | None = None


class Amount(Answer):
    """Whole minor units of a currency."""

    amount_minor: int
    currency: str


class Balances(Answer):
    """Credit that is left, per currency."""

    balances: list[Amount]


class CreditLimit(Answer):
    """How much of a meter credit pays for, of what is used from `since` on."""

    meter: str
    since: datetime
    amount: Decimal


class Prepaid(Answer):
    """Which meters credit bounds, and how far it goes."""

    meters: list[str] = []
    limits: list[CreditLimit] = []


class Meter(Answer):
    """A meter."""

    id: str
    key: str
    event_type: str
    aggregation: str
    owner: str = ""


class UsageRow(Answer):
    """A meter's value in an interval."""

    from_: datetime = Field(alias="from")
    to: datetime
    value: Decimal


class Usage(Answer):
    """A meter's values, and by whose clocks days begin; `as_of` is how far the count has come."""

    rows: list[UsageRow]
    time_zone: str = "UTC"
    as_of: datetime | None = None


class Forecast(Answer):
    """What a meter of the tenant's own use comes to by the end of its period.

    A metering service that plans nothing yet does not tell `trend` and `planned`; an older one does not
    tell `limit_hit_by`.
    """

    period_to: datetime
    trend: Decimal | None = None
    planned: Decimal | None = None
    expected: Decimal
    low: Decimal
    high: Decimal
    limit: Decimal | None
    kind: str | None
    limit_hit_on: date | None
    limit_hit_by: str | None = None
    made_at: datetime


class Occurrence(Answer):
    """One time that planned usage happens, and what became of it."""

    at: datetime
    state: str
    outcome: str
    reason: str | None
    used: Decimal | None
    limit: Decimal | None
    passes_at: datetime | None
    judged_at: datetime | None = None


class Planned(Answer):
    """Usage that was declared ahead."""

    id: str
    meter_id: str
    customer: str | None
    quantity: Decimal
    every: str | None
    note: str
    canceled_at: datetime | None
    next: Occurrence | None
    last: Occurrence | None


class Invoice(Answer):
    """An invoice without its lines."""

    id: str
    status: str
    number: str | None = None
    reason: str | None = None
    currency: str
    total_minor: int
    paid_minor: int
    subscription_id: str | None = None
    period_from: datetime | None = None
    period_to: datetime | None = None
    stripe_invoice_id: str | None = None
    hosted_invoice_url: str | None = None
    completion_error: str | None = None
    created_at: datetime
    finalized_at: datetime | None = None
    paid_at: datetime | None = None


class Line(Answer):
    """A line of an invoice; `quantity` is decimal text."""

    id: str
    kind: str
    description: str
    amount_minor: int
    meter: str | None = None
    quantity: str | None = None


class InvoiceWithLines(Invoice):
    """An invoice with its lines."""

    lines: list[Line]


class TierShare(Answer):
    """What fell into a tier, and its price before rounding."""

    up_to: str | None = None
    quantity: str
    unit_amount_minor: str
    amount_minor: str


class Rounding(Answer):
    """How the exact sum became whole minor units."""

    rule: str
    exact_minor: str
    rounded_minor: int


class InvoicedBefore(Answer):
    """What earlier invoices charged for the same usage."""

    amount_minor: int
    quantity: str


class GrantShare(Answer):
    """How much of which credit was used."""

    grant_id: str
    amount_minor: int


class Closure(Answer):
    """The closed period whose quantity was rated."""

    period_from: datetime
    period_to: datetime


class Explanation(Answer):
    """Everything needed to compute a line's amount again."""

    line_id: str
    kind: str
    amount_minor: int
    currency: str
    meter: str | None = None
    quantity: str | None = None
    included: str | None = None
    billable: str | None = None
    tiers: list[TierShare] = []
    rounding: Rounding | None = None
    plan: str | None = None
    price_id: str | None = None
    price_version: int | None = None
    revision: int | None = None
    event_count: int | None = None
    closure: Closure | None = None
    previously_invoiced: InvoicedBefore | None = None
    grants: list[GrantShare] = []
    stripe_line_id: str | None = None


class Person(Answer):
    """Who is signed in."""

    id: str | None = None
    email: str
    name: str | None = None
    operator: bool = False


class Membership(Answer):
    """A tenant the person belongs to."""

    id: str
    slug: str
    name: str
    role: str | None = None


class Assertion(Answer):
    """The 60-second assertion and what it is good for."""

    assertion: str
    expires_at: datetime
    user: Person
    tenants: list[Membership] = []


class PartitionLag(Answer):
    """A group on one partition; the committed offset is null where there is none yet."""

    partition: int
    committed_offset: int | None = None
    end_offset: int


class GroupLag(Answer):
    """How far a consumer group is behind on a topic."""

    group: str
    lag_records: int
    partitions_behind: int
    partitions: list[PartitionLag]


class Topic(Answer):
    """A topic with the groups that read it."""

    topic: str
    partitions: int
    records: int
    end_offsets: list[int]
    lag_records: int
    groups: list[GroupLag]


class Topics(Answer):
    """Every topic at one moment."""

    as_of: datetime
    lag_records: int
    items: list[Topic]
