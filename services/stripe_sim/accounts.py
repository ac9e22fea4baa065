"""Accounts and their keys."""

from typing import Any

from services.stripe_sim.sandbox import Key, Sandbox, Scope
from services.stripe_sim.store import Obj

SECRET, PUBLISHABLE, RESTRICTED = "secret", "publishable", "restricted"
_PREFIX = {SECRET: "sk_test_", PUBLISHABLE: "pk_test_", RESTRICTED: "rk_test_"}


def build(sandbox: Sandbox, account_id: str, fields: dict[str, Any]) -> Obj:
    """Create an account of its own, ready to charge unless the fields say otherwise."""
    ready = fields.get("charges_enabled", True)
    email = fields.get("email")
    name = fields.get("name") or "Sandbox account"
    account: Obj = {
        "id": account_id,
        "object": "account",
        "business_profile": {
            "mcc": None,
            "name": name,
            "product_description": None,
            "support_address": None,
            "support_email": None,
            "support_phone": None,
            "support_url": None,
            "url": None,
        },
        "business_type": fields.get("business_type"),
        "capabilities": {
            "card_payments": "active" if ready else "inactive",
            "transfers": "active" if ready else "inactive",
        },
        "charges_enabled": ready,
        "controller": fields.get("controller") or {"type": "account"},
        "country": fields.get("country") or "US",
        "created": sandbox.wall_now(),
        "default_currency": fields.get("default_currency") or "usd",
        "details_submitted": ready,
        "email": email,
        "external_accounts": {
            "object": "list",
            "data": [],
            "has_more": False,
            "url": f"/v1/accounts/{account_id}/external_accounts",
        },
        "metadata": fields.get("metadata") or {},
        "payouts_enabled": ready,
        "requirements": requirements(ready),
        "settings": _settings(name),
        "tos_acceptance": {"date": sandbox.wall_now() if ready else None},
        "type": fields.get("type") or "standard",
        "_sim": {"keys": [], "platforms": {}, "after_retries": "cancel"},
    }
    sandbox.store.save(account_id, account)
    return account


def requirements(ready: bool) -> dict[str, Any]:
    """Return the requirements hash: nothing due, or what onboarding asks for."""
    due = [] if ready else ["business_profile.url", "external_account", "tos_acceptance.date"]
    return {
        "alternatives": [],
        "current_deadline": None,
        "currently_due": due,
        "disabled_reason": None if ready else "requirements.past_due",
        "errors": [],
        "eventually_due": due,
        "past_due": due,
        "pending_verification": [],
    }


def _settings(name: str) -> dict[str, Any]:
    return {
        "branding": {"icon": None, "logo": None, "primary_color": None, "secondary_color": None},
        "card_payments": {
            "statement_descriptor_prefix": None,
            "statement_descriptor_prefix_kana": None,
            "statement_descriptor_prefix_kanji": None,
        },
        "dashboard": {"display_name": name, "timezone": "Etc/UTC"},
        "payments": {
            "statement_descriptor": name.upper()[:22],
            "statement_descriptor_kana": None,
            "statement_descriptor_kanji": None,
        },
        "payouts": {
            "debit_negative_balances": True,
            "schedule": {"delay_days": 2, "interval": "daily"},
            "statement_descriptor": None,
        },
    }


def add_key(
    sandbox: Sandbox,
    account: Obj,
    kind: str,
    key: str | None = None,
    permissions: list[str] | None = None,
) -> str:
    """Give an account a key of this kind and return it.

    `permissions` limits a restricted key, such as `customers:read`; None: everything.

    Raises:
        ValueError: the key is taken or does not look like a test key of its kind.
    """
    key = key or sandbox.new_id(_PREFIX[kind] + account["id"][5:13], 40)
    if not key.startswith(_PREFIX[kind]) or not key.isascii() or not 12 <= len(key) <= 255:
        raise ValueError(f"a {kind} key begins with {_PREFIX[kind]} and has 12 to 255 characters")
    if key in sandbox.keys:
        raise ValueError("this key belongs to an account already")
    account["_sim"]["keys"].append(
        {"key": key, "kind": kind, "revoked": False, "permissions": permissions}
    )
    sandbox.store.save(account["id"], account)
    index_keys(sandbox)
    return key


def revoke_key(sandbox: Sandbox, key: str) -> bool:
    """Make a key worthless; return whether it was worth anything.

    Raises:
        ValueError: no account has this key.
    """
    for account_id, account in sandbox.store.everywhere("account"):
        for entry in account["_sim"]["keys"]:
            if entry["key"] == key:
                worked = not entry["revoked"]
                entry["revoked"] = True
                sandbox.store.save(account_id, account)
                index_keys(sandbox)
                return worked
    raise ValueError("no account has this key")


def index_keys(sandbox: Sandbox) -> None:
    """Rebuild the look-up of keys from the accounts."""
    sandbox.keys = {
        entry["key"]: Key(
            account_id, "revoked" if entry["revoked"] else entry["kind"], entry["permissions"]
        )
        for account_id, account in sandbox.store.everywhere("account")
        for entry in account["_sim"]["keys"]
    }


def ensure_platform(sandbox: Sandbox) -> Obj:
    """Create the platform's account with its key and its webhook endpoints, where absent."""
    scope = sandbox.scope(sandbox.platform)
    account = scope.find("account", sandbox.platform)
    if account is None:
        account = build(sandbox, sandbox.platform, {"name": "Sandbox platform"})
    index_keys(sandbox)
    if sandbox.settings.secret_key not in sandbox.keys:
        add_key(sandbox, account, SECRET, sandbox.settings.secret_key)
        add_key(sandbox, account, PUBLISHABLE, "pk_test_" + account["id"][5:] + "platform")
    _ensure_endpoint(scope, "we_platform_self", sandbox.settings.webhook_secret, connect=False)
    _ensure_endpoint(
        scope, "we_platform_connect", sandbox.settings.connect_webhook_secret, connect=True
    )
    sandbox.store.commit()
    return account


def _ensure_endpoint(scope: Scope, endpoint_id: str, secret: str, *, connect: bool) -> None:
    """Keep the endpoint the environment describes in step with it."""
    url = scope.sandbox.settings.webhook_url
    endpoint = scope.find("webhook_endpoint", endpoint_id)
    if url is None:
        if endpoint is not None:
            scope.sandbox.store.remove(scope.account, endpoint)
        return
    if endpoint is None:
        endpoint = build_endpoint(scope, endpoint_id, url, ["*"], connect=connect)
    endpoint["url"] = url
    if all(entry["secret"] != secret for entry in endpoint["_sim"]["secrets"]):
        endpoint["_sim"]["secrets"] = [{"secret": secret, "expires_at": None}]
    scope.save(endpoint)


def build_endpoint(
    scope: Scope, endpoint_id: str, url: str, enabled_events: list[str], *, connect: bool
) -> Obj:
    """Create a webhook endpoint without a secret yet."""
    return scope.save(
        {
            "id": endpoint_id,
            "object": "webhook_endpoint",
            "api_version": None,
            "application": None,
            "created": scope.wall_now(),
            "description": None,
            "enabled_events": enabled_events,
            "livemode": False,
            "metadata": {},
            "status": "enabled",
            "url": url,
            "_sim": {"secrets": [], "connect": connect},
        }
    )


def roll_secret(scope: Scope, endpoint: Obj, secret: str, seconds: int) -> None:
    """Give an endpoint a new secret; the old ones sign too until they expire."""
    expires_at = scope.wall_now() + seconds
    old = [
        {**entry, "expires_at": min(entry["expires_at"] or expires_at, expires_at)}
        for entry in endpoint["_sim"]["secrets"]
    ]
    endpoint["_sim"]["secrets"] = [{"secret": secret, "expires_at": None}, *old]
    scope.save(endpoint)


def connect_to(scope: Scope, platform: str, permission: str = "read_write") -> None:
    """Let a platform act for this account."""
    account = scope.own_account
    account["_sim"]["platforms"][platform] = permission
    scope.save(account)


def disconnect_from(scope: Scope, platform: str) -> bool:
    """Withdraw a platform's access; return whether it had any."""
    account = scope.own_account
    had = account["_sim"]["platforms"].pop(platform, None) is not None
    scope.save(account)
    return had
