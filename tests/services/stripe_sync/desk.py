"""A till at one Stripe account: payments as payers make them there, and what is known of them here."""

import hashlib
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from libs.contracts.envelope import Fact
from libs.ids import new_id
from services.ledger.handlers import HANDLERS as LEDGER_HANDLERS
from services.stripe_sync.client import Json, StripeApi, StripeRefusedError
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import Tenant, World

KINDS = ("PLATFORM", "RAW_KEYS", "CONNECT_STANDARD")
"""Whose account it is, and how it is called."""


@dataclass
class Desk:
    """One account of the sandbox, the tenant whose money it is, and the ledger."""

    world: World
    tenant: Tenant
    own: Own | None
    account: str
    customer: str | None = None
    taken: set[str] = field(default_factory=set)

    async def api(self) -> StripeApi:
        """The way to call the account."""
        return await self.own.api() if self.own else self.world.api

    async def post(self, path: str, **params: Any) -> Json:
        """Write to the account, as its owner would."""
        api = await self.api()
        return await api.post("test.post", f"/v1/{path}", params, idempotency_key=str(new_id()))

    async def pay(self, method: str | None = "visa", amount: int = 1000, **more: Any) -> Json:
        """A payment intent, confirmed at once with a test card; the intent, declined or not."""
        params: dict[str, Any] = {"amount": amount, "currency": "eur"} | more
        if self.customer is not None:
            params["customer"] = self.customer
        if method is not None:
            params |= {
                "payment_method": f"pm_card_{method}",
                "confirm": True,
                "return_url": "https://shop.example/done",
            }
        try:
            intent = await self.post("payment_intents", **params)
        except StripeRefusedError:
            newest = await (await self.api()).get("x", "/v1/payment_intents", {"limit": 1})
            intent = newest["data"][0]
        return intent

    def happen(self, path: str, **body: Any) -> Json:
        """Something happens at a bank."""
        answer = self.world.sandbox.client.post(f"/_sim/{path}", json=body)
        assert answer.status_code < 300, answer.text
        found: Json = answer.json()
        return found

    def events(self) -> list[Json]:
        """Events of the account that were not taken yet, oldest first."""
        found = self.own.events() if self.own else self.world.sandbox.events(self.world.key)
        return [event for event in found if event["id"] not in self.taken]

    async def take(self, *types: str) -> Sequence[str]:
        """Take the new webhooks in, only those of these types where any are named; their types."""
        events = self.events()
        self.taken |= {event["id"] for event in events}
        chosen = [event for event in events if not types or event["type"] in types]
        for event in chosen:
            if self.own:
                self.own.deliver(event)
            else:
                self.world.deliver([event])
        await self.world.settle()
        return [event["type"] for event in chosen]

    async def get(self, path: str) -> Any:
        """Read from our API as the tenant."""
        answer = await self.world.get(self.tenant, f"/api/v1/{path}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def payment(self, intent: Json) -> dict[str, Any]:
        """The payment of an intent as the API shows it."""
        items: list[dict[str, Any]] = (await self.get("payments"))["items"]
        (found,) = [each for each in items if each["stripe_payment_intent_id"] == intent["id"]]
        assert await self.get(f"payments/{found['id']}") == found
        return found

    def told(self, kind: type[Fact]) -> list[Any]:
        """What was said of this account, all of it to its tenant."""
        events = [
            event for event in self.world.log.events(kind) if event.data.account == self.account
        ]
        assert {event.tenant_id for event in events} <= {self.tenant.id}
        return [event.data for event in events]

    async def balance(self) -> int:
        """What Stripe holds of the account, after looking at its movements."""
        found = await (await self.api()).get("balance.retrieve", "/v1/balance")
        return sum(part["amount"] for name in ("available", "pending") for part in found[name])

    async def booked(self, code: str | None = None, *, book: str | None = None) -> int:
        """Debits less credits of an account of the ledger; without a code its clearing account."""
        code = code or f"asset:stripe_clearing:{self.account}"
        async with self.world.test_database.admin() as admin:
            found: int = await admin.fetchval(
                "select coalesce(sum(debit_minor - credit_minor), 0)::bigint "
                "from ledger.account_balance where account = $1 and ($2::text is null or book = $2)",
                code,
                book,
            )
        return found


async def open_desk(world: World, stack: AsyncExitStack, kind: str) -> Desk:
    """A till at an account of this kind, with the ledger listening."""
    ledger = await stack.enter_async_context(world.test_database.open("ledger"))
    world.log.add(ledger, LEDGER_HANDLERS)
    acme = world.tenants["acme"]
    if kind == "PLATFORM":
        desk = Desk(world, acme, None, "platform")
        metadata = {"tenant_id": str(acme.id), "customer_id": str(acme.customer_id)}
        desk.customer = (await desk.post("customers", name="Acme", metadata=metadata))["id"]
    else:
        own = await own_account(world, "acme", kind)
        await world.settle()
        desk = Desk(world, acme, own, own.account)
    await desk.take()
    return desk


def checksum(rows: list[dict[str, Any]], *without: str) -> str:
    """A digest of rows, without what each database makes up itself."""
    kept = [{name: value for name, value in row.items() if name not in without} for row in rows]
    return hashlib.sha256("\n".join(sorted(map(str, kept))).encode()).hexdigest()


def uuid_of(public: str) -> UUID:
    """The UUID inside a prefixed id."""
    return UUID(public.partition("_")[2])
