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


class SettingsApi:
    """What it was told, in order: method, path, body, headers."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, Any, dict[str, str]]] = []
        self.chain_broken = False

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


def _problem(status: int, detail: str, code: str) -> JSONResponse:
    body = {"title": "Refused", "status": status, "code": code, "detail": detail}
    return JSONResponse(body, status, media_type="application/problem+json")
