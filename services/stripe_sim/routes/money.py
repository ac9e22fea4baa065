"""/v1/charges, /v1/refunds, /v1/balance, /v1/balance_transactions, /v1/application_fees."""

from services.stripe_sim import balance, refunds
from services.stripe_sim.errors import invalid, no_such
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_REASONS = ("duplicate", "fraudulent", "requested_by_customer")


@endpoint("GET", "/v1/charges/{}")
def retrieve_charge(scope: Scope, _params: Params, charge_id: str) -> Obj:
    """Return a charge."""
    return scope.get("charge", charge_id)


@endpoint(
    "POST",
    "/v1/charges/{}",
    {"description": str, "fraud_details": ANY, "metadata": METADATA, "receipt_email": str},
)
def update_charge(scope: Scope, params: Params, charge_id: str) -> Obj:
    """Change the words on a charge."""
    charge = scope.get("charge", charge_id)
    for name in ("description", "fraud_details", "receipt_email"):
        if name in params:
            charge[name] = params[name]
    if "metadata" in params:
        charge["metadata"] = merge_metadata(charge["metadata"], params["metadata"])
    scope.save(charge)
    emit(scope, "charge.updated", charge)
    return charge


@endpoint(
    "GET",
    "/v1/charges",
    {
        **LIST_PARAMS,
        "created": CREATED,
        "customer": str,
        "payment_intent": str,
        "transfer_group": str,
    },
)
def list_charges(scope: Scope, params: Params) -> Obj:
    """List charges."""
    names = ("customer", "payment_intent", "transfer_group")
    found = scope.all("charge", **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/charges")


@endpoint(
    "POST",
    "/v1/refunds",
    {
        "amount": int,
        "charge": str,
        "metadata": METADATA,
        "payment_intent": str,
        "reason": _REASONS,
        "refund_application_fee": bool,
        "reverse_transfer": bool,
    },
)
def create_refund(scope: Scope, params: Params) -> Obj:
    """Give back all or part of a payment."""
    if params.get("charge"):
        charge = scope.get("charge", params["charge"], "charge")
    elif params.get("payment_intent"):
        intent = scope.get("payment_intent", params["payment_intent"], "payment_intent")
        if intent["latest_charge"] is None or intent["status"] != "succeeded":
            raise invalid(
                f"This PaymentIntent ({intent['id']}) does not have a successful charge to refund.",
                "payment_intent",
            )
        charge = scope.get("charge", intent["latest_charge"])
    else:
        raise invalid(
            "One of the following params should be provided for this request: "
            "payment_intent or charge."
        )
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return refunds.create(scope, charge, fields)


@endpoint("GET", "/v1/refunds/{}")
def retrieve_refund(scope: Scope, _params: Params, refund_id: str) -> Obj:
    """Return a refund."""
    return scope.get("refund", refund_id)


@endpoint("POST", "/v1/refunds/{}", {"metadata": METADATA})
def update_refund(scope: Scope, params: Params, refund_id: str) -> Obj:
    """Change a refund's metadata."""
    refund = scope.get("refund", refund_id)
    refund["metadata"] = merge_metadata(refund["metadata"], params.get("metadata", {}))
    scope.save(refund)
    emit(scope, "refund.updated", refund)
    return refund


@endpoint(
    "GET",
    "/v1/refunds",
    {**LIST_PARAMS, "charge": str, "created": CREATED, "payment_intent": str},
)
def list_refunds(scope: Scope, params: Params) -> Obj:
    """List refunds."""
    names = ("charge", "payment_intent")
    found = scope.all("refund", **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/refunds")


@endpoint("GET", "/v1/balance")
def retrieve_balance(scope: Scope, _params: Params) -> Obj:
    """Return what is available and what is pending, by currency."""
    return balance.current(scope)


@endpoint("GET", "/v1/balance_transactions/{}")
def retrieve_balance_transaction(scope: Scope, _params: Params, transaction_id: str) -> Obj:
    """Return a balance transaction."""
    balance.release(scope)
    return scope.get("balance_transaction", transaction_id)


@endpoint(
    "GET",
    "/v1/balance_transactions",
    {**LIST_PARAMS, "created": CREATED, "currency": str, "payout": str, "source": str, "type": str},
)
def list_balance_transactions(scope: Scope, params: Params) -> Obj:
    """List balance transactions; `payout` lists what a payout is made of."""
    balance.release(scope)
    names = ("currency", "source", "type")
    found = scope.all("balance_transaction", **{name: params.get(name) for name in names})
    if params.get("payout"):
        found = [each for each in found if each["_sim"]["payout"] == params["payout"]]
    return page(scope, found, params, "/v1/balance_transactions")


@endpoint("GET", "/v1/application_fees/{}")
def retrieve_application_fee(scope: Scope, _params: Params, fee_id: str) -> Obj:
    """Return a platform's share of a direct charge."""
    return scope.get("application_fee", fee_id)


@endpoint("GET", "/v1/application_fees", {**LIST_PARAMS, "charge": str, "created": CREATED})
def list_application_fees(scope: Scope, params: Params) -> Obj:
    """List a platform's shares of direct charges."""
    found = scope.all("application_fee", charge=params.get("charge"))
    return page(scope, found, params, "/v1/application_fees")


@endpoint(
    "POST",
    "/v1/application_fees/{}/refunds",
    {"amount": int, "metadata": METADATA},
)
def create_fee_refund(scope: Scope, params: Params, fee_id: str) -> Obj:
    """Give an application fee back, all that is left of it or a part."""
    fee = scope.get("application_fee", fee_id)
    left = fee["amount"] - fee["amount_refunded"]
    amount = left if params.get("amount") is None else params["amount"]
    if not 1 <= amount <= left:
        raise invalid(
            f"Refund amount ({amount}) is greater than unrefunded amount on fee ({left})", "amount"
        )
    metadata = merge_metadata({}, params.get("metadata", {}))
    return refunds.give_fee_back(scope, fee, amount, metadata)


@endpoint("GET", "/v1/application_fees/{}/refunds/{}")
def retrieve_fee_refund(scope: Scope, _params: Params, fee_id: str, refund_id: str) -> Obj:
    """Return what was given back of an application fee."""
    refund = scope.get("fee_refund", refund_id)
    if refund["fee"] != fee_id:
        raise no_such("fee_refund", refund_id)
    return refund


@endpoint("GET", "/v1/application_fees/{}/refunds", LIST_PARAMS)
def list_fee_refunds(scope: Scope, params: Params, fee_id: str) -> Obj:
    """List what was given back of an application fee."""
    scope.get("application_fee", fee_id)
    found = scope.all("fee_refund", fee=fee_id)
    return page(scope, found, params, f"/v1/application_fees/{fee_id}/refunds")
