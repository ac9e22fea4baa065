"""`/api/v1/invitations`: the one way to become a member, and to a password for a new owner."""

from datetime import datetime
from typing import Annotated
from urllib.parse import quote
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, SecretStr

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.observability.remote import remote_address
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    RateLimited,
    Unauthorized,
    problem_responses,
)
from services.tenants import invitations, members, passwords, people, sessions, throttle
from services.tenants.answers_sealed import Shown, answer_sealed_once
from services.tenants.answers_session import (
    SessionBody,
    begin_session,
    cookie_of,
    refuse_foreign_origin,
    session_answer,
    session_body,
)
from services.tenants.bodies import Name, StrictBody
from services.tenants.people import EmailAddress
from services.tenants.roles import Role
from services.tenants.routes_members import FurtherPermissions, refusals
from services.tenants.settings import Settings

router = APIRouter(tags=["invitations"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]
Operator = Annotated[Access, Depends(Requires(OPERATOR))]
PageWanted = Annotated[PageRequest, Depends(page_request)]

NOT_OPEN = (
    "This invitation is not valid: it was used, withdrawn or replaced, or is older than seven "
    "days. Ask whoever sent it for another."
)


class NewInvitationBody(StrictBody):
    """Who is invited, and to what."""

    email: EmailAddress
    role: Role = "member"
    permissions: FurtherPermissions = Field(default_factory=list)


class InvitationBody(BaseModel):
    """An invitation that waits to be accepted."""

    id: str
    email: str
    role: Role
    permissions: list[str] = Field(description="Beyond the role.")
    created_by: str
    created_at: datetime
    expires_at: datetime


class MadeInvitationBody(InvitationBody):
    """An invitation that was just made."""

    url: str = Field(
        description="Where it is accepted; hand it to the person. In this answer only: the same "
        "request sent again within a day under the same `Idempotency-Key` gets it again."
    )


class EnteredMemberBody(BaseModel):
    """A member that an operator entered."""

    id: str = Field(
        description="The user's, or the invitation's where that must be accepted first."
    )
    is_member: bool = Field(
        description="False where the account was opened by nobody knows whom: the link makes it one."
    )
    email: str
    role: Role
    permissions: list[str] = Field(description="Beyond the role.")
    invitation_url: str | None = Field(
        default=None,
        description="Where the person chooses a password; hand it over. Null where it has one.",
    )


class AcceptanceBody(StrictBody):
    """What the holder of an invitation shows."""

    token: SecretStr = Field(min_length=1, max_length=invitations.TOKEN_LENGTH_MAX)
    name: Name | None = Field(default=None, description="For a new user.")
    password: SecretStr | None = Field(
        default=None,
        min_length=1,
        max_length=passwords.LENGTH_MAX,
        description="A new user's from now on, at least 12 characters; or that of the user there is. "
        "Whoever is signed in as the user needs none.",
    )


@router.post(
    "/api/v1/invitations",
    status_code=201,
    response_model=MadeInvitationBody,
    responses=problem_responses(Forbidden, Conflict),
)
async def create_invitation(
    request: Request, body: NewInvitationBody, access: Manager
) -> JSONResponse:
    """Invite somebody; an earlier invitation of the same e-mail is void."""
    settings: Settings = request.app.state.settings

    async def work(tx: Tx) -> Shown:
        made = await invitations.make(
            tx,
            body.email,
            body.role,
            frozenset[str](body.permissions),
            actor=access.caller.actor,
            at=utc_now(),
        )
        return _body(made.row), address_of(settings, made.token)

    try:
        async with refusals(request, access):
            return await answer_sealed_once(
                request, access, body, work, field="url", personal=("email",)
            )
    except invitations.AlreadyMemberError:
        sentence = "The user of this e-mail is a member already. Change the member instead."
        raise Conflict(sentence, code="already_member") from None
    except invitations.TooManyInvitationsError:
        sentence = f"At most {invitations.OPEN_MAX} invitations wait at a time. Withdraw some."
        raise Conflict(sentence, code="too_many_invitations") from None


@router.post(
    "/api/v1/members",
    status_code=201,
    response_model=EnteredMemberBody,
    responses=problem_responses(Forbidden, Conflict),
)
async def enter_member(request: Request, body: NewInvitationBody, access: Operator) -> JSONResponse:
    """Enter a member by an operator's word; everybody else invites.

    Again, while the person has no password: another link, and the one before is void.
    """
    settings: Settings = request.app.state.settings

    async def work(tx: Tx) -> Shown:
        permissions = frozenset[str](body.permissions)
        actor, now = access.caller.actor, utc_now()
        entered = await invitations.enter_member(
            tx, body.email, body.role, permissions, actor=actor, at=now
        )
        made = entered.made
        if entered.user_id is not None:
            name = public_id("user", entered.user_id)
        else:
            assert made is not None, "who is no member yet has a link to become one"
            name = public_id("invitation", made.row["invitation_id"])
        shown = EnteredMemberBody(
            id=name,
            is_member=entered.user_id is not None,
            email=body.email,
            role=body.role,
            permissions=sorted(permissions),
        )
        return shown, None if made is None else address_of(settings, made.token)

    try:
        async with refusals(request, access):
            return await answer_sealed_once(
                request, access, body, work, field="invitation_url", personal=("email",)
            )
    except invitations.AlreadyMemberError:
        sentence = "The user of this e-mail is a member already. Change the member instead."
        raise Conflict(sentence, code="already_member") from None
    except people.TooManyTenantsError:
        sentence = f"One user is a member of at most {people.TENANTS_PER_USER_MAX} tenants."
        raise Conflict(sentence, code="too_many_tenants") from None


@router.get("/api/v1/invitations")
async def list_invitations(
    request: Request, access: Manager, page: PageWanted
) -> Page[InvitationBody]:
    """The invitations that wait to be accepted, the oldest first."""
    database: Database = request.app.state.database
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    async with database.tenant(access.tenant_id, None) as tx:
        rows = await invitations.list_open(tx, utc_now(), after, page.limit + 1)
    return Page[InvitationBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["invitation_id"]), _body
    )


@router.delete(
    "/api/v1/invitations/{invitation}",
    status_code=204,
    responses=problem_responses(Forbidden, NotFound),
)
async def withdraw_invitation(request: Request, invitation: str, access: Manager) -> Response:
    """Withdraw an invitation that was not accepted yet."""
    database: Database = request.app.state.database
    try:
        invitation_id = parse_public_id("invitation", invitation)
        async with refusals(request, access), database.tenant(access.tenant_id, None) as tx:
            await invitations.withdraw(tx, invitation_id, access.caller.actor, utc_now())
    except (InvalidIdError, invitations.NotOpenError):
        raise NotFound from None
    return Response(status_code=204)


@router.post(
    "/api/v1/invitations/accept",
    status_code=201,
    response_model=SessionBody,
    responses=problem_responses(Unauthorized, NotFound, Conflict, RateLimited),
)
async def accept_invitation(request: Request, body: AcceptanceBody) -> JSONResponse:
    """Accept an invitation and be signed in: with the token, and as the user it was made for.

    An e-mail without a user gets one, with the password sent along. One with a user wants that user:
    signed in (the session's cookie, from a page of ours) or with the password.
    """
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    if request.headers.get("origin") is not None:
        refuse_foreign_origin(request, settings)
    token = body.token.get_secret_value()
    address = remote_address() or "unknown"
    attempt = throttle.Attempt.of(None, address, settings.key_pepper_bytes)
    await _count(database, attempt)
    now = utc_now()
    try:
        async with database.transaction() as tx:
            offer = await invitations.look(tx, token, now)
            session = await _session(tx, request, settings, now)
        if session is not None and session.user_id == offer.user_id:
            proof = invitations.Proof(user_id=session.user_id)
        else:
            session = None
            path = request.url.path
            proof = await _proof(database, settings, offer, body, path=path, address=address)
        async with database.transaction() as tx:
            user_id = await invitations.accept(tx, token, proof, now)
            await throttle.forgive(tx, attempt)
            if session is not None:
                who = await sessions.person(tx, user_id)
                return session_answer(settings, session_body(who, session.expires_at), None)
            cookie, shown = await begin_session(tx, request, settings, user_id, now, address)
            await sessions.note_of_user(
                tx, user_id, kind="signed_in", path=request.url.path, address=address
            )
        return session_answer(settings, shown, cookie)
    except invitations.NotOpenError:
        raise NotFound(NOT_OPEN, code="invitation_not_valid") from None
    except invitations.NotProvedError:
        raise _unproved() from None
    except members.TooManyMembersError:
        sentence = "The tenant is full. Ask an owner or admin of it."
        raise Conflict(sentence, code="too_many_members") from None
    except people.TooManyTenantsError:
        sentence = f"One user is a member of at most {people.TENANTS_PER_USER_MAX} tenants."
        raise Conflict(sentence, code="too_many_tenants") from None


async def _proof(
    database: Database,
    settings: Settings,
    offer: invitations.Offer,
    body: AcceptanceBody,
    *,
    path: str,
    address: str,
) -> invitations.Proof:
    """What the password sent along shows: who one is, or what it will be."""
    password = None if body.password is None else body.password.get_secret_value()
    if offer.user_id is not None and offer.password_hash is not None and password is not None:
        attempt = throttle.Attempt.of(offer.email, None, settings.key_pepper_bytes)
        await _count(database, attempt)
        if await passwords.is_password(password, offer.password_hash):
            async with database.transaction() as tx:
                await throttle.forgive(tx, attempt)
            return invitations.Proof(user_id=offer.user_id)
        async with database.transaction() as tx:
            await sessions.note_failure(tx, path=path, address=address)
    if offer.need == "proof":
        raise _unproved()
    if password is None or len(password) < passwords.LENGTH_MIN:
        sentence = f"Choose a password of at least {passwords.LENGTH_MIN} characters."
        raise InvalidFields(fields=[FieldProblem(field="body.password", detail=sentence)])
    return invitations.Proof(
        name=body.name, new_password_hash=await passwords.hash_password(password)
    )


def _unproved() -> Unauthorized:
    return Unauthorized(
        "The e-mail of this invitation has an account. Sign in to it first, or send its password.",
        code="sign_in_required",
    )


async def _count(database: Database, attempt: throttle.Attempt) -> None:
    async with database.transaction() as tx:
        wait_seconds = await throttle.count(tx, attempt, utc_now())
    if wait_seconds:
        raise RateLimited(
            "Too many tries. Wait as long as `Retry-After` says, then try again.",
            retry_after_seconds=wait_seconds,
        )


async def _session(
    tx: Tx, request: Request, settings: Settings, now: datetime
) -> sessions.Session | None:
    """The browser's session, where the request comes from a page of ours."""
    if request.headers.get("origin") is None:
        return None
    try:
        return await sessions.find(tx, cookie_of(request, settings), now)
    except sessions.NoSessionError:
        return None


def address_of(settings: Settings, token: str) -> str:
    """The page on which an invitation is accepted."""
    return f"{settings.origin_url}/invitation?token={quote(token)}"


def _body(row: Row) -> InvitationBody:
    return InvitationBody(
        id=public_id("invitation", row["invitation_id"]),
        email=row["email"],
        role=row["role"],
        permissions=sorted(row["permissions"]),
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
    )
