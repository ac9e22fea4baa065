"""The tenant's complete public record, sent whole with the next version after every change."""

from collections.abc import Sequence
from datetime import datetime
from typing import get_args
from uuid import UUID

from libs.contracts.envelope import Mode
from libs.contracts.tenants import (
    ApiKeyRecord,
    AssertionKey,
    ConfigRecord,
    MemberRevocation,
    StripeIds,
    TenantSnapshot,
)
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.tenants import (
    connections,
    store_configuration,
    store_keys,
    store_members,
    store_people,
    store_tenants,
)

ENDED_KEYS_MAX = 100
"""Revoked and expired keys still told of; an older one is unknown, which is as good as revoked."""
STRIPE_IDS_MAX = 50
REVOKED_SESSIONS_MAX = 200
REVOKED_MEMBERS_MAX = 1_000


async def publish(tx: Tx, at: datetime) -> int:
    """Raise the version of the tenant in scope and send its record; the new version.

    The record holds in both modes, so it travels with none. The row of the tenant stays locked
    until commit: versions leave in their order.
    """
    here = tx.scope
    await tx.enter(Scope((tx.tenant_id,), None))
    tenant = await store_tenants.raise_version(tx, at)
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
        billing_email=tenant["billing_email"],
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
    )
    emit(tx, snapshot, effective_at=at)
    await tx.enter(here)
    return snapshot.version


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
