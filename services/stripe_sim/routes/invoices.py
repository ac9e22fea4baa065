"""/v1/invoices and /v1/invoice_payments."""

from services.stripe_sim import (
    collection,
    customers,
    discounts,
    invoice_items,
    invoice_totals,
    invoices,
    previews,
    taxes,
)
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    ANY,
    AUTOMATIC_TAX,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.periods import DAY_SECONDS
from services.stripe_sim.render import page
from services.stripe_sim.routes.invoice_items import WRITE as ITEM
from services.stripe_sim.routes.invoice_items import priced
from services.stripe_sim.routes.subscriptions import DISCOUNT, ITEM_CHANGE, resolved
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_WRITE: Schema = {
    "application_fee_amount": int,
    "auto_advance": bool,
    "automatic_tax": AUTOMATIC_TAX,
    "automatically_finalizes_at": int,
    "collection_method": ("charge_automatically", "send_invoice"),
    "custom_fields": ANY,
    "days_until_due": int,
    "default_payment_method": str,
    "default_tax_rates": [str],
    "description": str,
    "discounts": [DISCOUNT],
    "due_date": int,
    "effective_at": int,
    "footer": str,
    "metadata": METADATA,
    "number": str,
    "payment_settings": ANY,
    "rendering": ANY,
    "statement_descriptor": str,
}


@endpoint(
    "POST",
    "/v1/invoices",
    {
        **_WRITE,
        "currency": str,
        "customer": Required(str),
        "pending_invoice_items_behavior": ("exclude", "include"),
        "subscription": str,
    },
)
def create_invoice(scope: Scope, params: Params) -> Obj:
    """Create a draft for a customer, empty or with the items that wait for it."""
    customer = customers.living(scope, params["customer"], "customer")
    subscription = None
    if params.get("subscription"):
        subscription = scope.get("subscription", params["subscription"], "subscription")
        if subscription["customer"] != customer["id"]:
            raise invalid("The subscription belongs to another customer.", "subscription")
    waiting = []
    if params.get("pending_invoice_items_behavior") == "include":
        subscription_id = subscription["id"] if subscription else None
        waiting = invoice_items.pending(scope, customer["id"], subscription_id)
    currency = (
        params.get("currency")
        or (subscription or {}).get("currency")
        or (waiting[0]["currency"] if waiting else customer["currency"])
        or scope.own_account["default_currency"]
    )
    period = {}
    if subscription is not None:
        start, end = (
            subscription["items"]["data"][0][name]
            for name in ("current_period_start", "current_period_end")
        )
        period = {"period_start": start, "period_end": end}
    invoice = invoices.build(
        scope,
        customer,
        {
            **params,
            **period,
            "metadata": merge_metadata({}, params.get("metadata", {})),
            "currency": currency.lower(),
            "subscription": subscription,
            "default_tax_rates": taxes.resolve(
                scope, params.get("default_tax_rates"), "default_tax_rates"
            ),
        },
    )
    _give_discounts(scope, invoice, params)
    for item in waiting:
        if item["currency"] == invoice["currency"]:
            invoice_items.put_on(scope, item, invoice)
    emit(scope, "invoice.created", invoice)
    return invoice


@endpoint(
    "POST",
    "/v1/invoices/create_preview",
    {
        "automatic_tax": AUTOMATIC_TAX,
        "currency": str,
        "customer": str,
        "discounts": [DISCOUNT],
        "invoice_items": [{**ITEM, "currency": str}],
        "preview_mode": ("next", "recurring"),
        "subscription": str,
        "subscription_details": {
            "billing_cycle_anchor": {"type": Required(("now", "unchanged"))},
            "cancel_at": int,
            "cancel_at_period_end": bool,
            "default_tax_rates": [str],
            "items": [ITEM_CHANGE],
            "proration_behavior": ("always_invoice", "create_prorations", "none"),
            "proration_date": int,
            "trial_end": str,
        },
    },
)
def preview_invoice(scope: Scope, params: Params) -> Obj:
    """Return what an invoice would be; nothing is created."""
    subscription = None
    if params.get("subscription"):
        subscription = scope.get("subscription", params["subscription"], "subscription")
    customer_id = params.get("customer") or (subscription or {}).get("customer")
    if customer_id is None:
        raise invalid("Missing required param: customer.", "customer", "parameter_missing")
    customer = customers.living(scope, customer_id, "customer")
    details = params.get("subscription_details") or {}
    if subscription is None:
        items = [
            {name: value for name, value in item.items() if name not in ("id", "deleted")}
            for item in details.get("items") or []
        ]
        details = {**details, "items": items}
    fields = resolved(scope, details)
    if isinstance(fields.get("billing_cycle_anchor"), str) and subscription is None:
        fields.pop("billing_cycle_anchor")
    if "discounts" in params:
        fields["redeems"] = discounts.resolve(scope, params["discounts"])
    if params.get("invoice_items"):
        fields["invoice_items"] = [priced(scope, item) for item in params["invoice_items"]]
    return previews.preview(scope, customer, subscription, fields)


@endpoint("GET", "/v1/invoices/{}")
def retrieve_invoice(scope: Scope, _params: Params, invoice_id: str) -> Obj:
    """Return an invoice."""
    return scope.get("invoice", invoice_id)


@endpoint("POST", "/v1/invoices/{}", _WRITE)
def update_invoice(scope: Scope, params: Params, invoice_id: str) -> Obj:
    """Change a draft; of a final invoice only metadata, description and auto_advance."""
    invoice = scope.get("invoice", invoice_id)
    late = {
        "metadata",
        "description",
        "auto_advance",
        "default_payment_method",
        "expand",
        "payment_settings",
    }
    if set(params) - late:
        invoices.require_draft(invoice)
    previous = {}
    for name, value in params.items():
        if name in (
            "expand",
            "automatic_tax",
            "payment_settings",
            "rendering",
            "metadata",
            "application_fee_amount",
            "days_until_due",
            "default_tax_rates",
            "discounts",
        ):
            continue
        if invoice[name] != value:
            previous[name] = invoice[name]
            invoice[name] = value
    if "default_tax_rates" in params:
        rates = taxes.resolve(scope, params["default_tax_rates"], "default_tax_rates")
        invoice["default_tax_rates"] = rates
        invoice_totals.recompute(scope, invoice)
    _give_discounts(scope, invoice, params)
    if "metadata" in params:
        previous["metadata"] = invoice["metadata"]
        invoice["metadata"] = merge_metadata(invoice["metadata"], params["metadata"])
    if params.get("days_until_due") is not None:
        invoice["due_date"] = invoice["created"] + params["days_until_due"] * DAY_SECONDS
    if "application_fee_amount" in params:
        invoice["_sim"]["application_fee_amount"] = params["application_fee_amount"]
    if invoice["status"] == "draft" and "auto_advance" in params:
        _schedule(scope, invoice)
    scope.save(invoice)
    emit(scope, "invoice.updated", invoice, previous)
    return invoice


def _give_discounts(scope: Scope, invoice: Obj, params: Params) -> None:
    if "discounts" not in params:
        return
    owner = {"customer": invoice["customer"], "invoice": invoice["id"]}
    invoice["discounts"] = [
        discounts.redeem(scope, coupon, promotion, {**owner, "test_clock": invoice["test_clock"]})[
            "id"
        ]
        for coupon, promotion in discounts.resolve(scope, params["discounts"])
    ]
    invoice_totals.recompute(scope, invoice)


def _schedule(scope: Scope, invoice: Obj) -> None:
    now = scope.now(invoice["test_clock"])
    due = now + invoices.DRAFT_SECONDS if invoice["auto_advance"] else None
    invoice["automatically_finalizes_at"] = due
    charged = invoice["collection_method"] == "charge_automatically"
    invoice["next_payment_attempt"] = due if charged else None


@endpoint("DELETE", "/v1/invoices/{}")
def delete_invoice(scope: Scope, _params: Params, invoice_id: str) -> Obj:
    """Delete a draft; its items wait for another invoice again."""
    invoice = scope.get("invoice", invoice_id)
    invoices.require_draft(invoice)
    for item in scope.all("invoiceitem", invoice=invoice_id):
        item["invoice"] = None
        scope.save(item)
    scope.sandbox.store.remove(scope.account, invoice)
    emit(scope, "invoice.deleted", invoice)
    return {"id": invoice_id, "object": "invoice", "deleted": True}


@endpoint(
    "GET",
    "/v1/invoices",
    {
        **LIST_PARAMS,
        "collection_method": ("charge_automatically", "send_invoice"),
        "created": CREATED,
        "customer": str,
        "due_date": CREATED,
        "status": ("draft", "open", "paid", "uncollectible", "void"),
        "subscription": str,
    },
)
def list_invoices(scope: Scope, params: Params) -> Obj:
    """List invoices."""
    names = ("collection_method", "customer", "status")
    found = scope.all("invoice", **{name: params.get(name) for name in names})
    if params.get("subscription"):
        found = [
            invoice
            for invoice in found
            if invoices.subscription_of(invoice) == params["subscription"]
        ]
    return page(scope, found, params, "/v1/invoices")


@endpoint("POST", "/v1/invoices/{}/finalize", {"auto_advance": bool})
def finalize_invoice(scope: Scope, params: Params, invoice_id: str) -> Obj:
    """Finalize a draft; where it advances by itself it is charged at once."""
    invoice = scope.get("invoice", invoice_id)
    return collection.finalize_and_collect(scope, invoice, auto_advance=params.get("auto_advance"))


@endpoint(
    "POST",
    "/v1/invoices/{}/pay",
    {"forgive": bool, "off_session": bool, "paid_out_of_band": bool, "payment_method": str},
)
def pay_invoice(scope: Scope, params: Params, invoice_id: str) -> Obj:
    """Pay an invoice now, or record that it was paid elsewhere."""
    return collection.pay(scope, scope.get("invoice", invoice_id), params)


@endpoint("POST", "/v1/invoices/{}/void")
def void_invoice(scope: Scope, _params: Params, invoice_id: str) -> Obj:
    """Void an invoice: it is owed no more, its number stays taken."""
    return invoices.end(scope, scope.get("invoice", invoice_id), "void")


@endpoint("POST", "/v1/invoices/{}/mark_uncollectible")
def mark_invoice_uncollectible(scope: Scope, _params: Params, invoice_id: str) -> Obj:
    """Write an invoice off; it can still be paid."""
    return invoices.end(scope, scope.get("invoice", invoice_id), "uncollectible")


@endpoint("POST", "/v1/invoices/{}/send")
def send_invoice(scope: Scope, _params: Params, invoice_id: str) -> Obj:
    """Send an invoice: an event here, no mail."""
    invoice = scope.get("invoice", invoice_id)
    if invoice["status"] == "draft":
        invoices.finalize(scope, invoice)
    emit(scope, "invoice.sent", invoice)
    return invoice


@endpoint("GET", "/v1/invoices/{}/lines", LIST_PARAMS)
def list_invoice_lines(scope: Scope, params: Params, invoice_id: str) -> Obj:
    """List all lines of an invoice, in the order of the invoice."""
    lines = scope.get("invoice", invoice_id)["lines"]["data"]
    limit = params.get("limit") or 10
    ids = [line["id"] for line in lines]
    start = ids.index(params["starting_after"]) + 1 if params.get("starting_after") in ids else 0
    chosen = lines[start : start + limit]
    return {
        "object": "list",
        "data": chosen,
        "has_more": start + limit < len(lines),
        "url": f"/v1/invoices/{invoice_id}/lines",
    }


@endpoint(
    "GET",
    "/v1/invoice_payments",
    {
        **LIST_PARAMS,
        "created": CREATED,
        "invoice": str,
        "payment": {
            "type": Required(("charge", "payment_intent", "payment_record")),
            "payment_intent": str,
            "charge": str,
            "payment_record": str,
        },
        "status": ("canceled", "open", "paid"),
    },
)
def list_invoice_payments(scope: Scope, params: Params) -> Obj:
    """List payments of an invoice, or the invoices of a payment."""
    found = scope.all("invoice_payment", invoice=params.get("invoice"), status=params.get("status"))
    if params.get("payment"):
        kind = params["payment"]["type"]
        wanted = params["payment"].get(kind)
        found = [payment for payment in found if payment["payment"].get(kind) == wanted]
    return page(scope, found, params, "/v1/invoice_payments")


@endpoint("GET", "/v1/invoice_payments/{}")
def retrieve_invoice_payment(scope: Scope, _params: Params, payment_id: str) -> Obj:
    """Return a payment of an invoice."""
    return scope.get("invoice_payment", payment_id)
