"""/v1/setup_intents."""

from services.stripe_sim import customers, payment_methods, setup_intents
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import ANY, CREATED, LIST_PARAMS, METADATA, Schema, merge_metadata
from services.stripe_sim.render import page
from services.stripe_sim.routes.payment_methods import METHOD_DATA
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_CONFIRM: Schema = {
    "mandate_data": ANY,
    "payment_method": str,
    "payment_method_data": METHOD_DATA,
    "payment_method_options": ANY,
    "return_url": str,
    "use_stripe_sdk": bool,
}


@endpoint(
    "POST",
    "/v1/setup_intents",
    {
        **_CONFIRM,
        "automatic_payment_methods": {"enabled": bool, "allow_redirects": ("always", "never")},
        "confirm": bool,
        "customer": str,
        "description": str,
        "metadata": METADATA,
        "on_behalf_of": str,
        "payment_method_types": [str],
        "usage": ("off_session", "on_session"),
    },
)
def create_setup_intent(scope: Scope, params: Params) -> Obj:
    """Create a setup intent and, where asked, confirm it at once."""
    if params.get("customer"):
        customers.living(scope, params["customer"], "customer")
    method = _method(scope, params)
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    fields["payment_method"] = method["id"] if method else None
    intent = setup_intents.build(scope, fields)
    return _confirm(scope, intent, params) if params.get("confirm") else intent


def _method(scope: Scope, params: Params) -> Obj | None:
    if params.get("payment_method_data"):
        return payment_methods.build(scope, params["payment_method_data"])
    if params.get("payment_method"):
        return payment_methods.resolve(scope, params["payment_method"])
    return None


def _confirm(scope: Scope, intent: Obj, params: Params) -> Obj:
    if intent["status"] not in setup_intents.OPEN:
        raise ApiError(
            400,
            f"You cannot confirm this SetupIntent because it has a status of {intent['status']}.",
            code="setup_intent_unexpected_state",
        )
    method = _method(scope, params)
    if method is None and intent["payment_method"]:
        method = scope.get("payment_method", intent["payment_method"])
    if method is None:
        raise invalid(
            "You cannot confirm this SetupIntent because it's missing a payment method.",
            code="setup_intent_unexpected_state",
        )
    intent["_sim"]["return_url"] = params.get("return_url") or intent["_sim"]["return_url"]
    error = setup_intents.confirm(scope, intent, method)
    if error is not None:
        raise error
    return intent


@endpoint("GET", "/v1/setup_intents/{}", {"client_secret": str})
def retrieve_setup_intent(scope: Scope, _params: Params, intent_id: str) -> Obj:
    """Return a setup intent."""
    return scope.get("setup_intent", intent_id)


@endpoint("POST", "/v1/setup_intents/{}/confirm", _CONFIRM)
def confirm_setup_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Save the payment method."""
    return _confirm(scope, scope.get("setup_intent", intent_id), params)


@endpoint(
    "POST",
    "/v1/setup_intents/{}/cancel",
    {"cancellation_reason": ("abandoned", "duplicate", "requested_by_customer")},
)
def cancel_setup_intent(scope: Scope, params: Params, intent_id: str) -> Obj:
    """Cancel a setup intent that has not succeeded."""
    intent = scope.get("setup_intent", intent_id)
    if intent["status"] not in setup_intents.OPEN:
        raise invalid(
            f"This SetupIntent is {intent['status']}.", code="setup_intent_unexpected_state"
        )
    intent |= {"status": "canceled", "cancellation_reason": params.get("cancellation_reason")}
    scope.save(intent)
    emit(scope, "setup_intent.canceled", intent)
    return intent


@endpoint(
    "GET",
    "/v1/setup_intents",
    {**LIST_PARAMS, "created": CREATED, "customer": str, "payment_method": str},
)
def list_setup_intents(scope: Scope, params: Params) -> Obj:
    """List setup intents."""
    names = ("customer", "payment_method")
    found = scope.all("setup_intent", **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/setup_intents")
