"""Rating: every quantity falls into exactly one tier each, and the sum is exact before it is rounded."""

from decimal import Decimal
from fractions import Fraction
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.contracts.billing import GraduatedPrice, Tier
from libs.ids import new_id
from libs.money import AmountOutOfRangeError
from services.billing.completion import share_out
from services.billing.rating import plain, quantity_for, rate


def decimals(whole_digits: int, places: int) -> st.SearchStrategy[Decimal]:
    scaled = st.integers(0, 10 ** (whole_digits + places) - 1)
    return scaled.map(lambda number: Decimal(number).scaleb(-places))


@st.composite
def prices(draw: st.DrawFn) -> GraduatedPrice:
    ends = sorted(draw(st.sets(decimals(7, 4).filter(lambda end: end > 0), max_size=6)))
    units = draw(st.lists(decimals(4, 8), min_size=len(ends) + 1, max_size=len(ends) + 1))
    tiers = [
        Tier(up_to=end, unit_amount_minor=unit)
        for end, unit in zip([*ends, None], units, strict=True)
    ]
    included = draw(decimals(6, 3))
    return GraduatedPrice(price_id=new_id(), meter="m", included=included, tiers=tuple(tiers))


def model_of(price: GraduatedPrice, quantity: Decimal) -> Fraction:
    """The same rule in plain fractions: each tier charges what lies between its ends."""
    billable = max(Fraction(0), Fraction(quantity) - Fraction(price.included))
    amount, floor = Fraction(0), Fraction(0)
    for tier in price.tiers:
        ceiling = billable if tier.up_to is None else Fraction(tier.up_to)
        amount += max(Fraction(0), min(billable, ceiling) - floor) * Fraction(
            tier.unit_amount_minor
        )
        floor = ceiling
    return amount


@given(prices(), st.integers(0, 10**11))
def test_an_amount_buys_all_that_it_pays_for_and_no_more(
    price: GraduatedPrice, amount_minor: int
) -> None:
    bought = quantity_for(price, amount_minor)
    if bought is None:
        assert price.tiers[-1].unit_amount_minor == 0
        assert model_of(price, Decimal(10**30)) <= amount_minor
    else:
        assert model_of(price, bought) <= amount_minor
        assert model_of(price, bought + Decimal("0.000001")) > amount_minor


@given(prices(), decimals(9, 6))
def test_the_tiers_hold_the_billable_quantity_and_cost_what_plain_fractions_say(
    price: GraduatedPrice, quantity: Decimal
) -> None:
    rated = rate(price, quantity)
    assert sum((Fraction(tier.quantity) for tier in rated.tiers), Fraction(0)) == Fraction(
        rated.billable
    )
    assert Fraction(rated.billable) == max(0, Fraction(quantity) - Fraction(price.included))
    exact = model_of(price, quantity)
    assert Fraction(rated.exact_minor) == exact
    assert rated.amount_minor == round(exact)  # Python rounds a Fraction half to even


@given(prices(), decimals(9, 6), decimals(9, 6))
def test_more_usage_never_costs_less(price: GraduatedPrice, one: Decimal, other: Decimal) -> None:
    less, more = sorted((one, other))
    assert rate(price, less).amount_minor <= rate(price, more).amount_minor


@given(prices(), decimals(9, 6))
def test_an_explanation_is_enough_to_compute_the_amount_again(
    price: GraduatedPrice, quantity: Decimal
) -> None:
    steps = rate(price, quantity).explanation()
    again = sum(
        (
            Fraction(tier["quantity"]) * Fraction(tier["unit_amount_minor"])
            for tier in steps["tiers"]
        ),
        Fraction(0),
    )
    assert again == Fraction(steps["rounding"]["exact_minor"])
    assert steps["rounding"]["rounded_minor"] == round(again)
    for left, right in pairwise(steps["tiers"]):
        assert Decimal(left["up_to"]) < Decimal(right["up_to"] or "Infinity")


def test_a_tie_goes_to_the_even_minor_unit() -> None:
    tier = Tier(up_to=None, unit_amount_minor=Decimal("0.5"))
    price = GraduatedPrice(price_id=new_id(), meter="m", included=Decimal(0), tiers=(tier,))
    assert [rate(price, Decimal(n)).amount_minor for n in (1, 3, 5)] == [0, 2, 2]


@pytest.mark.parametrize("quantity", ["1e40", "1e300", "1e999999", "123456789e50"])
def test_an_amount_beyond_money_is_refused_not_cut(quantity: str) -> None:
    tier = Tier(up_to=None, unit_amount_minor=Decimal("0.000000000001"))
    price = GraduatedPrice(price_id=new_id(), meter="m", included=Decimal("0.1"), tiers=(tier,))
    with pytest.raises(AmountOutOfRangeError):
        rate(price, Decimal(quantity))


def test_usage_below_zero_costs_nothing() -> None:
    tier = Tier(up_to=None, unit_amount_minor=Decimal(5))
    price = GraduatedPrice(price_id=new_id(), meter="m", included=Decimal(0), tiers=(tier,))
    assert rate(price, Decimal(-3)).amount_minor == 0


def test_numbers_are_plain_text() -> None:
    texts = {"1300.000": "1300", "1E+3": "1000", "0.050": "0.05", "-0": "0", "0.000": "0"}
    assert {text: plain(Decimal(text)) for text in texts} == texts


@given(st.lists(st.integers(-5000, 5000), max_size=8), st.integers(-2000, 5000))
def test_corrections_never_take_an_invoice_below_zero(
    differences: list[int], subtotal: int
) -> None:
    shares = share_out(differences, subtotal)
    for difference, share in zip(differences, shares, strict=True):
        assert share == difference if difference >= 0 else difference <= share <= 0
    assert subtotal + sum(shares) >= min(0, subtotal + sum(d for d in differences if d > 0))
    if subtotal + sum(differences) >= 0:
        assert shares == differences
