"""/v1/payouts and /v1/disputes."""

from services.stripe_sim import disputes, payouts
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    merge_metadata,
)
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint


@endpoint(
    "POST",
    "/v1/payouts",
    {
        "amount": Required(int),
        "currency": Required(str),
        "description": str,
        "metadata": METADATA,
        "method": ("instant", "standard"),
        "source_type": ("bank_account", "card", "fpx"),
        "statement_descriptor": str,
    },
)
def create_payout(scope: Scope, params: Params) -> Obj:
    """Pay out part of the available balance."""
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return payouts.build(scope, fields)


@endpoint("GET", "/v1/payouts/{}")
def retrieve_payout(scope: Scope, _params: Params, payout_id: str) -> Obj:
    """Return a payout."""
    return scope.get("payout", payout_id)


@endpoint("POST", "/v1/payouts/{}", {"metadata": METADATA})
def update_payout(scope: Scope, params: Params, payout_id: str) -> Obj:
    """Change a payout's metadata."""
    payout = scope.get("payout", payout_id)
    payout["metadata"] = merge_metadata(payout["metadata"], params.get("metadata", {}))
    scope.save(payout)
    emit(scope, "payout.updated", payout)
    return payout


@endpoint("POST", "/v1/payouts/{}/cancel")
def cancel_payout(scope: Scope, _params: Params, payout_id: str) -> Obj:
    """Cancel a pending payout."""
    return payouts.cancel(scope, scope.get("payout", payout_id))


@endpoint(
    "GET",
    "/v1/payouts",
    {
        **LIST_PARAMS,
        "arrival_date": CREATED,
        "created": CREATED,
        "status": ("canceled", "failed", "in_transit", "paid", "pending"),
    },
)
def list_payouts(scope: Scope, params: Params) -> Obj:
    """List payouts."""
    found = scope.all("payout", status=params.get("status"))
    return page(scope, found, params, "/v1/payouts")


@endpoint("GET", "/v1/disputes/{}")
def retrieve_dispute(scope: Scope, _params: Params, dispute_id: str) -> Obj:
    """Return a dispute."""
    return scope.get("dispute", dispute_id)


@endpoint(
    "POST",
    "/v1/disputes/{}",
    {
        "evidence": dict.fromkeys(disputes.EVIDENCE, str),
        "metadata": METADATA,
        "submit": bool,
    },
)
def update_dispute(scope: Scope, params: Params, dispute_id: str) -> Obj:
    """Add evidence to a dispute and submit it."""
    dispute = scope.get("dispute", dispute_id)
    dispute["metadata"] = merge_metadata(dispute["metadata"], params.get("metadata", {}))
    return disputes.update(scope, dispute, params)


@endpoint("POST", "/v1/disputes/{}/close")
def close_dispute(scope: Scope, _params: Params, dispute_id: str) -> Obj:
    """Give a dispute up: it is lost."""
    return disputes.close(scope, scope.get("dispute", dispute_id), won=False)


@endpoint(
    "GET",
    "/v1/disputes",
    {**LIST_PARAMS, "charge": str, "created": CREATED, "payment_intent": str},
)
def list_disputes(scope: Scope, params: Params) -> Obj:
    """List disputes."""
    names = ("charge", "payment_intent")
    found = scope.all("dispute", **{name: params.get(name) for name in names})
    return page(scope, found, params, "/v1/disputes")
