"""The catalog: publishing plans and finding what a subscriber bought.

Plans of the tenant `platform` apply to every tenant's self customer. A version never changes, so
changing a plan never changes what a subscriber bought.
"""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import (
    FlatPrice,
    GraduatedPrice,
    PlanLimit,
    PlanPublished,
    Price,
    Tier,
)
from libs.contracts.metering import MeterCreated
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode, Scope
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.billing import store_plans as store
from services.billing.catalog import FREE_KEY, FlatPriceBody, PlanBody, PriceBody

METER_WAIT_SECONDS = 2.0
METER_POLL_SECONDS = 0.05

# It holds no price, so its currency is never charged.
FREE_PLAN = PlanBody(
    key=FREE_KEY, name="Free", interval="month", currency="USD", collection="sluice"
)


@dataclass(frozen=True)
class Published:
    """A version and when it was published."""

    fact: PlanPublished
    published_at: datetime


@asynccontextmanager
async def biller_in_scope(tx: Tx, *, alone: bool = False) -> AsyncGenerator[None, None]:
    """Let the block see the platform's catalog: beside the tenant's own rows, or alone.

    The only place where billing looks past the tenant at hand.
    """
    before = tx.scope
    tenants = (PLATFORM_TENANT_ID,) if alone else (*before.tenants, PLATFORM_TENANT_ID)
    await tx.enter(Scope(tenants, before.mode, before.books))
    yield
    await tx.enter(before)


async def publish(tx: Tx, body: PlanBody, at: datetime, *, actor: str | None) -> Published:
    """Publish a plan of the tenant in scope; content equal to the latest version changes nothing.

    Args:
        at: when it is published.
        actor: who asked, for the audit log; None for the product itself.
    """
    await store.add_plan(tx, new_id(), body.key, at)
    plan_id = await store.lock_plan(tx, body.key)
    latest = await store.latest_version(tx, plan_id)
    digest = _content_hash(body)
    if latest is not None and bytes(latest["content_hash"]) == digest:
        return Published(PlanPublished.model_validate(latest["fact"]), latest["published_at"])
    version = 1 if latest is None else latest["version"] + 1
    fact = _fact_of(body, plan_id, version)
    await store.add_version(tx, fact.model_dump(mode="json"), digest, at)
    emit(tx, fact, effective_at=at)
    if actor is not None:
        change = ConfigurationChanged(
            action="plan.published",
            actor=actor,
            object_id=public_id("plan", plan_id),
            before=None if latest is None else _told(PlanPublished.model_validate(latest["fact"])),
            after=_told(fact),
        )
        emit(tx, change, effective_at=at)
    return Published(fact, at)


def _told(fact: PlanPublished) -> dict[str, str | int | bool | None]:
    """A version as the audit log shows it."""
    plain = fact.model_dump(mode="json")
    for price in plain["prices"]:
        del price["price_id"]
    return {
        **{name: plain[name] for name in ("version", "key", "name", "interval", "currency")},
        "collection": plain["collection"],
        "prices": json.dumps(plain["prices"]),
        "limits": json.dumps(plain["limits"]),
    }


async def ensure_free_plan(tx: Tx, at: datetime) -> PlanPublished:
    """The platform's `free` plan in the mode in scope; published when it is absent."""
    async with biller_in_scope(tx, alone=True):
        plan_id = await store.find_plan_id(tx, FREE_KEY)
        latest = None if plan_id is None else await store.latest_version(tx, plan_id)
        if latest is not None:
            return PlanPublished.model_validate(latest["fact"])
        return (await publish(tx, FREE_PLAN, at, actor=None)).fact


async def find_version(tx: Tx, version_id: UUID) -> PlanPublished | None:
    """A plan version of the tenant in scope or of the platform."""
    billers = (*tx.scope.tenants, PLATFORM_TENANT_ID)
    async with biller_in_scope(tx):
        row = await store.find_version(tx, billers, version_id)
    return None if row is None else PlanPublished.model_validate(row["fact"])


async def find_plan(tx: Tx, reference: str | UUID) -> Published | None:
    """The newest version of a plan in scope, by key or id."""
    plan_id = reference if isinstance(reference, UUID) else await store.find_plan_id(tx, reference)
    row = None if plan_id is None else await store.latest_version(tx, plan_id)
    if row is None:
        return None
    return Published(PlanPublished.model_validate(row["fact"]), row["published_at"])


async def list_plans(tx: Tx, *, after: UUID | None, limit: int) -> list[Published]:
    """The newest version of each plan in scope."""
    rows = await store.list_latest(tx, after=after, limit=limit)
    return [
        Published(PlanPublished.model_validate(row["fact"]), row["published_at"]) for row in rows
    ]


async def remember_meter(tx: Tx, fact: MeterCreated) -> None:
    """A meter was defined; prices of its tenant may name it from now on."""
    await store.add_meter(tx, fact.key, fact.meter_id)


async def wait_for_meters(
    database: Database, tenant_id: UUID, mode: Mode, keys: frozenset[str]
) -> frozenset[str]:
    """The keys that are no meters after giving those on their way two seconds to arrive."""
    deadline = time.monotonic() + METER_WAIT_SECONDS
    while True:
        async with database.tenant(tenant_id, mode) as tx:
            missing = keys - await store.known_meters(tx, sorted(keys))
        if not missing or time.monotonic() >= deadline:
            return missing
        await asyncio.sleep(METER_POLL_SECONDS)


def _fact_of(body: PlanBody, plan_id: UUID, version: int) -> PlanPublished:
    return PlanPublished(
        plan_id=plan_id,
        plan_version_id=new_id(),
        version=version,
        key=body.key,
        name=body.name,
        interval=body.interval,
        currency=body.currency,
        collection=body.collection,
        prices=tuple(_price_of(price) for price in body.prices),
        limits=tuple(
            PlanLimit(meter=limit.meter, amount=limit.amount, kind=limit.kind)
            for limit in body.limits
        ),
        features=body.features,
        upgrades_to=tuple(body.upgrades_to),
        stripe_price_id=body.stripe_price_id,
    )


def _price_of(price: PriceBody) -> Price:
    if isinstance(price, FlatPriceBody):
        return FlatPrice(price_id=new_id(), amount_minor=price.amount_minor)
    tiers = tuple(
        Tier(up_to=tier.up_to, unit_amount_minor=tier.unit_amount_minor) for tier in price.tiers
    )
    return GraduatedPrice(
        price_id=new_id(), meter=price.meter, included=price.included, tiers=tiers
    )


def _content_hash(body: PlanBody) -> bytes:
    canonical = json.dumps(body.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).digest()
