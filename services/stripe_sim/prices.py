"""Products and prices."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import money
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.render import on_request
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

INTERVAL_COUNT_MAX = {"day": 1095, "week": 156, "month": 36, "year": 3}


def build_product(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a product, under the caller's own id where one is given.

    Raises:
        ApiError: the id is taken.
    """
    product_id = fields.get("id") or scope.new_id("prod_", 14)
    if scope.find("product", product_id) is not None:
        raise invalid("Product already exists.", "id", "resource_already_exists")
    now = scope.wall_now()
    product = scope.save(
        {
            "id": product_id,
            "object": "product",
            "active": fields.get("active") is not False,
            "created": now,
            "default_price": None,
            "description": fields.get("description"),
            "images": fields.get("images") or [],
            "livemode": False,
            "marketing_features": fields.get("marketing_features") or [],
            "metadata": fields.get("metadata") or {},
            "name": fields["name"],
            "package_dimensions": None,
            "shippable": None,
            "statement_descriptor": fields.get("statement_descriptor"),
            "tax_code": fields.get("tax_code"),
            "type": "service",
            "unit_label": fields.get("unit_label"),
            "updated": now,
            "url": fields.get("url"),
        }
    )
    emit(scope, "product.created", product)
    return product


def build_price(scope: Scope, product: Obj, fields: dict[str, Any]) -> Obj:
    """Create a price of a product.

    Raises:
        ApiError: the amounts, tiers, interval or look-up key are not what Stripe takes.
    """
    currency = str(fields["currency"]).lower()
    if currency not in money.CURRENCIES:
        raise invalid(f"Invalid currency: {currency[:20]}", "currency")
    recurring = _recurring(fields.get("recurring"))
    scheme = fields.get("billing_scheme") or "per_unit"
    unit = _unit_amount(fields) if scheme == "per_unit" else None
    key = fields.get("lookup_key")
    _claim_lookup_key(scope, key, take_over=bool(fields.get("transfer_lookup_key")))
    price = scope.save(
        {
            "id": scope.new_id("price_1"),
            "object": "price",
            "active": fields.get("active") is not False,
            "billing_scheme": scheme,
            "created": scope.wall_now(),
            "currency": currency,
            "custom_unit_amount": None,
            "livemode": False,
            "lookup_key": key,
            "metadata": fields.get("metadata") or {},
            "nickname": fields.get("nickname"),
            "product": product["id"],
            "recurring": recurring,
            "tax_behavior": fields.get("tax_behavior") or "unspecified",
            "tiers_mode": fields.get("tiers_mode") if scheme == "tiered" else None,
            "transform_quantity": fields.get("transform_quantity"),
            "type": "recurring" if recurring else "one_time",
            "unit_amount": int(unit) if unit is not None and unit == int(unit) else None,
            "unit_amount_decimal": money.plain(unit) if unit is not None else None,
            "_sim": {"tiers": _tiers(fields) if scheme == "tiered" else None},
        }
    )
    emit(scope, "price.created", price)
    return price


def _recurring(wish: dict[str, Any] | None) -> dict[str, Any] | None:
    if not wish:
        return None
    interval, count = wish["interval"], wish.get("interval_count") or 1
    if not 1 <= count <= INTERVAL_COUNT_MAX[interval]:
        raise invalid(
            f"interval_count must be from 1 to {INTERVAL_COUNT_MAX[interval]} for {interval}.",
            "recurring[interval_count]",
        )
    return {
        "interval": interval,
        "interval_count": count,
        "meter": wish.get("meter"),
        "trial_period_days": wish.get("trial_period_days"),
        "usage_type": wish.get("usage_type") or "licensed",
    }


def _unit_amount(fields: dict[str, Any]) -> Decimal:
    whole, exact = fields.get("unit_amount"), fields.get("unit_amount_decimal")
    if whole is None and exact is None:
        raise invalid("Missing required param: unit_amount.", "unit_amount", "parameter_missing")
    amount: Decimal = Decimal(whole or 0) if exact is None else exact
    if amount < 0:
        raise invalid("Invalid non-negative integer", "unit_amount", "parameter_invalid_integer")
    return amount


def _tiers(fields: dict[str, Any]) -> list[dict[str, Any]]:
    if fields.get("tiers_mode") is None:
        raise invalid("Missing required param: tiers_mode.", "tiers_mode", "parameter_missing")
    tiers = []
    for tier in fields.get("tiers") or []:
        up_to = tier["up_to"]
        flat = _exact(tier, "flat_amount")
        unit = _exact(tier, "unit_amount")
        tiers.append(
            {
                "flat_amount": int(flat) if flat is not None and flat == int(flat) else None,
                "flat_amount_decimal": money.plain(flat) if flat is not None else None,
                "unit_amount": int(unit) if unit is not None and unit == int(unit) else None,
                "unit_amount_decimal": money.plain(unit) if unit is not None else None,
                "up_to": None if up_to == "inf" else _bound(up_to),
            }
        )
    bounds: list[Any] = [tier["up_to"] for tier in tiers]
    finite = bounds[:-1]
    if not tiers or bounds[-1] is not None or None in finite or sorted(set(finite)) != finite:
        raise invalid("Tiers must be in ascending order and end with `up_to=inf`.", "tiers")
    return tiers


def _exact(tier: dict[str, Any], name: str) -> Decimal | None:
    whole, exact = tier.get(name), tier.get(f"{name}_decimal")
    return exact if exact is not None else Decimal(whole) if whole is not None else None


def _bound(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 15:
        raise invalid(f"Invalid integer: {text[:80]}", "tiers[up_to]", "parameter_invalid_integer")
    return int(text)


def _claim_lookup_key(scope: Scope, key: str | None, *, take_over: bool) -> None:
    if key is None:
        return
    for price in scope.all("price", lookup_key=key):
        if not take_over:
            raise invalid(
                f"A price (`{price['id']}`) already uses that lookup key.",
                "lookup_key",
                "resource_already_exists",
            )
        price["lookup_key"] = None
        scope.save(price)


@on_request("price", "tiers")
def _shown_tiers(_scope: Scope, price: Obj) -> list[dict[str, Any]] | None:
    tiers: list[dict[str, Any]] | None = price["_sim"]["tiers"]
    return tiers


@on_request("price", "currency_options")
def _currency_options(_scope: Scope, price: Obj) -> dict[str, Any]:
    option = {
        name: price[name]
        for name in ("custom_unit_amount", "tax_behavior", "unit_amount", "unit_amount_decimal")
    }
    return {price["currency"]: option}
