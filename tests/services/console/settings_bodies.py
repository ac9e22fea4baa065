"""Answers of the API that the pages behind Settings read, with values to look for."""

from typing import Any

BEGIN = "2026-02-01T00:00:00Z"
LATER = "2026-03-01T12:30:00Z"
FAR = "2099-01-01T00:00:00Z"
KEY = "key_0192f0c1-0000-7000-8000-0000000000a1"
USER = "usr_0192f0c1-0000-7000-8000-0000000000b1"
OTHER_USER = "usr_0192f0c1-0000-7000-8000-0000000000b2"
TEAM = "team_0192f0c1-0000-7000-8000-0000000000c1"
INVITATION = "invn_0192f0c1-0000-7000-8000-0000000000d1"
SECRET = "slk_test_only_shown_once"
LINK = "http://127.0.0.1:8080/invitation?token=only-shown-once"
WEBHOOK_URL = "http://127.0.0.1:8080/api/webhooks/stripe/only-shown-once"
HOSTILE = "<img src=x onerror=alert(1)>"


def api_key(**changes: Any) -> dict[str, Any]:
    """A key in use."""
    return {
        "id": KEY,
        "tenant_id": "0192f0c1-0000-7000-8000-000000000001",
        "name": f"Shop {HOSTILE}",
        "prefix": "slk_test_abcd",
        "mode": "test",
        "scopes": ["usage:write", "billing:read"],
        "expires_at": None,
        "revoked_at": None,
        "revoke_reason": None,
        "replaces": None,
        "replaced_by": None,
        "last_used_at": LATER,
        "created_by": USER,
        "created_at": BEGIN,
    } | changes


def member(user: str, email: str, role: str) -> dict[str, Any]:
    """A member."""
    return {
        "user": user,
        "email": email,
        "name": None,
        "role": role,
        "permissions": ["usage:write"] if role == "member" else [],
        "all_permissions": [],
        "created_at": BEGIN,
    }


MEMBERS = [member(USER, "owner@acme.example", "owner"), member(OTHER_USER, "m@b.example", "member")]

INVITED = {
    "id": INVITATION,
    "email": "new@acme.example",
    "role": "admin",
    "permissions": [],
    "created_by": USER,
    "created_at": BEGIN,
    "expires_at": FAR,
}

TEAM_BODY = {
    "id": TEAM,
    "name": "Night shift",
    "everyone": False,
    "members": 1,
    "created_by": USER,
    "created_at": BEGIN,
}

CHANGE = {
    "id": "aud_1",
    "seq": 41,
    "occurred_at": LATER,
    "kind": "configuration",
    "action": "member.changed",
    "actor": USER,
    "object_id": OTHER_USER,
    "service": "tenants",
    "mode": None,
    "data": {
        "before": {"role": "member"},
        "after": {"role": "admin", "note": HOSTILE},
        "remote_address": "203.0.113.9",
    },
    "previous_hash": "0" * 64,
    "hash": "1" * 64,
}

REFUSAL = CHANGE | {
    "id": "aud_2",
    "seq": 42,
    "kind": "security",
    "action": "permission_denied",
    "object_id": None,
    "data": {
        "severity": "warning",
        "method": "GET",
        "path": "/api/v1/api-keys",
        "permission": "members:manage",
        "role": "member",
        "remote_address": None,
    },
}


SESSION = "ses_0192f0c1-0000-7000-8000-0000000000e1"


def own_session(session: str, *, current: bool) -> dict[str, Any]:
    """A session of the person's own."""
    return {
        "id": session,
        "current": current,
        "created_at": BEGIN,
        "last_used_at": LATER,
        "expires_at": FAR,
        "remote_address": "203.0.113.9",
    }


def version(number: int, **changes: Any) -> dict[str, Any]:
    """A version of a secret."""
    return {
        "version": number,
        "last4": f"900{number}",
        "fingerprint": "ab" * 32,
        "state": "current",
        "valid_until": None,
        "created_at": BEGIN,
        "last_used_at": LATER,
    } | changes


def billing_config(**changes: Any) -> dict[str, Any]:
    """A tenant's own keys, the second ones."""
    previous = version(1, state="previous", valid_until=FAR, dead_at=None, advice="Revoke it now.")
    return {
        "id": "con_1",
        "mode": "test",
        "kind": "RAW_KEYS",
        "status": "CONNECTED",
        "is_active": True,
        "stripe_account_id": "acct_sim_9",
        "stripe_publishable_key": "pk_test_public",
        "limited": False,
        "secret_key": version(2, valid=True, failure=None, checked_at=LATER),
        "previous": previous,
        "webhook": {
            "status": "registered",
            "url": None,
            "failure": None,
            "secret": version(2),
            "previous": None,
            "last_received_at": None,
        },
        "warnings": [f"Whoever holds that key can charge. {HOSTILE}"],
        "created_at": BEGIN,
        "updated_at": LATER,
    } | changes


def health(**changes: Any) -> dict[str, Any]:
    """A connection that Stripe wants to know more of."""
    return {
        "mode": "test",
        "connected": True,
        "status": "CONNECTED",
        "kind": "RAW_KEYS",
        "is_active": True,
        "stripe_account_id": "acct_sim_9",
        "charges_enabled": True,
        "payouts_enabled": False,
        "requirements_due": ["individual.id_number"],
        "disabled_reason": None,
        "key_valid": True,
        "last_webhook_at": LATER,
        "checked_at": LATER,
        "problems": ["The account is not paid out."],
    } | changes


NOT_CONNECTED = health(
    status="NOT_CONNECTED", connected=False, kind=None, is_active=False, stripe_account_id=None
)


def configuration(**changes: Any) -> dict[str, Any]:
    """A namespace that the tenant has set something in."""
    return {
        "namespace": "billing",
        "version": 3,
        "values": {"net_terms_days": 14, "invoice_footer": HOSTILE},
        "effective": {"net_terms_days": 14, "invoice_footer": HOSTILE, "draft_grace_hours": 1},
        "operator_only": False,
        "changed_by": USER,
        "changed_at": LATER,
    } | changes


SCHEMA = {"properties": {"net_terms_days": {"description": "From an invoice's date on."}}}
DESCRIBED = configuration(description="How customers are billed.\n\nMore.", json_schema=SCHEMA)
FEES = configuration(
    namespace="fees", version=0, operator_only=True, description="Fees.", json_schema=None
)
