"""Invoice items: charges and credits added to a draft by hand, or kept for the next invoice."""

from decimal import Decimal
from typing import Any

from services.stripe_sim import invoice_totals, invoices, money
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def create(scope: Scope, customer: Obj, fields: dict[str, Any]) -> Obj:
    """Create an item, on the draft `fields["invoice"]` (an object) where one is given.

    Raises:
        ApiError: the invoice is final, another customer's or in another currency.
    """
    invoice, price = fields.get("invoice"), fields.get("price")
    if invoice is not None:
        invoices.require_draft(invoice)
        if invoice["customer"] != customer["id"]:
            raise invalid("The invoice belongs to another customer.", "invoice")
    quantity = 1 if fields.get("quantity") is None else fields["quantity"]
    currency = _currency(customer, invoice, price, fields)
    now = scope.now(customer["test_clock"])
    item: Obj = {
        "id": scope.new_id("ii_1"),
        "object": "invoiceitem",
        "amount": _amount(price, quantity, fields),
        "currency": currency,
        "customer": customer["id"],
        "date": now,
        "description": fields.get("description"),
        "discountable": fields.get("discountable") is not False,
        "discounts": [],
        "invoice": invoice["id"] if invoice else None,
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "net_amount": None,
        "parent": _parent(fields),
        "period": fields.get("period") or {"start": now, "end": now},
        "pricing": invoice_totals.pricing_of(price) if price else None,
        "proration": bool(fields.get("proration")),
        "quantity": quantity,
        "quantity_decimal": str(quantity),
        "tax_rates": fields.get("tax_rates") or [],
        "test_clock": customer["test_clock"],
    }
    item["net_amount"] = item["amount"]
    scope.save(item)
    emit(scope, "invoiceitem.created", item)
    if invoice is not None:
        put_on(scope, item, invoice)
        emit(scope, "invoice.updated", invoice)
    return item


def _currency(customer: Obj, invoice: Obj | None, price: Obj | None, fields: dict[str, Any]) -> str:
    given = fields.get("currency")
    wanted = (invoice or price or {}).get("currency") or given or customer["currency"]
    if wanted is None:
        raise invalid("Missing required param: currency.", "currency", "parameter_missing")
    for currency in (given, price and price["currency"]):
        if currency and currency.lower() != wanted:
            raise invalid(
                f"The currency {currency} does not match the invoice's currency {wanted}.",
                "currency",
            )
    return str(wanted).lower()


def _amount(price: Obj | None, quantity: int, fields: dict[str, Any]) -> int:
    if fields.get("amount") is not None:
        return int(fields["amount"])
    unit = fields.get("unit_amount_decimal")
    if unit is None and price is not None and price["unit_amount_decimal"] is not None:
        unit = Decimal(price["unit_amount_decimal"])
    if unit is None:
        raise invalid("Missing required param: amount.", "amount", "parameter_missing")
    return money.half_up(unit * quantity)


def _parent(fields: dict[str, Any]) -> dict[str, Any] | None:
    if not fields.get("subscription"):
        return None
    details = {
        "subscription": fields["subscription"],
        "subscription_item": fields.get("subscription_item"),
    }
    return {"subscription_details": details, "type": "subscription_details"}


def put_on(scope: Scope, item: Obj, invoice: Obj) -> None:
    """Make an item a line of a draft."""
    parent = item["parent"]
    subscription = parent["subscription_details"]["subscription"] if parent else None
    item["invoice"] = invoice["id"]
    scope.save(item)
    invoice_totals.add_line(
        scope,
        invoice,
        {
            "amount": item["amount"],
            "description": item["description"],
            "discountable": item["discountable"],
            "metadata": dict(item["metadata"]),
            "period": dict(item["period"]),
            "pricing": item["pricing"],
            "quantity": item["quantity"],
            "subscription": subscription,
            "tax_rates": item["tax_rates"],
            "parent": {
                "invoice_item_details": {
                    "invoice_item": item["id"],
                    "proration": item["proration"],
                    "proration_details": {"credited_items": None},
                    "subscription": subscription,
                },
                "subscription_item_details": None,
                "type": "invoice_item_details",
            },
        },
    )


def line_of(invoice: Obj, item: Obj) -> Obj:
    """Return the line an item became."""
    return next(
        line
        for line in invoice["lines"]["data"]
        if (line["parent"]["invoice_item_details"] or {}).get("invoice_item") == item["id"]
    )


def pending(scope: Scope, customer_id: str, subscription_id: str | None) -> list[Obj]:
    """Return the items waiting for the customer's next invoice of this subscription, or of none."""
    return [
        item
        for item in scope.all("invoiceitem", customer=customer_id)
        if item["invoice"] is None
        and (
            item["parent"] is None
            or item["parent"]["subscription_details"]["subscription"] == subscription_id
        )
    ]


def update(scope: Scope, item: Obj, changes: dict[str, Any]) -> Obj:
    """Change an item that is on no invoice or on a draft, and its line with it.

    Raises:
        ApiError: its invoice is final.
    """
    invoice = scope.find("invoice", item["invoice"])
    if invoice is not None:
        invoices.require_draft(invoice)
    item |= changes
    item["net_amount"] = item["amount"]
    scope.save(item)
    if invoice is not None:
        names = ("amount", "description", "discountable", "metadata", "period", "quantity")
        line = line_of(invoice, item)
        line |= {name: item[name] for name in names}
        line |= {"subtotal": item["amount"], "quantity_decimal": item["quantity_decimal"]}
        invoice_totals.recompute(scope, invoice)
        emit(scope, "invoice.updated", invoice)
    return item


def delete(scope: Scope, item: Obj) -> Obj:
    """Delete an item that is on no invoice or on a draft.

    Raises:
        ApiError: its invoice is final.
    """
    invoice = scope.find("invoice", item["invoice"])
    if invoice is not None:
        invoices.require_draft(invoice)
        invoice["lines"]["data"].remove(line_of(invoice, item))
        invoice_totals.recompute(scope, invoice)
    scope.sandbox.store.remove(scope.account, item)
    emit(scope, "invoiceitem.deleted", item)
    if invoice is not None:
        emit(scope, "invoice.updated", invoice)
    return {"id": item["id"], "object": "invoiceitem", "deleted": True}
