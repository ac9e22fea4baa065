"""What meters read ahead of a batch's turn counts only as long as the meters are the same in its turn."""

import gc
import json
import weakref
from contextlib import suppress
from decimal import Decimal
from functools import partial
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import floor_to_minute, format_time, parse_time, utc_now
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.ids import new_id
from libs.messaging.apply import Applier
from libs.messaging.records import EVENT_MODELS, TYPE_HEADER, Record, UndecodableError
from metering.world import Api, Party, World
from services.metering import gained, intake
from services.metering.aggregation import Gains, series_of
from services.metering.ears import plain_ears
from services.metering.handlers import WEIGHT_UNKNOWN, weigh
from services.metering.listening import Listening
from services.metering.measuring import EXACT, Meter, UnmeasurableError, measure_all
from services.metering.usage_event import Event, is_as_written
from services.metering.usage_log import TOPIC
from services.metering.usage_record import Minute, Origin, Read

OFFSETS = count(1_000)


def records_of(party: Party, events: list[dict[str, Any]]) -> list[Record]:
    """Events as they lie on the topic."""
    return [
        Record(
            TOPIC,
            0,
            next(OFFSETS),
            utc_now(),
            str(party.id).encode(),
            json.dumps(event | {"mode": "test"}).encode(),
        )
        for event in events
    ]


async def take_ahead(world: World, *batches: list[Record]) -> None:
    """Read every batch ahead, and only then count them."""
    for records in batches:
        for record in records:
            record.prepare(intake.read_ahead)
    for records in batches:
        async with world.database.transaction() as tx:
            await intake.take(records, tx)


async def test_a_meter_that_came_meanwhile_counts_what_was_read_without_it(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    await take_ahead(world, records_of(world.acme, [world.event()]))
    await api.meter(world.acme, key="own", aggregation="max")
    (late,) = records_of(world.acme, [world.event()])
    await take_ahead(world, [late])
    assert len(late.prepared.reading.rows.lines) == 1
    assert not late.prepared.reading.single
    assert await api.value(world.acme) == 2
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select count(*) from usage_value") == 1


async def test_a_record_weighs_what_its_meters_write(api: Api, world: World) -> None:
    for number, aggregation in enumerate(("sum", "avg", "max")):
        await api.meter(world.acme, key=f"m{number}", aggregation=aggregation)
    (unknown,) = records_of(world.acme, [world.event()])
    unknown.prepare(intake.read_ahead)
    hostile, known, other = (
        records_of(world.acme, [event])[0]
        for event in ({}, world.event(), world.event(type="job.run"))
    )
    await take_ahead(world, [unknown])
    for record in (hostile, known, other):
        record.prepare(intake.read_ahead)
    found = [weigh(record) for record in (unknown, hostile, known, other)]
    assert found == [WEIGHT_UNKNOWN, 1, 3, 0]


async def test_what_is_read_ahead_is_counted_as_what_is_not(api: Api, world: World) -> None:
    for aggregation in ("sum", "min", "unique_count", "avg"):
        await api.meter(world.platform, key=aggregation, aggregation=aggregation)
    now = floor_to_minute(utc_now())
    told = [
        world.event(
            id=f"r-{number}",
            time=format_time(now),
            subject=f"customer-{number % 3}",
            data={"calls": f"{number}.{number}"},
        )
        for number in range(12)
    ]
    again = [told[number] for number in (0, 5, 5, 11)]
    await take_ahead(world, records_of(world.acme, told[:1]), records_of(world.globex, told[:1]))
    batches = [told[:7], [*told[7:], *again], again]
    await take_ahead(world, *(records_of(world.acme, batch) for batch in batches))
    for batch in batches:
        async with world.database.transaction() as tx:
            await intake.take(records_of(world.globex, batch), tx)
    for meter in ("sum", "min", "unique_count", "avg"):
        assert await api.value(world.acme, meter) == await api.value(world.globex, meter)
    assert await api.value(world.acme, "unique_count") == 12


@pytest.mark.parametrize(
    "headers", [(), ((TYPE_HEADER, next(iter(EVENT_MODELS)).encode()),)], ids=["none", "a type"]
)
def test_records_that_nobody_can_read_leave_nothing_behind(
    headers: tuple[tuple[str, bytes | None], ...],
) -> None:
    """The collector does not see a record without headers: no refusal may lead back to it."""
    applier = Applier("metering", {})
    refusals = []
    gc.disable()
    try:
        for read in (intake.read_ahead, applier.read_ahead):
            for number in range(100):
                key = b"nobody" if number % 2 else str(new_id()).encode()
                record = Record(TOPIC, 0, number, utc_now(), key, b"{", headers)
                record.prepare(read)
                refusal = getattr(record.prepared, "refusal", record.prepared)
                assert isinstance(refusal, UndecodableError)
                refusals.append(weakref.ref(refusal))
        del record, refusal
        assert [each for each in refusals if each() is not None] == []
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "text",
    [
        *("2026-01-31T12:00:00Z", "2026-01-31T12:00:00.123456Z", "2026-01-31T12:00:00.000000Z"),
        *("2026-01-31T12:00:00.5Z", "2026-01-31 12:00:00Z", "2026-W05-6T12:00:00Z"),
        *("2026-W05-6T12:00:00.123456Z", "20260131T120000Z", "2026-01-31T120000.5Z"),
        *("2026-01-31T12:00:00+00:00", "2026-01-31T13:00:00+01:00", "2026-01-31T12:00Z"),
        *("2026-01-31T12:00:00,123456Z", "20260131T120000.123456789Z", "2026-01-31T12Z"),
    ],
)
def test_a_time_is_taken_as_it_is_written_only_where_it_would_be_written_so(text: str) -> None:
    assert is_as_written(text) == (format_time(parse_time(text)) == text)


NUMBERS = st.one_of(
    st.integers(-5, 10**21),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-9, max_value=9),
    st.sampled_from(["5", "-0.5", "0.000000000000001", "lots", "", True, None, [], {"a": 1}]),
)
NAMES = st.one_of(
    st.text(max_size=3),
    st.sampled_from(["eu", "a\x00", "x" * 129, None, False, 7, Decimal("1.50")]),
)
METERS = st.builds(
    partial(Meter, PLATFORM_TENANT_ID, key="m", event_type="api.call"),
    id=st.uuids(version=4),
    aggregation=st.sampled_from(["count", "sum", "avg", "max", "percentile"]),
    value_path=st.sampled_from(["calls", "more.calls"]),
    group_by=st.sampled_from([(), ("region",), ("region", "plan"), ("more.region",)]),
    filters=st.sampled_from([{}, {"plan": frozenset({"eu", "", "7"})}]),
)


@given(
    meters=st.lists(METERS, max_size=3, unique_by=lambda meter: meter.id),
    data=st.fixed_dictionaries({}, optional={"calls": NUMBERS, "region": NAMES, "plan": NAMES}),
)
def test_what_is_read_plainly_is_what_meters_measure(
    meters: list[Meter], data: dict[str, Any]
) -> None:
    at = utc_now()
    event = Event("1", "s", "api.call", "c", at, "u", "test", None, at, 0, data, format_time(at))
    origin, minute = Origin(new_id(), at.date()), Minute(floor_to_minute(at))
    found = Read(event, origin, origin.places["test"], b"", b"", "c", at, minute)
    reading = Listening(found.tenant_id, tuple(meters)).read(found)
    measured = measure_all(meters, event)
    added_up = zip(reading.rows.lines, reading.values, strict=True)
    told = {(line.series.meter_id, line.series.groups, value) for line, value in added_up} | {
        (each.meter.id, each.groups, each.value) for each in reading.single
    }
    assert told == {(each.meter.id, each.groups, each.value) for each in measured.measurements}
    assert reading.refusal == measured.refusal
    parts = list(gained.read(reading.gained))
    assert sum(part.how == "added" and part.value for part in parts) == sum(
        each.value or 0
        for each in measured.measurements
        if each.meter.aggregation in ("sum", "avg")
    )
    assert len(parts) == len(measured.measurements)


@given(
    meters=st.lists(METERS, max_size=3, unique_by=lambda meter: meter.id),
    data=st.fixed_dictionaries({}, optional={"calls": NUMBERS, "region": NAMES, "plan": NAMES}),
)
def test_what_plain_meters_take_is_what_all_meters_measure(
    meters: list[Meter], data: dict[str, Any]
) -> None:
    ears = plain_ears(meters).get("api.call")
    if ears is None:
        return
    at = utc_now()
    event = Event("1", "s", "api.call", "c", at, "u", "test", None, at, 0, data, format_time(at))
    measured = measure_all(meters, event)
    # The first event that says this to filters and groups may hold another value.
    for each in (data | {"calls": 1}, data | {"calls": "lots"}):
        with suppress(UnmeasurableError):
            ears.take(each)
    try:
        taken = ears.take(data)
    except UnmeasurableError:
        assert measured.left_out
    else:
        assert (taken, measured.left_out) == (bool(measured.measurements), 0)


@given(
    st.lists(
        st.one_of(st.integers(0, 10**18 - 1), st.decimals(-(10**6), 10**6, places=15)), min_size=1
    ),
    st.integers(0),
)
def test_whole_numbers_and_fractions_add_up_in_any_parts(
    values: list[int | Decimal], cut: int
) -> None:
    at = floor_to_minute(utc_now())
    series = series_of(new_id(), new_id(), "c", "u", ())
    cut %= len(values)
    gains = Gains()
    for part in (values[:cut], values[cut:]):
        gains.add_up(series, at, len(part), part)
    (cell,) = gains.cells.values()
    whole = sum(int(Decimal(value).scaleb(15, context=EXACT)) for value in values)
    assert cell.event_count == len(values)
    assert cell.total == Decimal(whole).scaleb(-15, context=EXACT)
