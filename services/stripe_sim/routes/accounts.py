"""/v1/account and /v1/accounts."""

from services.stripe_sim.errors import no_access
from services.stripe_sim.params import LIST_PARAMS
from services.stripe_sim.render import page
from services.stripe_sim.routing import Obj, Params, Scope, endpoint


@endpoint("GET", "/v1/account")
def retrieve_own_account(scope: Scope, _params: Params) -> Obj:
    """Return the account the key (or the Stripe-Account header) speaks for."""
    return scope.own_account


def connected(scope: Scope, account_id: str) -> Obj:
    """Return an account the caller may see: its own, or one connected to it.

    Raises:
        ApiError: it is neither.
    """
    account = scope.sandbox.store.get(account_id, "account", account_id)
    allowed = account is not None and (
        account_id == scope.account or scope.account in account["_sim"]["platforms"]
    )
    if account is None or not allowed:
        raise no_access("sk_test_", account_id)
    return account


@endpoint("GET", "/v1/accounts/{}")
def retrieve_account(scope: Scope, _params: Params, account_id: str) -> Obj:
    """Return the caller's own account or a connected one."""
    return connected(scope, account_id)


@endpoint("GET", "/v1/accounts", LIST_PARAMS)
def list_accounts(scope: Scope, params: Params) -> Obj:
    """List the accounts connected to the caller's platform."""
    found = [
        account
        for _, account in scope.sandbox.store.everywhere("account")
        if scope.account in account["_sim"]["platforms"]
    ]
    limit = params.get("limit") or 10
    return {
        **page(scope, [], {}, "/v1/accounts"),
        "data": found[::-1][:limit],
        "has_more": len(found) > limit,
    }
