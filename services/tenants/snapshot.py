"""The tenant's complete public record, sent whole with the next version after every change."""

import base64
from collections.abc import Sequence
from datetime import datetime
from typing import get_args
from uuid import UUID

import structlog

from libs.contracts.envelope import Mode
from libs.contracts.tenants import (
    ApiKeyRecord,
    AssertionKey,
    ConfigRecord,
    MemberRevocation,
    SealedAddress,
    StripeIds,
    TenantSnapshot,
)
from libs.db.pool import TRANSIENT_ERRORS, Database, Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.tenants import (
    connections,
    personal,
    store_configuration,
    store_keys,
    store_members,
    store_people,
    store_tenants,
)

log = structlog.get_logger()

ENDED_KEYS_MAX = 100
"""Revoked and expired keys still told of; an older one is unknown, which is as good as revoked."""
STRIPE_IDS_MAX = 50
REVOKED_SESSIONS_MAX = 200
REVOKED_MEMBERS_MAX = 1_000

RECORD_FORMAT = 3
"""Raised when what a record tells changes, so that all are told anew.

2: the billing address sealed. 3: the owner.
"""
TOLD_ANEW = 20
"""Records that one run of the job tells anew."""


async def publish(tx: Tx, at: datetime) -> int:
    """Raise the version of the tenant in scope and send its record; the new version.

    The record holds in both modes, so it travels with none. The row of the tenant stays locked
    until commit: versions leave in their order.
    """
    here = tx.scope
    await tx.enter(Scope((tx.tenant_id,), None))
    tenant = await store_tenants.raise_version(tx, at, RECORD_FORMAT)
    revoked = await _revoked(tx)
    snapshot = TenantSnapshot(
        version=tenant["version"],
        slug=tenant["slug"],
        name=tenant["name"],
        tenant_type=tenant["type"],
        status=tenant["status"],
        currency=tenant["currency"],
        locale=tenant["locale"],
        self_customer_id=tenant["self_customer_id"],
        billing_address=_billing_address(tenant),
        plan_key=tenant["plan_key"],
        api_keys=tuple(
            _api_key(row) for row in await store_keys.published_keys(tx, ENDED_KEYS_MAX, at)
        ),
        stripe=_stripe_ids(await store_tenants.stripe_objects(tx, STRIPE_IDS_MAX)),
        clock_offset_seconds=tenant["clock_offset_seconds"],
        assertion_keys=tuple(
            AssertionKey(key_id=row["key_id"], public_key=row["public_key"])
            for row in await store_keys.signing_keys(tx)
        ),
        sessions_revoked=tuple(await store_people.revoked_sessions(tx, REVOKED_SESSIONS_MAX)),
        members_revoked=revoked[:REVOKED_MEMBERS_MAX],
        assertions_void_before=max(
            (each.version for each in revoked[REVOKED_MEMBERS_MAX:]), default=0
        ),
        tax_region=tenant["tax_region"],
        connections=tuple(await connections.read_connections(tx)),
        config=tuple(
            ConfigRecord(namespace=row["namespace"], version=row["version"], values=row["content"])
            for row in await store_configuration.read_current(tx)
            if row["content"]
        ),
        live_since=tenant["live_since"],
        owner_user_id=await store_members.first_owner(tx),
    )
    emit(tx, snapshot, effective_at=at)
    await tx.enter(here)
    return snapshot.version


async def tell_anew(database: Database, at: datetime) -> None:
    """Publish some of the records that were told in an earlier form, each by itself."""
    async with database.maintenance() as tx:
        due = await store_tenants.told_otherwise(tx, RECORD_FORMAT, TOLD_ANEW)
    for tenant_id in due:
        try:
            async with database.tenant(tenant_id, None) as tx:
                await publish(tx, at)
        except TRANSIENT_ERRORS:
            raise
        except Exception:
            log.exception("record_not_told_anew", tenant_id=str(tenant_id))


def _billing_address(tenant: Row) -> SealedAddress | None:
    """The address as the row has it; one that still stands in the clear there is sealed for the record."""
    sealed, wrapped = tenant["billing_personal"], tenant["billing_wrapped"]
    if tenant["billing_email"] is not None:
        own = personal.seal_email(tenant["billing_email"], tenant["tenant_id"])
        sealed, wrapped = own.personal, own.wrapped
    if sealed is None or wrapped is None:
        return None
    return SealedAddress(
        sealed=base64.b64encode(sealed).decode(), wrapped=base64.b64encode(wrapped).decode()
    )


async def _revoked(tx: Tx) -> tuple[MemberRevocation, ...]:
    """Whose assertions are void, the latest first.

    Those who lost rights; and those whose sessions ended and are more than the record names one by
    one. The record tells `REVOKED_MEMBERS_MAX` of them; what is beyond voids every assertion before.
    """
    versions: dict[UUID, int] = {}
    for row in (
        *await store_members.revoked_members(tx),
        *await store_people.revoked_beyond(tx, REVOKED_SESSIONS_MAX),
    ):
        versions[row["user_id"]] = max(row["version"], versions.get(row["user_id"], 0))
    latest = sorted(versions.items(), key=lambda item: (-item[1], item[0]))
    return tuple(MemberRevocation(user_id=user_id, version=version) for user_id, version in latest)


def _api_key(row: Row) -> ApiKeyRecord:
    return ApiKeyRecord(
        key_id=row["key_id"],
        prefix=row["prefix"],
        key_hash=row["key_hash"].hex(),
        mode=row["mode"],
        scopes=tuple(row["scopes"]),
        operator=row["operator"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )


def _stripe_ids(rows: Sequence[Row]) -> tuple[StripeIds, ...]:
    modes: tuple[Mode, ...] = get_args(Mode)
    found = []
    for mode in modes:
        customers, subscriptions = (
            tuple(r["stripe_id"] for r in rows if r["mode"] == mode and r["kind"] == kind)
            for kind in ("customer", "subscription")
        )
        if customers or subscriptions:
            found.append(
                StripeIds(mode=mode, customer_ids=customers, subscription_ids=subscriptions)
            )
    return tuple(found)
