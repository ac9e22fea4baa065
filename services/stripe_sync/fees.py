"""The platform's share of a payment into a tenant's connected account (Connect, direct charges)."""

from decimal import Decimal

from libs.contracts.tenants import ConnectionRecord
from libs.money import Money, round_half_even, stripe_step_of

BASIS_POINTS = Decimal(10_000)


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
    fee_minor = min(share, amount.amount_minor)
    return Money(fee_minor - fee_minor % stripe_step_of(amount.currency), amount.currency)
