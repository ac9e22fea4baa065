"""The platform's share of a payment into a tenant's connected account (Connect, direct charges)."""

from decimal import Decimal

from libs.contracts.tenants import ConnectionRecord
from libs.money import Money, NotRepresentableError, round_half_even, to_stripe

BASIS_POINTS = Decimal(10_000)
COARSEST_UNIT = 100
"""Minor units in which every amount that Stripe takes can be expressed (ISO 4217 and MGA, KWD)."""


def application_fee(connection: ConnectionRecord | None, amount: Money) -> Money:
    """The share of an amount: a percentage, a fixed sum in its own currency, both, or nothing.

    Never more than the amount, and rounded down where Stripe's unit is coarser than ours. Raw keys
    take none: only Connect knows a platform.
    """
    if connection is None or connection.kind == "RAW_KEYS":
        return Money.zero(amount.currency)
    basis_points = connection.application_fee_basis_points or 0
    share = round_half_even(Decimal(amount.amount_minor) * basis_points / BASIS_POINTS)
    if connection.application_fee_currency == amount.currency:
        share += connection.application_fee_fixed_minor or 0
    fee = Money(min(share, amount.amount_minor), amount.currency)
    try:
        to_stripe(fee)
    except NotRepresentableError:
        return Money(fee.amount_minor - fee.amount_minor % COARSEST_UNIT, fee.currency)
    return fee
