"""Voids as the consumer takes them: what an event added goes, as if it had never come.

A void is a record of its own on `usage.events` that names an event by source and id, so that a replay
or a rebuild decides the same. It holds whether it comes before its event or after: an id that is
voided counts no more.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from libs.clock import floor_to_minute
from libs.db.pool import Tx
from libs.messaging.records import UndecodableError
from services.metering import gained, store_levels, store_ranks
from services.metering import store_voids as store
from services.metering.aggregation import FOREVER, Change, hash_of_value, series_of, user_of
from services.metering.gained import Part
from services.metering.measuring import EXACT, Measurement
from services.metering.store_usage import TENANT_BYTES, EventKey
from services.metering.store_voids import Kept, Loss, Place
from services.metering.usage_event import Event

VOIDED = "sluice.usage.voided"
"""The type of a void; no event of a product may have it."""
SOURCE = "sluice:correction"
TENANT = "tenant"
"""What a void of the platform's says in `data.reporter` that names an event of the tenant's own."""

_KEPT: frozenset[gained.How] = frozenset({"kept", "leveled"})


class Used(NamedTuple):
    """An event that has just been counted: whose it is, when it was, and what meters read from it."""

    tenant_id: UUID
    customer: str
    user_id: str
    at: datetime
    id_hash: bytes
    measurements: Sequence[Measurement]


class Named(Protocol):
    """What of an event names it."""

    @property
    def type(self) -> str:
        """The event type."""

    @property
    def source(self) -> str:
        """Where it happened."""

    @property
    def id(self) -> str:
        """Its id within the source."""

    @property
    def data(self) -> dict[str, Any]:
        """What it says."""


def named_by(event: Named) -> tuple[str, str]:
    """Source and id of the event that a void names; an event's own otherwise.

    Raises:
        UndecodableError: the void names none.
    """
    if event.type != VOIDED:
        return event.source, event.id
    source, event_id = event.data.get("source"), event.data.get("id")
    if not (_is_name(source) and _is_name(event_id)):
        raise UndecodableError("invalid_void", "the void names no event by `source` and `id`")
    return str(source), str(event_id)


def is_of_platform(event: Event) -> bool:
    """Whether an event, or the one that a void names, is the platform's own."""
    if not event.by_platform:
        return False
    return event.type != VOIDED or event.data.get("reporter") != TENANT


def _is_name(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= 256


async def take_back(tx: Tx, voids: Mapping[EventKey, date]) -> tuple[list[Change], set[EventKey]]:
    """Void ids of the tenants in scope, each with the day its void came in.

    Returns:
        What changes by that; and the ids of events of which it is not kept what they added: those
        count on.
    """
    known = await store.void_early(tx, voids)
    if not known:
        return [], set()
    counted = await store.lock_counted(tx, known)
    added = await parts_kept(tx, counted)
    if added:
        await store.void_counted(tx, sorted(added))
        await _subtract(tx, added)
    changed = {
        (_tenant_of(key), part.minute, FOREVER if part.how == "leveled" else part.minute)
        for key, parts in added.items()
        for part in parts
    }
    return sorted(changed), counted.keys() - added.keys()


async def parts_kept(
    tx: Tx, counted: Mapping[EventKey, bytes | None]
) -> dict[EventKey, list[Part]]:
    """What counted events added, of those of which all that a void needs is kept.

    Args:
        counted: by id, what stands beside it.
    """
    added = {key: list(gained.read(told)) for key, told in counted.items() if told is not None}
    kept = sorted({_place(key, part) for key in added for part in added[key] if _is_kept(part)})
    if not kept:
        return added
    lacking = await store.incomplete(tx, kept)
    return {
        key: parts
        for key, parts in added.items()
        if not any(_is_kept(part) and _place(key, part) in lacking for part in parts)
    }


async def _subtract(tx: Tx, added: Mapping[EventKey, Sequence[Part]]) -> None:
    """Take what events added out of the aggregates."""
    losses: dict[Place, Loss] = {}
    kept: list[tuple[UUID, UUID, datetime, bytes]] = []
    ranks: Counter[tuple[UUID, UUID, datetime, Decimal]] = Counter()
    levels: set[Place] = set()
    for key, parts in added.items():
        for part in parts:
            place = _place(key, part)
            before = losses.get(place, Loss(0, Decimal(0)))
            total = part.value if part.how == "added" else Decimal(0)
            losses[place] = Loss(before.event_count + 1, EXACT.add(before.total, total))
            if _is_kept(part):
                kept.append((*place, key[TENANT_BYTES:]))
            if part.how == "ranked":
                ranks[(*place, part.value)] += 1
            elif part.how == "leveled":
                levels.add(place)
    if losses:
        await store.subtract(tx, losses)
        await store.forget_values(tx, kept)
        await store_ranks.take_back(tx, ranks)
        await store.drop_empty_minutes(tx, list(losses))
        if levels:
            await store_levels.measure(tx, sorted(levels))


def _tenant_of(key: EventKey) -> UUID:
    return UUID(bytes=key[:TENANT_BYTES])


def _place(key: EventKey, part: Part) -> Place:
    return _tenant_of(key), part.series_id, part.minute


def _is_kept(part: Part) -> bool:
    return part.how in _KEPT


async def keep_values(tx: Tx, counted: Iterable[Used]) -> None:
    """Keep what a later void could not reckon back, and measure levels anew that came into a minute.

    One statement each, none where no meter needs it.
    """
    rows: list[Kept] = []
    levels: set[Place] = set()
    for used in counted:
        for each in used.measurements:
            how = gained.how_of(each)
            if how not in _KEPT:
                continue
            rows.append(_kept(used, each))
            if how == "leveled":
                levels.add((used.tenant_id, rows[-1].series_id, rows[-1].minute))
    if rows:
        await store.keep_values(tx, rows)
    if levels:
        await store_levels.measure(tx, sorted(levels))


def _kept(used: Used, measurement: Measurement) -> Kept:
    meter = measurement.meter
    whose = user_of(meter.aggregation, used.user_id)
    series = series_of(used.tenant_id, meter.id, used.customer, whose, measurement.groups)
    unique = measurement.unique
    return Kept(
        used.tenant_id,
        used.id_hash,
        series.id,
        floor_to_minute(used.at),
        used.at,
        measurement.value,
        None if unique is None else hash_of_value(unique),
    )
