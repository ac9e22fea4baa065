"""Rating: quantity x price -> amount, with every step shown. Pure; no clock, no database.

A graduated price: what exceeds `included` is filled into the tiers from below, each tier's share is
multiplied exactly, and the sum of a line is rounded once, half to even, to the minor unit
(design: prices of a plan).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import (
    ROUND_FLOOR,
    Context,
    Decimal,
    DecimalException,
    Inexact,
    InvalidOperation,
    Overflow,
    Rounded,
    localcontext,
)
from typing import Any

from libs.contracts.billing import GraduatedPrice, Tier
from libs.money import AmountOutOfRangeError, multiply, round_half_even

ROUNDING = "half_even"

LINE_MINOR_MAX = 10**15
"""No line is dearer, so that an invoice of many lines still fits 63 bits."""

# Exact or an error: the default context would silently cut at 28 digits.
_EXACT = Context(prec=250, traps=[InvalidOperation, Overflow, Inexact, Rounded])

_FLOORED = Context(prec=120, rounding=ROUND_FLOOR, traps=[InvalidOperation, Overflow])
_BOUGHT_TO = Decimal("0.000001")
"""What an amount buys is known to so much, and never more than it buys."""


@dataclass(frozen=True)
class RatedTier:
    """A tier's share of a quantity; `amount_minor` is exact, not rounded."""

    up_to: Decimal | None
    quantity: Decimal
    unit_amount_minor: Decimal
    amount_minor: Decimal


@dataclass(frozen=True)
class Rated:
    """What a quantity costs and why.

    Attributes:
        billable: what exceeds `included`; never negative.
        tiers: those that hold a share, from below.
        exact_minor: the sum of the tiers before rounding.
        amount_minor: the sum rounded half to even.
    """

    quantity: Decimal
    included: Decimal
    billable: Decimal
    tiers: tuple[RatedTier, ...]
    exact_minor: Decimal
    amount_minor: int

    def explanation(self) -> dict[str, Any]:
        """The steps as JSON, numbers as plain decimal text, enough to compute the amount again."""
        return {
            "quantity": plain(self.quantity),
            "included": plain(self.included),
            "billable": plain(self.billable),
            "tiers": [
                {
                    "up_to": None if tier.up_to is None else plain(tier.up_to),
                    "quantity": plain(tier.quantity),
                    "unit_amount_minor": plain(tier.unit_amount_minor),
                    "amount_minor": plain(tier.amount_minor),
                }
                for tier in self.tiers
            ],
            "rounding": {
                "rule": ROUNDING,
                "exact_minor": plain(self.exact_minor),
                "rounded_minor": self.amount_minor,
            },
        }


def rate(price: GraduatedPrice, quantity: Decimal) -> Rated:
    """Rate the quantity of a whole period.

    Raises:
        AmountOutOfRangeError: a number has over 60 digits or the amount is over LINE_MINOR_MAX.
    """
    try:
        with localcontext(_EXACT):
            billable = max(quantity - price.included, Decimal(0))
            tiers = _fill(price.tiers, billable)
            exact = sum((tier.amount_minor for tier in tiers), Decimal(0))
    except DecimalException as error:
        raise AmountOutOfRangeError("the quantity has too many digits to be rated") from error
    amount_minor = round_half_even(exact)
    if amount_minor > LINE_MINOR_MAX:
        raise AmountOutOfRangeError(f"a line costs at most {LINE_MINOR_MAX} minor units")
    return Rated(quantity, price.included, billable, tiers, exact, amount_minor)


def quantity_for(price: GraduatedPrice, amount_minor: int) -> Decimal | None:
    """The greatest quantity of a period that costs no more than an amount; None: any costs no more."""
    with localcontext(_FLOORED):
        left, bought, floor = Decimal(amount_minor), price.included, Decimal(0)
        for tier in price.tiers:
            if tier.up_to is not None:
                cost = (tier.up_to - floor) * tier.unit_amount_minor
                if cost <= left:
                    left, bought, floor = left - cost, bought + (tier.up_to - floor), tier.up_to
                    continue
            if not tier.unit_amount_minor:
                return None
            return (bought + left / tier.unit_amount_minor).quantize(_BOUGHT_TO)
    raise AssertionError("the last tier has no end")


def _fill(tiers: Sequence[Tier], billable: Decimal) -> tuple[RatedTier, ...]:
    filled = []
    floor = Decimal(0)
    for tier in tiers:
        ceiling = billable if tier.up_to is None else min(tier.up_to, billable)
        share = ceiling - floor
        if share <= 0:
            break
        amount = multiply(share, tier.unit_amount_minor)
        filled.append(RatedTier(tier.up_to, share, tier.unit_amount_minor, amount))
        floor = ceiling
    return tuple(filled)


def plain(value: Decimal) -> str:
    """Decimal text without exponent and without zeros that say nothing: `1300`, `0.05`."""
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text
