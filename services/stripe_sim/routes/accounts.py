"""/v1/account, /v1/accounts, /v1/account_links."""

from services.stripe_sim import connect
from services.stripe_sim.errors import invalid, no_access
from services.stripe_sim.events import emit
from services.stripe_sim.params import (
    ANY,
    CREATED,
    LIST_PARAMS,
    METADATA,
    Required,
    Schema,
    merge_metadata,
)
from services.stripe_sim.routing import Obj, Params, Scope, endpoint

_WRITE: Schema = {
    "business_profile": {
        "mcc": str,
        "name": str,
        "product_description": str,
        "support_email": str,
        "support_phone": str,
        "support_url": str,
        "url": str,
    },
    "business_type": ("company", "government_entity", "individual", "non_profit"),
    "capabilities": ANY,
    "default_currency": str,
    "email": str,
    "metadata": METADATA,
    "settings": ANY,
}


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


@endpoint(
    "POST",
    "/v1/accounts",
    {
        **_WRITE,
        "controller": ANY,
        "country": str,
        "type": ("custom", "express", "standard"),
    },
)
def create_account(scope: Scope, params: Params) -> Obj:
    """Create an account connected to the caller's platform."""
    fields = {**params, "metadata": merge_metadata({}, params.get("metadata", {}))}
    return connect.create_account(scope, fields)


@endpoint("GET", "/v1/accounts/{}")
def retrieve_account(scope: Scope, _params: Params, account_id: str) -> Obj:
    """Return the caller's own account or a connected one."""
    return connected(scope, account_id)


@endpoint("POST", "/v1/accounts/{}", _WRITE)
def update_account(scope: Scope, params: Params, account_id: str) -> Obj:
    """Change an account's particulars."""
    account = connected(scope, account_id)
    own = scope.sandbox.scope(account_id)
    for name in ("business_type", "default_currency", "email"):
        if name in params:
            account[name] = params[name]
    account["business_profile"] |= params.get("business_profile") or {}
    account["metadata"] = merge_metadata(account["metadata"], params.get("metadata", {}))
    own.save(account)
    emit(own, "account.updated", account)
    return account


@endpoint("GET", "/v1/accounts", {**LIST_PARAMS, "created": CREATED})
def list_accounts(scope: Scope, params: Params) -> Obj:
    """List the accounts connected to the caller's platform, newest first."""
    found = [
        account
        for _, account in scope.sandbox.store.everywhere("account")
        if scope.account in account["_sim"]["platforms"]
    ][::-1]
    ids = [account["id"] for account in found]
    after = params.get("starting_after")
    start = ids.index(after) + 1 if after in ids else 0
    limit = params.get("limit") or 10
    return {
        "object": "list",
        "data": found[start : start + limit],
        "has_more": start + limit < len(found),
        "url": "/v1/accounts",
    }


@endpoint(
    "POST",
    "/v1/account_links",
    {
        "account": Required(str),
        "collect": ("currently_due", "eventually_due"),
        "collection_options": ANY,
        "refresh_url": Required(str),
        "return_url": Required(str),
        "type": Required(("account_onboarding", "account_update")),
    },
)
def create_account_link(scope: Scope, params: Params) -> Obj:
    """Create the address at which an account is onboarded."""
    connected(scope, params["account"])
    for name in ("refresh_url", "return_url"):
        if not params[name].startswith(("http://", "https://")):
            raise invalid("Not a valid URL", name, "url_invalid")
    return connect.create_link(scope, params)
