"""The story of one tenant's money, told through the public API only.

Each step is a method that acts, waits until the effect shows, checks it and returns what to tell.
The demo prints them; the flow and chaos tests play the same steps.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import httpx

from cli.api import Api, StoryError, eventually
from cli.terms import Terms
from libs.clock import format_time, parse_time

EVENT_TYPE = "api.request"
BATCH_EVENTS = 1_000
DAYS_OF_USE = 20
CARD = "4242424242424242"
SCOPES = ["usage:write", "usage:read", "billing:read", "billing:manage", "ledger:read"]

Facts = dict[str, object]
"""What a step has to tell: a label and a value each, in order."""


@dataclass
class Story:
    """One run; `number` makes the names of a further run on the same stack new.

    Attributes:
        environment: the variables of `.local/env`.
        usage: the events as they were sent, for sending them again.
    """

    environment: Mapping[str, str]
    terms: Terms
    number: int = 1
    operator: Api = field(init=False)
    tenant: Api = field(init=False)
    tenant_key: str = ""
    tenant_id: str = ""
    other_id: str = ""
    usage: list[dict[str, Any]] = field(default_factory=list)
    quantity: int = 0
    period: tuple[datetime, datetime] | None = None
    cycle_invoice: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Open the operator's client."""
        self.operator = Api(self.origin, self.environment["SLUICE_OPERATOR_KEY"])

    def steps(self) -> list[Callable[[], Awaitable[Facts]]]:
        """The whole story, in order."""
        return [
            self.create_plan,
            self.sign_up,
            self.check_out,
            self.use,
            self.grant_credit,
            self.close_period,
            self.check_ledger,
            self.look_from_outside,
        ]

    @property
    def origin(self) -> str:
        """Where everything is reached."""
        return self.environment["SLUICE_ORIGIN"]

    def named(self, name: str) -> str:
        """The name in this run: `acme`, later `acme-2` and so on."""
        return name if self.number == 1 else f"{name}-{self.number}"

    async def create_plan(self) -> Facts:
        """1. The operator defines a meter and a plan."""
        meter = await self.operator.post(
            "/api/v1/meters",
            {
                "key": self.named("api_calls"),
                "event_type": self.named(EVENT_TYPE),
                "aggregation": "sum",
                "value_path": "calls",
            },
        )
        plan = await self.operator.post(
            "/api/v1/plans",
            self.terms.plan_body(self.named("pro"), self.named("api_calls")),
            on_its_way="unknown_meter",
        )
        return {"meter": meter["id"], "plan": plan["id"]}

    async def sign_up(self) -> Facts:
        """2. A tenant signs up; customer, free subscription and accounts follow by themselves."""
        slug = self.named("acme")
        tenant = await self.operator.post(
            "/api/v1/tenants",
            {
                "name": slug.title(),
                "slug": slug,
                "owner_email": f"owner@{slug}.example",
                "currency": self.terms.currency,
            },
        )
        self.tenant_id = tenant["id"]
        self.tenant_key = await self.make_key(slug)
        self.tenant = self.caller(self.tenant_key)
        free = await eventually("the free subscription", lambda: self.subscription("free"))
        return {"tenant": self.tenant_id, "slug": slug, "subscription": free["id"], "plan": "free"}

    async def make_key(self, slug: str) -> str:
        """A new API key of a tenant, made by the operator."""
        created = await self.operator.post(
            "/api/v1/api-keys",
            {"tenant": slug, "name": "story", "scopes": SCOPES, "mode": "test"},
        )
        key: str = created["key"]
        return key

    def caller(self, key: str) -> Api:
        """A client with a key that the operator has just made."""
        api = Api(self.origin, key)
        api.read_after(self.operator.version)
        return api

    async def subscription(self, plan: str, status: str = "active") -> dict[str, Any] | None:
        """The tenant's subscription, once it is on this plan with this status."""
        for item in (await self.tenant.get("/api/v1/subscriptions"))["items"]:
            if item["plan"] == plan and item["status"] == status:
                found: dict[str, Any] = item
                return found
        return None

    async def check_out(self) -> Facts:
        """3. The tenant buys the plan on the hosted page; the webhooks do the rest."""
        session = await self.tenant.post(
            "/api/v1/billing/checkout",
            {"tenant_id": self.tenant_id, "plan": self.named("pro")},
            on_its_way="plan_not_found",
        )
        await self.pay(session["session_id"])
        pro = await eventually("the pro subscription", lambda: self.subscription(self.named("pro")))
        first = await eventually("the first invoice's payment", lambda: self.paid_invoice(1))
        if first["total_minor"] != self.terms.fee_minor:
            raise StoryError(f"the first invoice is {first['total_minor']}, not the monthly fee")
        self.period = (parse_time(pro["period_from"]), parse_time(pro["period_to"]))
        status = await self.tenant.get(f"/api/v1/tenants/{self.tenant_id}/status")
        return {
            "checkout": session["url"],
            "subscription": pro["id"],
            "period": f"{pro['period_from']} to {pro['period_to']}",
            "tenant status": status["status"],
            "first invoice": f"{first['id']} number {first['number']}",
        }

    async def pay(self, session_id: str) -> None:
        """Pay a checkout session at the sandbox as a person would with a test card."""
        async with httpx.AsyncClient(base_url=self.environment["STRIPE_SIM_URL"]) as sandbox:
            answer = await sandbox.post(
                f"/_sim/checkout/{session_id}/pay", json={"card": CARD}, timeout=30
            )
        if not answer.is_success:
            raise StoryError(f"the sandbox did not take the payment: {answer.text[:300]}")

    async def paid_invoice(self, count: int) -> dict[str, Any] | None:
        """The newest invoice with its lines, once this many are paid."""
        page = await self.tenant.get("/api/v1/invoices", limit=100)
        paid = [item for item in page["items"] if item["status"] == "paid"]
        if len(paid) < count:
            return None
        newest = max(paid, key=lambda item: item["created_at"])
        invoice: dict[str, Any] = await self.tenant.get(f"/api/v1/invoices/{newest['id']}")
        return invoice

    async def advance_clock(self, to: datetime) -> datetime:
        """Move the tenant's business clock, and Stripe's with it; where it stands then."""
        path = f"/api/v1/tenants/{self.tenant_id}/clock"
        await self.operator.post(path, {"advance_to": format_time(to)}, expect=202)

        async def ready() -> dict[str, Any] | None:
            clock: dict[str, Any] = await self.operator.get(path)
            return clock if clock["status"] == "ready" else None

        clock = await eventually("the clock's advance", ready, seconds=120)
        self.tenant.read_after(self.operator.version)
        now = parse_time(clock["business_now"])
        if now < to:
            raise StoryError(f"the clock stands at {now}, before {to}")
        return now

    async def use(self) -> Facts:
        """4. The product reports usage: some of it twice, some of it days late."""
        assert self.period is not None, "the tenant has bought the plan"
        start = self.period[0]
        await self.advance_clock(start + timedelta(days=DAYS_OF_USE))
        rng = random.Random(self.terms.seed)  # noqa: S311 - a story, not a secret
        self._draw_usage(rng, start)
        late = [event for event in self.usage if rng.random() < self.terms.late_share]
        late_ids = {event["id"] for event in late}
        on_time = [event for event in self.usage if event["id"] not in late_ids]
        twice = [event for event in self.usage if rng.random() < self.terms.duplicate_share]
        await self.send_usage([*on_time, *late, *twice])
        self.quantity = sum(event["data"]["calls"] for event in self.usage)
        await eventually("the usage's count", self.usage_counted)
        return {
            "events": len(self.usage),
            "sent twice": len(twice),
            "sent late": len(late),
            "API calls counted": self.quantity,
        }

    def _draw_usage(self, rng: random.Random, start: datetime) -> None:
        for index in range(self.terms.events):
            at = start + timedelta(seconds=rng.randrange(3_600, (DAYS_OF_USE - 1) * 86_400))
            self.usage.append(
                {
                    "specversion": "1.0",
                    "id": f"{self.tenant_id}-{index}",
                    "source": "product/api",
                    "type": self.named(EVENT_TYPE),
                    "time": format_time(at),
                    "userid": f"user-{index % 7}",
                    "data": {"calls": rng.randrange(1, 4), "path": "/v1/things"},
                }
            )
        self.usage.sort(key=lambda event: str(event["time"]))

    async def send_usage(self, events: list[dict[str, Any]]) -> None:
        """Publish events over HTTP in batches; every one must be taken."""
        for first in range(0, len(events), BATCH_EVENTS):
            batch = events[first : first + BATCH_EVENTS]
            answer = await self.tenant.post("/api/v1/events", batch, expect=202)
            refused = [each for each in answer["results"] if each["status"] == "rejected"]
            if refused or len(answer["results"]) != len(batch):
                raise StoryError(f"usage was refused: {refused[:3]}")

    async def usage_counted(self) -> bool:
        """Whether the meter shows exactly what was used; more is never right."""
        assert self.period is not None, "the tenant has bought the plan"
        answer = await self.tenant.get(
            f"/api/v1/meters/{self.named('api_calls')}/query",
            **{"from": format_time(self.period[0]), "to": format_time(self.period[1])},
        )
        counted = sum(Decimal(row["value"]) for row in answer["rows"])
        if counted > self.quantity:
            raise StoryError(f"{counted} calls were counted, only {self.quantity} were made")
        return counted == self.quantity

    async def grant_credit(self) -> Facts:
        """5a. The operator grants credit; the balance shows it."""
        operator = Api(self.origin, self.environment["SLUICE_OPERATOR_KEY"], tenant=self.tenant_id)
        amount = {"amount_minor": self.terms.credit_minor, "currency": self.terms.currency}
        credit = await operator.post("/api/v1/credits", {"amount": amount})
        await operator.close()
        return {"credit": credit["id"], "balance": await self.balance_minor()}

    async def balance_minor(self) -> int:
        """The tenant's credit balance in minor units."""
        answer = await self.tenant.get("/api/billing/balance")
        return sum(int(each["amount_minor"]) for each in answer["balances"])

    async def close_period(self) -> Facts:
        """5b. The period ends: usage is rated, explained, added to Stripe's draft, collected."""
        assert self.period is not None, "the tenant has bought the plan"
        await self.advance_clock(self.period[1] + timedelta(hours=3))
        invoice = await eventually(
            "the cycle invoice's payment", lambda: self.paid_invoice(2), seconds=120
        )
        self.cycle_invoice = invoice
        usage_minor = self.terms.usage_minor(self.quantity)
        expected = self.terms.fee_minor + usage_minor - self.terms.credit_minor
        if invoice["total_minor"] != expected or invoice["paid_minor"] != expected:
            raise StoryError(
                f"the invoice is {invoice['total_minor']} (paid {invoice['paid_minor']}), "
                f"expected {expected}: fee {self.terms.fee_minor}, usage {usage_minor}, "
                f"credit {self.terms.credit_minor}"
            )
        explained = await self.explain(invoice)
        return {
            "invoice": f"{invoice['id']} number {invoice['number']}",
            "lines": "; ".join(
                f"{line['description']}: {line['amount_minor']}" for line in invoice["lines"]
            ),
            "usage explained": explained,
            "total": f"{expected} {self.terms.currency} (minor units), paid",
            "credit left": await self.balance_minor(),
        }

    async def explain(self, invoice: dict[str, Any]) -> str:
        """How the usage line came about, tier by tier."""
        usage = [line for line in invoice["lines"] if line["kind"] == "usage"]
        flat = [line for line in invoice["lines"] if line["kind"] == "flat"]
        if len(flat) != 1:
            raise StoryError(f"the fee must be billed once; it stands {len(flat)} times")
        parts = []
        for line in usage:
            why = await self.tenant.get(
                f"/api/v1/invoices/{invoice['id']}/lines/{line['id']}/explain"
            )
            tiers = ", ".join(
                f"{tier['quantity']} x {tier['unit_amount_minor']}" for tier in why["tiers"]
            )
            parts.append(f"{why['quantity']} used: {tiers}")
        return "; ".join(parts) or "no overage"

    async def check_ledger(self) -> Facts:
        """6. Everything is posted: the books balance and the clearing account is Stripe's."""

        async def equal() -> tuple[dict[str, int], dict[str, int]] | None:
            cleared = await self.clearing_minor()
            at_stripe = await self.stripe_balance_minor()
            return (cleared, at_stripe) if cleared == at_stripe else None

        cleared, _ = await eventually("the clearing account's agreement with Stripe", equal)
        trial = await self.operator.get("/api/v1/ledger/trial-balance", book="platform")
        for total in trial["totals"]:
            if total["debit_minor"] != total["credit_minor"]:
                raise StoryError(f"the trial balance is not zero: {total}")
        return {
            "trial balance": ", ".join(
                f"{total['currency']} {total['debit_minor']} = {total['credit_minor']}"
                for total in trial["totals"]
            ),
            "Stripe clearing = Stripe's balance": ", ".join(
                f"{amount} {currency}" for currency, amount in cleared.items()
            ),
            "reconciled with Stripe": f"{await self.reconcile()} movements, 0 breaks",
        }

    async def reconcile(self) -> int:
        """Have the platform's account compared with the books; how many movements agree."""
        path = "/api/v1/ledger/reconciliations"
        asked = await self.operator.post(path, {"account": "platform"}, expect=202)

        async def ended() -> dict[str, Any] | None:
            run: dict[str, Any] = await self.operator.get(f"{path}/{asked['id']}")
            return run if run["ended_at"] else None

        run = await eventually("the comparison with Stripe", ended)
        if run["state"] != "completed" or run["breaks_found"]:
            raise StoryError(f"the books and Stripe differ: {run}")
        return int(run["matched"])

    async def clearing_minor(self) -> dict[str, int]:
        """The ledger's Stripe clearing accounts of the whole platform, per currency."""
        trial = await self.operator.get("/api/v1/ledger/trial-balance", book="platform")
        sums: dict[str, int] = {}
        for row in trial["rows"]:
            if "stripe_clearing" in row["account"]:
                net = row["debit_minor"] - row["credit_minor"]
                sums[row["currency"]] = sums.get(row["currency"], 0) + net
        return {currency: amount for currency, amount in sorted(sums.items()) if amount}

    async def stripe_balance_minor(self) -> dict[str, int]:
        """Available and pending at Stripe, per currency."""
        headers = {"Authorization": f"Bearer {self.environment['STRIPE_SECRET_KEY']}"}
        async with httpx.AsyncClient(base_url=self.environment["STRIPE_SIM_URL"]) as sandbox:
            answer = await sandbox.get("/v1/balance", headers=headers, timeout=30)
        sums: dict[str, int] = {}
        for part in ("available", "pending"):
            for each in answer.json()[part]:
                currency = each["currency"].upper()
                sums[currency] = sums.get(currency, 0) + each["amount"]
        return {currency: amount for currency, amount in sorted(sums.items()) if amount}

    async def look_from_outside(self) -> Facts:
        """7. Another tenant sees none of it."""
        slug = self.named("globex")
        other = await self.operator.post("/api/v1/tenants", {"name": slug.title(), "slug": slug})
        self.other_id = other["id"]
        stranger = self.caller(await self.make_key(slug))
        try:
            seen = len((await stranger.get("/api/v1/invoices"))["items"])
            foreign = await stranger.status_of(
                "GET", f"/api/v1/invoices/{self.cycle_invoice['id']}"
            )
            header = await stranger.status_of(
                "GET", "/api/v1/invoices", headers={"X-Tenant-ID": self.tenant_id}
            )
        finally:
            await stranger.close()
        if (seen, foreign, header) != (0, 404, 403):
            raise StoryError(f"globex sees acme: {seen} invoices, {foreign}, {header}")
        return {
            "tenant": self.other_id,
            "its invoices": seen,
            "acme's invoice by id": foreign,
            "acme named in X-Tenant-ID": header,
        }

    async def close(self) -> None:
        """Close the clients."""
        await self.operator.close()
        if self.tenant_key:
            await self.tenant.close()
