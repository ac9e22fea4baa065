"""One Stripe customer per customer and account, also when many ask at once."""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT, StripeCustomerLinked
from libs.db.pool import Database
from libs.directory.local import Tenant, business_now
from libs.messaging.outbox import emit
from services.stripe_sync import store_checkout, store_objects
from services.stripe_sync.client import Json, StripeApi
from services.stripe_sync.metadata import metadata_of
from services.stripe_sync.once import Writer
from services.stripe_sync.payers import Payer

NAME_LENGTH_MAX = 256
LOOK_PAGES_MAX = 50
LOOK_BEFORE = timedelta(minutes=10)
"""How far the clock here may be ahead of Stripe's."""


@dataclass
class CustomerLinks:
    """Creates and remembers Stripe customers.

    The request is frozen in a row before the first call, so that twins in any process send the
    same parameters under the same idempotency key and get the same customer. The lock only saves
    twins in this process the detour.
    """

    database: Database
    _locks: dict[tuple[UUID, Mode, str, UUID], asyncio.Lock] = field(default_factory=dict)

    async def ensure(
        self,
        api: StripeApi,
        account: str,
        tenant: Tenant,
        mode: Mode,
        payer: Payer,
        *,
        actor: str,
        email: str | None = None,
    ) -> str:
        """The Stripe customer of a payer on this account.

        In test mode it lives on a test clock of its own, which starts at the tenant's business
        time; on a tenant's own account it does not, for nobody would move that clock.

        Args:
            actor: who asked first; it stands in the customer's metadata.
            email: of the tenant itself, where its record has none.

        Raises:
            StripeCallError: Stripe did not answer or refused.
        """
        name = (tenant.id, mode, account, payer.customer_id)
        lock = self._locks.setdefault(name, asyncio.Lock())
        try:
            async with lock:
                request = _request(tenant, payer, actor, email)
                return await self._ensure(api, account, tenant, mode, payer.customer_id, request)
        finally:
            if not lock.locked():
                self._locks.pop(name, None)

    async def _ensure(
        self,
        api: StripeApi,
        account: str,
        tenant: Tenant,
        mode: Mode,
        customer_id: UUID,
        request: Json,
    ) -> str:
        on_clock = mode == "test" and account == PLATFORM_ACCOUNT
        clock_time = business_now(tenant, mode) if on_clock else None
        async with self.database.tenant(tenant.id, mode) as tx:
            link = await store_checkout.reserve_link(
                tx, account, customer_id, request, clock_time, utc_now()
            )
        if link["stripe_customer_id"] is not None:
            known: str = link["stripe_customer_id"]
            return known
        request = link["request"]
        writer = Writer(self.database, api, tenant.id, mode)
        if link["clock_time"] is not None:
            clock_id = link["stripe_test_clock_id"] or await self._create_clock(
                writer, account, customer_id, int(link["clock_time"].timestamp())
            )
            request = request | {"test_clock": clock_id}
        customer = await writer.post(
            "customer.create",
            "/v1/customers",
            request,
            key=f"customer:{account}:{customer_id}",
            look=partial(_look, api, request, link["created_at"]),
            asked_at=link["created_at"],
        )
        async with self.database.tenant(tenant.id, mode) as tx:
            await store_objects.claim(tx, account, customer["id"], customer_id)
            if await store_checkout.complete_link(tx, account, customer_id, customer["id"]):
                fact = StripeCustomerLinked(
                    customer_id=customer_id, account=account, stripe_customer_id=customer["id"]
                )
                emit(tx, fact, effective_at=business_now(tenant, mode))
        stripe_customer_id: str = customer["id"]
        return stripe_customer_id

    async def _create_clock(
        self, writer: Writer, account: str, customer_id: UUID, frozen_time: int
    ) -> str:
        clock = await writer.post(
            "test_clock.create",
            "/v1/test_helpers/test_clocks",
            {"frozen_time": frozen_time, "name": f"tenant {writer.tenant_id}"},
            key=f"clock:{account}:{customer_id}",
        )
        clock_id: str = clock["id"]
        async with self.database.tenant(writer.tenant_id, writer.mode) as tx:
            await store_checkout.set_clock(tx, account, customer_id, clock_id)
        return clock_id


async def _look(api: StripeApi, request: Json, asked_at: datetime) -> Json | None:
    """The customer that an earlier try created although nobody heard of it."""
    query: Json = {name: request[name] for name in ("test_clock", "email") if name in request}
    if "test_clock" not in request:
        # On a test clock, which has a few customers only, it is as old as that clock says.
        query["created"] = {"gte": int((asked_at - LOOK_BEFORE).timestamp())}
    found = await api.list_all("customer.list", "/v1/customers", query, pages_max=LOOK_PAGES_MAX)
    wanted = request["metadata"]["customer_id"]
    return next(
        (each for each in found if (each["metadata"] or {}).get("customer_id") == wanted), None
    )


def _request(tenant: Tenant, payer: Payer, actor: str, email: str | None) -> Json:
    """What Stripe is told of a customer (requirement P3).

    Of a customer of the tenant's own that is its name: the e-mail stays in billing.
    """
    snapshot = tenant.snapshot
    metadata = metadata_of(tenant, actor, payer.customer_id)
    request: Json = {"preferred_locales": [snapshot.locale], "metadata": metadata}
    if payer.name:
        request["name"] = metadata["name"] = payer.name[:NAME_LENGTH_MAX]
    address = (snapshot.billing_email or email) if payer.is_tenant else None
    if address:
        request["email"] = metadata["billing_email"] = address
    return request
