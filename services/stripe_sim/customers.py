"""Customers."""

from typing import Any

from services.stripe_sim import payment_methods, subscriptions
from services.stripe_sim.clocks import CUSTOMERS_MAX
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import merge_metadata
from services.stripe_sim.render import on_request, page
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

PLAIN_FIELDS = (
    "address",
    "description",
    "email",
    "name",
    "phone",
    "preferred_locales",
    "shipping",
    "tax_exempt",
    "balance",
    "invoice_prefix",
    "next_invoice_sequence",
)


def build(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create a customer, on a test clock where one is named.

    Raises:
        ApiError: no such clock, or it has three customers already.
    """
    clock_id = fields.get("test_clock")
    if clock_id is not None:
        scope.get("test_helpers.test_clock", clock_id, "test_clock")
        alive = [
            each for each in scope.all("customer", test_clock=clock_id) if not each.get("deleted")
        ]
        if len(alive) >= CUSTOMERS_MAX:
            raise invalid(f"A test clock can have at most {CUSTOMERS_MAX} customers.", "test_clock")
    customer_id = scope.new_id("cus_", 14)
    customer: Obj = {
        "id": customer_id,
        "object": "customer",
        "address": None,
        "balance": 0,
        "created": scope.now(clock_id),
        "currency": None,
        "default_source": None,
        "delinquent": False,
        "description": None,
        "discount": None,
        "email": None,
        "invoice_prefix": scope.new_id("", 8).upper(),
        "invoice_settings": {
            "custom_fields": None,
            "default_payment_method": None,
            "footer": None,
            "rendering_options": None,
        },
        "livemode": False,
        "metadata": {},
        "name": None,
        "next_invoice_sequence": 1,
        "phone": None,
        "preferred_locales": [],
        "shipping": None,
        "tax_exempt": "none",
        "test_clock": clock_id,
    }
    customer |= {name: fields[name] for name in PLAIN_FIELDS if fields.get(name) is not None}
    customer["metadata"] = merge_metadata({}, fields.get("metadata", {}))
    scope.save(customer)
    _apply_method(scope, customer, fields)
    emit(scope, "customer.created", customer)
    return customer


def _apply_method(scope: Scope, customer: Obj, fields: dict[str, Any]) -> None:
    given, attached = fields.get("payment_method"), None
    if given:
        method = payment_methods.resolve(scope, given)
        attached = payment_methods.attach(scope, method, customer["id"])["id"]
    settings = fields.get("invoice_settings") or {}
    for name, wished in settings.items():
        # A well-known name such as `pm_card_visa`, given twice, means the one that it became.
        value = attached if name == "default_payment_method" and wished == given else wished
        if name == "default_payment_method" and value is not None:
            method = scope.get("payment_method", value, "invoice_settings[default_payment_method]")
            if method["customer"] != customer["id"]:
                raise invalid(
                    f"The customer does not have a payment method with the ID {value}. The "
                    "payment method must be attached to the customer.",
                    "invoice_settings[default_payment_method]",
                    "resource_missing",
                )
        customer["invoice_settings"][name] = value


def update(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Change a customer.

    Raises:
        ApiError: the default payment method is not attached to it.
    """
    before = {name: customer[name] for name in (*PLAIN_FIELDS, "metadata")}
    before_settings = dict(customer["invoice_settings"])
    customer |= {name: fields[name] for name in PLAIN_FIELDS if name in fields}
    if "metadata" in fields:
        customer["metadata"] = merge_metadata(customer["metadata"], fields["metadata"])
    scope.save(customer)
    _apply_method(scope, customer, fields)
    previous = {name: value for name, value in before.items() if customer[name] != value}
    if customer["invoice_settings"] != before_settings:
        previous["invoice_settings"] = before_settings
    if previous:
        emit(scope, "customer.updated", customer, previous)
    return customer


def delete(scope: Scope, customer: Obj) -> Obj:
    """Delete a customer; its subscriptions end, and only the id stays known."""
    for subscription in scope.all("subscription", customer=customer["id"]):
        if subscription["status"] in subscriptions.ALIVE:
            subscriptions.cancel(scope, subscription, "cancellation_requested", {})
    for method in scope.all("payment_method", customer=customer["id"]):
        payment_methods.detach(scope, method)
    emit(scope, "customer.deleted", customer)
    customer["deleted"] = True
    return scope.save(customer)


def living(scope: Scope, customer_id: str, param: str = "id") -> Obj:
    """Return a customer that is not deleted.

    Raises:
        ApiError: there is none.
    """
    customer = scope.get("customer", customer_id, param)
    if customer.get("deleted"):
        raise invalid(f"No such customer: '{customer_id}'", param, "resource_missing")
    return customer


@on_request("customer", "tax_ids")
def _tax_ids(scope: Scope, customer: Obj) -> Obj:
    found = scope.all("tax_id", customer=customer["id"])
    return page(scope, found, {}, f"/v1/customers/{customer['id']}/tax_ids")


@on_request("customer", "subscriptions")
def _subscriptions(scope: Scope, customer: Obj) -> Obj:
    found = [
        subscription
        for subscription in scope.all("subscription", customer=customer["id"])
        if subscription["status"] in subscriptions.ALIVE
    ]
    return page(scope, found, {}, f"/v1/customers/{customer['id']}/subscriptions")
