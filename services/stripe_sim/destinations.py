"""Event destinations: endpoints that get thin events, which name the object and do not show it."""

import json
from datetime import UTC, datetime
from typing import Any

from services.stripe_sim.sandbox import Scope
from services.stripe_sim.settings import API_VERSION
from services.stripe_sim.store import Obj

KIND = "v2.core.event_destination"
SELF, ACCOUNTS = "@self", "@accounts"

_PATHS = {
    "account": "accounts",
    "application_fee": "application_fees",
    "charge": "charges",
    "checkout.session": "checkout/sessions",
    "coupon": "coupons",
    "credit_note": "credit_notes",
    "customer": "customers",
    "dispute": "disputes",
    "invoice": "invoices",
    "invoice_payment": "invoice_payments",
    "invoiceitem": "invoiceitems",
    "payment_intent": "payment_intents",
    "payment_link": "payment_links",
    "payment_method": "payment_methods",
    "payout": "payouts",
    "price": "prices",
    "product": "products",
    "promotion_code": "promotion_codes",
    "refund": "refunds",
    "setup_intent": "setup_intents",
    "subscription": "subscriptions",
    "tax_rate": "tax_rates",
    "test_helpers.test_clock": "test_helpers/test_clocks",
}


def iso(at: int) -> str:
    """Return a time as the v2 API writes it."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def build(scope: Scope, fields: dict[str, Any], secret: str) -> Obj:
    """Create a destination that posts events to a URL, thin ones or snapshots."""
    now = iso(scope.wall_now())
    thin = fields["event_payload"] == "thin"
    return scope.save(
        {
            "id": scope.new_id("ed_test_6"),
            "object": KIND,
            "created": now,
            "description": fields.get("description") or "",
            "enabled_events": fields["enabled_events"],
            "event_payload": fields["event_payload"],
            "events_from": fields.get("events_from") or [SELF],
            "livemode": False,
            "metadata": fields.get("metadata") or {},
            "name": fields["name"],
            "snapshot_api_version": None if thin else API_VERSION,
            "status": "enabled",
            "type": "webhook_endpoint",
            "updated": now,
            "_sim": {
                "url": fields["webhook_endpoint"]["url"],
                "secrets": [{"secret": secret, "expires_at": None}],
            },
        }
    )


def is_thin(endpoint: Obj) -> bool:
    """Say whether an endpoint gets events without the object."""
    return endpoint.get("event_payload") == "thin"


def is_of_connect(endpoint: Obj) -> bool:
    """Say whether an endpoint hears of connected accounts, as a v1 Connect endpoint does."""
    if endpoint["object"] == KIND:
        return ACCOUNTS in endpoint["events_from"]
    return bool(endpoint["_sim"]["connect"])


def hears_itself(endpoint: Obj) -> bool:
    """Say whether an endpoint hears of the account it belongs to."""
    if endpoint["object"] == KIND:
        return SELF in endpoint["events_from"]
    return not endpoint["_sim"]["connect"]


def wants(endpoint: Obj, kind: str) -> bool:
    """Say whether an endpoint is to hear of an event of this snapshot kind."""
    names = {"*", f"v1.{kind}" if is_thin(endpoint) else kind}
    return endpoint["status"] == "enabled" and bool(names & set(endpoint["enabled_events"]))


def url_of(endpoint: Obj) -> str:
    """Return where an endpoint's events are sent."""
    return str(endpoint["_sim"]["url"] if endpoint["object"] == KIND else endpoint["url"])


def all_of(scope: Scope, owner: str) -> list[Obj]:
    """Return every endpoint of an account, of both kinds."""
    store = scope.sandbox.store
    return [*store.all(owner, "webhook_endpoint"), *store.all(owner, KIND)]


def notification(event: Obj, account: str | None) -> dict[str, Any]:
    """Return the thin event of an event: what it is about, and not how it is."""
    request = event["request"]
    thin: dict[str, Any] = {
        "id": event["_sim"]["thin_id"],
        "object": "v2.core.event",
        "context": account,
        "created": iso(event["created"]),
        "livemode": False,
        "reason": None,
        "type": f"v1.{event['type']}",
    }
    if request["id"] is not None:
        key = request["idempotency_key"] or ""
        thin["reason"] = {
            "type": "request",
            "request": {"id": request["id"], "idempotency_key": key},
        }
    related = _related(event)
    return {**thin, "related_object": related} if related else thin


def _related(event: Obj) -> dict[str, str] | None:
    about = json.loads(event["_sim"]["data"])["object"]
    path = _PATHS.get(about["object"])
    if path is None or "id" not in about:
        return None
    return {"id": about["id"], "type": about["object"], "url": f"/v1/{path}/{about['id']}"}


def thin_event(scope: Scope, thin_id: str) -> Obj | None:
    """Return the event behind a thin event's id, as the API shows it; None where there is none."""
    for event in scope.all("event"):
        if event["_sim"].get("thin_id") == thin_id:
            account = None if scope.platform is None else scope.account
            return {**notification(event, account), "snapshot_event": event["id"]}
    return None
