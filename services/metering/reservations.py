"""Reservations: an amount is held before it is used, so that a hard limit is never overrun.

Whoever holds settles with what was really used, or releases; a hold that nobody ends expires. What
was settled becomes usage events like any others, with ids that follow from the reservation's. From
the first moment to the last the amount weighs on the limit exactly once: as a hold, then as settled,
and from the transaction that counts its events as usage.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.ids import new_id
from services.metering import limits
from services.metering import store_reservations as store
from services.metering.ingest import Arrival, RejectedError, read_event, stamped_anew
from services.metering.limits import Check, Standing
from services.metering.measuring import Meter, UnmeasurableError, measure, plain
from services.metering.reserved_events import SOURCE, event_id
from services.metering.usage_log import LogUnavailableError, UsageLog

LEFT_AFTER = timedelta(seconds=2)
"""A settled reservation whose request has had its chance to publish."""

COUNT_MAX = 1_000
"""A settled count becomes that many events."""

SETTLED_BYTES_MAX = 4 * 1024 * 1024
"""Of the events of one settlement, and of what is published at once: no more than Kafka confirms in
time. What it does not costs the ingest its producer too."""


class NotReservableError(ValueError):
    """The meter's values do not add up, so no part of one can be held."""


class LimitReachedError(Exception):
    """The hard limit or credit does not leave so much."""

    def __init__(self, check: Check) -> None:
        super().__init__("the hard limit or credit does not leave so much")
        self.check = check


class EndedError(Exception):
    """The reservation was settled, released, or has expired."""

    def __init__(self, state: str) -> None:
        super().__init__(f"the reservation is {state}")
        self.state = state


class AmountError(ValueError):
    """More than is held, or no whole number where events are counted."""


class SettlementTooLargeError(ValueError):
    """The usage events would be more bytes than a settlement may publish."""


class DataError(ValueError):
    """With these data the meter would not count what was used; `code` says why."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


@dataclass(frozen=True)
class Wish:
    """What is to be held, for whom.

    Attributes:
        customers: how aggregates name the customer; the last one is its own id.
        subject: how its usage events will name it; None is the tenant itself.
        by_platform: the platform holds it, not the tenant.
    """

    meter: Meter
    customers: Sequence[str]
    subject: str | None
    user: str | None
    amount: Decimal
    expires_at: datetime
    by_platform: bool = False


async def hold(tx: Tx, wish: Wish, standing: Standing) -> tuple[Row, Check]:
    """Hold an amount in the current period; also how the limit stood before.

    Raises:
        NotReservableError, AmountError: see there.
        LimitReachedError: a hard limit or credit does not leave so much.
    """
    require_reservable(wish.meter, wish.amount)
    await store.lock_line(tx, wish.meter.id, wish.customers[-1])
    found = await check(tx, wish.meter, standing, wish.customers, wish.amount)
    if not found.allowed:
        raise LimitReachedError(found)
    row = await store.insert(
        tx,
        {
            "id": new_id(),
            "meter_id": wish.meter.id,
            "customer": wish.customers[-1],
            "subject": wish.subject,
            "user_id": wish.user,
            "amount": wish.amount,
            "created_at": utc_now(),
            "expires_at": wish.expires_at,
            "by_platform": wish.by_platform,
        },
    )
    return row, found


def require_reservable(meter: Meter, amount: Decimal) -> None:
    """So much of the meter can be held.

    Raises:
        NotReservableError, AmountError: see there.
    """
    if meter.aggregation not in ("count", "sum"):
        raise NotReservableError
    _require_whole(meter, amount)


async def check(
    tx: Tx, meter: Meter, standing: Standing, customers: Sequence[str], amount: Decimal
) -> Check:
    """Whether so much more may be used, what is held being taken.

    What is held is read before what was used: an amount that is counted in between weighs twice
    for a moment, never not at all.
    """
    reserved = await store.weight_of(tx, meter.id, customers, utc_now())
    return await limits.check(tx, meter, standing, list(customers), amount, reserved)


async def lock(tx: Tx, reservation_id: UUID) -> Row | None:
    """A reservation, for this transaction alone.

    Nobody else reserves of the same limit meanwhile: a hold that is being settled at the moment of
    its expiry must not be taken for free by another.
    """
    found = await store.find(tx, reservation_id)
    if found is None:
        return None
    await store.lock_line(tx, found["meter_id"], found["customer"])
    return await store.lock(tx, reservation_id)


async def settle(
    tx: Tx, row: Row, meter: Meter, arrival: Arrival, amount: Decimal, data: Mapping[str, Any]
) -> Row:
    """Turn what was used into usage events; the rest is free again.

    Args:
        row: locked by this transaction, after the line of its limit (`lock`).
        data: the events' `data`, but for the meter's value.

    Raises:
        EndedError, AmountError, DataError, SettlementTooLargeError: see there.
    """
    _require_held(row)
    if amount > row["amount"]:
        raise AmountError("more than is held")
    _require_whole(meter, amount)
    if amount == 0:
        await store.end(tx, row["id"], "released", utc_now())
    else:
        events = _events(row, meter, arrival, amount, data)
        await store.settle(tx, row["id"], amount, events, utc_now())
    return await _read_again(tx, row)


async def release(tx: Tx, row: Row) -> Row:
    """Nothing was used.

    Raises:
        EndedError: it was settled, released, or has expired.
    """
    _require_held(row)
    await store.end(tx, row["id"], "released", utc_now())
    return await _read_again(tx, row)


async def publish(
    database: Database, usage_log: UsageLog, row: Row, events: Sequence[bytes]
) -> bool:
    """Put a settled reservation's events on the topic; False where a job must do it later."""
    try:
        for page in _pages(events):
            await usage_log.publish(row["tenant_id"], page)
    except LogUnavailableError:
        return False
    async with database.tenant(row["tenant_id"], row["mode"]) as tx:
        await store.note_published(tx, row["id"])
    return True


def _pages(events: Sequence[bytes]) -> Iterator[list[bytes]]:
    """The events in order, in pages of no more than `SETTLED_BYTES_MAX`: former versions kept larger."""
    page: list[bytes] = []
    size_bytes = 0
    for event in events:
        if page and size_bytes + len(event) > SETTLED_BYTES_MAX:
            yield page
            page, size_bytes = [], 0
        page.append(event)
        size_bytes += len(event)
    if page:
        yield page


def _require_held(row: Row) -> None:
    if row["state"] != "held":
        raise EndedError(row["state"])
    if row["expires_at"] <= utc_now():
        raise EndedError("expired")


def _require_whole(meter: Meter, amount: Decimal) -> None:
    """Events are counted in ones, and not without end."""
    if meter.aggregation == "count" and (amount != amount.to_integral() or amount > COUNT_MAX):
        raise AmountError(f"events are counted in whole numbers up to {COUNT_MAX}")


def _events(
    row: Row, meter: Meter, arrival: Arrival, amount: Decimal, data: Mapping[str, Any]
) -> list[bytes]:
    """The usage events, checked to be counted by the meter as exactly the amount."""
    times = int(amount) if meter.aggregation == "count" else 1
    document: dict[str, Any] = {
        "specversion": "1.0",
        "source": SOURCE,
        "type": meter.event_type,
        "subject": row["subject"],
        "userid": row["user_id"],
        "data": _with_value(data, meter, amount),
    }
    values: list[bytes] = []
    size_bytes = 0
    for number in range(times):
        try:
            taken = read_event(document | {"id": event_id(row["id"], number)}, arrival)
        except RejectedError as rejected:
            raise DataError(rejected.code) from None
        try:
            measurement = measure(meter, taken.event)
        except UnmeasurableError as error:
            raise DataError(error.code) from None
        if measurement is None:
            raise DataError("filtered_out")
        values.append(taken.value)
        size_bytes += len(taken.value)
        if size_bytes > SETTLED_BYTES_MAX:
            raise SettlementTooLargeError
    return values


def _with_value(data: Mapping[str, Any], meter: Meter, amount: Decimal) -> dict[str, Any]:
    """`data` with the amount where the meter reads it.

    Raises:
        DataError: something else stands in the way.
    """
    found: dict[str, Any] = dict(data)
    if meter.aggregation == "count" or meter.value_path is None:
        return found
    inner = found
    *parents, name = meter.value_path.split(".")
    for parent in parents:
        beneath = inner.get(parent, {})
        if not isinstance(beneath, dict):
            raise DataError("invalid_value")
        inner[parent] = dict(beneath)
        inner = inner[parent]
    inner[name] = plain(amount)
    return found


async def _read_again(tx: Tx, row: Row) -> Row:
    found = await store.find(tx, row["id"])
    assert found is not None, "reservations are kept"
    return found


async def expire(database: Database, limit: int) -> None:
    """Free what was held and never ended."""
    async with database.maintenance() as tx:
        rows = await store.expired(tx, utc_now(), limit)
    for each in rows:
        async with database.tenant(each["tenant_id"], each["mode"]) as tx:
            row = await store.lock(tx, each["id"])
            if row is not None and row["state"] == "held":
                await store.end(tx, row["id"], "expired", utc_now())


async def publish_left(database: Database, usage_log: UsageLog, limit: int) -> None:
    """Publish the events that a request could not; twice does no harm.

    They are stamped as received now, for the consumer refuses stamps that are old. One reservation after
    the other is read with its events: together they may be more than memory holds.
    """
    async with database.maintenance() as tx:
        left = await store.unpublished(tx, utc_now() - LEFT_AFTER, limit)
    for each in left:
        async with database.tenant(each["tenant_id"], each["mode"]) as tx:
            row = await store.find(tx, each["id"])
        if row is None or row["state"] != "settling":
            continue
        at = utc_now()
        events = [stamped_anew(event, at) for event in row["events"]]
        if not await publish(database, usage_log, row, events):
            async with database.tenant(row["tenant_id"], row["mode"]) as tx:
                await store.put_off(tx, row["id"], at)
