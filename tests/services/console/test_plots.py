"""Plots and numbers: exact, and never taller than their frame."""

from datetime import UTC, date, datetime
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.clock import zone_named
from services.console import pages, plots

quantities = st.decimals(min_value=0, max_value=10**30, places=6)


@given(st.lists(quantities, min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_bars_stay_within_the_plot(values: list[Decimal]):
    days = [(date(2026, 1, 1), value) for value in values]
    plot = plots.bar_plot(days)
    for bar, value in zip(plot.bars, values, strict=True):
        assert plots.TOP - 1 <= bar.y <= plot.floor
        assert bar.y + bar.height == plot.floor
        assert plot.left <= bar.x <= bar.x + bar.width <= plot.right
        assert (bar.height > 0) == (value > 0)
    assert plot.ticks[0].value == 0
    assert plot.ticks[-1].value >= max(values)


@pytest.mark.parametrize(
    ("value", "top"),
    [
        ("0", "4"),
        ("3", "4"),
        ("5", "8"),
        ("11", "12"),
        ("13", "20"),
        ("801", "1200"),
        ("0.3", "0.4"),
    ],
)
def test_the_top_is_a_round_number(value: str, top: str):
    assert plots.round_up(Decimal(value)) == Decimal(top)


def test_days_without_use_are_zero():
    begin, end = datetime(2026, 1, 30, tzinfo=UTC), datetime(2026, 2, 2, tzinfo=UTC)
    found = plots.daily([(datetime(2026, 1, 31, 5, tzinfo=UTC), Decimal(7))], begin, end, UTC)
    assert [value for _, value in found] == [0, 7, 0]


def test_days_are_those_of_the_tenants_clocks():
    """March has 31 days in Berlin, of which one has 23 hours; it begins while it is February in UTC."""
    berlin = zone_named("Europe/Berlin")
    begin = datetime(2026, 3, 1, tzinfo=berlin).astimezone(UTC)
    end = datetime(2026, 4, 1, tzinfo=berlin).astimezone(UTC)
    starts = [datetime(2026, 3, day, tzinfo=berlin).astimezone(UTC) for day in (1, 29, 30, 31)]
    found = plots.daily([(at, Decimal(at.day)) for at in starts], begin, end, berlin)
    assert (found[0], len(found)) == ((date(2026, 3, 1), Decimal(28)), 31)
    assert [int(value) for _, value in found[-3:]] == [28, 29, 30]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("18000.50", "18,000.5"),
        ("0", "0"),
        ("-1234", "-1,234"),
        ("-0.5", "-0.5"),
        ("1E+3", "1,000"),
        ("0.000001", "0.000001"),
        (None, "\N{EN DASH}"),
        ("NaN", "NaN"),
        ("words", "words"),
    ],
)
def test_quantities_are_exact(value: str | None, text: str):
    assert pages.number(value) == text


def test_amounts_follow_the_currency():
    assert pages.money(123450, "EUR") == "1,234.50 EUR"
    assert pages.money(-3, "JPY") == "-3 JPY"
    assert pages.money(5, "???") == "5 minor units of ???"
