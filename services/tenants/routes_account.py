"""`/api/v1/sessions` and the password: what a signed-in person sees and changes of its own account.

Asked with an assertion, like everything but `/api/v1/session` itself; the assertion names the session
it was made from, which is the present one.
"""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field, SecretStr

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.observability.remote import remote_address
from libs.web.auth import ANYONE_SIGNED_IN, Access, Gate, Requires
from libs.web.problems import (
    Conflict,
    Forbidden,
    NotFound,
    RateLimited,
    Unauthorized,
    problem_responses,
)
from services.tenants import passwords, people, sessions, store_people, throttle
from services.tenants.bodies import StrictBody
from services.tenants.settings import Settings

router = APIRouter(tags=["account"])

SignedIn = Annotated[Access, Depends(Requires(ANYONE_SIGNED_IN))]


class OwnSessionBody(BaseModel):
    """A session of the person's own."""

    id: str
    current: bool = Field(description="The one this was asked from.")
    created_at: datetime
    last_used_at: datetime | None = Field(description="To the quarter of an hour.")
    expires_at: datetime
    remote_address: str | None = Field(description="Where it was begun from.")


class OwnSessionsBody(BaseModel):
    """All of them: there are never many."""

    items: list[OwnSessionBody]
    next_cursor: None = None


class NewPasswordBody(StrictBody):
    """A new password, in place of the present one."""

    old_password: SecretStr = Field(min_length=1, max_length=passwords.LENGTH_MAX)
    new_password: SecretStr = Field(
        min_length=passwords.LENGTH_MIN, max_length=passwords.LENGTH_MAX
    )


@router.get("/api/v1/sessions", responses=problem_responses(Forbidden))
async def list_sessions(request: Request, access: SignedIn) -> OwnSessionsBody:
    """The person's own sessions, the newest first."""
    user_id, current = await _person(request, access)
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        rows = await sessions.list_all(tx, user_id, utc_now())
    return OwnSessionsBody(items=[_body(row, current) for row in rows])


@router.delete("/api/v1/sessions", status_code=204, responses=problem_responses(Forbidden))
async def end_other_sessions(request: Request, access: SignedIn) -> Response:
    """End all of the person's sessions but the present one."""
    user_id, current = await _person(request, access)
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        if await sessions.end_all(tx, user_id, utc_now(), but=current):
            await _note(request, tx, user_id, "sessions_ended")
    return Response(status_code=204)


@router.delete(
    "/api/v1/sessions/{session}",
    status_code=204,
    responses=problem_responses(Forbidden, NotFound),
)
async def end_session(request: Request, session: str, access: SignedIn) -> Response:
    """End one of the person's sessions; nothing made from it is valid after two seconds."""
    user_id, _ = await _person(request, access)
    database: Database = request.app.state.database
    try:
        session_id = parse_public_id("session", session)
        async with database.transaction() as tx:
            await sessions.end_one(tx, user_id, session_id, utc_now())
            await _note(request, tx, user_id, "session_ended")
    except (InvalidIdError, sessions.UnknownSessionError):
        raise NotFound from None
    return Response(status_code=204)


@router.put(
    "/api/v1/session/password",
    status_code=204,
    responses=problem_responses(Unauthorized, Forbidden, Conflict, RateLimited),
)
async def change_password(request: Request, body: NewPasswordBody, access: SignedIn) -> Response:
    """Change the person's password; every other session ends."""
    user_id, current = await _person(request, access)
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        email = await people.find_email(tx, user_id)
        assert email is not None, "the user is signed in"
        address = remote_address() or "unknown"
        attempt = throttle.Attempt.of(email, address, settings.key_pepper_bytes)
        wait_seconds = await throttle.count(tx, attempt, utc_now())
        account = await store_people.find_account(tx, email)
    if wait_seconds:
        raise RateLimited(
            "Too many tries. Wait as long as `Retry-After` says, then try again.",
            retry_after_seconds=wait_seconds,
        )
    known_hash = None if account is None else account["password_hash"]
    if known_hash is None:
        raise Conflict(
            "This account has no password: it signs in at the identity provider.",
            code="no_password",
        )
    if not await passwords.is_password(body.old_password.get_secret_value(), known_hash):
        async with database.transaction() as tx:
            await sessions.note_failure(tx, path=request.url.path, address=address)
        raise Unauthorized("The old password is wrong.", code="wrong_password")
    new_hash = await passwords.hash_password(body.new_password.get_secret_value())
    now = utc_now()
    async with database.transaction() as tx:
        await throttle.forgive(tx, attempt)
        await store_people.insert_password(tx, new_id(), user_id, new_hash, now)
        await sessions.end_all(tx, user_id, now, but=current)
        await _note(request, tx, user_id, "password_changed")
    return Response(status_code=204)


async def _person(request: Request, access: Access) -> tuple[UUID, UUID]:
    """The person and the present session.

    Raises:
        Forbidden: the caller is a key.
    """
    caller = access.caller
    if caller.session_id is None:
        gate: Gate = request.app.state.gate
        sentence = "Sessions and passwords are people's. Sign in, and ask with an assertion."
        await gate.refuse(request, access, ANYONE_SIGNED_IN, sentence)
    return parse_public_id("user", caller.actor), caller.session_id


async def _note(request: Request, tx: Tx, user_id: UUID, kind: str) -> None:
    address = remote_address() or "unknown"
    path = request.url.path
    await sessions.note_of_user(tx, user_id, kind=kind, path=path, address=address)


def _body(row: Row, current: UUID) -> OwnSessionBody:
    return OwnSessionBody(
        id=public_id("session", row["session_id"]),
        current=row["session_id"] == current,
        created_at=row["created_at"],
        last_used_at=row["used_at"],
        expires_at=row["expires_at"],
        remote_address=row["address"],
    )
