"""What a plan may be: the body of `POST /api/v1/plans`, bounded and checked.

Numbers of quantities and unit prices are decimal strings, so that no JSON parser makes floats of
them.
"""

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StringConstraints,
    WithJsonSchema,
    model_validator,
)

from libs.contracts.billing import Collection, Interval
from libs.money import Currency, exponent_of, stripe_exponent_of

FREE_KEY = "free"
_DECIMAL = re.compile(r"[0-9]{1,15}(\.[0-9]{1,12})?", re.ASCII)

Key = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
"""How plans, meters and features are named in URLs and configuration."""

MeterKey = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")]
Text = Annotated[
    str,
    StringConstraints(
        strip_whitespace=True, min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$"
    ),
]


def _decimal_of(value: object) -> Decimal:
    """A decimal string without superfluous zeros, so that equal numbers are equal content."""
    if isinstance(value, Decimal):
        return value
    if not isinstance(value, str) or not _DECIMAL.fullmatch(value):
        raise ValueError(
            'must be a decimal string such as "0.05": at most 15 digits before the point, 12 after'
        )
    whole, _, fraction = value.partition(".")
    fraction = fraction.rstrip("0")
    return Decimal(f"{int(whole)}.{fraction}" if fraction else str(int(whole)))


DecimalText = Annotated[
    Decimal,
    BeforeValidator(_decimal_of),
    WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,15}(\\.[0-9]{1,12})?$"}),
]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class FlatPriceBody(_Part):
    """A fee per interval, in advance."""

    kind: Literal["flat"]
    amount_minor: Annotated[int, Field(strict=True, ge=0, le=99_999_999)]


class TierBody(_Part):
    """Quantities up to and including `up_to`; null on the last tier."""

    up_to: DecimalText | None
    unit_amount_minor: DecimalText


class GraduatedPriceBody(_Part):
    """A metered price: what exceeds `included` is priced tier by tier, in arrears."""

    kind: Literal["graduated"]
    meter: MeterKey
    included: DecimalText = Decimal(0)
    tiers: Annotated[list[TierBody], Field(min_length=1, max_length=100)]

    @model_validator(mode="after")
    def _check_tiers(self) -> "GraduatedPriceBody":
        ends = [tier.up_to for tier in self.tiers]
        if ends[-1] is not None:
            raise ValueError("the last tier must have `up_to` null, so that no quantity is free")
        floor = Decimal(0)
        for end in ends[:-1]:
            if end is None or end <= floor:
                raise ValueError(
                    "`up_to` must be above 0 and grow from tier to tier; only the last is null"
                )
            floor = end
        return self


PriceBody = Annotated[FlatPriceBody | GraduatedPriceBody, Field(discriminator="kind")]


class LimitBody(_Part):
    """How much of a meter the plan allows per period."""

    meter: MeterKey
    amount: DecimalText
    kind: Literal["soft", "hard"]


FeatureValue = (
    StrictBool
    | Annotated[int, Field(strict=True, ge=-(2**53), le=2**53)]
    | Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00-\x1f\x7f]*$")]
)


class PlanBody(_Part):
    """A plan to publish; publishing the same key with other content makes a new version."""

    key: Key
    name: Text
    interval: Interval
    currency: Currency
    collection: Collection
    prices: Annotated[list[PriceBody], Field(max_length=50)] = Field(default_factory=list)
    limits: Annotated[list[LimitBody], Field(max_length=50)] = Field(default_factory=list)
    features: Annotated[dict[Key, FeatureValue], Field(max_length=100)] = Field(
        default_factory=dict
    )
    upgrades_to: Annotated[list[Key], Field(max_length=50)] = Field(default_factory=list)
    stripe_price_id: (
        Annotated[str, StringConstraints(pattern=r"^price_[A-Za-z0-9_]{1,200}$")] | None
    ) = None

    @model_validator(mode="after")
    def _check_plan(self) -> "PlanBody":
        priced = [price.meter for price in self.prices if isinstance(price, GraduatedPriceBody)]
        _refuse_twins(priced, "a meter may have only one price in a plan")
        _refuse_twins([limit.meter for limit in self.limits], "a meter may have only one limit")
        if len(self.prices) - len(priced) > 1:
            raise ValueError("a plan has at most one flat price; add the amounts up")
        if self.key == FREE_KEY and self.collection != "sluice":
            raise ValueError("the plan `free` is never charged: its collection is `sluice`")
        if self.collection == "sluice" and self.prices:
            raise ValueError(
                "with collection `sluice` a plan has no prices for now; use collection `stripe`"
            )
        if self.collection == "stripe" and self._bare:
            raise ValueError(
                "with collection `stripe` a plan has a flat price (it may be 0) or names an "
                "existing Stripe price in `stripe_price_id`"
            )
        if self.collection == "stripe" and not _stripe_counts_alike(self.currency):
            raise ValueError(
                "Stripe cannot charge every amount of this currency; choose one with at most two "
                "decimals"
            )
        return self

    @property
    def _bare(self) -> bool:
        """Whether Stripe would have nothing to subscribe to."""
        flat = any(isinstance(price, FlatPriceBody) for price in self.prices)
        return not flat and self.stripe_price_id is None

    @property
    def meters(self) -> frozenset[str]:
        """Every meter that a price or a limit names."""
        prices = [price.meter for price in self.prices if isinstance(price, GraduatedPriceBody)]
        return frozenset(prices) | {limit.meter for limit in self.limits}


def _refuse_twins(values: list[str], sentence: str) -> None:
    if len(set(values)) != len(values):
        raise ValueError(sentence)


def _stripe_counts_alike(currency: str) -> bool:
    """Whether each of the currency's minor units can be charged at Stripe (docs.stripe.com/currencies)."""
    exponent = exponent_of(currency)
    return exponent <= 2 and stripe_exponent_of(currency) >= exponent
