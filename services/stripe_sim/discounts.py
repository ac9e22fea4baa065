"""Coupons, promotion codes, and the discounts they become on a subscription or invoice."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import money
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import add_intervals
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

DISCOUNTS_MAX = 20


def build_coupon(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a coupon: a percentage or an amount, once, for some months or for ever.

    Raises:
        ApiError: the parameters contradict each other, or the id is taken.
    """
    percent_off, amount_off = fields.get("percent_off"), fields.get("amount_off")
    if (percent_off is None) == (amount_off is None):
        raise invalid("Received both or neither of percent_off and amount_off.", "percent_off")
    if percent_off is not None and not 0 < percent_off <= 100:
        raise invalid("Invalid percent_off: must be between 0 and 100.", "percent_off")
    if amount_off is not None and (amount_off < 1 or not fields.get("currency")):
        raise invalid("amount_off must be positive and needs a currency.", "amount_off")
    duration = fields.get("duration") or "once"
    months = fields.get("duration_in_months")
    if (duration == "repeating") != bool(months):
        raise invalid("duration_in_months goes with duration=repeating.", "duration_in_months")
    coupon_id = fields.get("id") or scope.new_id("", 8)
    if scope.find("coupon", coupon_id) is not None:
        raise invalid("Coupon already exists.", "id", "resource_already_exists")
    coupon = scope.save(
        {
            "id": coupon_id,
            "object": "coupon",
            "amount_off": amount_off,
            "created": scope.wall_now(),
            "currency": (fields.get("currency") or "").lower() or None,
            "duration": duration,
            "duration_in_months": months,
            "livemode": False,
            "max_redemptions": fields.get("max_redemptions"),
            "metadata": fields.get("metadata") or {},
            "name": fields.get("name"),
            "percent_off": None if percent_off is None else float(percent_off),
            "redeem_by": fields.get("redeem_by"),
            "times_redeemed": 0,
            "valid": True,
        }
    )
    emit(scope, "coupon.created", coupon)
    return coupon


def build_promotion_code(scope: Scope, coupon: Obj, fields: dict[str, Any]) -> Obj:
    """Create a code a customer can type for a coupon.

    Raises:
        ApiError: an active code of these letters exists.
    """
    code = fields.get("code") or scope.new_id("", 8).upper()
    if find_code(scope, code) is not None:
        raise invalid(f"An active promotion code with `code: {code}` already exists.", "code")
    promotion = scope.save(
        {
            "id": scope.new_id("promo_1"),
            "object": "promotion_code",
            "active": fields.get("active") is not False,
            "code": code,
            "created": scope.wall_now(),
            "customer": fields.get("customer"),
            "expires_at": fields.get("expires_at"),
            "livemode": False,
            "max_redemptions": fields.get("max_redemptions"),
            "metadata": fields.get("metadata") or {},
            "promotion": {"coupon": coupon["id"], "type": "coupon"},
            "restrictions": {
                "first_time_transaction": False,
                "minimum_amount": None,
                "minimum_amount_currency": None,
            },
            "times_redeemed": 0,
        }
    )
    emit(scope, "promotion_code.created", promotion)
    return promotion


def find_code(scope: Scope, code: str) -> Obj | None:
    """Return the active promotion code of these letters, whatever their case."""
    for promotion in scope.all("promotion_code", active=True):
        if promotion["code"].lower() == code.lower():
            return promotion
    return None


def resolve(scope: Scope, wishes: list[dict[str, Any]] | None) -> list[tuple[Obj, Obj | None]]:
    """Return (coupon, promotion code) for each entry of a `discounts` parameter.

    Raises:
        ApiError: an entry names nothing, or what it names cannot be redeemed any more.
    """
    if len(wishes or []) > DISCOUNTS_MAX:
        raise invalid(f"You may pass at most {DISCOUNTS_MAX} discounts.", "discounts")
    found = []
    for wish in wishes or []:
        promotion = None
        if wish.get("promotion_code"):
            promotion = scope.get("promotion_code", wish["promotion_code"], "discounts")
            coupon = scope.get("coupon", promotion["promotion"]["coupon"])
            _check_redeemable(scope, promotion, promotion["active"])
        elif wish.get("coupon"):
            coupon = scope.get("coupon", wish["coupon"], "discounts")
        else:
            raise invalid("Each discount needs a coupon or a promotion code.", "discounts")
        _check_redeemable(scope, coupon, coupon["valid"])
        found.append((coupon, promotion))
    return found


def _check_redeemable(scope: Scope, obj: Obj, alive: bool) -> None:
    limit = obj["max_redemptions"]
    expires = obj.get("redeem_by") or obj.get("expires_at")
    used_up = limit is not None and obj["times_redeemed"] >= limit
    if not alive or used_up or (expires is not None and expires <= scope.wall_now()):
        raise invalid(f"Coupon expired: {obj['id']}", "discounts", "coupon_expired")


def redeem(scope: Scope, coupon: Obj, promotion: Obj | None, owner: dict[str, Any]) -> Obj:
    """Turn a coupon into a discount of an owner: `customer`, and `subscription` or `invoice`."""
    clock = owner.pop("test_clock", None)
    now = scope.now(clock)
    months = coupon["duration_in_months"]
    for used in (coupon, promotion):
        if used is not None:
            used["times_redeemed"] += 1
            limit = used["max_redemptions"]
            if limit is not None and used["times_redeemed"] >= limit and "valid" in used:
                used["valid"] = False
            scope.save(used)
    discount = scope.save(
        {
            "id": scope.new_id("di_1"),
            "object": "discount",
            "checkout_session": None,
            "customer": None,
            "end": add_intervals(now, "month", months) if months else None,
            "invoice": None,
            "invoice_item": None,
            "promotion_code": promotion["id"] if promotion else None,
            "source": {"coupon": coupon["id"], "type": "coupon"},
            "start": now,
            "subscription": None,
            "subscription_item": None,
            **owner,
        }
    )
    emit(scope, "customer.discount.created", discount)
    return discount


def coupon_of(scope: Scope, discount_id: str) -> Obj:
    """Return the coupon behind a discount."""
    discount = scope.get("discount", discount_id)
    return scope.get("coupon", discount["source"]["coupon"])


def current(scope: Scope, owner: Obj, now: int) -> list[str]:
    """Return the ids of an owner's discounts that have not ended."""
    return [
        discount_id
        for discount_id in owner["discounts"]
        if (end := scope.get("discount", discount_id)["end"]) is None or end > now
    ]


def used_once(scope: Scope, owner: Obj) -> None:
    """Take the discounts off an owner that were good for one invoice only."""
    kept = [
        discount_id
        for discount_id in owner["discounts"]
        if coupon_of(scope, discount_id)["duration"] != "once"
    ]
    if kept != owner["discounts"]:
        owner["discounts"] = kept
        scope.save(owner)


def split(coupon: Obj, amounts: list[int]) -> list[int]:
    """Return what a coupon takes off each amount; it touches positive amounts only.

    A percentage is rounded half up on each; a fixed amount is spread in proportion, and the last
    one takes what rounding left.
    """
    if coupon["percent_off"] is not None:
        rate = Decimal(str(coupon["percent_off"]))
        return [money.percent(max(amount, 0), rate) for amount in amounts]
    whole = sum(max(amount, 0) for amount in amounts)
    off = min(coupon["amount_off"], whole)
    parts, taken, seen = [], 0, 0
    for amount in amounts:
        seen += max(amount, 0)
        part = money.share(off, seen, whole) - taken
        taken += part
        parts.append(part)
    return parts
