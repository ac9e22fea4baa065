"""The story of one tenant, told by the services that billing listens to.

Each topic is a queue; what Stripe and metering answer to billing is queued when billing asks. A test
decides which queue speaks next.
"""

import json
import re
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.contracts.billing import (
    CompleteInvoice,
    CreditGranted,
    CustomerCreated,
    InvoiceFinalized,
    InvoicePaid,
    PlanPublished,
    SubscriptionChanged,
    UsagePeriodClosed,
)
from libs.contracts.envelope import Envelope, Fact, wrap
from libs.contracts.metering import MeterCreated, PeriodUsage
from libs.contracts.stripe_sync import (
    StripeCustomerLinked,
    StripeInvoiceChanged,
    StripeInvoiceLine,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import PLATFORM_TENANT_ID, TenantCreated
from libs.db.pool import Database
from libs.ids import new_id
from libs.money import Money
from libs.testing.memory_log import MemoryLog
from services.billing import credit, plans
from services.billing.catalog import PlanBody

START = datetime(2026, 1, 15, 10, 30, 42, tzinfo=UTC)
PERIODS = [START + timedelta(days=30 * index) for index in range(5)]
FLAT_MINOR = 4900

PRO = {
    "key": "pro",
    "name": "Pro",
    "interval": "month",
    "currency": "EUR",
    "collection": "stripe",
    "prices": [
        {"kind": "flat", "amount_minor": FLAT_MINOR},
        {
            "kind": "graduated",
            "meter": "api_calls",
            "included": "1000",
            "tiers": [
                {"up_to": "1000", "unit_amount_minor": "0.5"},
                {"up_to": None, "unit_amount_minor": "0.25"},
            ],
        },
        {
            "kind": "graduated",
            "meter": "storage",
            "included": "0",
            "tiers": [{"up_to": None, "unit_amount_minor": "3"}],
        },
    ],
}

FACTS: tuple[type[Fact], ...] = (
    CustomerCreated,
    SubscriptionChanged,
    UsagePeriodClosed,
    InvoiceFinalized,
    InvoicePaid,
    CreditGranted,
    CompleteInvoice,
)


async def publish_plan(database: Database, body: dict[str, Any] | None = None) -> PlanPublished:
    """The operator publishes a plan."""
    async with database.tenant(PLATFORM_TENANT_ID, "test") as tx:
        published = await plans.publish(
            tx, PlanBody.model_validate(body or PRO), START, actor="key_operator"
        )
    return published.fact


def meter_created(key: str) -> Envelope[Any]:
    fact = MeterCreated(meter_id=new_id(), key=key, event_type=key, aggregation="count")
    return wrap(
        fact, tenant_id=PLATFORM_TENANT_ID, mode="test", source="metering", effective_at=START
    )


@dataclass
class Story:
    """One tenant, and what the others say of it.

    Attributes:
        usage: quantities per cycle, meter and revision as metering will answer them.
        cycles: how many renewals Stripe makes.
        credit_minor: credit that the operator grants when the customer exists.
    """

    database: Database
    log: MemoryLog
    plan_version_id: UUID | None
    usage: list[dict[str, list[str]]] = field(default_factory=list)
    cycles: int = 1
    credit_minor: int = 0
    tenant_id: UUID = field(default_factory=new_id)
    customer_id: UUID = field(default_factory=new_id)
    queues: dict[str, deque[Envelope[Any]]] = field(
        default_factory=lambda: {name: deque() for name in ("tenants", "payments", "metering")}
    )
    name: str = "acme"

    def __post_init__(self) -> None:
        self._versions: dict[str, int] = {}
        self._closures: list[UsagePeriodClosed] = []
        self._seen: set[UUID] = set()

    def event(self, fact: Fact, at: datetime) -> Envelope[Any]:
        return wrap(
            fact, tenant_id=self.tenant_id, mode="test", source="elsewhere", effective_at=at
        )

    def say(self, topic: str, fact: Fact, at: datetime) -> None:
        self.queues[topic].append(self.event(fact, at))

    def begin(self) -> None:
        """Everything that happens until the first period has ended."""
        created = TenantCreated(
            name=self.name,
            slug=self.name,
            tenant_type="organization",
            currency="EUR",
            locale="en",
            self_customer_id=self.customer_id,
            billing_email="billing@acme.example",
        )
        self.say("tenants", created, START)
        linked = StripeCustomerLinked(
            customer_id=self.customer_id, account="platform", stripe_customer_id="cus_1"
        )
        self.say("payments", linked, START)
        self.say("payments", self.subscription("active", 0), START)
        for status in ("open", "paid"):
            self.say("payments", self.invoice("in_first", status), START)
        self.renew(1)

    def renew(self, cycle: int) -> None:
        """Stripe ends period `cycle` (from 1): the draft, held on its second look."""
        at = PERIODS[cycle]
        self.say("payments", self.subscription("active", cycle), at)
        self.say("payments", self.cycle_invoice(cycle, "draft", held=False), at)
        self.say("payments", self.cycle_invoice(cycle, "draft"), at)

    def subscription(self, status: str, period: int, **changes: Any) -> StripeSubscriptionChanged:
        members: dict[str, Any] = {
            "version": self.next_version("sub_1"),
            "account": "platform",
            "stripe_subscription_id": "sub_1",
            "stripe_customer_id": "cus_1",
            "customer_id": self.customer_id,
            "plan_version_id": self.plan_version_id,
            "status": status,
            "period_start": PERIODS[period],
            "period_end": PERIODS[period + 1],
            "cancel_at_period_end": False,
        }
        return StripeSubscriptionChanged(**(members | changes))

    def invoice(
        self,
        stripe_invoice_id: str,
        status: str,
        *,
        extra: tuple[StripeInvoiceLine, ...] = (),
        **changes: Any,
    ) -> StripeInvoiceChanged:
        """An invoice as Stripe has it; the flat fee is Stripe's own line."""
        flat = StripeInvoiceLine(
            stripe_line_id=f"il_{stripe_invoice_id}",
            description="1 x Pro",
            amount_minor=FLAT_MINOR,
            proration=False,
            price_id="price_1",
            line_id=None,
            period_start=PERIODS[0],
            period_end=PERIODS[1],
        )
        lines = (flat, *extra)
        total = sum(line.amount_minor for line in lines)
        members: dict[str, Any] = {
            "version": self.next_version(stripe_invoice_id),
            "account": "platform",
            "stripe_invoice_id": stripe_invoice_id,
            "stripe_subscription_id": "sub_1",
            "stripe_customer_id": "cus_1",
            "customer_id": self.customer_id,
            "billing_reason": "subscription_create",
            "status": status,
            "held": False,
            "number": None if status == "draft" else f"ACME-{stripe_invoice_id}",
            "currency": "EUR",
            "total_minor": total,
            "amount_paid_minor": total if status == "paid" else 0,
            "period_start": PERIODS[0],
            "period_end": PERIODS[0],
            "lines": lines,
            "finalized_at": None if status == "draft" else START,
            "paid_at": START if status == "paid" else None,
        }
        return StripeInvoiceChanged(**(members | changes))

    def cycle_invoice(
        self,
        cycle: int,
        status: str,
        *,
        held: bool = True,
        extra: tuple[StripeInvoiceLine, ...] = (),
        **changes: Any,
    ) -> StripeInvoiceChanged:
        members = {
            "billing_reason": "subscription_cycle",
            "held": held,
            "period_start": PERIODS[cycle - 1],
            "period_end": PERIODS[cycle],
        }
        return self.invoice(f"in_cycle{cycle}", status, extra=extra, **(members | changes))

    def next_version(self, object_id: str) -> int:
        self._versions[object_id] = self._versions.get(object_id, 0) + 1
        return self._versions[object_id]

    async def deliver(self, topic: str) -> None:
        """The next word of one topic, and whatever the others answer to what billing says."""
        self.log.publish(self.queues[topic].popleft())
        await self.log.settle()
        await self.react()

    async def react(self) -> None:
        for kind in (CustomerCreated, UsagePeriodClosed, CompleteInvoice):
            for event in self.told(kind):
                if event.id not in self._seen:
                    self._seen.add(event.id)
                    await self._answer(event.data)

    async def _answer(self, fact: Fact) -> None:
        if isinstance(fact, CustomerCreated) and self.credit_minor:
            async with self.database.tenant(self.tenant_id, "test") as tx:
                await credit.grant_credit(
                    tx,
                    self.customer_id,
                    "platform",
                    Money(self.credit_minor, "EUR"),
                    None,
                    START,
                    actor="key_operator",
                )
        if isinstance(fact, UsagePeriodClosed):
            self._measure(fact)
        if isinstance(fact, CompleteInvoice):
            self._collect(fact)

    def _measure(self, closure: UsagePeriodClosed) -> None:
        """Metering answers; first with what has changed in periods closed before."""
        for index, earlier in enumerate(self._closures):
            for meter, quantities in self.usage[index].items():
                for revision in range(2, len(quantities) + 1):
                    self.measured(earlier, meter, revision, quantities[revision - 1])
        quantities_of = self.usage[len(self._closures)]
        self._closures.append(closure)
        for meter in closure.meters:
            self.measured(closure, meter, 1, quantities_of.get(meter, ["0"])[0])

    def measured(
        self, closure: UsagePeriodClosed, meter: str, revision: int, quantity: str
    ) -> None:
        answer = PeriodUsage(
            closure_id=closure.closure_id,
            subscription_id=closure.subscription_id,
            customer_id=closure.customer_id,
            meter=meter,
            period_from=closure.period_from,
            period_to=closure.period_to,
            revision=revision,
            quantity=Decimal(quantity),
            event_count=7,
        )
        self.say("metering", answer, closure.period_to)

    def _collect(self, command: CompleteInvoice) -> None:
        """Stripe takes the lines, finalizes, collects; and renews again while there are cycles."""
        cycle = int(command.stripe_invoice_id.removeprefix("in_cycle"))
        added = tuple(
            StripeInvoiceLine(
                stripe_line_id=f"il_{cycle}_{index}",
                description=line.description,
                amount_minor=line.amount_minor,
                proration=False,
                price_id=None,
                line_id=line.line_id,
                period_start=line.period_from or PERIODS[cycle - 1],
                period_end=line.period_to or PERIODS[cycle],
            )
            for index, line in enumerate(command.lines)
        )
        for status in ("draft", "open", "paid"):
            held = status == "draft"
            state = self.cycle_invoice(cycle, status, held=held, extra=added)
            self.say("payments", state, PERIODS[cycle])
        if cycle < self.cycles:
            self.renew(cycle + 1)

    async def tell_all(self) -> None:
        """The whole story, tenants first."""
        while any(self.queues.values()):
            topic = next(name for name, queue in self.queues.items() if queue)
            await self.deliver(topic)

    def told(self, kind: type[Fact]) -> list[Envelope[Any]]:
        """What billing has said of this tenant."""
        return [event for event in self.log.events(kind) if event.tenant_id == self.tenant_id]

    async def rows(self, sql: str) -> list[Any]:
        async with self.database.tenant(self.tenant_id, "test") as tx:
            return await tx.fetch(sql)

    async def outcome(self) -> dict[str, list[str]]:
        """What the story came to, without random ids: invoice rows and everything told."""
        told = {
            kind.__name__: [_without_ids(event.data.model_dump_json()) for event in self.told(kind)]
            for kind in FACTS
        }
        invoices = await self.rows(
            "select to_jsonb(i) - 'command_id' as row from invoice i order by stripe_invoice_id"
        )
        lines = await self.rows(
            "select to_jsonb(l) as row from invoice_line l join invoice i "
            "on i.id = l.invoice_id order by i.stripe_invoice_id, l.position"
        )
        subscriptions = await self.rows("select to_jsonb(s) as row from subscription s")
        state = {
            name: [_without_ids(json.dumps(row["row"], sort_keys=True)) for row in rows]
            for name, rows in (
                ("invoices", invoices),
                ("lines", lines),
                ("subscriptions", subscriptions),
            )
        }
        return told | state


def _without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
