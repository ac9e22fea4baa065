"""How the usage events of a settled reservation are told from others."""

from collections.abc import Iterable, Sequence
from decimal import Decimal
from uuid import UUID

from libs.db.pool import Tx
from libs.ids import parse_uuid
from services.metering import store_reservations as store
from services.metering.measuring import Measurement
from services.metering.usage_event import Event

SOURCE = "sluice:reservation"
"""No other event may name this source over HTTP."""


def event_id(reservation_id: UUID, number: int) -> str:
    """The id of a reservation's event: the same whenever it is published again."""
    return f"{reservation_id}/{number}"


def reservation_of(source: str, text: str) -> UUID | None:
    """The reservation an event settles; None for all others."""
    if source != SOURCE:
        return None
    return parse_uuid(text.partition("/")[0])


async def take_counted(
    tx: Tx, counted: Iterable[tuple[UUID, Event, Sequence[Measurement]]]
) -> None:
    """What has just been counted weighs as usage from now on, not as reserved."""
    lighter: dict[tuple[UUID, UUID, UUID], Decimal] = {}
    for tenant_id, event, measurements in counted:
        reservation_id = reservation_of(event.source, event.id)
        if reservation_id is None:
            continue
        for measurement in measurements:
            place = (tenant_id, reservation_id, measurement.meter.id)
            value = Decimal(1) if measurement.value is None else measurement.value
            lighter[place] = lighter.get(place, Decimal(0)) + value
    if lighter:
        await store.lighten(tx, lighter)
