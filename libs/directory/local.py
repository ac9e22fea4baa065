"""Looking tenants up in the local copy: by id, slug, API key prefix, Stripe id, account or token.

Found tenants are remembered for a second, and no longer than until this process takes a newer record
in, so a revocation holds everywhere within two.
"""

import asyncio
import binascii
import time
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any, Literal
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.tenants import (
    DEFAULT_TENANT_ID,
    PLATFORM_TENANT_ID,
    ApiKeyRecord,
    ConfigRecord,
    ConnectionRecord,
    TenantSnapshot,
)
from libs.crypto.errors import SealedValueError
from libs.crypto.personal import PersonalKeys
from libs.db.pool import Database
from libs.db.shared_looks import SharedLooks
from libs.directory.arrivals import RECORDS
from libs.ids import parse_uuid

log = structlog.get_logger()

CACHE_SECONDS = 1.0
CACHE_ENTRIES = 10_000
WAIT_SECONDS = 2.0
POLL_SECONDS = 0.05

LookupKind = Literal["id", "slug", "key", "stripe", "account", "webhook_token"]
"""`stripe` and `account` values are `<mode>:<Stripe id>`; `webhook_token` is a hex SHA-256."""


@dataclass(frozen=True)
class Tenant:
    """A tenant as every service knows it."""

    id: UUID
    snapshot: TenantSnapshot

    def api_key(self, prefix: str) -> ApiKeyRecord | None:
        """The key with this look-up prefix."""
        return next((key for key in self.snapshot.api_keys if key.prefix == prefix), None)

    def connection(self, mode: Mode) -> ConnectionRecord | None:
        """The tenant's own Stripe connection in this mode, whatever its state."""
        return next((each for each in self.snapshot.connections if each.mode == mode), None)

    @property
    def is_live(self) -> bool:
        """Whether live mode is open to the tenant; to the reserved ones it always is."""
        reserved = self.id in (PLATFORM_TENANT_ID, DEFAULT_TENANT_ID)
        return reserved or self.snapshot.live_since is not None

    def config(self, namespace: str) -> ConfigRecord | None:
        """What the tenant has set in a namespace; None: nothing."""
        return next((each for each in self.snapshot.config if each.namespace == namespace), None)


def business_now(tenant: Tenant, mode: Mode) -> datetime:
    """The tenant's business time: the real time, plus the test clock's offset in test mode.

    Only routes and jobs call this; handlers take `effective_at` from the event.
    """
    offset = tenant.snapshot.clock_offset_seconds if mode == "test" else 0
    return utc_now() + timedelta(seconds=offset)


class Directory:
    """The service's own copy of the directory."""

    def __init__(self, database: Database, pepper: bytes | None = None) -> None:
        """The copy of a service.

        Args:
            pepper: opens billing addresses, for the services that write to them; without it a tenant
                shows none.
        """
        self._database = database
        self._personal_keys = None if pepper is None else PersonalKeys(pepper)
        self._cache: dict[tuple[str, str], tuple[float, Tenant]] = {}
        self._looks: SharedLooks[Tenant | None] = SharedLooks()

    async def find(self, kind: LookupKind, value: str) -> Tenant | None:
        """The tenant this exact value belongs to, at most a second old."""
        remembered = self._remembered(kind, value)
        if remembered is not None:
            return remembered
        return await self._looks.ask((kind, value), partial(self._look, kind, value))

    async def _look(self, kind: LookupKind, value: str) -> Tenant | None:
        """The tenant as it stands in the local copy now; it is remembered."""
        row = await self._database.fetchrow("select find_tenant($1, $2) as found", kind, value)
        return self._remember(kind, value, None if row is None else row["found"])

    def _remembered(self, kind: str, value: str) -> Tenant | None:
        """What was found less than a second ago, unless a newer version has arrived since."""
        moment, tenant = self._cache.get((kind, value), (0.0, None))
        if tenant is None or time.monotonic() - moment >= CACHE_SECONDS:
            return None
        is_newest = RECORDS.is_newest(self._database.service, tenant.id, tenant.snapshot.version)
        return tenant if is_newest else None

    def _remember(self, kind: LookupKind, value: str, found: Any) -> Tenant | None:
        if found is None:
            self._cache.pop((kind, value), None)
            return None
        tenant_id = UUID(found["tenant_id"])
        snapshot = TenantSnapshot.model_validate(found["snapshot"])
        tenant = Tenant(tenant_id, self._addressed(tenant_id, snapshot))
        if len(self._cache) >= CACHE_ENTRIES:
            self._cache.clear()
        seen = time.monotonic(), tenant
        # Who was found by a key is asked for by the id next.
        self._cache[kind, value] = self._cache["id", str(tenant_id)] = seen
        return tenant

    def _addressed(self, tenant_id: UUID, snapshot: TenantSnapshot) -> TenantSnapshot:
        """The record with the billing address in the clear, in memory only, where it may be."""
        address = snapshot.billing_address
        if self._personal_keys is None or address is None:
            return snapshot
        try:
            sealed, wrapped = b64decode(address.sealed), b64decode(address.wrapped)
            email = self._personal_keys.open(sealed, wrapped, tenant_id)["email"]
        except (SealedValueError, binascii.Error) as error:
            # Everything else of the tenant goes on without it.
            log.error(  # noqa: TRY400 - the trace says no more
                "billing_address_does_not_open",
                tenant_id=str(tenant_id),
                reason=type(error).__name__,
            )
            return snapshot
        return snapshot.model_copy(update={"billing_email": email})

    async def by_reference(self, reference: str) -> Tenant | None:
        """A tenant by id or slug: wherever the API takes the one it takes the other."""
        if len(reference) > 100:
            return None
        if parse_uuid(reference) is not None:
            return await self.find("id", reference.lower())
        return await self.find("slug", reference.lower())

    async def by_id(self, tenant_id: UUID) -> Tenant | None:
        """A tenant by its id."""
        return await self.find("id", str(tenant_id))

    async def by_ids(self, tenant_ids: Iterable[UUID]) -> dict[UUID, Tenant]:
        """Tenants by their ids, in one look for all that are not remembered; unknown ones are absent."""
        wanted = {tenant_id: self._remembered("id", str(tenant_id)) for tenant_id in tenant_ids}
        missing = [str(tenant_id) for tenant_id, tenant in wanted.items() if tenant is None]
        if missing:
            async with self._database.transaction() as tx:
                rows = await tx.fetch(
                    "select v, find_tenant('id', v) as found from unnest($1::text[]) as u(v)",
                    missing,
                )
            for row in rows:
                wanted[UUID(row["v"])] = self._remember("id", row["v"], row["found"])
        return {tenant_id: tenant for tenant_id, tenant in wanted.items() if tenant is not None}

    async def afresh(self, tenant: Tenant) -> Tenant:
        """The tenant as it stands in the local copy now, whatever is remembered of it."""
        return await self._look("id", str(tenant.id)) or tenant

    async def platform(self) -> Tenant | None:
        """The platform's own record; None until the directory has it."""
        return await self.by_id(PLATFORM_TENANT_ID)

    async def wait_for(self, kind: LookupKind, value: str) -> Tenant | None:
        """Like `find`, but gives a record that is on its way up to two seconds to arrive."""
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            tenant = await self.find(kind, value)
            if tenant is not None or time.monotonic() >= deadline:
                return tenant
            await asyncio.sleep(POLL_SECONDS)

    async def wait_for_version(
        self, tenant_id: UUID, version: int, *, wait_seconds: float = WAIT_SECONDS
    ) -> bool:
        """Whether the local copy has this version, or reaches it within the time.

        Nothing of what others remember is thrown away: a look replaces it by something newer.
        """
        deadline = time.monotonic() + wait_seconds
        tenant = await self.by_id(tenant_id)
        while tenant is None or tenant.snapshot.version < version:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_SECONDS)
            tenant = await self._look("id", str(tenant_id))
        return True
