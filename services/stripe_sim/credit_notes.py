"""Credit notes: what is taken back of a finalized invoice, before or after it was paid."""

from typing import Any

from services.stripe_sim import customer_balance, refunds
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.render import listing
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

KIND = "credit_note"


def build(scope: Scope, invoice: Obj, fields: dict[str, Any]) -> Obj:
    """Issue a credit note over an amount, or over lines that add up to it.

    On an open invoice it lowers what is due. On a paid one the caller says where the money goes:
    `refund_amount`, `credit_amount` (the customer's balance) and `out_of_band_amount` add up to it.

    Raises:
        ApiError: the invoice is a draft or void, or the amounts do not fit.
    """
    if invoice["status"] not in ("open", "paid", "uncollectible"):
        raise invalid(f"You cannot credit an invoice that is {invoice['status']}.", "invoice")
    lines = _lines(scope, invoice, fields)
    amount = sum(line["amount"] for line in lines)
    issued = scope.all(KIND, invoice=invoice["id"], status="issued")
    credited = sum(note["amount"] for note in issued)
    if not 1 <= amount <= invoice["total"] - credited:
        raise invalid(f"The amount must be from 1 to {invoice['total'] - credited}.", "amount")
    before = min(amount, invoice["amount_remaining"])
    after = amount - before
    split = {
        name: fields.get(name) or 0
        for name in ("refund_amount", "credit_amount", "out_of_band_amount")
    }
    if sum(split.values()) != after:
        raise invalid(
            "The sum of credit amount, refund amount and out of band amount must equal the "
            f"credit note amount that was paid already ({after}).",
            "refund_amount",
        )
    note = _frame(scope, invoice, fields, amount, len(issued) + 1)
    note["lines"]["data"] = lines
    note |= {
        "pre_payment_amount": before,
        "post_payment_amount": after,
        "out_of_band_amount": split["out_of_band_amount"] or None,
        "type": "mixed" if before and after else "pre_payment" if before else "post_payment",
    }
    scope.save(note)
    _give_back(scope, invoice, note, split)
    _lower(scope, invoice, before, after)
    emit(scope, "credit_note.created", note)
    emit(scope, "invoice.updated", invoice)
    return note


def _lines(scope: Scope, invoice: Obj, fields: dict[str, Any]) -> list[Obj]:
    wishes = fields.get("lines") or [
        {
            "type": "custom_line_item",
            "amount": fields.get("amount") or invoice["total"],
            "description": fields.get("memo"),
        }
    ]
    found = []
    for wish in wishes:
        amount = wish.get("amount")
        if amount is None:
            amount = int(wish.get("unit_amount") or 0) * (wish.get("quantity") or 1)
        found.append(
            {
                "id": scope.new_id("cnli_1"),
                "object": "credit_note_line_item",
                "amount": amount,
                "description": wish.get("description"),
                "discount_amount": 0,
                "discount_amounts": [],
                "invoice_line_item": wish.get("invoice_line_item"),
                "livemode": False,
                "pretax_credit_amounts": [],
                "quantity": wish.get("quantity"),
                "tax_rates": [],
                "taxes": [],
                "type": wish["type"],
                "unit_amount": wish.get("unit_amount"),
                "unit_amount_decimal": None,
            }
        )
    return found


def _frame(scope: Scope, invoice: Obj, fields: dict[str, Any], amount: int, number: int) -> Obj:
    note_id = scope.new_id("cn_1")
    return {
        "id": note_id,
        "object": KIND,
        "amount": amount,
        "amount_shipping": 0,
        "created": scope.now(invoice["test_clock"]),
        "currency": invoice["currency"],
        "customer": invoice["customer"],
        "customer_balance_transaction": None,
        "discount_amount": 0,
        "discount_amounts": [],
        "effective_at": scope.now(invoice["test_clock"]),
        "invoice": invoice["id"],
        "lines": listing(f"/v1/credit_notes/{note_id}/lines", []),
        "livemode": False,
        "memo": fields.get("memo"),
        "metadata": fields.get("metadata") or {},
        "number": f"{invoice['number']}-CN-{number:02d}",
        "out_of_band_amount": None,
        "pdf": invoice["invoice_pdf"],
        "post_payment_amount": 0,
        "pre_payment_amount": 0,
        "pretax_credit_amounts": [],
        "reason": fields.get("reason"),
        "refunds": [],
        "shipping_cost": None,
        "status": "issued",
        "subtotal": amount,
        "subtotal_excluding_tax": amount,
        "total": amount,
        "total_excluding_tax": amount,
        "total_taxes": [],
        "type": "pre_payment",
        "voided_at": None,
    }


def _give_back(scope: Scope, invoice: Obj, note: Obj, split: dict[str, int]) -> None:
    if split["refund_amount"]:
        intent = scope.get("payment_intent", invoice["_sim"].get("payment_intent") or "")
        charge = scope.get("charge", intent["latest_charge"])
        refund = refunds.create(scope, charge, {"amount": split["refund_amount"]})
        note["refunds"] = [
            {
                "amount_refunded": refund["amount"],
                "refund": refund["id"],
                "payment_record_refund": None,
                "type": "refund",
            }
        ]
    if split["credit_amount"]:
        customer = scope.get("customer", invoice["customer"])
        entry = customer_balance.change(
            scope,
            customer,
            -split["credit_amount"],
            "credit_note",
            {"credit_note": note["id"], "currency": invoice["currency"], "invoice": invoice["id"]},
        )
        note["customer_balance_transaction"] = entry["id"]
    scope.save(note)


def _lower(scope: Scope, invoice: Obj, before: int, after: int) -> None:
    """Take the note off the invoice, and off what its open payment asks for."""
    invoice["pre_payment_credit_notes_amount"] += before
    invoice["post_payment_credit_notes_amount"] += after
    if before:
        invoice["amount_due"] -= before
        invoice["amount_remaining"] -= before
        for payment in scope.all("invoice_payment", invoice=invoice["id"], status="open"):
            payment["amount_requested"] -= before
            scope.save(payment)
        intent = scope.find("payment_intent", invoice["_sim"].get("payment_intent"))
        if intent is not None and invoice["amount_remaining"] > 0:
            intent["amount"] = invoice["amount_remaining"]
            scope.save(intent)
    scope.save(invoice)
