"""Charges: one attempt to take money each, with the balance transaction of a success."""

from typing import Any

from services.stripe_sim import balance, cards, money
from services.stripe_sim.events import emit
from services.stripe_sim.render import listing, on_request, page
from services.stripe_sim.sandbox import Scope
from services.stripe_sim.store import Obj


def build(scope: Scope, intent: Obj, method: Obj, *, status: str, reason: str | None = None) -> Obj:
    """Create the charge of a payment intent's attempt: `succeeded`, `pending` or `failed`."""
    failed = status == "failed"
    captured = not failed and intent["capture_method"] != "manual"
    code, decline_code = cards.codes(reason) if reason else (None, None)
    charge_id = scope.new_id("ch_3")
    return scope.save(
        {
            "id": charge_id,
            "object": "charge",
            "amount": intent["amount"],
            "amount_captured": intent["amount"] if captured else 0,
            "amount_refunded": 0,
            "application": None,
            "application_fee": None,
            "application_fee_amount": intent["application_fee_amount"],
            "balance_transaction": None,
            "billing_details": method["billing_details"],
            "calculated_statement_descriptor": scope.own_account["settings"]["payments"][
                "statement_descriptor"
            ],
            "captured": captured,
            "created": scope.wall_now(),
            "currency": intent["currency"],
            "customer": intent["customer"],
            "description": intent["description"],
            "disputed": False,
            "failure_balance_transaction": None,
            "failure_code": code,
            "failure_message": cards.DECLINES.get(reason) if reason else None,
            "fraud_details": {},
            "livemode": False,
            "metadata": dict(intent["metadata"]),
            "on_behalf_of": intent["on_behalf_of"],
            "outcome": _outcome(failed, decline_code or code),
            "paid": not failed,
            "payment_intent": intent["id"],
            "payment_method": method["id"],
            "payment_method_details": _method_details(method, intent["amount"]),
            "radar_options": {},
            "receipt_email": intent["receipt_email"],
            "receipt_number": None,
            "receipt_url": None
            if failed
            else f"{scope.sandbox.settings.public_url}/receipts/{scope.account}/{charge_id}",
            "refunded": False,
            "review": None,
            "shipping": intent["shipping"],
            "source": None,
            "source_transfer": None,
            "statement_descriptor": intent["statement_descriptor"],
            "statement_descriptor_suffix": intent["statement_descriptor_suffix"],
            "status": status,
            "transfer": None,
            "transfer_data": intent["transfer_data"],
            "transfer_group": intent["transfer_group"],
            "_sim": {},
        }
    )


def _outcome(failed: bool, reason: str | None) -> dict[str, Any]:
    return {
        "advice_code": "try_again_later" if failed else None,
        "network_advice_code": None,
        "network_decline_code": "05" if failed else None,
        "network_status": "declined_by_network" if failed else "approved_by_network",
        "reason": reason,
        "risk_level": "normal",
        "risk_score": 12,
        "seller_message": "The bank did not return any further details with this decline."
        if failed
        else "Payment complete.",
        "type": "issuer_declined" if failed else "authorized",
    }


def _method_details(method: Obj, amount: int) -> dict[str, Any]:
    kind = method["type"]
    if kind == "sepa_debit":
        bank = method["sepa_debit"]
        parts = ("bank_code", "branch_code", "country", "fingerprint", "last4")
        return {"type": kind, kind: {**{name: bank[name] for name in parts}, "mandate": None}}
    card = method["card"]
    names = ("brand", "checks", "country", "exp_month", "exp_year", "fingerprint", "funding")
    details = {name: card[name] for name in names}
    details |= {
        "amount_authorized": amount,
        "authorization_code": None,
        "extended_authorization": {"status": "disabled"},
        "incremental_authorization": {"status": "unavailable"},
        "installments": None,
        "last4": card["last4"],
        "mandate": None,
        "multicapture": {"status": "unavailable"},
        "network": card["brand"],
        "network_token": {"used": False},
        "overcapture": {"maximum_amount_capturable": amount, "status": "unavailable"},
        "regulated_status": "unregulated",
        "three_d_secure": None,
        "wallet": None,
    }
    return {"type": kind, "card": details}


def book(scope: Scope, charge: Obj) -> None:
    """Book a captured charge: its balance transaction with Stripe's fee."""
    amount, currency = charge["amount_captured"], charge["currency"]
    fees = [
        balance.fee_detail(
            money.processing_fee_minor(amount), currency, "stripe_fee", "Stripe processing fees"
        )
    ]
    if charge["application_fee_amount"]:
        fees.append(_application_fee(scope, charge))
    kind = "payment" if charge["payment_method_details"]["type"] == "sepa_debit" else "charge"
    transaction = balance.record(
        scope,
        kind,
        amount,
        currency,
        charge["id"],
        fees=fees,
        description=charge["description"],
        immediately=charge["payment_method_details"].get("card", {}).get("last4") == "0077",
    )
    charge["balance_transaction"] = transaction["id"]
    scope.save(charge)


def _application_fee(scope: Scope, charge: Obj) -> dict[str, Any]:
    """Book the platform's share of a direct charge on the platform's own account."""
    amount, currency = charge["application_fee_amount"], charge["currency"]
    platform_id = next(iter(scope.own_account["_sim"]["platforms"]), None)
    if platform_id is None:
        return balance.fee_detail(amount, currency, "application_fee", "Application fee")
    platform = scope.sandbox.scope(platform_id)
    fee_id = scope.new_id("fee_1")
    transaction = balance.record(
        platform, "application_fee", amount, currency, fee_id, description="Application fee"
    )
    fee = platform.save(
        {
            "id": fee_id,
            "object": "application_fee",
            "account": scope.account,
            "amount": amount,
            "amount_refunded": 0,
            "application": scope.sandbox.settings.client_id,
            "balance_transaction": transaction["id"],
            "charge": charge["id"],
            "created": scope.wall_now(),
            "currency": currency,
            "fee_source": {"charge": charge["id"], "type": "charge"},
            "livemode": False,
            "originating_transaction": None,
            "refunded": False,
            "refunds": listing(f"/v1/application_fees/{fee_id}/refunds", []),
        }
    )
    emit(platform, "application_fee.created", fee)
    charge["application_fee"] = fee_id
    charge["application"] = scope.sandbox.settings.client_id
    detail = balance.fee_detail(amount, currency, "application_fee", "Application fee")
    return {**detail, "application": scope.sandbox.settings.client_id}


@on_request("charge", "refunds")
def _refunds(scope: Scope, charge: Obj) -> Obj:
    found = scope.all("refund", charge=charge["id"])
    return page(scope, found, {}, f"/v1/charges/{charge['id']}/refunds")
