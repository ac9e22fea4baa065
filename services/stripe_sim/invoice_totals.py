"""What an invoice comes to: lines, discounts, taxes, and the customer's balance."""

from typing import Any

from services.stripe_sim import discounts, taxes
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def add_line(scope: Scope, invoice: Obj, fields: dict[str, Any]) -> Obj:
    """Add a line: amount, period, parent, and optionally pricing, description, tax rates."""
    quantity = fields.get("quantity", 1)
    line: Obj = {
        "id": scope.new_id("il_1"),
        "object": "line_item",
        "amount": fields["amount"],
        "currency": invoice["currency"],
        "description": fields.get("description"),
        "discount_amounts": [],
        "discountable": fields.get("discountable", True),
        "discounts": [],
        "invoice": invoice["id"],
        "livemode": False,
        "metadata": fields.get("metadata") or {},
        "parent": fields["parent"],
        "period": fields["period"],
        "pretax_credit_amounts": [],
        "pricing": fields.get("pricing"),
        "quantity": quantity,
        "quantity_decimal": None if quantity is None else str(quantity),
        "subscription": fields.get("subscription"),
        "subtotal": fields["amount"],
        "taxes": [],
    }
    invoice["lines"]["data"].append(line)
    if fields.get("tax_rates"):
        invoice["_sim"].setdefault("tax_rates", {})[line["id"]] = fields["tax_rates"]
    recompute(scope, invoice)
    return line


def pricing_of(price: Obj) -> dict[str, Any]:
    """Return a line's `pricing` for a price."""
    return {
        "price_details": {"price": price["id"], "product": price["product"]},
        "type": "price_details",
        "unit_amount_decimal": price["unit_amount_decimal"],
    }


def recompute(scope: Scope, invoice: Obj) -> None:
    """Add up a draft; the customer's balance is taken into account as it stands."""
    customer = scope.get("customer", invoice["customer"])
    lines = invoice["lines"]["data"]
    off = _discount(scope, invoice, lines)
    _tax(invoice, lines, customer["tax_exempt"])
    all_taxes = [tax for line in lines for tax in line["taxes"]]
    subtotal = sum(line["amount"] for line in lines)
    total = subtotal - off + taxes.added(all_taxes)
    due = total + customer["balance"] if total > 0 else 0
    included = sum(tax["amount"] for tax in all_taxes) - taxes.added(all_taxes)
    invoice |= {
        "subtotal": subtotal,
        "subtotal_excluding_tax": subtotal - included,
        "total": total,
        "total_excluding_tax": subtotal - off - included,
        "total_taxes": taxes.gathered(all_taxes),
        "starting_balance": customer["balance"],
        "amount_due": max(due, 0),
        "amount_remaining": max(due, 0),
    }
    scope.save(invoice)


def _discount(scope: Scope, invoice: Obj, lines: list[Obj]) -> int:
    """Spread the invoice's discounts over its lines, one after the other; return their sum."""
    for line in lines:
        line["discount_amounts"] = []
    sums = []
    for discount_id in invoice["discounts"]:
        coupon = discounts.coupon_of(scope, discount_id)
        left = [_left(line) if line["discountable"] else 0 for line in lines]
        parts = discounts.split(coupon, left)
        for line, part in zip(lines, parts, strict=True):
            if part:
                line["discount_amounts"].append({"amount": part, "discount": discount_id})
        sums.append({"amount": sum(parts), "discount": discount_id})
    invoice["total_discount_amounts"] = sums
    return sum(entry["amount"] for entry in sums)


def _left(line: Obj) -> int:
    taken: int = sum(entry["amount"] for entry in line["discount_amounts"])
    return int(line["amount"]) - taken


def _tax(invoice: Obj, lines: list[Obj], exempt: str) -> None:
    by_line = invoice["_sim"].get("tax_rates", {})
    for line in lines:
        rates = by_line.get(line["id"]) or invoice["default_tax_rates"]
        line["taxes"] = taxes.taxes_of(_left(line), rates, exempt)
