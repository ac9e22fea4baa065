"""/v1/products and /v1/prices."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import prices
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

RECURRING: Schema = {
    "interval": Required(("day", "month", "week", "year")),
    "interval_count": int,
    "meter": str,
    "trial_period_days": int,
    "usage_type": ("licensed", "metered"),
}

PRICE_DATA: Schema = {
    "currency": Required(str),
    "product": str,
    "product_data": {
        "name": Required(str),
        "description": str,
        "metadata": METADATA,
        "images": [str],
        "tax_code": str,
        "unit_label": str,
    },
    "recurring": RECURRING,
    "tax_behavior": ("exclusive", "inclusive", "unspecified"),
    "unit_amount": int,
    "unit_amount_decimal": Decimal,
}

_PRODUCT: Schema = {
    "active": bool,
    "description": str,
    "images": [str],
    "marketing_features": ANY,
    "metadata": METADATA,
    "statement_descriptor": str,
    "tax_code": str,
    "unit_label": str,
    "url": str,
}

_TIER: Schema = {
    "flat_amount": int,
    "flat_amount_decimal": Decimal,
    "unit_amount": int,
    "unit_amount_decimal": Decimal,
    "up_to": Required(str),
}

_PRICE: Schema = {
    **PRICE_DATA,
    "active": bool,
    "billing_scheme": ("per_unit", "tiered"),
    "lookup_key": str,
    "metadata": METADATA,
    "nickname": str,
    "tiers": [_TIER],
    "tiers_mode": ("graduated", "volume"),
    "transfer_lookup_key": bool,
    "transform_quantity": {"divide_by": Required(int), "round": Required(("down", "up"))},
}


@endpoint(
    "POST",
    "/v1/products",
    {
        **_PRODUCT,
        "id": str,
        "name": Required(str),
        "type": ("good", "service"),
        "default_price_data": PRICE_DATA,
    },
)
def create_product(scope: Scope, params: Params) -> Obj:
    """Create a product."""
    product = prices.build_product(scope, params)
    if params.get("default_price_data"):
        price = prices.build_price(scope, product, params["default_price_data"])
        product["default_price"] = price["id"]
        scope.save(product)
    return product


@endpoint("GET", "/v1/products/{}")
def retrieve_product(scope: Scope, _params: Params, product_id: str) -> Obj:
    """Return a product."""
    return scope.get("product", product_id)


@endpoint("POST", "/v1/products/{}", {**_PRODUCT, "name": str, "default_price": str})
def update_product(scope: Scope, params: Params, product_id: str) -> Obj:
    """Change a product."""
    product = scope.get("product", product_id)
    if params.get("default_price"):
        scope.get("price", params["default_price"], "default_price")
    _change(product, params)
    product["updated"] = scope.wall_now()
    scope.save(product)
    emit(scope, "product.updated", product)
    return product


@endpoint("DELETE", "/v1/products/{}")
def delete_product(scope: Scope, _params: Params, product_id: str) -> Obj:
    """Delete a product that has no prices."""
    product = scope.get("product", product_id)
    if scope.all("price", product=product_id):
        raise invalid(
            "This product cannot be deleted because it has one or more user-created prices.", "id"
        )
    scope.sandbox.store.remove(scope.account, product)
    emit(scope, "product.deleted", product)
    return {"id": product_id, "object": "product", "deleted": True}


@endpoint(
    "GET",
    "/v1/products",
    {**LIST_PARAMS, "active": bool, "created": CREATED, "ids": [str], "url": str},
)
def list_products(scope: Scope, params: Params) -> Obj:
    """List products."""
    found = scope.all("product", active=params.get("active"), url=params.get("url"))
    if params.get("ids"):
        found = [product for product in found if product["id"] in params["ids"]]
    return page(scope, found, params, "/v1/products")


@endpoint("POST", "/v1/prices", _PRICE)
def create_price(scope: Scope, params: Params) -> Obj:
    """Create a price of a product that exists or is made with it."""
    return price_for(scope, params)


def price_for(scope: Scope, wish: dict[str, Any]) -> Obj:
    """Create the price that `price_data` describes, with its product where it is new.

    Raises:
        ApiError: neither a product nor what it is to be is given.
    """
    if wish.get("product"):
        product = scope.get("product", wish["product"], "product")
    elif wish.get("product_data"):
        product = prices.build_product(scope, wish["product_data"])
    else:
        raise invalid("Missing required param: product.", "product", "parameter_missing")
    return prices.build_price(scope, product, wish)


@endpoint("GET", "/v1/prices/{}")
def retrieve_price(scope: Scope, _params: Params, price_id: str) -> Obj:
    """Return a price."""
    return scope.get("price", price_id)


@endpoint(
    "POST",
    "/v1/prices/{}",
    {
        "active": bool,
        "lookup_key": str,
        "metadata": METADATA,
        "nickname": str,
        "tax_behavior": ("exclusive", "inclusive", "unspecified"),
        "transfer_lookup_key": bool,
    },
)
def update_price(scope: Scope, params: Params, price_id: str) -> Obj:
    """Change what may change of a price: never its amount."""
    price = scope.get("price", price_id)
    _change(price, {name: value for name, value in params.items() if name in price})
    scope.save(price)
    emit(scope, "price.updated", price)
    return price


def _change(obj: Obj, params: Params) -> None:
    for name, value in params.items():
        if name == "metadata":
            obj["metadata"] = merge_metadata(obj["metadata"], value)
        elif name != "expand":
            obj[name] = value


@endpoint(
    "GET",
    "/v1/prices",
    {
        **LIST_PARAMS,
        "active": bool,
        "created": CREATED,
        "currency": str,
        "lookup_keys": [str],
        "product": str,
        "recurring": {
            "interval": ("day", "month", "week", "year"),
            "meter": str,
            "usage_type": ("licensed", "metered"),
        },
        "type": ("one_time", "recurring"),
    },
)
def list_prices(scope: Scope, params: Params) -> Obj:
    """List prices; `lookup_keys` finds a price to adopt."""
    wanted = {name: params.get(name) for name in ("active", "currency", "product", "type")}
    found = scope.all("price", **wanted)
    if params.get("lookup_keys"):
        found = [price for price in found if price["lookup_key"] in params["lookup_keys"]]
    for name, value in (params.get("recurring") or {}).items():
        found = [price for price in found if (price["recurring"] or {}).get(name) == value]
    return page(scope, found, params, "/v1/prices")
