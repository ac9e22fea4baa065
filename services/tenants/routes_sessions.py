"""`/api/v1/session`: signing in and out, and the assertions the console works with.

Only these routes read the cookie. A browser sends it along by itself, so each of them that trusts it
also wants the header `Origin` to be ours (requirement T5; OWASP's guide to CSRF, "verifying origin").
"""

from datetime import datetime
from uuid import UUID

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, SecretStr

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.tenants import TenantStatus, TenantType
from libs.db.pool import Database, Tx
from libs.ids import public_id
from libs.observability.remote import remote_address
from libs.web.problems import (
    Problem,
    RateLimited,
    TenantForbidden,
    Unauthorized,
    problem_responses,
)
from services.tenants import passwords, sessions, store_people, throttle
from services.tenants.bodies import StrictBody, TenantReference
from services.tenants.people import EmailAddress
from services.tenants.roles import Role
from services.tenants.settings import Settings

router = APIRouter(tags=["session"])


class OriginRefused(Problem):
    """403: a page of another site sent this."""

    status = 403
    default_code = "origin_refused"
    default_title = "Not from here"
    default_detail = (
        "This is answered to our own pages only: `Origin` must be the address of Sluice."
    )


class SignInBody(StrictBody):
    """Who signs in."""

    email: EmailAddress
    password: SecretStr = Field(min_length=1, max_length=1024)


class AssertionRequest(StrictBody):
    """For which tenant and mode; without: the primary tenant, test mode."""

    tenant: TenantReference | None = None
    mode: Mode = "test"


class UserBody(BaseModel):
    """Who is signed in."""

    id: str
    email: str
    name: str | None
    operator: bool = Field(description="One of the platform's staff: may act for any tenant.")


class HomeBody(BaseModel):
    """A tenant of the user's."""

    id: UUID
    slug: str
    name: str
    type: TenantType
    status: TenantStatus
    role: Role
    primary: bool


class SessionBody(BaseModel):
    """A session that was just begun; its secret is in the cookie."""

    user: UserBody
    tenants: list[HomeBody]
    expires_at: datetime


class AssertionBody(BaseModel):
    """A signed statement of who is signed in; send it as `Authorization: Bearer`."""

    assertion: str
    expires_at: datetime
    user: UserBody
    tenant: HomeBody
    mode: Mode
    permissions: list[str]
    tenants: list[HomeBody]


@router.post(
    "/api/v1/session",
    status_code=201,
    response_model=SessionBody,
    responses=problem_responses(Unauthorized, OriginRefused, RateLimited),
)
async def sign_in(request: Request, body: SignInBody) -> JSONResponse:
    """Sign in with e-mail and password; sets the session cookie, always a new one."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    if request.headers.get("origin") is not None:
        _refuse_foreign_origin(request, settings)
    address = remote_address() or "unknown"
    attempt = throttle.Attempt.of(body.email, address, settings.key_pepper_bytes)
    async with database.transaction() as tx:
        wait_seconds = await throttle.count(tx, attempt, utc_now())
        user = await store_people.find_user_by_email(tx, body.email)
    if wait_seconds:
        raise RateLimited(
            "Too many failed sign-ins. Wait as long as `Retry-After` says, then try again.",
            retry_after_seconds=wait_seconds,
        )
    known_hash = None if user is None else user["password_hash"]
    if not await passwords.is_password(body.password.get_secret_value(), known_hash):
        await _note_failure(database, request, address)
        raise Unauthorized("E-mail or password is wrong.", code="sign_in_failed")
    assert user is not None, "only a user's password is right"
    now = utc_now()
    async with database.transaction() as tx:
        await throttle.forgive(tx, attempt)
        await _end_old_session(tx, request, settings, now)
        token, expires_at = await sessions.begin(tx, user["user_id"], now, settings.session_hours)
        who = await sessions.person(tx, user["user_id"])
        await sessions.note(
            tx, who, kind="signed_in", severity="info", path=request.url.path, address=address
        )
    shown = SessionBody(user=_user(who), tenants=_homes(who), expires_at=expires_at)
    answer = JSONResponse(shown.model_dump(mode="json"), 201, {"Cache-Control": "no-store"})
    _set_cookie(answer, settings, token, max_age_seconds=settings.session_hours * 3600)
    return answer


@router.delete("/api/v1/session", status_code=204, responses=problem_responses(OriginRefused))
async def sign_out(request: Request) -> Response:
    """End the session of the cookie; where there is none, that is as well."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    _refuse_foreign_origin(request, settings)
    async with database.transaction() as tx:
        await _end_old_session(tx, request, settings, utc_now())
    answer = Response(status_code=204, headers={"Cache-Control": "no-store"})
    _set_cookie(answer, settings, "", max_age_seconds=0)
    return answer


@router.post(
    "/api/v1/session/assertion",
    response_model=AssertionBody,
    responses=problem_responses(Unauthorized, OriginRefused, TenantForbidden),
)
async def make_assertion(request: Request, body: AssertionRequest | None = None) -> JSONResponse:
    """Change the session cookie for an assertion of 60 seconds; it also says who one is."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    _refuse_foreign_origin(request, settings)
    wanted = body or AssertionRequest()
    now = utc_now()
    try:
        async with database.transaction() as tx:
            session = await sessions.find(tx, _cookie(request, settings), now)
            who = await sessions.person(tx, session.user_id)
            made = await sessions.assert_identity(
                tx,
                settings.keyring,
                session,
                who,
                reference=wanted.tenant,
                mode=wanted.mode,
                now=now,
            )
    except sessions.NoSessionError:
        raise Unauthorized("Sign in first: there is no valid session.", code="no_session") from None
    except sessions.NotAMemberError:
        raise TenantForbidden(
            "You are not a member of this tenant. Operators name it in `X-Tenant-ID` instead."
            if who.operator
            else None
        ) from None
    shown = AssertionBody(
        assertion=made.text,
        expires_at=made.expires_at,
        user=_user(who),
        tenant=_home(made.home),
        mode=made.mode,
        permissions=sorted(made.permissions),
        tenants=_homes(who),
    )
    return JSONResponse(shown.model_dump(mode="json"), 200, {"Cache-Control": "no-store"})


def _refuse_foreign_origin(request: Request, settings: Settings) -> None:
    if request.headers.get("origin", "").lower() != settings.browser_origin:
        raise OriginRefused


async def _note_failure(database: Database, request: Request, address: str) -> None:
    """Recorded at the platform whoever was meant, so that the time taken tells nothing."""
    async with database.transaction() as tx:
        await sessions.note(
            tx,
            None,
            kind="sign_in_failed",
            severity="warning",
            path=request.url.path,
            address=address,
        )


async def _end_old_session(tx: Tx, request: Request, settings: Settings, now: datetime) -> None:
    try:
        session = await sessions.find(tx, _cookie(request, settings), now)
    except sessions.NoSessionError:
        return
    await sessions.end(tx, session, now)


def _cookie(request: Request, settings: Settings) -> str | None:
    return request.cookies.get(settings.cookie_name)


def _set_cookie(answer: Response, settings: Settings, token: str, *, max_age_seconds: int) -> None:
    """SameSite=Lax: a link from elsewhere finds one signed in, a form from elsewhere does not."""
    answer.set_cookie(
        settings.cookie_name,
        token,
        max_age=max_age_seconds,
        path="/",
        secure=settings.is_https,
        httponly=True,
        samesite="lax",
    )


def _user(who: sessions.Person) -> UserBody:
    return UserBody(
        id=public_id("user", who.user_id), email=who.email, name=who.name, operator=who.operator
    )


def _homes(who: sessions.Person) -> list[HomeBody]:
    return [_home(home) for home in who.homes]


def _home(home: sessions.Home) -> HomeBody:
    return HomeBody(
        id=home.tenant_id,
        slug=home.slug,
        name=home.name,
        type=home.tenant_type,
        status=home.status,
        role=home.role,
        primary=home.is_primary,
    )
