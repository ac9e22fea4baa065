"""The part of the public API that the pages behind Settings use, in the small program's place.

It keeps what it was told, answers what the services answer, and refuses where it is told to.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

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


class SettingsApi:
    """What it was told, in order: method, path, body, headers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any, dict[str, str]]] = []
        self.chain_broken = False
        self.health = health()
        self.stripe_url = "https://connect.stripe.com/oauth/authorize?state=x"
        self.config: dict[str, Any] | None = billing_config()
        self.live = False

    def last(self) -> tuple[str, str, Any]:
        """The last change asked for."""
        method, path, body, _ = self.told[-1]
        return method, path, body

    async def _note(self, request: Request) -> Any:
        raw = await request.body()
        body = await request.json() if raw else None
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        self.told.append((request.method, path, body, dict(request.headers)))
        return body

    def add_to(self, app: FastAPI) -> None:
        """Answer on `app`."""
        self._keys(app)
        self._members(app)
        self._teams(app)
        self._audit(app)
        self._account(app)
        self._stripe(app)
        self._configuration(app)

    def _changes(self, app: FastAPI, path: str, *methods: str) -> None:
        """Changes that succeed and answer nothing that a page reads."""

        async def change(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse({})

        app.add_api_route(path, change, methods=list(methods))

    def _keys(self, app: FastAPI) -> None:
        @app.get("/api/v1/api-keys")
        async def keys() -> JSONResponse:
            old = api_key(id="key_2", name="Old", revoked_at=LATER, revoke_reason="leaked")
            ending = api_key(id="key_3", name="Ending", expires_at=FAR, replaced_by=KEY)
            return JSONResponse({"items": [api_key(), old, ending], "next_cursor": None})

        @app.post("/api/v1/api-keys")
        @app.post("/api/v1/api-keys/{key}/rotate")
        async def make(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(api_key(key=SECRET), 201)

        self._changes(app, "/api/v1/api-keys/{key}", "DELETE")

    def _members(self, app: FastAPI) -> None:
        @app.get("/api/v1/members")
        async def members() -> JSONResponse:
            return JSONResponse({"items": MEMBERS, "next_cursor": None})

        self._changes(app, "/api/v1/members/{user}", "PATCH", "DELETE")
        self._changes(app, "/api/v1/invitations/{invitation}", "DELETE")

        @app.get("/api/v1/invitations")
        async def invitations() -> JSONResponse:
            return JSONResponse({"items": [INVITED], "next_cursor": None})

        @app.post("/api/v1/invitations")
        async def invite(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse(INVITED | {"url": LINK}, 201)

        @app.post("/api/v1/invitations/accept")
        async def accept(request: Request) -> JSONResponse:
            body = await self._note(request)
            if body["token"] != "good":
                return _problem(404, "This invitation is not valid.", "invitation_not_valid")
            if body["password"] is None and "me" not in request.headers.get("cookie", ""):
                return _problem(401, "Sign in to it first.", "sign_in_required")
            answer = JSONResponse({}, 201)
            answer.set_cookie("sluice_session", "me", httponly=True, samesite="lax")
            return answer

    def _teams(self, app: FastAPI) -> None:
        @app.get("/api/v1/teams")
        async def teams() -> JSONResponse:
            return JSONResponse({"items": [TEAM_BODY], "next_cursor": None})

        @app.get(f"/api/v1/teams/{TEAM}")
        async def team() -> JSONResponse:
            return JSONResponse(TEAM_BODY)

        @app.get(f"/api/v1/teams/{TEAM}/members")
        async def team_members() -> JSONResponse:
            return JSONResponse({"items": MEMBERS[:1], "next_cursor": None})

        self._changes(app, "/api/v1/teams", "POST")
        self._changes(app, "/api/v1/teams/{team}", "PATCH", "DELETE")
        self._changes(app, "/api/v1/teams/{team}/members/{user}", "PUT", "DELETE")

    def _audit(self, app: FastAPI) -> None:
        @app.get("/api/v1/audit-log")
        async def entries(request: Request) -> JSONResponse:
            await self._note(request)
            if "nothing" in request.url.query:
                return JSONResponse({"items": [], "next_cursor": None})
            return JSONResponse({"items": [REFUSAL, CHANGE], "next_cursor": "further"})

        @app.get("/api/v1/audit-log/export")
        async def export(request: Request) -> PlainTextResponse:
            await self._note(request)
            headers = {"Content-Disposition": 'attachment; filename="audit-log-acme.csv"'}
            return PlainTextResponse(
                "seq,action\r\n41,x\r\n", headers=headers, media_type="text/csv"
            )

        @app.get("/api/v1/audit-log/verification")
        async def verification(request: Request) -> JSONResponse:
            await self._note(request)
            body = {"holds": True, "complete": True, "last_seq": 42, "signed_seq": 40}
            if self.chain_broken:
                body |= {"holds": False, "first_broken_seq": 17, "reason": "the hash differs"}
            return JSONResponse(body)

    def _account(self, app: FastAPI) -> None:
        @app.get("/api/v1/sessions")
        async def sessions() -> JSONResponse:
            items = [own_session("ses_here", current=True), own_session(SESSION, current=False)]
            return JSONResponse({"items": items, "next_cursor": None})

        @app.put("/api/v1/session/password")
        async def password(request: Request) -> JSONResponse:
            body = await self._note(request)
            if body["old_password"] != "old":
                return _problem(401, "The old password is wrong.", "wrong_password")
            return JSONResponse(None)

        self._changes(app, "/api/v1/sessions", "DELETE")
        self._changes(app, "/api/v1/sessions/{session}", "DELETE")

    def _stripe(self, app: FastAPI) -> None:
        @app.get("/api/v1/billing/config")
        async def config() -> JSONResponse:
            if self.config is None:
                return _problem(404, "No Stripe account of its own yet.", "not_found")
            return JSONResponse(self.config)

        @app.post("/api/v1/billing/config")
        async def keep(request: Request) -> JSONResponse:
            body = await self._note(request)
            if body.get("stripe_secret_key", "").startswith("pk_"):
                return _problem(400, "Give the secret key.", "stripe_key_publishable")
            webhook = billing_config()["webhook"] | {"url": WEBHOOK_URL}
            return JSONResponse(billing_config(webhook=webhook), 201)

        @app.get("/api/v1/connect/health")
        async def connection_health() -> JSONResponse:
            return JSONResponse(self.health)

        @app.post("/api/v1/connect/start")
        async def start(request: Request) -> JSONResponse:
            await self._note(request)
            return JSONResponse({"url": self.stripe_url})

        self._changes(app, "/api/v1/billing/config", "PATCH")
        self._changes(app, "/api/v1/connect/disconnect", "POST")

    def _configuration(self, app: FastAPI) -> None:
        base = "/api/v1/tenants/acme/config"

        @app.get(base)
        async def every() -> JSONResponse:
            return JSONResponse({"items": [DESCRIBED, FEES]})

        @app.get(f"{base}/billing")
        async def billing() -> JSONResponse:
            return JSONResponse(configuration(), headers={"ETag": '"3"'})

        @app.get(f"{base}/custom.shop")
        async def custom() -> JSONResponse:
            empty = {"values": {}, "effective": {}, "version": 0}
            return JSONResponse(configuration(namespace="custom.shop", **empty))

        @app.get(f"{base}/fees")
        async def fees() -> JSONResponse:
            return JSONResponse(FEES)

        async def versions() -> JSONResponse:
            item = {"version": 2, "values": {"a": 1.5}, "changed_by": USER, "changed_at": BEGIN}
            return JSONResponse({"items": [item], "next_cursor": None})

        app.add_api_route(base + "/{namespace}/versions", versions)

        async def put(request: Request) -> JSONResponse:
            await self._note(request)
            if request.headers["if-match"] != '"3"':
                return _problem(412, "Somebody changed this.", "precondition_failed")
            return JSONResponse(configuration())

        app.add_api_route(base + "/{namespace}", put, methods=["PUT"])

        @app.get("/api/v1/tenants/acme/live")
        async def checklist() -> JSONResponse:
            items = [
                {"key": "charges_enabled", "done": True, "waived": None, "to_do": None},
                {"key": "plan_chosen", "done": False, "waived": None, "to_do": "Choose a plan."},
                {"key": "tax_region_set", "done": False, "waived": None, "to_do": "Set it."},
            ]
            since = LATER if self.live else None
            body = {"live": self.live, "live_since": since, "ready": False, "items": items}
            return JSONResponse(body)

        self._changes(app, "/api/v1/tenants/acme/live", "POST")
        self._changes(app, "/api/v1/tenants/{tenant}", "PUT")


def _problem(status: int, detail: str, code: str) -> JSONResponse:
    body = {"title": "Refused", "status": status, "code": code, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")
