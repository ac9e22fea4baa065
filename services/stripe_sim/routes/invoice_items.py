"""/v1/invoiceitems."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import customers, invoice_items, taxes
from services.stripe_sim.params import (
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routes.prices import PRICE_DATA, price_for
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

WRITE: Schema = {
    "amount": int,
    "description": str,
    "discountable": bool,
    "metadata": METADATA,
    "period": {"start": Required(int), "end": Required(int)},
    "price_data": PRICE_DATA,
    "pricing": {"price": str},
    "quantity": int,
    "tax_behavior": ("exclusive", "inclusive", "unspecified"),
    "tax_rates": [str],
    "unit_amount_decimal": Decimal,
}


def priced(scope: Scope, params: Params) -> dict[str, Any]:
    """Return an item's parameters with its price and tax rates as objects.

    Raises:
        ApiError: one of them does not exist.
    """
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    if params.get("price_data"):
        fields["price"] = price_for(scope, params["price_data"])
    elif (params.get("pricing") or {}).get("price"):
        fields["price"] = scope.get("price", params["pricing"]["price"], "pricing[price]")
    fields["tax_rates"] = taxes.resolve(scope, params.get("tax_rates"), "tax_rates")
    return fields


@endpoint(
    "POST",
    "/v1/invoiceitems",
    {**WRITE, "currency": str, "customer": Required(str), "invoice": str, "subscription": str},
)
def create_invoice_item(scope: Scope, params: Params) -> Obj:
    """Add a charge (or a credit: negative) to a draft or to the customer's next invoice."""
    customer = customers.living(scope, params["customer"], "customer")
    fields = priced(scope, params)
    fields["invoice"] = (
        scope.get("invoice", params["invoice"], "invoice") if params.get("invoice") else None
    )
    if params.get("subscription"):
        scope.get("subscription", params["subscription"], "subscription")
    return invoice_items.create(scope, customer, fields)


@endpoint("GET", "/v1/invoiceitems/{}")
def retrieve_invoice_item(scope: Scope, _params: Params, item_id: str) -> Obj:
    """Return an invoice item."""
    return scope.get("invoiceitem", item_id)


@endpoint("POST", "/v1/invoiceitems/{}", WRITE)
def update_invoice_item(scope: Scope, params: Params, item_id: str) -> Obj:
    """Change an item that is on no final invoice."""
    item = scope.get("invoiceitem", item_id)
    names = ("amount", "description", "discountable", "period", "quantity")
    changes = {name: params[name] for name in names if params.get(name) is not None}
    if "quantity" in changes:
        changes["quantity_decimal"] = str(changes["quantity"])
    if "metadata" in params:
        changes["metadata"] = merge_metadata(item["metadata"], params["metadata"])
    return invoice_items.update(scope, item, changes)


@endpoint("DELETE", "/v1/invoiceitems/{}")
def delete_invoice_item(scope: Scope, _params: Params, item_id: str) -> Obj:
    """Delete an item that is on no final invoice."""
    return invoice_items.delete(scope, scope.get("invoiceitem", item_id))


@endpoint(
    "GET",
    "/v1/invoiceitems",
    {**LIST_PARAMS, "created": CREATED, "customer": str, "invoice": str, "pending": bool},
)
def list_invoice_items(scope: Scope, params: Params) -> Obj:
    """List invoice items; `created` compares with their `date`."""
    names = ("customer", "invoice")
    found = scope.all("invoiceitem", **{name: params.get(name) for name in names})
    if params.get("pending") is not None:
        found = [item for item in found if (item["invoice"] is None) is params["pending"]]
    return page(scope, found, {**params, "created": None}, "/v1/invoiceitems")
