"""Meters and meter events: usage that metered prices bill at the end of the period."""

from decimal import Decimal, InvalidOperation
from typing import Any

from services.stripe_sim import invoice_totals, subscriptions
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.money import half_up, plain
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

METER, EVENT = "billing.meter", "billing.meter_event"
PAST_SECONDS_MAX = 35 * DAY_SECONDS
FUTURE_SECONDS_MAX = 300


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a meter for an event name.

    Raises:
        ApiError: an active meter listens to that name already.
    """
    name = fields["event_name"]
    if any(meter["status"] == "active" for meter in scope.all(METER, event_name=name)):
        raise invalid(f"There is already an active meter with event_name {name}.", "event_name")
    now = scope.wall_now()
    mapping = (fields.get("customer_mapping") or {}).get("event_payload_key")
    value = (fields.get("value_settings") or {}).get("event_payload_key")
    meter = scope.save(
        {
            "id": scope.new_id("mtr_test_61", 20),
            "object": METER,
            "created": now,
            "customer_mapping": {
                "event_payload_key": mapping or "stripe_customer_id",
                "type": "by_id",
            },
            "default_aggregation": {"formula": fields["default_aggregation"]["formula"]},
            "display_name": fields["display_name"],
            "event_name": name,
            "event_time_window": fields.get("event_time_window"),
            "livemode": False,
            "status": "active",
            "status_transitions": {"deactivated_at": None},
            "updated": now,
            "value_settings": {"event_payload_key": value or "value"},
        }
    )
    emit(scope, "billing.meter.created", meter)
    return meter


def set_active(scope: Scope, meter: Obj, *, active: bool) -> Obj:
    """Switch a meter on or off."""
    meter["status"] = "active" if active else "inactive"
    meter["status_transitions"]["deactivated_at"] = None if active else scope.wall_now()
    scope.save(meter)
    emit(scope, f"billing.meter.{'reactivated' if active else 'deactivated'}", meter)
    return meter


def record(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Record a meter event; its identifier counts once.

    Raises:
        ApiError: no meter listens, the payload lacks what the meter maps, the time is out of
            range, or the identifier was used.
    """
    name, payload = fields["event_name"], fields.get("payload") or {}
    meter = next((each for each in scope.all(METER, event_name=name, status="active")), None)
    if meter is None:
        raise invalid(f"No active meter found for event name {name}.", "event_name", "no_meter")
    customer_id = payload.get(meter["customer_mapping"]["event_payload_key"])
    customer = scope.find("customer", customer_id if isinstance(customer_id, str) else None)
    if customer is None:
        raise invalid("The payload names no customer of this account.", "payload")
    now = scope.now(customer.get("test_clock"))
    timestamp = fields.get("timestamp") or now
    if not now - PAST_SECONDS_MAX <= timestamp <= now + FUTURE_SECONDS_MAX:
        raise invalid(
            "The timestamp must be within the past 35 days or up to 5 minutes in the future.",
            "timestamp",
            "timestamp_invalid",
        )
    identifier = fields.get("identifier") or scope.new_id("", 32)
    if scope.find(EVENT, identifier) is not None:
        raise ApiError(
            400,
            f"An event already exists with identifier {identifier}.",
            code="duplicate_meter_event",
            param="identifier",
        )
    event: Obj = {
        "id": identifier,
        "object": EVENT,
        "created": scope.wall_now(),
        "event_name": name,
        "identifier": identifier,
        "livemode": False,
        "payload": payload,
        "timestamp": timestamp,
        "_sim": {
            "customer": customer["id"],
            "meter": meter["id"],
            "value": plain(_value(payload, meter)),
        },
    }
    scope.save(event)
    return {name: value for name, value in event.items() if name not in ("id", "_sim")}


def _value(payload: dict[str, Any], meter: Obj) -> Decimal:
    if meter["default_aggregation"]["formula"] == "count":
        return Decimal(1)
    text = payload.get(meter["value_settings"]["event_payload_key"])
    try:
        value = Decimal(str(text))
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or abs(value) > 10**15 or len(str(text)) > 40:
        raise invalid("The payload's value is no number.", "payload", "meter_event_value_not_found")
    return value


def aggregate(scope: Scope, meter: Obj, customer_id: str, start: int, end: int) -> Decimal:
    """Return a customer's usage in [start, end) by the meter's formula."""
    events = [
        event
        for event in scope.all(EVENT)
        if event["_sim"]["meter"] == meter["id"]
        and event["_sim"]["customer"] == customer_id
        and start <= event["timestamp"] < end
    ]
    values = [Decimal(event["_sim"]["value"]) for event in events]
    if meter["default_aggregation"]["formula"] == "last":
        latest = max(events, key=lambda event: event["timestamp"], default=None)
        return Decimal(latest["_sim"]["value"]) if latest else Decimal(0)
    return sum(values, Decimal(0))


def bill(scope: Scope, invoice: Obj, subscription: Obj, start: int, end: int) -> None:
    """Add a line for each metered item: the usage of the period that ended."""
    for item in subscription["items"]["data"]:
        price = scope.get("price", item["price"]["id"])
        meter = scope.find(METER, price["recurring"]["meter"])
        if "quantity" in item or meter is None:
            continue
        used = aggregate(scope, meter, subscription["customer"], start, end)
        product = scope.get("product", price["product"])
        line = invoice_totals.add_line(
            scope,
            invoice,
            {
                "amount": _amount(price, used),
                "description": f"{plain(used)} {product['unit_label'] or 'units'} of "
                f"{product['name']}",
                "metadata": dict(subscription["metadata"]),
                "period": {"start": start, "end": end},
                "pricing": invoice_totals.pricing_of(price),
                "quantity": int(used),
                "subscription": subscription["id"],
                "tax_rates": item["tax_rates"],
                "parent": subscriptions.item_parent(subscription, item),
            },
        )
        line["quantity_decimal"] = plain(used)


def _amount(price: Obj, used: Decimal) -> int:
    if price["billing_scheme"] == "tiered":
        return subscriptions.price_amount(price, int(used))
    return half_up(Decimal(price["unit_amount_decimal"]) * used)
