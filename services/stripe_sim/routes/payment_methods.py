"""/v1/payment_methods."""

from services.stripe_sim import customers, payment_methods
from services.stripe_sim.events import emit
from services.stripe_sim.params import ADDRESS, LIST_PARAMS, METADATA, Required, merge_metadata
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

BILLING_DETAILS = {"address": ADDRESS, "email": str, "name": str, "phone": str}

METHOD_DATA = {
    "type": ("card", "sepa_debit"),
    "card": {"number": str, "exp_month": int, "exp_year": int, "cvc": str, "token": str},
    "sepa_debit": {"iban": str},
    "billing_details": BILLING_DETAILS,
    "metadata": METADATA,
    "allow_redisplay": ("always", "limited", "unspecified"),
}


@endpoint("POST", "/v1/payment_methods", METHOD_DATA)
def create_payment_method(scope: Scope, params: Params) -> Obj:
    """Create a payment method from a test card or an IBAN."""
    return payment_methods.build(scope, params)


@endpoint("GET", "/v1/payment_methods/{}")
def retrieve_payment_method(scope: Scope, _params: Params, method_id: str) -> Obj:
    """Return a payment method; a well-known `pm_card_…` is made on the spot."""
    return payment_methods.resolve(scope, method_id, "id")


@endpoint(
    "POST", "/v1/payment_methods/{}", {"billing_details": BILLING_DETAILS, "metadata": METADATA}
)
def update_payment_method(scope: Scope, params: Params, method_id: str) -> Obj:
    """Change billing details or metadata."""
    method = scope.get("payment_method", method_id)
    method["billing_details"] |= params.get("billing_details") or {}
    if "metadata" in params:
        method["metadata"] = merge_metadata(method["metadata"], params["metadata"])
    scope.save(method)
    emit(scope, "payment_method.updated", method)
    return method


@endpoint("POST", "/v1/payment_methods/{}/attach", {"customer": Required(str)})
def attach_payment_method(scope: Scope, params: Params, method_id: str) -> Obj:
    """Attach a payment method to a customer."""
    method = payment_methods.resolve(scope, method_id, "id")
    customer = customers.living(scope, params["customer"], "customer")
    return payment_methods.attach(scope, method, customer["id"])


@endpoint("POST", "/v1/payment_methods/{}/detach")
def detach_payment_method(scope: Scope, _params: Params, method_id: str) -> Obj:
    """Detach a payment method from its customer."""
    return payment_methods.detach(scope, scope.get("payment_method", method_id))


@endpoint("GET", "/v1/payment_methods", {**LIST_PARAMS, "customer": str, "type": str})
def list_payment_methods(scope: Scope, params: Params) -> Obj:
    """List payment methods."""
    found = scope.all("payment_method", customer=params.get("customer"), type=params.get("type"))
    return page(scope, found, params, "/v1/payment_methods")
