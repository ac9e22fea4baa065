"""A session as the routes that begin and end one answer it: its cookie, and who is signed in.

A browser sends the cookie along by itself, so every route that trusts it also wants the header
`Origin` to be ours (requirement T5; OWASP's guide to CSRF, "verifying origin").
"""

from datetime import datetime
from uuid import UUID

from fastapi import Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.contracts.tenants import TenantStatus, TenantType
from libs.db.pool import Tx
from libs.ids import public_id
from libs.web.problems import Problem
from services.tenants import sessions
from services.tenants.roles import Role
from services.tenants.settings import Settings


class OriginRefused(Problem):
    """403: a page of another site sent this."""

    status = 403
    default_code = "origin_refused"
    default_title = "Not from here"
    default_detail = (
        "This is answered to our own pages only: `Origin` must be the address of Sluice."
    )


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


async def begin_session(
    tx: Tx, request: Request, settings: Settings, user_id: UUID, now: datetime, address: str | None
) -> tuple[str, SessionBody]:
    """Begin a session in place of the browser's old one: the cookie's value, and what is answered."""
    await end_old_session(tx, request, settings, now)
    token, expires_at = await sessions.begin(tx, user_id, now, settings.session_hours, address)
    who = await sessions.person(tx, user_id)
    return token, session_body(who, expires_at)


def session_body(who: sessions.Person, expires_at: datetime) -> SessionBody:
    """Who is signed in, until when."""
    return SessionBody(user=user_body(who), tenants=home_bodies(who), expires_at=expires_at)


def session_answer(settings: Settings, shown: SessionBody, token: str | None) -> JSONResponse:
    """201, with the cookie of the session where it is a new one."""
    answer = JSONResponse(shown.model_dump(mode="json"), 201, {"Cache-Control": "no-store"})
    if token is not None:
        set_cookie(answer, settings, token, max_age_seconds=settings.session_hours * 3600)
    return answer


def refuse_foreign_origin(request: Request, settings: Settings) -> None:
    """Refuse what a page of another site sent.

    Raises:
        OriginRefused: `Origin` is another's, or missing.
    """
    if request.headers.get("origin", "").lower() != settings.browser_origin:
        raise OriginRefused


async def end_old_session(tx: Tx, request: Request, settings: Settings, now: datetime) -> None:
    """End the session of the browser's cookie, where there is one."""
    try:
        session = await sessions.find(tx, cookie_of(request, settings), now)
    except sessions.NoSessionError:
        return
    await sessions.end(tx, session, now)


def cookie_of(request: Request, settings: Settings) -> str | None:
    """The session's cookie."""
    return request.cookies.get(settings.cookie_name)


def set_cookie(answer: Response, settings: Settings, token: str, *, max_age_seconds: int) -> None:
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


def user_body(who: sessions.Person) -> UserBody:
    """The person as the API shows it."""
    return UserBody(
        id=public_id("user", who.user_id), email=who.email, name=who.name, operator=who.operator
    )


def home_bodies(who: sessions.Person) -> list[HomeBody]:
    """The person's tenants as the API shows them."""
    return [home_body(home) for home in who.homes]


def home_body(home: sessions.Home) -> HomeBody:
    """A tenant of the person's as the API shows it."""
    return HomeBody(
        id=home.tenant_id,
        slug=home.slug,
        name=home.name,
        type=home.tenant_type,
        status=home.status,
        role=home.role,
        primary=home.is_primary,
    )
