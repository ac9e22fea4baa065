"""Tenants with Stripe accounts of their own: in the sandbox, and as the directory tells of them."""

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

from libs.clock import from_unix, utc_now
from libs.contracts.envelope import wrap
from libs.contracts.gateway import StripeEventReceived
from libs.contracts.tenants import ConnectionRecord, TenantSnapshot
from libs.ids import new_id
from services.stripe_sync.client import Json, StripeApi
from tests.services.sealed import Plain, Vault
from tests.services.stripe_sync.conftest import MASTER_KEY, Tenant, World


@dataclass
class Own:
    """One tenant's own account."""

    world: World
    tenant: Tenant
    account: str
    key: str
    kind: str
    connection_id: UUID = field(default_factory=new_id)
    snapshots: int = 1
    key_version: int = 1

    def __post_init__(self) -> None:
        self.vault = Vault(self.tenant.id, MASTER_KEY)

    async def tell(self, **changes: Any) -> None:
        """The next record of the tenant in the directory."""
        self.snapshots += 1
        raw = self.kind == "RAW_KEYS"
        values: dict[str, Any] = {
            "connection_id": self.connection_id,
            "mode": "test",
            "kind": self.kind,
            "status": "CONNECTED",
            "account_id": self.account,
            "credential_version": self.key_version if raw else 0,
        }
        known = await self.world.app.state.directory.by_id(self.tenant.id)
        assert known is not None
        snapshot = TenantSnapshot(
            version=self.snapshots,
            slug=self.tenant.slug,
            name=self.tenant.slug,
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=self.tenant.customer_id,
            api_keys=known.snapshot.api_keys,
            connections=(ConnectionRecord(**(values | changes)),),
        )
        await self.world.publish(snapshot, self.tenant.id, mode=None)

    async def give_keys(self, *keys: str) -> None:
        """The keys that hold from now on, the current one first; their versions count down."""
        later = utc_now() + timedelta(hours=1)
        plain = [
            Plain(
                self.connection_id, self.key_version - age, key, valid_until=later if age else None
            )
            for age, key in enumerate(keys)
        ]
        await self.world.publish(self.vault.secrets(plain), self.tenant.id, mode=None)

    def new_key(self) -> str:
        """One more key of the account at Stripe."""
        answer = self.world.sandbox.client.post(f"/_sim/accounts/{self.account}/keys", json={})
        key: str = answer.json()["key"]
        return key

    def revoke(self, key: str) -> None:
        """At Stripe."""
        answer = self.world.sandbox.client.post("/_sim/keys/revoke", json={"key": key})
        assert answer.status_code == 200, answer.text

    async def api(self) -> StripeApi:
        """The way stripe_sync calls the account."""
        identity = await self.world.identities.of(self.account, "test")
        assert identity is not None
        assert identity.tenant_id == self.tenant.id
        return identity.api

    async def create_customer(self, **fields: Any) -> Json:
        """A customer in the account."""
        path, key = "/v1/customers", str(new_id())
        return await (await self.api()).post("customer.create", path, fields, idempotency_key=key)

    def events(self) -> list[Json]:
        """Of the account at Stripe, oldest first."""
        return self.world.sandbox.events(self.key)

    def deliver(self, event: Json) -> None:
        """A webhook of the account as the gateway publishes it."""
        subject = event["data"]["object"]
        fact = StripeEventReceived(
            account=self.account,
            stripe_event_id=event["id"],
            event_type=event["type"],
            api_version=event["api_version"],
            created_at=from_unix(event["created"]),
            object_type=subject["object"],
            object_id=subject.get("id"),
            payload=json.dumps(event),
        )
        self.world.log.publish(
            wrap(
                fact,
                tenant_id=self.tenant.id,
                mode="test",
                source="gateway",
                effective_at=utc_now(),
            )
        )


async def own_account(world: World, slug: str, kind: str = "RAW_KEYS") -> Own:
    """Give a tenant an account of its own: with its key, or connected to the platform."""
    created = world.sandbox.client.post("/_sim/accounts", json={"name": slug}).json()
    own = Own(world, world.tenants[slug], created["id"], created["secret_key"], kind)
    if kind == "RAW_KEYS":
        await own.give_keys(own.key)
    else:
        world.sandbox.client.post(f"/_sim/accounts/{own.account}/connect")
    await own.tell()
    return own
