"""Connect: how an account lets a platform act for it, and how it stops."""

from typing import Any
from urllib.parse import urlencode

from services.stripe_sim import accounts
from services.stripe_sim.errors import ApiError, invalid
from services.stripe_sim.events import emit
from services.stripe_sim.sandbox import Sandbox, Scope
from services.stripe_sim.store import Obj

CODE_VALID_SECONDS = 300
LINK_VALID_SECONDS = 300

CODE, LINK = "oauth_code", "account_link"
"""Kinds of the objects the sandbox keeps for itself on the platform's account."""


class OAuthError(Exception):
    """A refusal in OAuth's form: `error` and `error_description`."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(description)
        self.code = code
        self.status = status

    def body(self) -> dict[str, str]:
        """Return the JSON body."""
        return {"error": self.code, "error_description": str(self)}


def check_authorize(sandbox: Sandbox, query: dict[str, str]) -> str:
    """Check the parameters of an authorization request and return its redirect address.

    Raises:
        OAuthError: unknown client, wrong response type or no address to go back to.
    """
    if query.get("client_id") != sandbox.settings.client_id:
        raise OAuthError(
            "invalid_client",
            f"No application matches the supplied client "
            f"identifier: {query.get('client_id', '')[:80]}",
        )
    if query.get("response_type") != "code":
        raise OAuthError("unsupported_response_type", "response_type must be code")
    if query.get("scope", "read_only") not in ("read_only", "read_write"):
        raise OAuthError("invalid_scope", "scope must be read_only or read_write")
    redirect = query.get("redirect_uri", "")
    if not redirect.startswith(("http://", "https://")):
        raise OAuthError("invalid_redirect_uri", "redirect_uri is missing or no http address")
    return redirect


def grant(sandbox: Sandbox, account_id: str, query: dict[str, str]) -> str:
    """Record that an account's owner agreed; return the address to send the browser to."""
    platform = sandbox.scope(sandbox.platform)
    code = platform.new_id("ac_", 32)
    platform.save(
        {
            "id": code,
            "object": CODE,
            "created": platform.wall_now(),
            "account": account_id,
            "scope": query.get("scope", "read_only"),
            "used": False,
        }
    )
    answer = {"scope": query.get("scope", "read_only"), "code": code}
    return _back(query, answer)


def deny(query: dict[str, str]) -> str:
    """Return the address to send the browser to after a refusal."""
    return _back(
        query, {"error": "access_denied", "error_description": "The user denied your request"}
    )


def _back(query: dict[str, str], answer: dict[str, str]) -> str:
    redirect = query["redirect_uri"]
    if query.get("state"):
        answer["state"] = query["state"]
    return f"{redirect}{'&' if '?' in redirect else '?'}{urlencode(answer)}"


def exchange(sandbox: Sandbox, code: str) -> dict[str, Any]:
    """Turn a code into access to its account; a code is good once, for five minutes.

    Raises:
        OAuthError: the code is unknown, used or too old.
    """
    platform = sandbox.scope(sandbox.platform)
    entry = platform.find(CODE, code)
    if entry is None:
        raise OAuthError("invalid_grant", f"Authorization code does not exist: {code[:80]}")
    if entry["used"] or entry["created"] + CODE_VALID_SECONDS < platform.wall_now():
        raise OAuthError(
            "invalid_grant", "This authorization code has already been used or has expired."
        )
    entry["used"] = True
    platform.save(entry)
    account_id, permission = entry["account"], entry["scope"]
    authorize(sandbox, account_id, permission)
    account = sandbox.scope(account_id).own_account
    token = accounts.add_key(sandbox, account, accounts.SECRET)
    publishable = accounts.add_key(sandbox, account, accounts.PUBLISHABLE)
    return {
        "access_token": token,
        "livemode": False,
        "refresh_token": platform.new_id("rt_", 40),
        "token_type": "bearer",
        "stripe_publishable_key": publishable,
        "stripe_user_id": account_id,
        "scope": permission,
    }


def authorize(sandbox: Sandbox, account_id: str, permission: str = "read_write") -> None:
    """Connect an account to the platform."""
    scope = sandbox.scope(account_id)
    accounts.connect_to(scope, sandbox.platform, permission)
    emit(scope, "account.application.authorized", _application(sandbox))


def deauthorize(sandbox: Sandbox, account_id: str) -> None:
    """Disconnect an account from the platform; the platform hears of it a last time.

    Raises:
        OAuthError: it is not connected.
    """
    account = sandbox.store.get(account_id, "account", account_id)
    if account is None or sandbox.platform not in account["_sim"]["platforms"]:
        raise OAuthError(
            "invalid_client",
            f"This application is not connected to stripe account {account_id[:80]}, or that "
            "account does not exist.",
            401,
        )
    scope = sandbox.scope(account_id)
    emit(scope, "account.application.deauthorized", _application(sandbox))
    accounts.disconnect_from(scope, sandbox.platform)


def _application(sandbox: Sandbox) -> Obj:
    return {
        "id": sandbox.settings.client_id,
        "object": "application",
        "name": sandbox.scope(sandbox.platform).own_account["settings"]["dashboard"][
            "display_name"
        ],
    }


def create_account(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create an account connected to the caller, which still has to be onboarded.

    Raises:
        ApiError: the type is none that is simulated.
    """
    kind = fields.get("type") or "standard"
    if kind == "custom":
        raise invalid("The sandbox has no custom accounts: use standard or express.", "type")
    account_id = scope.new_id("acct_1", 15)
    profile = fields.get("business_profile") or {}
    account = accounts.build(
        scope.sandbox,
        account_id,
        {
            **{
                name: fields.get(name)
                for name in ("business_type", "country", "default_currency", "email", "metadata")
            },
            "name": profile.get("name"),
            "charges_enabled": False,
            "type": kind,
            "controller": {
                "fees": {"payer": "account"},
                "is_controller": True,
                "losses": {"payments": "stripe"},
                "requirement_collection": "stripe",
                "stripe_dashboard": {"type": "express" if kind == "express" else "full"},
                "type": "application",
            },
        },
    )
    own = scope.sandbox.scope(account_id)
    accounts.connect_to(own, scope.account)
    emit(own, "account.application.authorized", _application(scope.sandbox))
    return account


def create_link(scope: Scope, fields: dict[str, Any]) -> Obj:
    """Create the address at which an account is onboarded; good once, for five minutes."""
    now = scope.wall_now()
    link_id = scope.new_id("acctlink_", 24)
    scope.save(
        {
            "id": link_id,
            "object": LINK,
            "created": now,
            "account": fields["account"],
            "refresh_url": fields["refresh_url"],
            "return_url": fields["return_url"],
            "used": False,
        }
    )
    url = f"{scope.sandbox.settings.public_url}/connect/onboarding/{link_id}"
    return {
        "object": "account_link",
        "created": now,
        "expires_at": now + LINK_VALID_SECONDS,
        "url": url,
    }


def link_is_good(scope: Scope, link: Obj) -> bool:
    """Say whether an onboarding address may still be used."""
    return not link["used"] and link["created"] + LINK_VALID_SECONDS >= scope.wall_now()


def set_ready(scope: Scope, *, ready: bool) -> Obj:
    """Complete an account's onboarding, or let a requirement fall due; tells the platform."""
    account = scope.own_account
    previous = {
        name: account[name] for name in ("charges_enabled", "payouts_enabled", "details_submitted")
    }
    account |= {
        "charges_enabled": ready,
        "payouts_enabled": ready,
        "details_submitted": ready or account["details_submitted"],
        "requirements": accounts.requirements(ready),
        "capabilities": dict.fromkeys(account["capabilities"], "active" if ready else "inactive"),
    }
    if ready:
        account["tos_acceptance"] = {"date": scope.wall_now()}
    scope.save(account)
    emit(scope, "account.updated", account, previous)
    return account


def require_chargeable(scope: Scope) -> None:
    """Refuse charges on an account that has not finished its onboarding.

    Raises:
        ApiError: it cannot take charges.
    """
    if not scope.own_account["charges_enabled"]:
        raise ApiError(
            400,
            "Your account cannot currently make charges. Complete the onboarding of the account "
            "first.",
            code="account_invalid",
        )
