"""Setup intents: saving a payment method for later without a payment."""

from typing import Any

from services.stripe_sim import payment_methods
from services.stripe_sim.errors import ApiError
from services.stripe_sim.events import emit
from services.stripe_sim.render import render
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

OPEN = ("requires_payment_method", "requires_confirmation", "requires_action")


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a setup intent."""
    intent_id = scope.new_id("seti_1")
    intent = scope.save(
        {
            "id": intent_id,
            "object": "setup_intent",
            "application": None,
            "automatic_payment_methods": fields.get("automatic_payment_methods"),
            "cancellation_reason": None,
            "client_secret": f"{intent_id}_secret_{scope.new_id('', 24)}",
            "created": scope.wall_now(),
            "customer": fields.get("customer"),
            "description": fields.get("description"),
            "flow_directions": None,
            "last_setup_error": None,
            "latest_attempt": None,
            "livemode": False,
            "mandate": None,
            "metadata": fields.get("metadata") or {},
            "next_action": None,
            "on_behalf_of": fields.get("on_behalf_of"),
            "payment_method": fields.get("payment_method"),
            "payment_method_options": {},
            "payment_method_types": fields.get("payment_method_types") or ["card"],
            "single_use_mandate": None,
            "status": "requires_confirmation"
            if fields.get("payment_method")
            else "requires_payment_method",
            "usage": fields.get("usage") or "off_session",
            "_sim": {"return_url": fields.get("return_url")},
        }
    )
    emit(scope, "setup_intent.created", intent)
    return intent


def confirm(
    scope: Scope, intent: Obj, method: Obj, *, authenticated: bool = False
) -> ApiError | None:
    """Save the payment method; return the refusal where the card cannot be saved.

    A card that wants the payer's bank leaves the intent at `requires_action`.
    """
    intent["payment_method"] = method["id"]
    card = payment_methods.card_of(method)
    if card is not None and not card.attaches:
        error = payment_methods.declined(card.declines or "card_declined")
        intent |= {
            "status": "requires_payment_method",
            "payment_method": None,
            "last_setup_error": {
                "code": error.code,
                "message": error.message,
                "payment_method": render(scope, method),
                "type": "card_error",
            },
        }
        scope.save(intent)
        emit(scope, "setup_intent.setup_failed", intent)
        error.details["setup_intent"] = render(scope, intent)
        return error
    if card is not None and card.authenticates != "never" and not authenticated:
        url = f"{scope.sandbox.settings.public_url}/authenticate/{scope.account}/{intent['id']}"
        intent |= {
            "status": "requires_action",
            "next_action": {
                "redirect_to_url": {"return_url": intent["_sim"]["return_url"], "url": url},
                "type": "redirect_to_url",
            },
        }
        scope.save(intent)
        emit(scope, "setup_intent.requires_action", intent)
        return None
    method["_sim"]["saved"] = True
    scope.save(method)
    if intent["customer"] and method["customer"] is None:
        payment_methods.attach(scope, method, intent["customer"])
    intent |= {"status": "succeeded", "next_action": None, "last_setup_error": None}
    scope.save(intent)
    emit(scope, "setup_intent.succeeded", intent)
    return None


def refuse(scope: Scope, intent: Obj) -> None:
    """Record that the payer failed the bank's challenge."""
    intent |= {
        "status": "requires_payment_method",
        "payment_method": None,
        "next_action": None,
        "last_setup_error": {
            "code": "setup_intent_authentication_failure",
            "message": "The provided PaymentMethod has failed authentication.",
            "type": "invalid_request_error",
        },
    }
    scope.save(intent)
    emit(scope, "setup_intent.setup_failed", intent)
