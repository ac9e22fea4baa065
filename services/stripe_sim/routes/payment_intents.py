"""/v1/payment_intents."""

from services.stripe_sim import collection, connect, customers, payment_intents, payment_methods
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.params import (
    ADDRESS,
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routes.payment_methods import METHOD_DATA
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_WRITE: Schema = {
    "application_fee_amount": int,
    "capture_method": ("automatic", "automatic_async", "manual"),
    "customer": str,
    "description": str,
    "metadata": METADATA,
    "payment_method": str,
    "payment_method_data": METHOD_DATA,
    "payment_method_options": ANY,
    "payment_method_types": [str],
    "receipt_email": str,
    "setup_future_usage": ("off_session", "on_session"),
    "shipping": {
        "address": ADDRESS,
        "carrier": str,
        "name": str,
        "phone": str,
        "tracking_number": str,
    },
    "statement_descriptor": str,
    "statement_descriptor_suffix": str,
    "transfer_data": ANY,
    "transfer_group": str,
}

_CONFIRM: Schema = {
    "error_on_requires_action": bool,
    "mandate_data": ANY,
    "off_session": str,
    "payment_method": str,
    "payment_method_data": METHOD_DATA,
    "payment_method_options": ANY,
    "receipt_email": str,
    "return_url": str,
    "setup_future_usage": ("off_session", "on_session"),
    "use_stripe_sdk": bool,
}


@endpoint(
    "POST",
    "/v1/payment_intents",
    {
        **_CONFIRM,
        **_WRITE,
        "amount": Required(int),
        "automatic_payment_methods": {
            "enabled": Required(bool),
            "allow_redirects": ("always", "never"),
        },
        "confirm": bool,
        "confirmation_method": ("automatic", "manual"),
        "currency": Required(str),
        "on_behalf_of": str,
    },
)
def create_payment_intent(scope: Scope, params: Params) -> Obj:
    """Create a payment intent and, where asked, confirm it at once."""
    if params.get("customer"):
        customers.living(scope, params["customer"], "customer")
    payment_intents.check_amount(params["amount"], params["currency"].lower())
    connect.require_chargeable(scope)
    if params.get("application_fee_amount") and not scope.own_account["_sim"]["platforms"]:
        raise invalid(
            "Can only apply an application_fee when the request is made on behalf of another "
            "account (using an OAuth key, the Stripe-Account header, or the destination "
            "parameter).",
            "application_fee_amount",
        )
    if (params.get("application_fee_amount") or 0) > params["amount"]:
        raise invalid(
            "The application fee cannot be larger than the amount.", "application_fee_amount"
        )
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    method = _method(scope, params, params.get("customer"))
    fields["payment_method"] = method["id"] if method else None
    intent = payment_intents.build(scope, fields)
    return _confirm(scope, intent, params) if params.get("confirm") else intent


def _method(scope: Scope, params: Params, customer_id: str | None) -> Obj | None:
    if params.get("payment_method_data"):
        return payment_methods.build(scope, params["payment_method_data"])
    if not params.get("payment_method"):
        return None
    method = payment_methods.resolve(scope, params["payment_method"])
    if method["customer"] not in (None, customer_id):
        raise invalid(
            f"The provided PaymentMethod was previously attached to the customer "
            f"{method['customer']}. You must provide this customer to use it.",
            "payment_method",
        )
    return method


def _confirm(scope: Scope, intent: Obj, params: Params) -> Obj:
    if intent["status"] not in payment_intents.CONFIRMABLE:
        raise payment_intents.unexpected_state(
            intent, "confirmed", ", ".join(payment_intents.CONFIRMABLE)
        )
    method = _method(scope, params, intent["customer"])
    if method is None and intent["payment_method"]:
        method = scope.get("payment_method", intent["payment_method"])
    if method is None:
        raise ApiError(
            400,
            "You cannot confirm this PaymentIntent because it's missing a payment method. You can "
            "either update the PaymentIntent with a payment method and then confirm it again, or "
            "confirm it again directly with a payment method or ConfirmationToken.",
            code="payment_intent_unexpected_state",
        )
    intent["_sim"]["return_url"] = params.get("return_url") or intent["_sim"]["return_url"]
    for name in ("receipt_email", "setup_future_usage"):
        intent[name] = params.get(name) or intent[name]
    present = params.get("off_session") in (None, "false")
    decline = payment_intents.attempt(scope, intent, method, payer_present=present)
    collection.after_attempt(scope, intent)
    if decline is not None:
        raise decline
    if intent["status"] == "requires_action" and params.get("error_on_requires_action"):
        raise payment_methods.declined("authentication_required")
    return intent


@endpoint("GET", "/v1/payment_intents/{}", {"client_secret": str})
def retrieve_payment_intent(scope: Scope, _params: Params, intent_id: str) -> Obj:
    """Return a payment intent."""
    return scope.get("payment_intent", intent_id)


@endpoint("POST", "/v1/payment_intents/{}", {**_WRITE, "amount": int, "currency": str})
def update_payment_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Change a payment intent that has not succeeded; its metadata at any time."""
    intent = scope.get("payment_intent", intent_id)
    fixed = set(params) - {
        "metadata",
        "description",
        "receipt_email",
        "shipping",
        "expand",
        "transfer_group",
    }
    if fixed and intent["status"] not in payment_intents.CONFIRMABLE:
        raise payment_intents.unexpected_state(
            intent, "updated", ", ".join(payment_intents.CONFIRMABLE)
        )
    if "amount" in params or "currency" in params:
        amount = params.get("amount") or intent["amount"]
        payment_intents.check_amount(amount, params.get("currency") or intent["currency"])
    method = _method(scope, params, params.get("customer") or intent["customer"])
    for name, value in params.items():
        if name not in ("expand", "metadata", "payment_method", "payment_method_data"):
            intent[name] = value
    if method is not None:
        intent |= {"payment_method": method["id"], "status": "requires_confirmation"}
    if "metadata" in params:
        intent["metadata"] = merge_metadata(intent["metadata"], params["metadata"])
    return scope.save(intent)


@endpoint("POST", "/v1/payment_intents/{}/confirm", _CONFIRM)
def confirm_payment_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Try to take the payment."""
    return _confirm(scope, scope.get("payment_intent", intent_id), params)


@endpoint(
    "POST",
    "/v1/payment_intents/{}/capture",
    {"amount_to_capture": int, "application_fee_amount": int, "metadata": METADATA},
)
def capture_payment_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Take what was authorised."""
    intent = scope.get("payment_intent", intent_id)
    return payment_intents.capture(
        scope, intent, params.get("amount_to_capture"), params.get("application_fee_amount")
    )


@endpoint(
    "POST",
    "/v1/payment_intents/{}/cancel",
    {
        "cancellation_reason": (
            "abandoned",
            "duplicate",
            "failed_invoice",
            "fraudulent",
            "requested_by_customer",
            "void_invoice",
        ),
    },
)
def cancel_payment_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Cancel a payment that has not succeeded."""
    intent = scope.get("payment_intent", intent_id)
    return payment_intents.cancel(scope, intent, params.get("cancellation_reason"))


@endpoint("GET", "/v1/payment_intents", {**LIST_PARAMS, "created": CREATED, "customer": str})
def list_payment_intents(scope: Scope, params: Params) -> Obj:
    """List payment intents."""
    found = scope.all("payment_intent", customer=params.get("customer"))
    return page(scope, found, params, "/v1/payment_intents")
