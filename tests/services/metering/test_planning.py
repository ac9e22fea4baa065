"""When planned usage recurs, and what is foreseen of it: pure."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import format_time, parse_time, zone_named
from libs.ids import new_id
from services.metering import planned
from services.metering.limits import Check, CreditCheck, Standing
from services.metering.planning import Slot, Verdict, foresee, judge
from services.metering.projection import Projection
from services.metering.recurrence import (
    OCCURRENCES_MAX,
    Every,
    Recurrence,
    TooManyOccurrencesError,
    times_of,
)

START = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)


def told(first: str, recurrence: Recurrence, zone: str) -> list[str]:
    times = times_of(parse_time(first), recurrence, zone_named(zone))
    return [format_time(at) for at in times]


def test_it_recurs_by_the_clocks_of_its_zone() -> None:
    # At two in the morning in Berlin; on the day when there is no such hour, at three.
    assert told("2026-03-28T01:30:00Z", Recurrence("day", 3), "Europe/Berlin") == [
        "2026-03-28T01:30:00Z",
        "2026-03-29T01:30:00Z",
        "2026-03-30T00:30:00Z",
    ]
    assert told("2026-10-19T16:00:00Z", Recurrence("week", 2), "Europe/Berlin") == [
        "2026-10-19T16:00:00Z",
        "2026-10-26T17:00:00Z",
    ]
    # Half past ten in the evening of the 30th in UTC is the 31st in Berlin.
    assert told("2026-12-30T23:30:00Z", Recurrence("month", 4), "Europe/Berlin") == [
        "2026-12-30T23:30:00Z",
        "2027-01-30T23:30:00Z",
        "2027-02-27T23:30:00Z",
        "2027-03-30T22:30:00Z",
    ]


def test_it_ends_after_a_number_or_at_a_time() -> None:
    until = parse_time("2026-01-03T12:00:00Z")
    assert len(told("2026-01-01T12:00:00Z", Recurrence("day", until=until), "UTC")) == 3
    assert told("2026-01-03T12:00:01Z", Recurrence("day", until=until), "UTC") == []
    year = Recurrence("day", count=OCCURRENCES_MAX)
    assert len(told("2026-01-01T12:00:00Z", year, "UTC")) == OCCURRENCES_MAX
    with pytest.raises(TooManyOccurrencesError):
        times_of(START, Recurrence("day", until=START + OCCURRENCES_MAX * DAY), UTC)


@given(
    every=st.sampled_from(["day", "week", "month"]),
    name=st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe"]),
    minute=st.integers(0, 60 * 24 * 365 * 30),
)
def test_each_comes_after_the_one_before_and_at_its_hour(
    every: Every, name: str, minute: int
) -> None:
    zone, first = zone_named(name), START + timedelta(minutes=minute)
    times = times_of(first, Recurrence(every, 40), zone)
    assert times[0] == first
    assert all(before < after for before, after in pairwise(times))
    shifts = {
        (at.astimezone(zone).hour * 60 + at.astimezone(zone).minute)
        - (first.astimezone(zone).hour * 60 + first.astimezone(zone).minute)
        for at in times
    }
    # Only where clocks are moved past the hour is it another one.
    assert shifts <= {0, 30, 60}


def check(used: str, limit: str | None, reserved: str = "0", **parts: object) -> Check:
    bound = None if limit is None else Decimal(limit)
    kind = None if limit is None else parts.pop("kind", "hard")
    return Check(False, Decimal(used), Decimal(reserved), bound, None, kind, **parts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("quantity", "found", "waits", "outcome", "reason"),
    [
        ("11", check("0", "10"), 40, "refused", "over_limit"),
        ("3", check("8", "10"), 40, "deferred", "next_period"),
        ("3", check("8", "10"), 20, "refused", "limit_reached"),
        ("3", check("7", "10", "1"), 20, "deferred", "held"),
        ("3", check("8", "10", "1"), 40, "deferred", "next_period"),
    ],
)
def test_what_finds_no_room(
    quantity: str, found: Check, waits: int, outcome: str, reason: str
) -> None:
    end = START + 30 * DAY
    verdict = judge(Decimal(quantity), found, end, START + waits * DAY)
    assert (verdict.outcome, verdict.reason) == (outcome, reason)
    assert (verdict.used, verdict.limit) == (found.used, found.limit)
    assert verdict.passes_at == (end if reason == "next_period" else None)


def test_what_credit_does_not_pay_for_waits_for_credit() -> None:
    credit = CreditCheck(START, Decimal(4), Decimal(5), Decimal(1))
    found = check("1", "3", kind="soft", credit=credit)
    verdict = judge(Decimal(2), found, START + DAY, START + 2 * DAY)
    assert verdict == Verdict("deferred", "credit", Decimal(4), Decimal(5))


@given(
    quantities=st.lists(st.tuples(st.integers(0, 89), st.integers(1, 12)), max_size=30),
    used=st.integers(0, 10),
    paid_for=st.none() | st.integers(0, 40),
)
def test_nothing_foreseen_overruns_a_limit_in_any_period(
    quantities: list[tuple[int, int]], used: int, paid_for: int | None
) -> None:
    credit = None
    if paid_for is not None:
        credit = CreditCheck(START, Decimal(0), Decimal(paid_for), Decimal(paid_for))
    slots = [
        Slot(START + day * DAY, new_id(), 1, START + (day + 35) * DAY, Decimal(quantity))
        for day, quantity in quantities
    ]
    found = foresee(
        slots,
        check(str(used), "10", credit=credit),
        START + 30 * DAY,
        lambda at: at + 30 * DAY - (at - START) % (30 * DAY),
    )
    admitted = [slot for slot in slots if found[slot.planned_id, 1].outcome == "admitted"]
    for period in range(3):
        mine = [slot for slot in admitted if (slot.at - START) // (30 * DAY) == period]
        assert sum(slot.quantity for slot in mine) <= 10 - (used if period == 0 else 0)
    if paid_for is not None:
        assert sum(slot.quantity for slot in admitted) <= paid_for
    # The first that fits is never left out.
    for slot in sorted(slots)[:1]:
        room = slot.quantity <= 10 - (used if slot.at < START + 30 * DAY else 0)
        paid = paid_for is None or slot.quantity <= paid_for
        assert (slot in admitted) == (room and paid)


def test_periods_in_which_nothing_is_planned_are_passed_over() -> None:
    """A plan's period may be a minute long, and a million of them lie before what is planned."""
    asked = []

    def end_at(at: datetime) -> datetime:
        asked.append(at)
        return at + timedelta(minutes=1)

    slot = Slot(START + 1_000 * DAY, new_id(), 1, START + 1_001 * DAY, Decimal(10))
    standing = check("10", "10")
    found = foresee([slot], standing, START + timedelta(minutes=1), end_at)
    assert found[slot.planned_id, 1].outcome == "admitted"
    assert asked == [slot.at]


@given(seconds=st.integers(60, 40 * 86_400), after=st.integers(0, 80 * 86_400))
def test_the_periods_of_a_plan_follow_each_other(seconds: int, after: int) -> None:
    length = timedelta(seconds=seconds)
    standing = Standing(None, None, START - length, START, START - length, is_planned=True)
    at = START + timedelta(seconds=after)
    end = planned._period_end_at(standing, UTC, at)
    assert end - length <= at < end
    assert (end - START) % length == timedelta(0)


def test_without_a_plan_s_period_it_is_the_month_of_the_zone() -> None:
    standing = Standing(None, None, START, START + 31 * DAY, START, is_planned=False)
    at = parse_time("2026-03-31T22:00:00Z")
    ends = [
        planned._period_end_at(standing, zone_named(name), at) for name in ("UTC", "Europe/Berlin")
    ]
    assert [format_time(end) for end in ends] == ["2026-04-01T00:00:00Z", "2026-04-30T22:00:00Z"]


@given(st.lists(st.tuples(st.integers(0, 119), st.decimals(0, 9, places=2)), max_size=20))
def test_what_is_planned_comes_on_top_of_each_window_from_its_time_on(
    times: list[tuple[int, Decimal]],
) -> None:
    coming = sorted((START + timedelta(hours=hour), quantity) for hour, quantity in times)
    edges = [START + day * DAY for day in range(6)]
    trend = tuple(Decimal(value) for value in range(5))
    bare = Projection("average", Decimal(4), Decimal(3), Decimal(5), trend)
    found = bare.with_planned(coming, edges)
    assert found.by_window == tuple(
        value + sum(quantity for at, quantity in coming if at < end)
        for value, end in zip(trend, edges[1:], strict=True)
    )
    more = sum(quantity for _, quantity in coming)
    assert (found.low, found.expected, found.high) == (3 + more, 4 + more, 5 + more)


def test_what_is_planned_is_read_once_however_many_windows_come() -> None:
    class Read(list[tuple[datetime, Decimal]]):
        times = 0

        def __iter__(self) -> Iterator[tuple[datetime, Decimal]]:
            self.times += 1
            return super().__iter__()

    coming = Read([(START, Decimal(1))])
    edges = [START + day * DAY for day in range(31)]
    bare = Projection("average", Decimal(0), Decimal(0), Decimal(0), (Decimal(0),) * 30)
    assert bare.with_planned(coming, edges).expected == 1
    assert coming.times == 1
