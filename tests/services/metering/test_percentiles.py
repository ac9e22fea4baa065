"""Percentiles: off by half a percent at most, of any interval, and exact in what they count."""

import random
from datetime import timedelta
from decimal import ROUND_CEILING, Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.metering import MeterCreated
from metering.test_corrections import correct, named
from metering.world import Api, World
from services.metering.measuring import rank_of

DAY = timedelta(days=1)


def percentile_of(values: list[Decimal], percent: Decimal) -> Decimal:
    """By nearest rank: the least value that so many of a hundred reach or stay below."""
    place = (len(values) * percent / 100).to_integral_value(ROUND_CEILING)
    return sorted(values)[int(place) - 1]


@given(
    st.lists(
        st.decimals(
            Decimal("-1e19"), Decimal("1e19"), allow_nan=False, allow_infinity=False, places=15
        ),
        min_size=1,
    ),
    st.decimals(Decimal("0.000001"), Decimal("99.999999"), places=6),
)
def test_ranks_keep_order_and_are_off_by_half_a_percent_at_most(
    values: list[Decimal], percent: Decimal
) -> None:
    exact = percentile_of(values, percent)
    told = percentile_of([rank_of(value) for value in values], percent)
    assert told == rank_of(exact)
    assert abs(told - exact) <= abs(exact) * Decimal("0.005")


async def test_a_percentile_of_many_values(api: Api, world: World) -> None:
    meter = await api.meter(world.platform, aggregation="percentile", percentile="99.9")
    assert meter["percentile"] == "99.9"
    await api.meter(world.platform, key="median", aggregation="percentile", percentile="50")
    await world.log.settle()
    assert [fact.data.percentile for fact in world.log.events(MeterCreated)] == [
        Decimal("99.9"),
        Decimal(50),
    ]
    numbers = random.Random(7)
    values = [Decimal(numbers.randrange(1, 10**9)) / 1000 for _ in range(400)]
    now = floor_to_minute(utc_now())
    for start in range(0, 400, 100):
        at = format_time(now - timedelta(minutes=start))
        events = [
            world.event(time=at, data={"calls": str(value)})
            for value in values[start : start + 100]
        ]
        await api.send(world.acme, *events, *events[:5])
    for key, percent in (("api_calls", Decimal("99.9")), ("median", Decimal(50))):
        exact = percentile_of(values, percent)
        told = await api.value(world.acme, key)
        assert told == rank_of(exact)
        minute = await api.value(
            world.acme,
            key,
            **{"from": format_time(now - timedelta(minutes=100)), "to": format_time(now)},
        )
        assert minute == rank_of(percentile_of(values[100:200], percent))
    rows = await api.rows(world.acme, "median", window="minute")
    assert [Decimal(row["value"]) for row in rows] == [
        rank_of(percentile_of(values[start : start + 100], Decimal(50)))
        for start in (300, 200, 100, 0)
    ]


async def test_a_closed_period_is_told_again_when_its_percentile_changes(
    api: Api, world: World
) -> None:
    await api.meter(world.platform, aggregation="percentile", percentile="50")
    now = floor_to_minute(utc_now())
    events = [
        world.event(time=format_time(now - DAY), data={"calls": calls}) for calls in (1, 7, 12345)
    ]
    await api.send(world.acme, *events)
    await world.close(world.acme, now - 2 * DAY, now, "api_calls")
    assert [answer.quantity for answer in await world.answers()] == [7]
    late = world.event(time=format_time(now - DAY), data={"calls": 5})
    await api.send(world.acme, late)
    await correct(api, world.acme, "void", named(events[0]))
    await correct(api, world.acme, "void", named(events[1]))
    told = [(each.revision, each.quantity, each.event_count) for each in await world.answers()]
    assert told == [(1, 7, 3), (2, 5, 2)]
    await correct(api, world.acme, "void", named(late))
    assert (await world.answers())[-1].quantity == 12300, "three digits"
    await correct(api, world.acme, "void", named(events[2]))
    assert (await world.answers())[-1].quantity == 0
    async with world.database.tenant(world.acme.id, "test") as tx:
        assert await tx.fetchval("select count(*) from usage_rank") == 0


async def test_bad_parameters_are_refused(api: Api, world: World) -> None:
    body = {"key": "m", "event_type": "t", "aggregation": "percentile", "value_path": "v"}
    changes: list[dict[str, Any]] = [
        *({"percentile": percent} for percent in (None, "0", "0.0", "100", "-5", "1e1", 95)),
        {"time_unit": "hour"},
        {"aggregation": "sum"},
        {"aggregation": "time_weighted_sum"},
        {"aggregation": "time_weighted_sum", "percentile": None},
        {"aggregation": "time_weighted_sum", "percentile": None, "time_unit": "week"},
    ]
    for change in changes:
        answer = await api.post("/api/v1/meters", world.acme, body | {"percentile": "95"} | change)
        assert answer.status_code == 422, (change, answer.text)
    assert (await api.post("/api/v1/meters", world.acme, body | {"percentile": "0.1"})).is_success
