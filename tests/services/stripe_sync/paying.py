"""A tenant whose customers pay, into whichever of the three kinds of account."""

import asyncio
import base64
import time
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import httpx

from libs.contracts.billing import CustomerCreated, NameCustomer
from libs.contracts.gateway import StripeEventReceived
from libs.crypto.personal import PersonalKeys
from libs.ids import new_id, public_id
from services.stripe_sync.janitor import RequestWorker
from tests.services.stripe_sync.accounts import Own, own_account
from tests.services.stripe_sync.conftest import PEPPER, Tenant, World

KINDS = ("PLATFORM", "CONNECT_STANDARD", "RAW_KEYS")
EUR = {"amount_minor": 2500, "currency": "EUR"}


@dataclass
class Shop:
    """A tenant, a customer of its own, and the account that customer pays into.

    Attributes:
        own: None where the platform's account stands in.
    """

    world: World
    tenant: Tenant
    customer_id: UUID
    own: Own | None

    @property
    def customer(self) -> str:
        return public_id("customer", self.customer_id)

    @property
    def account(self) -> str:
        return self.own.account if self.own else "platform"

    @property
    def collected_by(self) -> str:
        return "tenant" if self.own else "platform"

    @property
    def key(self) -> str:
        """The account's own key at Stripe."""
        return self.own.key if self.own else self.world.key

    async def call(
        self, method: str, path: str, body: Any = None, *, once: str | None = None
    ) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.tenant.key}"}
        headers |= {"idempotency-key": once} if once else {}
        return await self.world.http.request(method, f"/api/v1/{path}", json=body, headers=headers)

    async def post(self, path: str, body: Any = None, *, once: str | None = None) -> httpx.Response:
        return await self.call("POST", path, {} if body is None else body, once=once)

    async def get(self, path: str) -> Any:
        answer = await self.call("GET", path)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def begin(self, once: str | None = None, **body: Any) -> httpx.Response:
        """A payment intent of this customer."""
        wish = {"amount": EUR, "customer": self.customer} | body
        return await self.post("payment-intents", wish, once=once)

    async def pay(self, once: str | None = None, **body: Any) -> httpx.Response:
        """One that is paid at once by a good card."""
        card = {"payment_method": "pm_card_visa", "confirm": True}
        return await self.begin(once, **(card | body))

    def at_stripe(self, path: str, **params: Any) -> Any:
        """An object or list of the account at Stripe."""
        return self.world.sandbox.get(f"/v1/{path}", self.key, **params)

    def listed(self, path: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.at_stripe(path, limit=100)["data"]
        return found

    async def take_webhooks(self) -> None:
        """Deliver every event of the account that was not delivered yet, then come to rest."""
        own = self.own
        if own is None:
            await self.world.take_webhooks()
            return
        known = {e.data.stripe_event_id for e in self.world.log.events(StripeEventReceived)}
        for event in own.events():
            if event["id"] not in known:
                own.deliver(event)
        await self.world.settle()

    async def settle_requests(self) -> None:
        """Let the worker find out what became of every request, with no pause between looks."""
        worker = RequestWorker(
            self.world.database, self.world.app.state.directory, self.world.identities
        )
        deadline = time.monotonic() + 60
        while True:
            async with self.world.test_database.admin() as admin:
                await admin.execute("update stripe_sync.payment_request set next_try_at = now()")
            for each in await worker.due():
                await worker.settle(each)
            if not [r for r in await self.world.rows("payment_request") if r["state"] == "open"]:
                return
            assert time.monotonic() < deadline, await self.world.rows("payment_request")
            await asyncio.sleep(0.05)

    async def enter_customer(self, name: str = "Ada Lovelace") -> UUID:
        """As billing tells of one."""
        customer_id = new_id()
        created = CustomerCreated(customer_id=customer_id, billed_by="tenant")
        await self.world.publish(created, self.tenant.id)
        await self.world.publish(sealed_name(customer_id, name), self.tenant.id)
        return customer_id


def sealed_name(customer_id: UUID, name: str) -> NameCustomer:
    """A customer's name as billing tells it."""
    keys = PersonalKeys(PEPPER)
    wrapped = keys.new_key(customer_id)
    personal = keys.seal({"name": name}, wrapped, customer_id)
    return NameCustomer(
        customer_id=customer_id,
        personal=base64.b64encode(personal).decode(),
        wrapped=base64.b64encode(wrapped).decode(),
    )


async def open_shop(world: World, kind: str, slug: str = "acme") -> Shop:
    """A shop of a tenant, with one customer."""
    own = None if kind == "PLATFORM" else await own_account(world, slug, kind)
    # What is remembered for a second does not know of the connection.
    world.app.state.directory._cache.clear()
    shop = Shop(world, world.tenants[slug], new_id(), own)
    shop.customer_id = await shop.enter_customer()
    return shop
