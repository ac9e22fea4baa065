"""What a story is about, drawn from a seed: prices, amounts included, usage; and what must come out.

The expected invoice is computed here in plain arithmetic, apart from the product's own rating.
"""

import random
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal


@dataclass(frozen=True)
class PriceTier:
    """Up to this quantity (None: without end) each unit costs this many minor units."""

    up_to: int | None
    unit_amount_minor: Decimal


@dataclass(frozen=True)
class Terms:
    """One story.

    Attributes:
        fee_minor: monthly fee in minor units.
        included: units in the fee.
        tiers: prices of what exceeds `included`.
        events: distinct usage events.
        duplicate_share, late_share: how many of them are sent twice, or days after they happened.
        credit_minor: credit granted before the period closes.
    """

    seed: int
    currency: str
    fee_minor: int
    included: int
    tiers: tuple[PriceTier, ...]
    events: int
    duplicate_share: float
    late_share: float
    credit_minor: int

    def usage_minor(self, quantity: int) -> int:
        """The price of a quantity by these tiers, rounded half-even to a minor unit."""
        left, below, amount = max(0, quantity - self.included), 0, Decimal(0)
        for tier in self.tiers:
            size = left if tier.up_to is None else min(left, tier.up_to - below)
            amount += size * tier.unit_amount_minor
            left -= size
            below = tier.up_to or below
        return int(amount.quantize(Decimal(1), rounding=ROUND_HALF_EVEN))

    def plan_body(self, key: str, meter: str) -> dict[str, object]:
        """The plan as `POST /api/v1/plans` takes it."""
        return {
            "key": key,
            "name": f"Pro ({key})",
            "interval": "month",
            "currency": self.currency,
            "collection": "stripe",
            "prices": [
                {"kind": "flat", "amount_minor": self.fee_minor},
                {
                    "kind": "graduated",
                    "meter": meter,
                    "included": str(self.included),
                    "tiers": [
                        {
                            "up_to": None if tier.up_to is None else str(tier.up_to),
                            "unit_amount_minor": str(tier.unit_amount_minor),
                        }
                        for tier in self.tiers
                    ],
                },
            ],
        }


DEMO = Terms(
    seed=1,
    currency="EUR",
    fee_minor=4_900,
    included=10_000,
    tiers=(
        PriceTier(5_000, Decimal("0.4")),
        PriceTier(None, Decimal("0.25")),
    ),
    events=10_000,
    duplicate_share=0.05,
    late_share=0.1,
    credit_minor=1_000,
)


def draw(seed: int, *, events: int | None = None) -> Terms:
    """Random terms; the same seed gives the same story."""
    rng = random.Random(seed)  # noqa: S311 - a story, not a secret
    count = events or rng.randrange(800, 2_500)
    first = rng.randrange(200, 900)
    return Terms(
        seed=seed,
        currency=rng.choice(["EUR", "USD"]),
        fee_minor=rng.randrange(500, 20_000),
        included=rng.randrange(0, count),
        tiers=(
            PriceTier(first, Decimal(rng.randrange(1, 400)) / 100),
            PriceTier(first + rng.randrange(100, 900), Decimal(rng.randrange(1, 300)) / 1000),
            PriceTier(None, Decimal(rng.randrange(1, 100)) / 1000),
        ),
        events=count,
        duplicate_share=rng.uniform(0.02, 0.2),
        late_share=rng.uniform(0.02, 0.3),
        credit_minor=rng.randrange(50, 400),
    )
