"""Money: whole minor units of one currency. No float comes near it, and rounding has one place.

`Money(1050, "EUR")` is 10.50 EUR. In JSON it is `{"amount_minor": 1050, "currency": "EUR"}`, and a
pydantic model may have fields of type `Money` and `Currency`. Products and shares are exact Decimals
until `round_half_even` makes minor units of them, once per invoice line.

Stripe counts some currencies in other units than ISO 4217; `to_stripe` and `from_stripe` are the
only bridge.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal, Inexact, InvalidOperation, Overflow, Rounded
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

# ISO 4217, table A.1 as published on 2026-01-01: every active code that counts money. Metals, the
# test code and units of account without a minor unit (XAU, XTS, XDR, …) are not money here.
_TWO_DECIMALS = """
    AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BOV BRL BSD BTN BWP BYN BZD CAD CDF
    CHE CHF CHW CNY COP COU CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS GIP GMD
    GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP LKR LRD LSL MAD MDL
    MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD PAB PEN PGK PHP PKR
    PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TOP
    TRY TTD TWD TZS UAH USD USN UYU UZS VED VES WST XAD XCD XCG YER ZAR ZMW ZWG
"""
_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THREE_DECIMALS = "BHD IQD JOD KWD LYD OMR TND"
_FOUR_DECIMALS = "CLF UYW"
# Table A.3: withdrawn, but Stripe still lists amounts of them (https://docs.stripe.com/currencies).
_WITHDRAWN_TWO_DECIMALS = "ANG BGN HRK STD"

EXPONENTS: dict[str, int] = {
    code: exponent
    for exponent, codes in (
        (0, _NO_DECIMALS),
        (2, _TWO_DECIMALS),
        (2, _WITHDRAWN_TWO_DECIMALS),
        (3, _THREE_DECIMALS),
        (4, _FOUR_DECIMALS),
    )
    for code in codes.split()
}
"""Decimal places of each currency's minor unit: 2 means that 100 minor units make one major."""

# Where Stripe's unit is not ISO's (https://docs.stripe.com/currencies): ISK and UGX lost their
# fractions but keep two places in the API, MGA is counted in whole ariary.
_STRIPE_EXPONENT_EXCEPTIONS = {"ISK": 2, "UGX": 2, "MGA": 0}
# Stripe's payment partners take three-decimal amounts only with a last digit of 0.
_STRIPE_LAST_DIGIT_ZERO = frozenset(_THREE_DECIMALS.split())

AMOUNT_MINOR_MAX = 2**63 - 1
_DIGITS_MAX = 60
# Exact or an error, never silently rounded: the default context would cut at 28 digits.
_EXACT = Context(prec=2 * _DIGITS_MAX, traps=[InvalidOperation, Overflow, Inexact, Rounded])


class MoneyError(ValueError):
    """Something that is not money, or not this money."""


class UnknownCurrencyError(MoneyError):
    """Not an active ISO 4217 code in capital letters."""


class CurrencyMismatchError(MoneyError):
    """Two currencies where one was needed."""


class AmountOutOfRangeError(MoneyError):
    """An amount that no column holds, or that is not a number."""


class NotRepresentableError(MoneyError):
    """An amount that the other side's unit cannot express exactly."""


def check_currency(code: str) -> str:
    """The code itself.

    Raises:
        UnknownCurrencyError: it is not an active ISO 4217 code in capital letters.
    """
    if code not in EXPONENTS:
        raise UnknownCurrencyError("must be an active ISO 4217 code in capital letters, e.g. EUR")
    return code


Currency = Annotated[
    str,
    StringConstraints(strict=True, min_length=3, max_length=3),
    AfterValidator(check_currency),
    Field(description="ISO 4217 code in capital letters.", examples=["EUR"]),
]
AmountMinor = Annotated[
    int,
    Field(
        strict=True,
        ge=-AMOUNT_MINOR_MAX,
        le=AMOUNT_MINOR_MAX,
        description="Whole minor units of the currency: 1050 is 10.50 EUR, and 1050 JPY.",
        examples=[1050],
    ),
]


@dataclass(frozen=True, slots=True)
class Money:
    """An amount of one currency, of either sign."""

    amount_minor: AmountMinor
    currency: Currency

    def __post_init__(self) -> None:
        """Check both parts.

        Raises:
            UnknownCurrencyError: see `check_currency`.
            AmountOutOfRangeError: not an integer, or beyond 63 bits.
        """
        check_currency(self.currency)
        if type(self.amount_minor) is not int or abs(self.amount_minor) > AMOUNT_MINOR_MAX:
            raise AmountOutOfRangeError("an amount is a whole number of minor units within 63 bits")

    @classmethod
    def zero(cls, currency: str) -> "Money":
        """Nothing, in this currency."""
        return cls(0, currency)

    def __add__(self, other: "Money") -> "Money":
        """The sum.

        Raises:
            CurrencyMismatchError: the currencies differ.
            AmountOutOfRangeError: the sum is beyond 63 bits.
        """
        self._refuse_other_currency(other)
        return Money(self.amount_minor + other.amount_minor, self.currency)

    def __sub__(self, other: "Money") -> "Money":
        """The difference; raises as `+` does."""
        self._refuse_other_currency(other)
        return Money(self.amount_minor - other.amount_minor, self.currency)

    def __neg__(self) -> "Money":
        """The same amount the other way."""
        return Money(-self.amount_minor, self.currency)

    def __str__(self) -> str:
        return format_money(self)

    def _refuse_other_currency(self, other: "Money") -> None:
        if self.currency != other.currency:
            raise CurrencyMismatchError(f"{self.currency} and {other.currency} do not add up")


def total(amounts: Iterable[Money], currency: str) -> Money:
    """The sum of amounts that are all of `currency`; zero when there are none."""
    result = Money.zero(currency)
    for amount in amounts:
        result += amount
    return result


def exponent_of(currency: str) -> int:
    """Decimal places of the currency's minor unit (ISO 4217).

    Raises:
        UnknownCurrencyError: see `check_currency`.
    """
    return EXPONENTS[check_currency(currency)]


def multiply(quantity: Decimal, unit_amount_minor: Decimal) -> Decimal:
    """The exact product in minor units, not rounded.

    Raises:
        AmountOutOfRangeError: a factor is not a finite number of at most 60 digits.
    """
    for factor in (quantity, unit_amount_minor):
        _refuse_odd_decimal(factor)
    return _EXACT.multiply(quantity, unit_amount_minor)


def round_half_even(amount_minor: Decimal) -> int:
    """Whole minor units: to the nearest, a tie to the even one. The only place that rounds money.

    Raises:
        AmountOutOfRangeError: not a finite number, or beyond 63 bits.
    """
    if not isinstance(amount_minor, Decimal) or not amount_minor.is_finite():
        raise AmountOutOfRangeError("an amount must be a finite Decimal")
    if amount_minor and amount_minor.adjusted() > 20:
        raise AmountOutOfRangeError("an amount must be within 63 bits")
    rounded = int(amount_minor.to_integral_value(ROUND_HALF_EVEN))
    if abs(rounded) > AMOUNT_MINOR_MAX:
        raise AmountOutOfRangeError("an amount must be within 63 bits")
    return rounded


def apportion(amount_minor: int, weights: Sequence[int]) -> list[int]:
    """An amount in whole minor units by weights that are not negative: the parts add up to it.

    Each part is its exact share rounded down; what that leaves over goes, a minor unit each, to the
    largest remainders, the first of several that are alike (Hare's method). A negative amount is
    shared like a positive one.

    Raises:
        ValueError: all weights are zero.
    """
    whole = sum(weights)
    if whole <= 0:
        raise ValueError("there is nothing to share an amount by")
    amount = abs(amount_minor)
    parts = [amount * weight // whole for weight in weights]
    by_remainder = sorted(
        range(len(weights)), key=lambda index: (-(amount * weights[index] % whole), index)
    )
    for index in by_remainder[: amount - sum(parts)]:
        parts[index] += 1
    return parts if amount_minor >= 0 else [-part for part in parts]


def format_money(money: Money) -> str:
    """For people: `1,234.50 EUR`, `-3 JPY`."""
    exponent = EXPONENTS[money.currency]
    major, minor = divmod(abs(money.amount_minor), _power_of_ten(exponent))
    sign = "-" if money.amount_minor < 0 else ""
    fraction = f".{minor:0{exponent}d}" if exponent else ""
    return f"{sign}{major:,}{fraction} {money.currency}"


def stripe_exponent_of(currency: str) -> int:
    """Decimal places of the unit that Stripe counts the currency in.

    Raises:
        UnknownCurrencyError: see `check_currency`.
    """
    return _STRIPE_EXPONENT_EXCEPTIONS.get(currency, exponent_of(currency))


def stripe_step_of(currency: str) -> int:
    """Minor units in whole multiples of which Stripe takes amounts: 10 fils, 100 iraimbilanja, 1 cent.

    Raises:
        UnknownCurrencyError: see `check_currency`.
    """
    if currency in _STRIPE_LAST_DIGIT_ZERO:
        return 10
    return _power_of_ten(max(0, exponent_of(currency) - stripe_exponent_of(currency)))


def to_stripe(money: Money) -> int:
    """The amount as Stripe's API takes it.

    Raises:
        NotRepresentableError: Stripe's unit is too coarse: a fraction of an ariary, or a dinar
            amount whose last digit is not 0.
    """
    difference = stripe_exponent_of(money.currency) - EXPONENTS[money.currency]
    amount = money.amount_minor
    if difference >= 0:
        amount *= _power_of_ten(difference)
    else:
        amount, rest = divmod(amount, _power_of_ten(-difference))
        if rest:
            raise NotRepresentableError(f"Stripe has no fractions of {money.currency}")
    if money.currency in _STRIPE_LAST_DIGIT_ZERO and amount % 10:
        raise NotRepresentableError(f"at Stripe the last digit of {money.currency} must be 0")
    return amount


def from_stripe(amount: int, currency: str) -> Money:
    """What an amount of Stripe's is worth; `currency` in Stripe's small letters or in capitals.

    Raises:
        UnknownCurrencyError: see `check_currency`.
        NotRepresentableError: a fraction that the currency does not have (ISK, UGX).
    """
    code = currency.upper()
    difference = exponent_of(code) - stripe_exponent_of(code)
    if difference >= 0:
        return Money(amount * _power_of_ten(difference), code)
    whole, rest = divmod(amount, _power_of_ten(-difference))
    if rest:
        raise NotRepresentableError(f"{code} has no fractions")
    return Money(whole, code)


def _power_of_ten(places: int) -> int:
    assert places >= 0
    return int(10**places)


def _refuse_odd_decimal(value: Decimal) -> None:
    if not isinstance(value, Decimal) or not value.is_finite():
        raise AmountOutOfRangeError("a factor must be a finite Decimal")
    _, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    if len(digits) > _DIGITS_MAX or abs(exponent) > _DIGITS_MAX:
        raise AmountOutOfRangeError(f"a factor must have at most {_DIGITS_MAX} digits")
