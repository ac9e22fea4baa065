"""`/api/v1/session`: signing in and out, and the assertions the console works with.

Only these routes read the cookie. A browser sends it along by itself, so each of them that trusts it
also wants the header `Origin` to be ours (requirement T5; OWASP's guide to CSRF, "verifying origin").
"""

from datetime import datetime

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, SecretStr

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import Database
from libs.ids import public_id
from libs.observability.remote import remote_address
from libs.web.auth import Gate
from libs.web.headers import tenant_header
from libs.web.problems import (
    InvalidRequest,
    RateLimited,
    TenantForbidden,
    Unauthorized,
    problem_responses,
)
from services.tenants import passwords, sessions, store_people, throttle
from services.tenants.answers_session import (
    HomeBody,
    OriginRefused,
    SessionBody,
    UserBody,
    begin_session,
    cookie_of,
    end_old_session,
    home_bodies,
    home_body,
    refuse_foreign_origin,
    session_answer,
    set_cookie,
    user_body,
)
from services.tenants.bodies import StrictBody, TenantReference
from services.tenants.people import EmailAddress
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings

router = APIRouter(tags=["session"])


class SignInBody(StrictBody):
    """Who signs in."""

    email: EmailAddress
    password: SecretStr = Field(min_length=1, max_length=1024)


class AssertionRequest(StrictBody):
    """For which tenant and mode; without: the primary tenant, test mode."""

    tenant: TenantReference | None = Field(
        default=None, description="Id or slug; `X-Tenant-ID` may name it instead."
    )
    mode: Mode = "test"


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
        refuse_foreign_origin(request, settings)
    address = remote_address() or "unknown"
    attempt = throttle.Attempt.of(body.email, address, settings.key_pepper_bytes)
    async with database.transaction() as tx:
        wait_seconds = await throttle.count(tx, attempt, utc_now())
        user = await store_people.find_account(tx, body.email)
    if wait_seconds:
        raise RateLimited(
            "Too many failed sign-ins. Wait as long as `Retry-After` says, then try again.",
            retry_after_seconds=wait_seconds,
        )
    known_hash = None if user is None else user["password_hash"]
    if not await passwords.is_password(body.password.get_secret_value(), known_hash):
        async with database.transaction() as tx:
            await sessions.note_failure(tx, path=request.url.path, address=address)
        raise Unauthorized("E-mail or password is wrong.", code="sign_in_failed")
    assert user is not None, "only a user's password is right"
    now = utc_now()
    async with database.transaction() as tx:
        await throttle.forgive(tx, attempt)
        token, shown = await begin_session(tx, request, settings, user["user_id"], now, address)
        await sessions.note_of_user(
            tx, user["user_id"], kind="signed_in", path=request.url.path, address=address
        )
    return session_answer(settings, shown, token)


@router.delete("/api/v1/session", status_code=204, responses=problem_responses(OriginRefused))
async def sign_out(request: Request) -> Response:
    """End the session of the cookie; where there is none, that is as well."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    refuse_foreign_origin(request, settings)
    async with database.transaction() as tx:
        await end_old_session(tx, request, settings, utc_now())
    answer = Response(status_code=204, headers={"Cache-Control": "no-store"})
    set_cookie(answer, settings, "", max_age_seconds=0)
    return answer


@router.post(
    "/api/v1/session/assertion",
    response_model=AssertionBody,
    responses=problem_responses(InvalidRequest, Unauthorized, OriginRefused, TenantForbidden),
)
async def make_assertion(request: Request, body: AssertionRequest | None = None) -> JSONResponse:
    """Change the session cookie for an assertion of 60 seconds; it also says who one is.

    It is for one tenant among the caller's: the one that `X-Tenant-ID` or the body names.
    """
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    refuse_foreign_origin(request, settings)
    wanted = body or AssertionRequest()
    now = utc_now()
    private_key = await sessions.signing_key(database, Sealer(database, settings.sealing))
    try:
        async with database.transaction() as tx:
            session = await sessions.find(tx, cookie_of(request, settings), now)
            who = await sessions.person(tx, session.user_id)
            made = await sessions.assert_identity(
                tx,
                private_key,
                session,
                who,
                reference=_wanted_tenant(request, wanted, who),
                mode=wanted.mode,
                now=now,
            )
            await sessions.note_use(tx, session, now)
    except sessions.NoSessionError:
        raise Unauthorized("Sign in first: there is no valid session.", code="no_session") from None
    except sessions.NotAMemberError:
        await _tell_denied(request, who)
        raise TenantForbidden(_why_no_tenant(who)) from None
    shown = AssertionBody(
        assertion=made.text,
        expires_at=made.expires_at,
        user=user_body(who),
        tenant=home_body(made.home),
        mode=made.mode,
        permissions=sorted(made.permissions),
        tenants=home_bodies(who),
    )
    return JSONResponse(shown.model_dump(mode="json"), 200, {"Cache-Control": "no-store"})


def _wanted_tenant(request: Request, wanted: AssertionRequest, who: sessions.Person) -> str | None:
    """The tenant that header or body name; None: the primary one.

    Raises:
        InvalidRequest: they name different ones.
        sessions.NotAMemberError: one of them is not among the person's.
    """
    header = tenant_header(request)
    if header is None or wanted.tenant is None:
        return header or wanted.tenant
    if sessions.choose(who.homes, header) != sessions.choose(who.homes, wanted.tenant):
        raise InvalidRequest("`X-Tenant-ID` and the body name different tenants. Name one.")
    return header


def _why_no_tenant(who: sessions.Person) -> str | None:
    if not who.homes:
        return "You are a member of no tenant. Open the link of an invitation, or ask for one."
    if who.operator:
        return "You are not a member of this tenant. Operators name it in `X-Tenant-ID` instead."
    return None


async def _tell_denied(request: Request, who: sessions.Person) -> None:
    """Record, at the person's primary tenant, that an assertion for another's was asked for."""
    if not who.homes:
        return
    gate: Gate = request.app.state.gate
    database: Database = request.app.state.database
    home, actor = who.homes[0].tenant_id, public_id("user", who.user_id)
    left_out = gate.alarms.count(home, actor, "tenant_denied")
    if left_out is None:
        return
    async with database.transaction() as tx:
        await sessions.note(
            tx,
            who,
            kind="tenant_denied",
            severity="warning",
            path=request.url.path,
            address=remote_address() or "unknown",
            left_out=left_out or None,
        )
