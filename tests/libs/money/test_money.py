"""Money: exact, of one currency, rounded in one place."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from libs.money import (
    AMOUNT_MINOR_MAX,
    EXPONENTS,
    AmountOutOfRangeError,
    CurrencyMismatchError,
    Money,
    NotRepresentableError,
    UnknownCurrencyError,
    exponent_of,
    format_money,
    from_stripe,
    multiply,
    round_half_even,
    stripe_exponent_of,
    stripe_step_of,
    to_stripe,
    total,
)

amounts = st.integers(-(10**15), 10**15)
WITHDRAWN = ("ANG", "BGN", "HRK", "STD")
currencies = st.sampled_from(sorted(EXPONENTS))
decimals = st.decimals(
    min_value=Decimal("-1e12"), max_value=Decimal("1e12"), allow_nan=False, places=12
)


class Priced(BaseModel):
    price: Money


@given(amounts, amounts, amounts, currencies)
def test_adding_is_associative_commutative_and_undone_by_subtracting(
    a: int, b: int, c: int, currency: str
):
    x, y, z = (Money(amount, currency) for amount in (a, b, c))
    assert (x + y) + z == x + (y + z)
    assert x + y == y + x
    assert (x + y) - y == x
    assert x + -x == Money.zero(currency)
    assert total([x, y, z], currency).amount_minor == a + b + c


@given(amounts, amounts)
def test_two_currencies_never_mix(a: int, b: int):
    with pytest.raises(CurrencyMismatchError):
        Money(a, "EUR") + Money(b, "USD")
    with pytest.raises(CurrencyMismatchError):
        Money(a, "EUR") - Money(b, "USD")
    with pytest.raises(CurrencyMismatchError):
        total([Money(a, "EUR")], "USD")


@pytest.mark.parametrize("code", ["eur", "XAU", "XTS", "EURO", "", "DEM", "E R"])
def test_only_active_codes_in_capitals_are_currencies(code: str):
    with pytest.raises(UnknownCurrencyError):
        Money(1, code)


@pytest.mark.parametrize("amount", [1.0, True, "1", None, AMOUNT_MINOR_MAX + 1, Decimal(1)])
def test_an_amount_is_a_whole_number_that_postgres_holds(amount: object):
    with pytest.raises(AmountOutOfRangeError):
        Money(amount, "EUR")


def test_a_sum_beyond_63_bits_is_refused_rather_than_wrapped():
    with pytest.raises(AmountOutOfRangeError):
        Money(AMOUNT_MINOR_MAX, "EUR") + Money(1, "EUR")


@given(amounts, currencies)
def test_json_keeps_money_as_it_is(amount: int, currency: str):
    priced = Priced(price=Money(amount, currency))
    assert priced.model_dump(mode="json") == {
        "price": {"amount_minor": amount, "currency": currency}
    }
    assert Priced.model_validate_json(priced.model_dump_json()) == priced


@pytest.mark.parametrize(
    "price",
    [
        '{"amount_minor": 5.0, "currency": "EUR"}',
        '{"amount_minor": "5", "currency": "EUR"}',
        '{"amount_minor": true, "currency": "EUR"}',
        '{"amount_minor": 1e3, "currency": "EUR"}',
        '{"amount_minor": 9223372036854775808, "currency": "EUR"}',
        '{"amount_minor": 5, "currency": "eur"}',
        '{"amount_minor": 5}',
        '{"currency": "EUR"}',
        "null",
    ],
)
def test_json_that_is_not_exactly_money_is_refused(price: str):
    with pytest.raises(ValidationError):
        Priced.model_validate_json(f'{{"price": {price}}}')


@given(decimals)
def test_rounding_is_half_even_and_never_off_by_more_than_half(value: Decimal):
    rounded = round_half_even(value)
    assert abs(Fraction(value) - rounded) <= Fraction(1, 2)
    assert rounded == int(value.quantize(Decimal(1), ROUND_HALF_EVEN))


@pytest.mark.parametrize(
    ("value", "rounded"), [("0.5", 0), ("1.5", 2), ("2.5", 2), ("-0.5", 0), ("-1.5", -2), ("2", 2)]
)
def test_a_tie_goes_to_the_even_one(value: str, rounded: int):
    assert round_half_even(Decimal(value)) == rounded


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "-Infinity", "1e999999", "1e19"])
def test_what_is_no_amount_cannot_be_rounded(value: str):
    with pytest.raises(AmountOutOfRangeError):
        round_half_even(Decimal(value))


def test_floats_are_refused():
    with pytest.raises(AmountOutOfRangeError):
        round_half_even(0.5)
    with pytest.raises(AmountOutOfRangeError):
        multiply(0.5, Decimal(1))


@given(decimals, decimals)
def test_a_product_is_exact(quantity: Decimal, unit_amount: Decimal):
    product = multiply(quantity, unit_amount)
    assert Fraction(product) == Fraction(quantity) * Fraction(unit_amount)


@pytest.mark.parametrize("factor", ["NaN", "Infinity", "1e61", "1e-61", "9" * 61])
def test_a_factor_that_could_not_be_multiplied_exactly_is_refused(factor: str):
    with pytest.raises(AmountOutOfRangeError):
        multiply(Decimal(factor), Decimal(1))


def test_the_exponents_are_those_of_iso_4217():
    by_exponent = {
        exponent: sorted(code for code, found in EXPONENTS.items() if found == exponent)
        for exponent in set(EXPONENTS.values())
    }
    assert " ".join(by_exponent[0]) == (
        "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
    )
    assert " ".join(by_exponent[3]) == "BHD IQD JOD KWD LYD OMR TND"
    assert " ".join(by_exponent[4]) == "CLF UYW"
    assert len(EXPONENTS) == 165 + len(WITHDRAWN)
    assert exponent_of("EUR") == 2


@pytest.mark.parametrize(
    ("amount", "currency", "text"),
    [
        (123450, "EUR", "1,234.50 EUR"),
        (-5, "USD", "-0.05 USD"),
        (0, "USD", "0.00 USD"),
        (1234567, "JPY", "1,234,567 JPY"),
        (1234, "KWD", "1.234 KWD"),
        (12345, "CLF", "1.2345 CLF"),
    ],
)
def test_people_read_major_units(amount: int, currency: str, text: str):
    assert format_money(Money(amount, currency)) == text
    assert str(Money(amount, currency)) == text


@given(amounts, currencies)
def test_what_stripe_can_say_comes_back_the_same(amount: int, currency: str):
    money = Money(amount, currency)
    try:
        at_stripe = to_stripe(money)
    except NotRepresentableError:
        assert currency in {"MGA", "BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"}
        return
    assert from_stripe(at_stripe, currency.lower()) == money


@pytest.mark.parametrize(
    ("amount", "currency", "at_stripe"),
    [
        (500, "JPY", 500),
        (1050, "EUR", 1050),
        (5, "ISK", 500),
        (5, "UGX", 500),
        (500, "MGA", 5),
        (5120, "KWD", 5120),
        (1045, "HUF", 1045),
    ],
)
def test_amounts_in_stripes_own_units(amount: int, currency: str, at_stripe: int):
    assert to_stripe(Money(amount, currency)) == at_stripe
    assert from_stripe(at_stripe, currency) == Money(amount, currency)


@pytest.mark.parametrize(("amount", "currency"), [(550, "MGA"), (5124, "KWD"), (-1, "BHD")])
def test_an_amount_that_stripe_cannot_say_is_refused_rather_than_rounded(
    amount: int, currency: str
):
    with pytest.raises(NotRepresentableError):
        to_stripe(Money(amount, currency))


@pytest.mark.parametrize("currency", ["isk", "ugx"])
def test_a_fraction_that_the_currency_lost_is_refused(currency: str):
    with pytest.raises(NotRepresentableError):
        from_stripe(550, currency)


@pytest.mark.parametrize("currency", WITHDRAWN)
def test_what_stripe_still_lists_can_be_read(currency: str):
    assert from_stripe(1050, currency.lower()) == Money(1050, currency)


@given(amounts, currencies)
def test_stripe_takes_whole_steps_and_nothing_between(amount: int, currency: str):
    step = stripe_step_of(currency)
    to_stripe(Money(amount - amount % step, currency))
    if amount % step:
        with pytest.raises(NotRepresentableError):
            to_stripe(Money(amount, currency))


def test_stripe_differs_from_iso_in_three_currencies_only():
    different = {code for code in EXPONENTS if stripe_exponent_of(code) != EXPONENTS[code]}
    assert different == {"ISK", "UGX", "MGA"}
