"""The part of the public API that the pages behind Settings use, in the small program's place.

It keeps what it was told, answers what the services answer, and refuses where it is told to.
"""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse

from tests.services.console.settings_bodies import (
    BEGIN,
    CHANGE,
    DESCRIBED,
    FAR,
    FEES,
    INVITED,
    KEY,
    LATER,
    LINK,
    MEMBERS,
    REFUSAL,
    SECRET,
    SESSION,
    TEAM,
    TEAM_BODY,
    USER,
    WEBHOOK_URL,
    api_key,
    billing_config,
    configuration,
    health,
    own_session,
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
