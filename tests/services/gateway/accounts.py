"""Tenants' own Stripe accounts, as the directory and the sealed secrets tell of them."""

import hashlib
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx

from libs.clock import utc_now
from libs.contracts.envelope import wrap
from libs.contracts.tenants import ConnectionRecord, TenantSnapshot
from libs.directory.apply import apply_snapshot
from libs.directory.secrets import apply_secrets
from libs.ids import new_id
from tests.services.gateway.conftest import GLOBEX, MASTER_KEY, URL, Gateway, snapshot_event
from tests.services.sealed import Plain, Vault


@dataclass
class Own:
    """A tenant's own account with its webhook URL."""

    gateway: Gateway
    tenant_id: UUID
    slug: str
    account: str
    kind: str = "RAW_KEYS"
    token: str = field(default_factory=lambda: new_id().hex + new_id().hex)
    secret: str = field(default_factory=lambda: f"whsec_{new_id().hex}")
    connection_id: UUID = field(default_factory=new_id)
    snapshots: int = 1
    version: int = 1

    def __post_init__(self) -> None:
        self.vault = Vault(self.tenant_id, MASTER_KEY)

    @property
    def url(self) -> str:
        return f"{URL}/{self.token}"

    async def tell(self, **changes: Any) -> None:
        """The tenant's next record in the directory."""
        self.snapshots += 1
        raw = self.kind == "RAW_KEYS"
        values: dict[str, Any] = {
            "connection_id": self.connection_id,
            "mode": "test",
            "kind": self.kind,
            "status": "CONNECTED",
            "account_id": self.account,
            "webhook_token_hashes": (
                (hashlib.sha256(self.token.encode()).hexdigest(),) if raw else ()
            ),
        }
        snapshot = TenantSnapshot(
            version=self.snapshots,
            slug=self.slug,
            name=self.slug,
            tenant_type="organization",
            status="active",
            currency="EUR",
            locale="en",
            self_customer_id=new_id(),
            connections=(ConnectionRecord(**(values | changes)),),
        )
        event = wrap(
            snapshot,
            tenant_id=self.tenant_id,
            mode=None,
            source="tenants",
            effective_at=utc_now(),
        )
        async with self.gateway.database.tenant(self.tenant_id, None) as tx:
            await apply_snapshot(event, tx)

    async def give_secrets(self, *secrets: str, previous_seconds: float = 3600) -> None:
        """The webhook secrets that hold from now on, the current one first."""
        later = utc_now() + timedelta(seconds=previous_seconds)
        plain = [
            Plain(
                self.connection_id,
                self.version - age,
                secret,
                name="stripe_webhook_secret",
                valid_until=later if age else None,
            )
            for age, secret in enumerate(secrets)
        ]
        event = wrap(
            self.vault.secrets(plain),
            tenant_id=self.tenant_id,
            mode=None,
            source="tenants",
            effective_at=utc_now(),
        )
        async with self.gateway.database.tenant(self.tenant_id, None) as tx:
            await apply_secrets(event, tx)

    async def send(self, event: Any, secret: str | None = None, **how: Any) -> httpx.Response:
        """Post to the tenant's URL."""
        signing = (secret or self.secret).encode()
        return await self.gateway.send(event, secret=signing, url=self.url, **how)


def own_event(**changes: Any) -> dict[str, Any]:
    """An event that names another tenant wherever it can."""
    metadata = {"tenant_id": str(GLOBEX)}
    subject = {"id": "in_1", "object": "invoice", "customer": "cus_acme", "metadata": metadata}
    return snapshot_event(data={"object": subject}) | changes
