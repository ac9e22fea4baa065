"""When planned usage recurs, and what is foreseen of it: pure."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.clock import format_time, parse_time, zone_named
from libs.ids import new_id
from services.metering.limits import Check, CreditCheck
from services.metering.planning import Slot, Verdict, foresee, judge
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
        (START, START + 30 * DAY),
        lambda start, end: (end, end + (end - start)),
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
