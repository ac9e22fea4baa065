"""The customer portal: a page on which a customer looks after subscription and payment method."""

from typing import Any

from services.stripe_sim import (
    customers,
    money,
    payment_methods,
    subscription_changes,
    subscriptions,
)
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.periods import HOUR_SECONDS
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

SESSION = "billing_portal.session"
CONFIGURATION = "billing_portal.configuration"
VALID_SECONDS = HOUR_SECONDS


def default_configuration(scope: Scope) -> Obj:
    """Return the account's default configuration, made when it is first needed."""
    for configuration in scope.all(CONFIGURATION, is_default=True):
        return configuration
    return build_configuration(scope, {}, is_default=True)


def build_configuration(scope: Scope, fields: dict[str, Any], *, is_default: bool) -> Obj:
    """Create a configuration: which of its features the page offers."""
    now = scope.wall_now()
    business = fields.get("business_profile") or {}
    names = ("headline", "privacy_policy_url", "terms_of_service_url")
    configuration = scope.save(
        {
            "id": scope.new_id("bpc_1"),
            "object": CONFIGURATION,
            "active": True,
            "application": None,
            "business_profile": {name: business.get(name) for name in names},
            "created": now,
            "default_return_url": fields.get("default_return_url"),
            "features": _features(fields.get("features") or {}),
            "is_default": is_default,
            "livemode": False,
            "login_page": {"enabled": False, "url": None},
            "metadata": fields.get("metadata") or {},
            "name": fields.get("name"),
            "updated": now,
        }
    )
    emit(scope, "billing_portal.configuration.created", configuration)
    return configuration


def _features(wish: dict[str, Any]) -> dict[str, Any]:
    def on(name: str) -> bool:
        feature = wish.get(name)
        return feature.get("enabled") is not False if feature else not wish

    cancel = wish.get("subscription_cancel") or {}
    return {
        "customer_update": {"allowed_updates": ["email", "name"], "enabled": on("customer_update")},
        "invoice_history": {"enabled": on("invoice_history")},
        "payment_method_update": {
            "enabled": on("payment_method_update"),
            "payment_method_configuration": None,
        },
        "subscription_cancel": {
            "cancellation_reason": {"enabled": False, "options": ["other"]},
            "enabled": on("subscription_cancel"),
            "mode": cancel.get("mode") or "at_period_end",
            "proration_behavior": cancel.get("proration_behavior") or "none",
        },
        "subscription_pause": {
            "duration": {"interval_options": [], "type": "indefinite"},
            "enabled": False,
        },
        "subscription_update": {
            "billing_cycle_anchor": None,
            "default_allowed_updates": [],
            "enabled": False,
            "proration_behavior": "none",
            "schedule_at_period_end": {"conditions": []},
            "trial_update_behavior": "end_trial",
        },
    }


def build_session(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Open a session for a customer; its address is good for an hour.

    Raises:
        ApiError: no such configuration.
    """
    configuration = (
        scope.get(CONFIGURATION, fields["configuration"], "configuration")
        if fields.get("configuration")
        else default_configuration(scope)
    )
    session_id = scope.new_id("bps_1")
    session = scope.save(
        {
            "id": session_id,
            "object": SESSION,
            "configuration": configuration["id"],
            "created": scope.wall_now(),
            "customer": customer["id"],
            "flow": None,
            "livemode": False,
            "locale": fields.get("locale"),
            "on_behalf_of": fields.get("on_behalf_of"),
            "return_url": fields.get("return_url") or configuration["default_return_url"],
            "url": f"{scope.sandbox.settings.public_url}/portal/{session_id}",
        }
    )
    emit(scope, "billing_portal.session.created", session)
    return session


def expired(scope: Scope, session: Obj) -> bool:
    """Say whether a session's address is no longer good."""
    return bool(session["created"] + VALID_SECONDS < scope.wall_now())


def describe(scope: Scope, session: Obj) -> dict[str, Any]:
    """Return what the page shows."""
    customer = customers.living(scope, session["customer"])
    method_id = customer["invoice_settings"]["default_payment_method"]
    shown = []
    for subscription in scope.all("subscription", customer=customer["id"]):
        if subscription["status"] in subscriptions.ALIVE:
            method_id = subscription["default_payment_method"] or method_id
            shown.append(_describe_subscription(scope, subscription))
    method = scope.find("payment_method", method_id)
    return {
        "account": scope.own_account["settings"]["dashboard"]["display_name"],
        "session": session,
        "customer": customer,
        "features": scope.get(CONFIGURATION, session["configuration"])["features"],
        "subscriptions": shown,
        "method": f"{method['card']['brand']} …{method['card']['last4']}"
        if method and method["type"] == "card"
        else None,
        "invoices": [
            {
                "number": invoice["number"],
                "url": invoice["hosted_invoice_url"],
                "total": money.shown(invoice["total"], invoice["currency"]),
                "status": invoice["status"],
            }
            for invoice in scope.all("invoice", customer=customer["id"])[::-1][:24]
            if invoice["number"]
        ],
    }


def _describe_subscription(scope: Scope, subscription: Obj) -> dict[str, Any]:
    item = subscription["items"]["data"][0]
    price = item["price"]
    return {
        "id": subscription["id"],
        "name": scope.get("product", price["product"])["name"],
        "price": money.shown(price["unit_amount"] or 0, price["currency"]),
        "interval": price["recurring"]["interval"],
        "status": subscription["status"],
        "ends_at": item["current_period_end"] if subscription["cancel_at_period_end"] else None,
        "renews_at": item["current_period_end"],
    }


def act(scope: Scope, session: Obj, action: str, form: dict[str, str]) -> None:
    """Do what the customer clicked: `cancel`, `keep` or `card`.

    Raises:
        ApiError: the configuration does not offer it, or it cannot be done.
    """
    features = scope.get(CONFIGURATION, session["configuration"])["features"]
    customer = customers.living(scope, session["customer"])
    if action == "card" and features["payment_method_update"]["enabled"]:
        _use_card(scope, customer, form.get("card_number", ""))
        return
    subscription = scope.find("subscription", form.get("subscription"))
    owns = subscription is not None and subscription["customer"] == customer["id"]
    if subscription is None or not owns or action not in ("cancel", "keep"):
        raise invalid("This page does not offer that.")
    if not features["subscription_cancel"]["enabled"]:
        raise invalid("Subscriptions cannot be canceled here.")
    if action == "cancel" and features["subscription_cancel"]["mode"] == "immediately":
        subscriptions.cancel(scope, subscription, "cancellation_requested", {})
        return
    subscription_changes.update(scope, subscription, {"cancel_at_period_end": action == "cancel"})


def _use_card(scope: Scope, customer: Obj, number: str) -> None:
    method = payment_methods.build(scope, {"type": "card", "card": {"number": number}})
    card = payment_methods.card_of(method)
    if card is not None and card.authenticates == "always":
        raise ApiError(402, "This card cannot be saved.", kind="card_error", code="card_declined")
    payment_methods.attach(scope, method, customer["id"])
    customers.update(
        scope, customer, {"invoice_settings": {"default_payment_method": method["id"]}}
    )
    for subscription in scope.all("subscription", customer=customer["id"]):
        if subscription["default_payment_method"] and subscription["status"] in subscriptions.ALIVE:
            subscription_changes.update(
                scope, subscription, {"default_payment_method": method["id"]}
            )
