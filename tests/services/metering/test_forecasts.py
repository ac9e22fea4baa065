"""Forecasts: the method against another implementation, the range, and what the API tells."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from random import Random

import pytest

from libs.clock import floor_to_minute, format_time, utc_now, zone_named
from libs.contracts.metering import Aggregation
from libs.directory.local import Directory
from libs.testing.databases import TestDatabase
from metering.test_credit_limits import tell as tell_credit
from metering.test_limits import subscribe
from metering.world import Api, World
from services.metering import jobs
from services.metering.forecasting import (
    RANGE_DEVIATIONS,
    Outlook,
    Smoothing,
    State,
    holt_winters,
    look_ahead,
    seasonal_naive,
)
from services.metering.projection import BY_DAY, BY_HOUR, grain_of, hit_at, project, shares_of
from services.metering.windows import Window, edges_of

DAY = timedelta(days=1)
WEEK = [10.0, 12.0, 11.0, 13.0, 12.0, 3.0, 2.0]
QUARTERS = (
    (41.73, 24.04, 32.33, 37.33),
    (46.21, 29.35, 36.48, 42.98),
    (48.90, 31.18, 37.72, 40.42),
    (51.21, 31.89, 40.98, 43.77),
    (55.56, 33.85, 42.08, 45.64),
    (59.77, 35.19, 44.32, 47.91),
)
NIGHTS = [quarter for year in QUARTERS for quarter in year]
"""A series with a trend and a season of four."""


@pytest.mark.parametrize(
    ("damping", "expected", "variances"),
    [
        (
            0.98,
            [59.752023614, 37.293302275, 46.064037063, 49.669748974, 61.394170728],
            [3.25722398, 3.610646984, 4.028600405, 4.515040329, 6.673893949],
        ),
        (
            1.0,
            [60.039787818, 37.676596298, 46.551027591, 50.268833436, 62.229008941],
            [3.24435079, 3.597660591, 4.018128453, 4.511594208, 6.693095679],
        ),
    ],
)
def test_smoothing_agrees_with_another_implementation(
    damping: float, expected: list[float], variances: list[float]
) -> None:
    """The numbers of statsmodels 0.15 (`ETSModel`, additive, from the same start)."""
    start, smoothing = State(34.0, 0.6, (8.0, -9.0, -1.0, 2.0)), Smoothing(0.3, 0.1, 0.4, damping)
    for steps in range(1, 6):
        outlook = holt_winters(NIGHTS, 4, steps, smoothing, start)
        assert list(outlook.expected) == pytest.approx(expected[:steps], abs=1e-8)
        assert outlook.spread_at_end() ** 2 == pytest.approx(variances[steps - 1], abs=1e-8)


def test_a_season_goes_on_and_a_trend_is_seen() -> None:
    steady = look_ahead(WEEK * 4, 7, 10)
    assert steady.method == "seasonal_naive"
    assert list(steady.expected) == pytest.approx((WEEK * 2)[:10])
    assert steady.spread([1.0] * 10) == pytest.approx(0)
    growing = [value + 0.8 * day for day, value in enumerate(WEEK * 5)]
    outlook = look_ahead(growing, 7, 7)
    assert outlook.method == "holt_winters"
    naive = seasonal_naive(growing, 7, 7)
    truth = [value + 0.8 * (35 + day) for day, value in enumerate(WEEK)]
    assert _missed(outlook, truth) < _missed(naive, truth) / 2


def test_with_little_past_the_average_stands_and_with_none_nothing() -> None:
    assert look_ahead([4.0, 6.0], 7, 3).expected == (5.0, 5.0, 5.0)
    assert look_ahead([], 7, 3) == Outlook("average", (0.0,) * 3, 0.0, (0.0,) * 3)
    assert look_ahead(WEEK * 2, 7, 2).method == "seasonal_naive"
    assert look_ahead(WEEK * 4, 7, 0).expected == ()


def test_smoothing_never_does_worse_than_the_season_before_on_what_was_held_back() -> None:
    """Chosen is what missed less of the past: over many series neither method alone does as well."""
    rng = Random(6)
    missed = {"chosen": 0.0, "naive": 0.0}
    for _ in range(20):
        slope, noise = rng.uniform(0, 1), rng.uniform(0, 4)
        series = [value + slope * day + rng.gauss(0, noise) for day, value in enumerate(WEEK * 7)]
        known, held = series[:-7], series[-7:]
        missed["chosen"] += _missed(look_ahead(known, 7, 7), held)
        missed["naive"] += _missed(seasonal_naive(known, 7, 7), held)
    assert missed["chosen"] < missed["naive"]


def test_nine_of_ten_outcomes_lie_in_the_range() -> None:
    rng = Random(7)
    inside = 0
    for _ in range(100):
        series = [value + rng.gauss(0, 2) for value in WEEK * 10]
        outlook = look_ahead(series[:-14], 7, 14)
        error = sum(outlook.expected) - sum(series[-14:])
        inside += abs(error) <= RANGE_DEVIATIONS * outlook.spread([1.0] * 14)
    assert 80 <= inside <= 100


def _missed(outlook: Outlook, truth: list[float]) -> float:
    return sum(abs(a - b) for a, b in zip(outlook.expected, truth, strict=True))


@pytest.mark.parametrize(
    ("aggregation", "expected", "low", "high"),
    [
        ("sum", "115", "103.138", "126.862"),
        ("count", "115", "103", "127"),
        ("max", "100", "100", "100"),
        ("min", "5", "-2.357", "12.357"),
        ("latest", "10", "2.643", "17.357"),
        ("avg", "63", "60.057", "65.943"),
        ("percentile", "10", "2.643", "17.357"),
        ("time_weighted_sum", "115", "103.138", "126.862"),
    ],
)
def test_each_aggregation_has_its_way_to_the_end(
    aggregation: Aggregation, expected: str, low: str, high: str
) -> None:
    # Two whole windows to come, after three of the period; what is used is 100.
    outlook = Outlook("holt_winters", (5.0, 10.0), 4.0, (0.5, 0.5))
    found = project(aggregation, Decimal(100), 3.0, outlook, [1.0, 1.0])
    rounded = [round(each, 3) for each in (found.expected, found.low, found.high)]
    assert rounded == [Decimal(expected), Decimal(low), Decimal(high)]


def test_what_is_used_stays_used() -> None:
    used = Decimal("98765432109876543210.000000000000001")
    outlook = Outlook("average", (-5.0, -5.0), 1.0, (0.0, 0.0))
    found = project("sum", used, 1.0, outlook, [1.0, 1.0])
    assert found.low == found.expected == used <= found.high


def shares(window: Window, zone: str, start: datetime, end: datetime) -> list[float]:
    return shares_of(edges_of(window, zone_named(zone), start, end), start, end)


def test_windows_and_their_shares() -> None:
    at = datetime.fromisoformat("2026-03-01T18:00:00+00:00")
    assert grain_of(at, at + 30 * DAY) is BY_DAY
    assert grain_of(at, at + DAY) is BY_HOUR
    assert shares("day", "UTC", at, at + 2 * DAY) == [0.25, 1.0, 0.75]
    assert shares("day", "UTC", at, at + timedelta(hours=3)) == [0.125]
    assert len(shares("hour", "UTC", at, at + DAY)) == 24
    # By clocks of its own a day begins elsewhere, and one of it has 23 hours.
    before_spring = datetime.fromisoformat("2026-03-27T23:00:00+00:00")
    assert shares("day", "Europe/Berlin", before_spring, before_spring + 2 * DAY) == [1, 1, 1 / 24]


def test_the_day_a_limit_is_reached() -> None:
    at = datetime.fromisoformat("2026-03-01T18:00:00+00:00")
    outlook = Outlook("average", (8.0, 8.0, 8.0), 0.0, (0.0, 0.0, 0.0))
    edges = edges_of("day", UTC, at, at + 2 * DAY)
    found = project("sum", Decimal(1), 1.0, outlook, shares_of(edges, at, at + 2 * DAY))

    def hit(limit: str, used: str = "1") -> datetime | None:
        return hit_at("sum", Decimal(limit), Decimal(used), found, edges, at)

    assert hit("1") == at
    assert hit("3") == at.replace(hour=0)
    assert hit("3.5") == at.replace(hour=0) + DAY
    assert hit("17") == at.replace(hour=0) + 2 * DAY
    assert hit("17.1") is None
    assert hit_at("avg", Decimal(1), Decimal(5), found, edges, at) is None


async def test_a_forecast_goes_to_the_end_of_the_period(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    period = (now - 9 * DAY, now + 21 * DAY)
    await subscribe(world, world.acme, "hard", "200", period)
    days = [world.event(time=format_time(now - day * DAY), data={"calls": 10}) for day in range(30)]
    await api.send(world.acme, *days)
    path = "/api/v1/usage/forecast"
    answer = await api.get(path, world.acme, meter="api_calls")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    # Ten a day in the period so far, and as many on each day to come.
    used, expected = Decimal(body["used"]), Decimal(body["expected"])
    assert used in (90, 100)
    assert abs(expected - used - 210) < 1
    assert Decimal(body["low"]) <= expected <= Decimal(body["high"])
    assert (body["limit"], body["kind"], body["customer"]) == ("200", "hard", None)
    assert body["limit_hit_by"] == "plan"
    hit_on = datetime.fromisoformat(f"{body['limit_hit_on']}T00:00:00+00:00")
    assert timedelta(days=8) <= hit_on - now <= timedelta(days=12)
    assert body["period_to"] == format_time(period[1])
    # It is kept for an hour, and made again by the job.
    await api.send(world.acme, world.event(data={"calls": 500}))
    assert (await api.get(path, world.acme, meter="api_calls")).json() == body
    directory = Directory(world.database)
    await jobs.refresh_forecasts(world.database, directory)
    assert (await api.get(path, world.acme, meter="api_calls")).json() == body
    async with database.admin() as admin:
        await admin.execute("update metering.usage_forecast set due_at = now() - interval '1 s'")
    await jobs.refresh_forecasts(world.database, directory)
    made = (await api.get(path, world.acme, meter="api_calls")).json()
    assert Decimal(made["used"]) == used + 500
    assert made["limit_hit_on"] == format_time(utc_now())[:10]


async def test_the_day_is_that_of_credit_where_it_is_used_up_before_the_limit(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "hard", "200", (now - 9 * DAY, now + 21 * DAY))
    days = [world.event(time=format_time(now - day * DAY), data={"calls": 10}) for day in range(30)]
    await api.send(world.acme, *days)
    # Given credit for 40 of what is used from now on, where the plan leaves about a hundred,
    await tell_credit(world, world.acme, now + timedelta(minutes=1), "40")
    asked = {"meter": "api_calls"}
    body = (await api.get("/api/v1/usage/forecast", world.acme, **asked)).json()
    # then the day is about four days from now, not ten.
    hit_on = datetime.fromisoformat(f"{body['limit_hit_on']}T00:00:00+00:00")
    assert timedelta(days=2) <= hit_on - now <= timedelta(days=6)
    assert (body["limit_hit_by"], body["limit"]) == ("credit", "200")


async def test_what_has_a_limit_is_forecast_without_being_asked_and_what_ends_is_not(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "soft", "10", (now - DAY, now + DAY))
    await api.send(world.acme, world.event())
    directory = Directory(world.database)
    await jobs.look_at_limits(world.database, directory)
    await jobs.refresh_forecasts(world.database, directory)
    async with database.admin() as admin:
        row = await admin.fetchrow("select * from metering.usage_forecast")
        assert (row["used"], row["limit_amount"], row["period_to"]) == (1, 10, now + DAY)
        await admin.execute("update metering.usage_forecast set due_at = now() - interval '1 s'")
        await admin.execute("delete from metering.usage_minute")
        await jobs.refresh_forecasts(world.database, directory)
        assert await admin.fetchval("select count(*) from metering.usage_forecast") == 0


async def test_unique_values_are_forecast_by_those_that_are_new(api: Api, world: World) -> None:
    await api.meter(world.acme, key="people", aggregation="unique_count", value_path="who")
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "soft", "10", (now - 10 * DAY, now + 20 * DAY))
    sent = [
        world.event(time=format_time(now - day * DAY), data={"who": f"p{who}"})
        for day in range(1, 8)
        for who in (day, day + 1, 1)
    ]
    await api.send(world.acme, *sent)
    body = (await api.get("/api/v1/usage/forecast", world.acme, meter="people")).json()
    assert body["used"] == "8"
    more = Decimal(body["expected"]) - 8
    # About one new a day, though three are seen each day.
    assert 10 <= more <= 25
    assert body["method"] == "average"


async def test_a_level_is_forecast_to_go_on(api: Api, world: World) -> None:
    await api.meter(world.platform, aggregation="time_weighted_sum")
    now = floor_to_minute(utc_now())
    await subscribe(world, world.acme, "soft", "2000", (now - 10 * DAY, now + 20 * DAY))
    await api.send(world.acme, world.event(time=format_time(now - 30 * DAY), data={"calls": 3}))
    body = (await api.get("/api/v1/usage/forecast", world.acme, meter="api_calls")).json()
    assert 720 <= Decimal(body["used"]) <= 721
    # Three units for the thirty days of the period; it comes to its limit by itself.
    assert abs(Decimal(body["expected"]) - 2160) <= 60
    assert body["limit_hit_on"] is not None
    check = {"meter": "api_calls", "amount": "1279"}
    told = (await api.get("/api/v1/limits/check", world.acme, **check)).json()
    assert 720 <= Decimal(told["used"]) <= 721
    assert Decimal(told["remaining"]) == 2000 - Decimal(told["used"])


async def test_nothing_used_is_nothing_expected(
    api: Api, world: World, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    path = "/api/v1/usage/forecast"
    body = (await api.get(path, world.acme, meter="api_calls", customer="shop-7")).json()
    assert [body[name] for name in ("used", "expected", "low", "high")] == ["0"] * 4
    assert (body["limit"], body["limit_hit_on"], body["customer"]) == (None, None, "shop-7")
    async with database.admin() as admin:
        assert await admin.fetchval("select count(*) from metering.usage_forecast") == 0
    assert (await api.get(path, world.acme, meter="nothing")).status_code == 404
    assert (await api.get(path, world.acme)).status_code == 422
