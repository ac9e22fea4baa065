"""Payment links: an address that opens a fresh checkout session for everyone who follows it."""

from typing import Any

from services.stripe_sim import checkout
from services.stripe_sim.errors import invalid
from services.stripe_sim.events import emit
from services.stripe_sim.render import on_request
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj

LINES_MAX = 20


_UNSET = (
    "application",
    "consent_collection",
    "invoice_creation",
    "shipping_address_collection",
    "transfer_data",
)
"""Fields of a link the sandbox never sets."""


def build(scope: Scope, fields: dict[str, Any], lines: list[dict[str, Any]]) -> Obj:
    """Create a payment link for lines of (price, quantity).

    Raises:
        ApiError: it sells nothing, too much, or currencies that differ.
    """
    if not 1 <= len(lines) <= LINES_MAX:
        raise invalid(f"A payment link sells 1 to {LINES_MAX} line items.", "line_items")
    recurring = any(line["price"]["type"] == "recurring" for line in lines)
    fee_amount, fee_percent = (
        fields.get("application_fee_amount"),
        fields.get("application_fee_percent"),
    )
    if (recurring and fee_amount is not None) or (not recurring and fee_percent is not None):
        raise invalid(
            "application_fee_amount is for one-time prices, application_fee_percent for "
            "recurring ones.",
            "application_fee_amount",
        )
    after = fields.get("after_completion") or {"type": "hosted_confirmation"}
    link = scope.save(
        {
            "id": scope.new_id("plink_1"),
            "object": "payment_link",
            **dict.fromkeys(_UNSET),
            "active": True,
            "after_completion": _after(after),
            "allow_promotion_codes": bool(fields.get("allow_promotion_codes")),
            "application_fee_amount": fee_amount,
            "application_fee_percent": None if fee_percent is None else float(fee_percent),
            "automatic_tax": {"enabled": False, "liability": None},
            "billing_address_collection": "auto",
            "currency": lines[0]["price"]["currency"],
            "custom_fields": [],
            "custom_text": {
                "after_submit": None,
                "shipping_address": None,
                "submit": None,
                "terms_of_service_acceptance": None,
            },
            "customer_creation": fields.get("customer_creation") or "if_required",
            "inactive_message": fields.get("inactive_message"),
            "livemode": False,
            "metadata": fields.get("metadata") or {},
            "on_behalf_of": fields.get("on_behalf_of"),
            "payment_intent_data": _intent_data(fields.get("payment_intent_data")),
            "payment_method_collection": "always",
            "payment_method_types": fields.get("payment_method_types"),
            "phone_number_collection": {"enabled": False},
            "restrictions": restrictions_of(fields.get("restrictions"), 0),
            "shipping_options": [],
            "submit_type": fields.get("submit_type") or "auto",
            "subscription_data": _subscription_data(fields.get("subscription_data")),
            "tax_id_collection": {"enabled": False, "required": "never"},
            "url": "",
            "_sim": _private(fields, lines, recurring=recurring),
        }
    )
    link["url"] = f"{scope.sandbox.settings.public_url}/pay/{link['id']}"
    emit(scope, "payment_link.created", link)
    return link


def _private(
    fields: dict[str, Any], lines: list[dict[str, Any]], *, recurring: bool
) -> dict[str, Any]:
    """Return what the sandbox keeps of a link for itself."""
    return {
        "lines": [
            {
                "price": line["price"]["id"],
                "quantity": line["quantity"],
                "tax_rates": line["tax_rates"],
            }
            for line in lines
        ],
        "mode": "subscription" if recurring else "payment",
        "payment_intent_data": fields.get("payment_intent_data") or {},
        "subscription_data": fields.get("subscription_data") or {},
        "completed": 0,
    }


def _after(wish: dict[str, Any]) -> dict[str, Any]:
    kind = wish["type"]
    return {"type": kind, kind: wish.get(kind) or {"custom_message": None}}


def restrictions_of(wish: dict[str, Any] | None, completed: int) -> dict[str, Any] | None:
    """Return a link's `restrictions` with how often it has been used."""
    limits = (wish or {}).get("completed_sessions")
    if not limits:
        return None
    return {"completed_sessions": {"count": completed, "limit": limits["limit"]}}


def _intent_data(wish: dict[str, Any] | None) -> dict[str, Any] | None:
    if not wish:
        return None
    names = (
        "capture_method",
        "description",
        "setup_future_usage",
        "statement_descriptor",
        "statement_descriptor_suffix",
        "transfer_group",
    )
    return {**{name: wish.get(name) for name in names}, "metadata": wish.get("metadata") or {}}


def _subscription_data(wish: dict[str, Any] | None) -> dict[str, Any] | None:
    if not wish:
        return None
    return {
        "description": wish.get("description"),
        "invoice_settings": {"issuer": {"type": "self"}},
        "metadata": wish.get("metadata") or {},
        "trial_period_days": wish.get("trial_period_days"),
        "trial_settings": None,
    }


def open_session(scope: Scope, link: Obj) -> Obj:
    """Open a checkout session for somebody who followed the link.

    Raises:
        ApiError: the link was switched off, or has been used as often as it may be.
    """
    limit = ((link["restrictions"] or {}).get("completed_sessions") or {}).get("limit")
    if limit is not None and link["_sim"]["completed"] >= int(limit):
        link["active"] = False
        scope.save(link)
    if not link["active"]:
        raise invalid(link["inactive_message"] or "This link is no longer active.", "payment_link")
    private = link["_sim"]
    lines = [
        {**line, "price": scope.get("price", line["price"]), "metadata": {}}
        for line in private["lines"]
    ]
    after = link["after_completion"]
    redirect = (after.get("redirect") or {}).get("url")
    intent_data = dict(private["payment_intent_data"])
    if link["application_fee_amount"] is not None:
        intent_data["application_fee_amount"] = link["application_fee_amount"]
    subscription_data = dict(private["subscription_data"])
    if link["application_fee_percent"] is not None:
        subscription_data["application_fee_percent"] = str(link["application_fee_percent"])
    return checkout.build(
        scope,
        {
            "mode": private["mode"],
            "success_url": redirect,
            "metadata": dict(link["metadata"]),
            "payment_link": link["id"],
            "customer_creation": link["customer_creation"]
            if private["mode"] == "payment"
            else None,
            "payment_intent_data": intent_data,
            "subscription_data": subscription_data,
            "payment_method_types": link["payment_method_types"],
        },
        lines,
    )


def count_completion(scope: Scope, link_id: str | None) -> None:
    """Count a completed session of a link towards its limit."""
    link = scope.find("payment_link", link_id)
    if link is not None:
        link["_sim"]["completed"] += 1
        limits = (link["restrictions"] or {}).get("completed_sessions")
        link["restrictions"] = restrictions_of(
            {"completed_sessions": limits} if limits else None, link["_sim"]["completed"]
        )
        scope.save(link)


def line_items(scope: Scope, link: Obj) -> list[Obj]:
    """Return what a link sells, as the API lists it."""
    return [
        {
            "id": f"li_{link['id'][7:]}{place}",
            "object": "item",
            "amount_discount": 0,
            "amount_subtotal": amount,
            "amount_tax": 0,
            "amount_total": amount,
            "currency": price["currency"],
            "description": scope.get("product", price["product"])["name"],
            "price": {name: value for name, value in price.items() if name != "_sim"},
            "quantity": line["quantity"],
        }
        for place, line in enumerate(link["_sim"]["lines"])
        for price in [scope.get("price", line["price"])]
        for amount in [checkout.line_amount(price, line)]
    ]


@on_request("payment_link", "line_items")
def _line_items(scope: Scope, link: Obj) -> Obj:
    return {
        "object": "list",
        "data": line_items(scope, link),
        "has_more": False,
        "url": f"/v1/payment_links/{link['id']}/line_items",
    }
