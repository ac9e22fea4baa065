"""/v1/customers, and the payment methods of a customer."""

from services.stripe_sim import customers
from services.stripe_sim.params import (
    ADDRESS,
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Schema,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_WRITE: Schema = {
    "address": ADDRESS,
    "balance": int,
    "description": str,
    "email": str,
    "invoice_prefix": str,
    "invoice_settings": {
        "custom_fields": ANY,
        "default_payment_method": str,
        "footer": str,
        "rendering_options": ANY,
    },
    "metadata": METADATA,
    "name": str,
    "next_invoice_sequence": int,
    "phone": str,
    "preferred_locales": [str],
    "shipping": {"address": ADDRESS, "name": str, "phone": str},
    "tax_exempt": ("exempt", "none", "reverse"),
}


@endpoint(
    "POST",
    "/v1/customers",
    {**_WRITE, "payment_method": str, "test_clock": str},
)
def create_customer(scope: Scope, params: Params) -> Obj:
    """Create a customer."""
    return customers.build(scope, params)


@endpoint("GET", "/v1/customers/{}")
def retrieve_customer(scope: Scope, _params: Params, customer_id: str) -> Obj:
    """Return a customer; of a deleted one only that it is deleted."""
    return scope.get("customer", customer_id)


@endpoint("POST", "/v1/customers/{}", _WRITE)
def update_customer(scope: Scope, params: Params, customer_id: str) -> Obj:
    """Change a customer."""
    return customers.update(scope, customers.living(scope, customer_id), params)


@endpoint("DELETE", "/v1/customers/{}")
def delete_customer(scope: Scope, _params: Params, customer_id: str) -> Obj:
    """Delete a customer and end its subscriptions."""
    return customers.delete(scope, customers.living(scope, customer_id))


@endpoint(
    "GET", "/v1/customers", {**LIST_PARAMS, "created": CREATED, "email": str, "test_clock": str}
)
def list_customers(scope: Scope, params: Params) -> Obj:
    """List customers; those on test clocks only where their clock is named, as at Stripe."""
    found = [
        customer
        for customer in scope.all("customer", email=params.get("email"))
        if customer["test_clock"] == params.get("test_clock") and not customer.get("deleted")
    ]
    return page(scope, found, params, "/v1/customers")


@endpoint("GET", "/v1/customers/{}/payment_methods", {**LIST_PARAMS, "type": str})
def list_customer_payment_methods(scope: Scope, params: Params, customer_id: str) -> Obj:
    """List what a customer can pay with."""
    customers.living(scope, customer_id)
    found = scope.all("payment_method", customer=customer_id, type=params.get("type"))
    return page(scope, found, params, f"/v1/customers/{customer_id}/payment_methods")


@endpoint("GET", "/v1/customers/{}/payment_methods/{}")
def retrieve_customer_payment_method(
    scope: Scope, _params: Params, customer_id: str, method_id: str
) -> Obj:
    """Return one payment method of a customer."""
    customers.living(scope, customer_id)
    return scope.get("payment_method", method_id)
