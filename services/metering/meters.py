"""Meters: defining them, and finding those that apply to a tenant's events."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.metering import Aggregation, MeterCreated, TimeUnit
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Mode, Scope
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.metering import store_meters as store
from services.metering.measuring import Meter, plain
from services.metering.store_meters import MeterRow

METERS_MAX = 200
"""Meters of one tenant and mode."""

METERS_OF_TYPE_MAX = 20
"""Of these, for one type of event: every event of that type is held against each."""


class MeterExistsError(ValueError):
    """The key is taken."""


class TooManyMetersError(ValueError):
    """The tenant has as many meters as it may: the message says of what."""


async def create(
    tx: Tx,
    *,
    key: str,
    event_type: str,
    aggregation: Aggregation,
    value_path: str | None,
    group_by: tuple[str, ...],
    filters: Mapping[str, frozenset[str]],
    created_at: datetime,
    actor: str,
    percentile: Decimal | None = None,
    time_unit: TimeUnit | None = None,
) -> MeterRow:
    """Define a meter of the tenant in scope; it counts what is consumed from now on.

    Raises:
        MeterExistsError: the key is taken.
        TooManyMetersError: the tenant has 200 already, or 20 of this type of event.
    """
    meter = Meter(
        tx.tenant_id,
        new_id(),
        key,
        event_type,
        aggregation,
        value_path,
        group_by,
        filters,
        percentile=percentile,
        time_unit=time_unit,
    )
    of_all, of_type = await store.count_meters(tx, event_type)
    if of_all >= METERS_MAX:
        raise TooManyMetersError(f"A tenant has up to {METERS_MAX} meters.")
    if of_type >= METERS_OF_TYPE_MAX:
        raise TooManyMetersError(f"Up to {METERS_OF_TYPE_MAX} meters count events of one type.")
    if not await store.add_meter(tx, meter, created_at):
        raise MeterExistsError
    fact = MeterCreated(
        meter_id=meter.id,
        key=key,
        event_type=event_type,
        aggregation=aggregation,
        value_path=value_path,
        group_by=group_by,
        percentile=percentile,
        time_unit=time_unit,
    )
    emit(tx, fact, effective_at=created_at)
    emit(
        tx,
        ConfigurationChanged(
            action="meter.created",
            actor=actor,
            object_id=public_id("meter", meter.id),
            after={
                "key": key,
                "event_type": event_type,
                "aggregation": aggregation,
                "value_path": value_path,
                "group_by": " ".join(group_by),
                "percentile": None if percentile is None else plain(percentile),
                "time_unit": time_unit,
            },
        ),
        effective_at=created_at,
    )
    return MeterRow(meter, created_at)


async def applying(tx: Tx, tenants: Sequence[UUID], mode: Mode) -> Mapping[UUID, tuple[Meter, ...]]:
    """The meters of these tenants and of the platform, by owner.

    Metering looks past the tenant at hand here and in `plans` only. The scope stays widened to the
    platform: enter a narrower one before writing.
    """
    owners = sorted({*tenants, PLATFORM_TENANT_ID})
    await tx.enter(Scope(tuple(owners), mode))
    found: dict[UUID, list[Meter]] = {}
    for row in await store.list_meters(tx, owners):
        found.setdefault(row.meter.tenant_id, []).append(row.meter)
    return {owner: tuple(meters) for owner, meters in found.items()}


async def visible(
    database: Database,
    tenant_id: UUID,
    mode: Mode,
    reference: str | UUID,
    *,
    platform_first: bool = False,
) -> MeterRow | None:
    """A meter by key or id: the tenant's own before the platform's, or the other way round."""
    owners = sorted({tenant_id, PLATFORM_TENANT_ID})
    async with database.transaction(Scope(tuple(owners), mode)) as tx:
        rows = await store.find_meters(tx, reference)
    first = PLATFORM_TENANT_ID if platform_first else tenant_id
    rows.sort(key=lambda row: row.meter.tenant_id != first)
    return rows[0] if rows else None


def of_tenant(known: Mapping[UUID, Sequence[Meter]], tenant_id: UUID) -> tuple[Meter, ...]:
    """Of the meters found by `applying`: the platform's, and the tenant's own."""
    owners = sorted({PLATFORM_TENANT_ID, tenant_id})
    return tuple(meter for owner in owners for meter in known.get(owner, ()))
