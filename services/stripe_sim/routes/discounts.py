"""/v1/coupons, /v1/promotion_codes, /v1/tax_rates."""

from decimal import Decimal

from services.stripe_sim import discounts, taxes
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint


@endpoint(
    "POST",
    "/v1/coupons",
    {
        "amount_off": int,
        "currency": str,
        "duration": ("forever", "once", "repeating"),
        "duration_in_months": int,
        "id": str,
        "max_redemptions": int,
        "metadata": METADATA,
        "name": str,
        "percent_off": Decimal,
        "redeem_by": int,
    },
)
def create_coupon(scope: Scope, params: Params) -> Obj:
    """Create a coupon."""
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return discounts.build_coupon(scope, fields)


@endpoint("GET", "/v1/coupons/{}")
def retrieve_coupon(scope: Scope, _params: Params, coupon_id: str) -> Obj:
    """Return a coupon."""
    return scope.get("coupon", coupon_id)


@endpoint("POST", "/v1/coupons/{}", {"metadata": METADATA, "name": str})
def update_coupon(scope: Scope, params: Params, coupon_id: str) -> Obj:
    """Change a coupon's name or metadata: never what it is worth."""
    coupon = scope.get("coupon", coupon_id)
    if "name" in params:
        coupon["name"] = params["name"]
    coupon["metadata"] = merge_metadata(coupon["metadata"], params.get("metadata", {}))
    scope.save(coupon)
    emit(scope, "coupon.updated", coupon)
    return coupon


@endpoint("DELETE", "/v1/coupons/{}")
def delete_coupon(scope: Scope, _params: Params, coupon_id: str) -> Obj:
    """End a coupon; discounts already given go on, so it stays known as invalid."""
    coupon = scope.get("coupon", coupon_id)
    coupon["valid"] = False
    scope.save(coupon)
    emit(scope, "coupon.deleted", coupon)
    return {"id": coupon_id, "object": "coupon", "deleted": True}


@endpoint("GET", "/v1/coupons", {**LIST_PARAMS, "created": CREATED})
def list_coupons(scope: Scope, params: Params) -> Obj:
    """List coupons."""
    return page(scope, scope.all("coupon"), params, "/v1/coupons")


@endpoint(
    "POST",
    "/v1/promotion_codes",
    {
        "active": bool,
        "code": str,
        "customer": str,
        "expires_at": int,
        "max_redemptions": int,
        "metadata": METADATA,
        "promotion": Required({"coupon": Required(str), "type": Required(("coupon",))}),
    },
)
def create_promotion_code(scope: Scope, params: Params) -> Obj:
    """Create a code for a coupon."""
    coupon = scope.get("coupon", params["promotion"]["coupon"], "promotion[coupon]")
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return discounts.build_promotion_code(scope, coupon, fields)


@endpoint("GET", "/v1/promotion_codes/{}")
def retrieve_promotion_code(scope: Scope, _params: Params, promotion_id: str) -> Obj:
    """Return a promotion code."""
    return scope.get("promotion_code", promotion_id)


@endpoint("POST", "/v1/promotion_codes/{}", {"active": bool, "metadata": METADATA})
def update_promotion_code(scope: Scope, params: Params, promotion_id: str) -> Obj:
    """Switch a code on or off."""
    promotion = scope.get("promotion_code", promotion_id)
    if params.get("active") is not None:
        promotion["active"] = params["active"]
    promotion["metadata"] = merge_metadata(promotion["metadata"], params.get("metadata", {}))
    scope.save(promotion)
    emit(scope, "promotion_code.updated", promotion)
    return promotion


@endpoint(
    "GET",
    "/v1/promotion_codes",
    {
        **LIST_PARAMS,
        "active": bool,
        "code": str,
        "coupon": str,
        "created": CREATED,
        "customer": str,
    },
)
def list_promotion_codes(scope: Scope, params: Params) -> Obj:
    """List promotion codes."""
    names = ("active", "customer")
    found = scope.all("promotion_code", **{name: params.get(name) for name in names})
    if params.get("code"):
        found = [each for each in found if each["code"].lower() == params["code"].lower()]
    if params.get("coupon"):
        found = [each for each in found if each["promotion"]["coupon"] == params["coupon"]]
    return page(scope, found, params, "/v1/promotion_codes")


@endpoint(
    "POST",
    "/v1/tax_rates",
    {
        "active": bool,
        "country": str,
        "description": str,
        "display_name": Required(str),
        "inclusive": Required(bool),
        "jurisdiction": str,
        "metadata": METADATA,
        "percentage": Required(Decimal),
        "state": str,
        "tax_type": str,
    },
)
def create_tax_rate(scope: Scope, params: Params) -> Obj:
    """Create a tax rate."""
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return taxes.build(scope, fields)


@endpoint("GET", "/v1/tax_rates/{}")
def retrieve_tax_rate(scope: Scope, _params: Params, rate_id: str) -> Obj:
    """Return a tax rate."""
    return scope.get("tax_rate", rate_id)


@endpoint(
    "POST",
    "/v1/tax_rates/{}",
    {
        "active": bool,
        "country": str,
        "description": str,
        "display_name": str,
        "jurisdiction": str,
        "metadata": METADATA,
        "state": str,
        "tax_type": str,
    },
)
def update_tax_rate(scope: Scope, params: Params, rate_id: str) -> Obj:
    """Change the words of a tax rate, or archive it: never its percentage."""
    rate = scope.get("tax_rate", rate_id)
    if "active" in params and params["active"] is None:
        raise invalid("Invalid boolean: ", "active")
    rate |= {name: value for name, value in params.items() if name != "metadata"}
    rate["metadata"] = merge_metadata(rate["metadata"], params.get("metadata", {}))
    scope.save(rate)
    emit(scope, "tax_rate.updated", rate)
    return rate


@endpoint(
    "GET",
    "/v1/tax_rates",
    {**LIST_PARAMS, "active": bool, "created": CREATED, "inclusive": bool},
)
def list_tax_rates(scope: Scope, params: Params) -> Obj:
    """List tax rates."""
    found = scope.all("tax_rate", active=params.get("active"), inclusive=params.get("inclusive"))
    return page(scope, found, params, "/v1/tax_rates")
