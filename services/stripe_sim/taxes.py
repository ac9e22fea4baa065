"""Tax rates, and what they come to on an amount."""

from decimal import Decimal
from typing import Any

from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.money import half_up
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

RATES_MAX = 5

_EXEMPT_REASONS = {"exempt": "customer_exempt", "reverse": "reverse_charge"}


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a tax rate.

    Raises:
        ApiError: the percentage is not from 0 to 100.
    """
    percentage: Decimal = fields["percentage"]
    if not 0 <= percentage <= 100:
        raise invalid("The percentage must be from 0 to 100.", "percentage")
    rate = scope.save(
        {
            "id": scope.new_id("txr_1"),
            "object": "tax_rate",
            "active": fields.get("active") is not False,
            "country": fields.get("country"),
            "created": scope.wall_now(),
            "description": fields.get("description"),
            "display_name": fields["display_name"],
            "effective_percentage": None,
            "flat_amount": None,
            "inclusive": fields["inclusive"],
            "jurisdiction": fields.get("jurisdiction"),
            "jurisdiction_level": None,
            "livemode": False,
            "metadata": fields.get("metadata") or {},
            "percentage": float(percentage),
            "rate_type": "percentage",
            "state": fields.get("state"),
            "tax_type": fields.get("tax_type"),
        }
    )
    emit(scope, "tax_rate.created", rate)
    return rate


def resolve(scope: Scope, rate_ids: list[str] | None, param: str) -> list[Obj]:
    """Return the tax rates of these ids, as objects carry them.

    Raises:
        ApiError: there are too many, one does not exist, or one is archived.
    """
    if len(rate_ids or []) > RATES_MAX:
        raise invalid(f"You may pass at most {RATES_MAX} tax rates.", param)
    rates = [scope.get("tax_rate", rate_id, param) for rate_id in rate_ids or []]
    for rate in rates:
        if not rate["active"]:
            raise invalid(f"The tax rate {rate['id']} is archived.", param)
    return [dict(rate) for rate in rates]


def taxes_of(amount: int, rates: list[Obj], exempt: str) -> list[dict[str, Any]]:
    """Return the `taxes` of a line of an amount, each rounded half up to the minor unit.

    `exempt` is the customer's `tax_exempt`: who is exempt, or owes the tax himself, pays none.
    """
    included = sum((exact(rate) for rate in rates if rate["inclusive"]), Decimal(0))
    net = Decimal(amount) / (1 + included / 100)
    taxes = []
    for rate in rates:
        base = net if rate["inclusive"] else Decimal(amount) if not included else net
        tax = 0 if exempt in _EXEMPT_REASONS else half_up(base * exact(rate) / 100)
        taxes.append(
            {
                "amount": tax,
                "tax_behavior": "inclusive" if rate["inclusive"] else "exclusive",
                "tax_rate_details": {"tax_rate": rate["id"]},
                "taxability_reason": _EXEMPT_REASONS.get(exempt, "standard_rated"),
                "taxable_amount": half_up(base),
                "type": "tax_rate_details",
            }
        )
    return taxes


def exact(rate: Obj) -> Decimal:
    """Return a rate's percentage as it was written."""
    return Decimal(str(rate["percentage"]))


def added(taxes: list[dict[str, Any]]) -> int:
    """Return what taxes add to an amount: those that are not included in it."""
    return sum(tax["amount"] for tax in taxes if tax["tax_behavior"] == "exclusive")


def gathered(taxes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return taxes summed by rate, in the order they first appear."""
    sums: dict[str, dict[str, Any]] = {}
    for tax in taxes:
        rate_id = tax["tax_rate_details"]["tax_rate"]
        if rate_id in sums:
            sums[rate_id]["amount"] += tax["amount"]
            sums[rate_id]["taxable_amount"] += tax["taxable_amount"]
        else:
            sums[rate_id] = dict(tax)
    return list(sums.values())
