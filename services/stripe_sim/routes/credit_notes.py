"""/v1/credit_notes, and tax ids and balance of a customer."""

from services.stripe_sim import collection, credit_notes, customer_balance, customers, invoices
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import CREATED, LIST_PARAMS, METADATA, Required, merge_metadata
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_LINE = {
    "amount": int,
    "description": str,
    "invoice_line_item": str,
    "quantity": int,
    "type": Required(("custom_line_item", "invoice_line_item")),
    "unit_amount": int,
}


@endpoint(
    "POST",
    "/v1/credit_notes",
    {
        "amount": int,
        "credit_amount": int,
        "invoice": Required(str),
        "lines": [_LINE],
        "memo": str,
        "metadata": METADATA,
        "out_of_band_amount": int,
        "reason": ("duplicate", "fraudulent", "order_change", "product_unsatisfactory"),
        "refund_amount": int,
    },
)
def create_credit_note(scope: Scope, params: Params) -> Obj:
    """Issue a credit note; an open invoice it covers whole is paid by it."""
    invoice = scope.get("invoice", params["invoice"], "invoice")
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    note = credit_notes.build(scope, invoice, fields)
    if invoice["status"] == "open" and invoice["amount_remaining"] == 0:
        invoices.mark_paid(scope, invoice, out_of_band=True)
        collection.invoice_settled(scope, invoice)
    return note


@endpoint("GET", "/v1/credit_notes/{}")
def retrieve_credit_note(scope: Scope, _params: Params, note_id: str) -> Obj:
    """Return a credit note."""
    return scope.get(credit_notes.KIND, note_id)


@endpoint(
    "GET",
    "/v1/credit_notes",
    {**LIST_PARAMS, "created": CREATED, "customer": str, "invoice": str},
)
def list_credit_notes(scope: Scope, params: Params) -> Obj:
    """List credit notes."""
    names = ("customer", "invoice")
    found = scope.all(credit_notes.KIND, **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/credit_notes")


@endpoint(
    "POST",
    "/v1/customers/{}/balance_transactions",
    {
        "amount": Required(int),
        "currency": Required(str),
        "description": str,
        "metadata": METADATA,
    },
)
def create_balance_transaction(scope: Scope, params: Params, customer_id: str) -> Obj:
    """Give a customer credit (negative) or debt (positive)."""
    customer = customers.living(scope, customer_id)
    fields = {**params, "currency": params["currency"].lower()}
    return customer_balance.change(scope, customer, params["amount"], "adjustment", fields)


@endpoint("GET", "/v1/customers/{}/balance_transactions", LIST_PARAMS)
def list_customer_balance(scope: Scope, params: Params, customer_id: str) -> Obj:
    """List the entries of a customer's balance."""
    found = scope.all(customer_balance.KIND, customer=customer_id)
    return page(scope, found, params, f"/v1/customers/{customer_id}/balance_transactions")


@endpoint("POST", "/v1/customers/{}/tax_ids", {"type": Required(str), "value": Required(str)})
def create_tax_id(scope: Scope, params: Params, customer_id: str) -> Obj:
    """Give a customer a tax id; it is verified at once."""
    customer = customers.living(scope, customer_id)
    if len(params["value"]) < 4 or not params["type"].isidentifier():
        raise invalid("Invalid value for tax id.", "value", "tax_id_invalid")
    verified = params["type"] in ("eu_vat", "gb_vat")
    tax_id = scope.save(
        {
            "id": scope.new_id("txi_1"),
            "object": "tax_id",
            "country": params["value"][:2].upper() if params["type"] == "eu_vat" else None,
            "created": scope.wall_now(),
            "customer": customer["id"],
            "livemode": False,
            "owner": {"customer": customer["id"], "type": "customer"},
            "type": params["type"],
            "value": params["value"],
            "verification": {
                "status": "verified" if verified else "unavailable",
                "verified_address": None,
                "verified_name": customer["name"] if verified else None,
            },
        }
    )
    emit(scope, "customer.tax_id.created", tax_id)
    return tax_id


@endpoint("GET", "/v1/customers/{}/tax_ids", LIST_PARAMS)
def list_tax_ids(scope: Scope, params: Params, customer_id: str) -> Obj:
    """List a customer's tax ids."""
    found = scope.all("tax_id", customer=customer_id)
    return page(scope, found, params, f"/v1/customers/{customer_id}/tax_ids")


@endpoint("DELETE", "/v1/customers/{}/tax_ids/{}")
def delete_tax_id(scope: Scope, _params: Params, customer_id: str, tax_id: str) -> Obj:
    """Take a tax id off a customer."""
    customers.living(scope, customer_id)
    obj = scope.get("tax_id", tax_id)
    scope.sandbox.store.remove(scope.account, obj)
    emit(scope, "customer.tax_id.deleted", obj)
    return {"id": tax_id, "object": "tax_id", "deleted": True}
