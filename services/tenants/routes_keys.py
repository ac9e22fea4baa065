"""`/api/v1/api-keys`: make, list, rotate, revoke."""

import base64
import json
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Caller, Gate, Requires
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    NotLive,
    problem_responses,
)
from libs.web.times import UtcTime
from services.tenants import keys, sealing
from services.tenants.answers import stamp
from services.tenants.answers_sealed import place_of
from services.tenants.authority import BeyondAuthorityError
from services.tenants.bodies import Name, StrictBody, TenantReference
from services.tenants.roles import SCOPES
from services.tenants.settings import Settings

router = APIRouter(tags=["api keys"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]

BEYOND = "A key cannot do more than its maker may, and you may not give this one any more."
LIFE_MAX = timedelta(days=3660)
OVERLAP_SECONDS_MAX = 30 * 24 * 3600
MODES: tuple[Mode, ...] = ("test", "live")


class NewApiKeyBody(StrictBody):
    """A key to make; the one body that names a mode."""

    tenant: TenantReference | None = None
    name: Name
    scopes: list[Annotated[str, Field(max_length=50)]] = Field(
        min_length=1, max_length=len(SCOPES), description=f"Among: {', '.join(SCOPES)}."
    )
    mode: Mode
    expires_at: UtcTime | None = None


class RotationBody(StrictBody):
    """How a key is rotated."""

    overlap_seconds: int = Field(
        default=24 * 3600,
        ge=0,
        le=OVERLAP_SECONDS_MAX,
        description="How long the old key stays valid beside the new one; never longer than it had.",
    )


class ApiKeyBody(BaseModel):
    """A key without its secret."""

    id: str
    tenant_id: UUID
    name: str
    prefix: str = Field(description="The part of the key by which it is recognised.")
    mode: Mode
    scopes: list[str]
    expires_at: datetime | None
    revoked_at: datetime | None
    revoke_reason: str | None
    replaces: str | None = Field(description="The key this one took the place of.")
    replaced_by: str | None = Field(description="The key that took the place of this one.")
    last_used_at: datetime | None = Field(
        description="The last use that any service has told of: exact to a minute or so."
    )
    created_by: str
    created_at: datetime


class MadeApiKeyBody(ApiKeyBody):
    """A key that was just made."""

    key: str = Field(
        description="The key itself: in this answer only. The same request sent again within a day "
        "under the same `Idempotency-Key` gets it again; it is kept sealed for that."
    )


@router.post(
    "/api/v1/api-keys",
    status_code=201,
    response_model=MadeApiKeyBody,
    responses=problem_responses(Forbidden, Conflict),
)
async def create_api_key(request: Request, body: NewApiKeyBody, access: Manager) -> JSONResponse:
    """Make an API key for a tenant; valid everywhere within two seconds."""
    gate: Gate = request.app.state.gate
    settings: Settings = request.app.state.settings
    access = await gate.for_tenant(request, access, body.tenant)
    new = _new_key(body, access.caller)
    for scope in sorted(new.scopes):
        if not access.caller.may(scope):
            await gate.refuse(request, access, scope, "A key cannot do more than its maker may.")
    if new.mode not in _modes_of(access.caller):
        sentence = "A key makes keys of its own mode only; sign in to make this one."
        await gate.refuse(request, access, "members:manage", sentence)

    async def work(tx: Tx) -> keys.MadeKey:
        return await keys.make(tx, new, settings.key_pepper_bytes, utc_now())

    return await _answer_with_key(request, access, body, work)


@router.get("/api/v1/api-keys")
async def list_api_keys(
    request: Request, access: Manager, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[ApiKeyBody]:
    """The tenant's keys, oldest first, without their secrets; revoked ones too."""
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await keys.list_all(tx, _modes_of(access.caller), after, page.limit + 1)
    return Page[ApiKeyBody].of(
        rows,
        page.limit,
        lambda row: (row["created_at"], row["key_id"]),
        lambda row: _body(row, access.tenant_id),
    )


@router.post(
    "/api/v1/api-keys/{key}/rotate",
    status_code=201,
    response_model=MadeApiKeyBody,
    responses=problem_responses(Forbidden, NotFound, Conflict),
)
async def rotate_api_key(
    request: Request, key: str, body: RotationBody, access: Manager
) -> JSONResponse:
    """Make a key that takes the place of this one; both are valid for the time of the overlap."""
    gate: Gate = request.app.state.gate
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    key_id = _key_id(key)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await _visible(tx, key_id, access.caller)
    for scope in [OPERATOR] if row["operator"] else sorted(row["scopes"]):
        if not access.caller.may(scope):
            await gate.refuse(request, access, scope, "This key may do more than you may.")
    overlap = timedelta(seconds=body.overlap_seconds)

    async def work(tx: Tx) -> keys.MadeKey:
        pepper = settings.key_pepper_bytes
        return await keys.rotate(tx, key_id, overlap, access.caller.actor, pepper, utc_now())

    return await _answer_with_key(request, access, body, work)


@router.delete("/api/v1/api-keys/{key}", status_code=204, responses=problem_responses(NotFound))
async def revoke_api_key(
    request: Request,
    key: str,
    access: Manager,
    reason: Annotated[Name | None, Query(description="Kept with the key and in the log.")] = None,
) -> Response:
    """Revoke a key for good; refused everywhere within two seconds. Again: the same answer."""
    database: Database = request.app.state.database
    key_id = _key_id(key)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await _visible(tx, key_id, access.caller)
        await keys.revoke(tx, row, reason, access.caller.actor, utc_now())
    answer = Response(status_code=204)
    await stamp(answer, database, access.tenant_id)
    return answer


def _key_id(reference: str) -> UUID:
    try:
        return parse_public_id("api_key", reference)
    except InvalidIdError:
        raise NotFound from None


async def _visible(tx: Tx, key_id: UUID, caller: Caller) -> Row:
    """A key of the tenant that the caller may manage."""
    row = await keys.find(tx, key_id)
    if row is None or row["mode"] not in _modes_of(caller):
        raise NotFound
    return row


async def _answer_with_key(
    request: Request,
    access: Access,
    body: StrictBody,
    work: Callable[[Tx], Awaitable[keys.MadeKey]],
) -> JSONResponse:
    """The answer that shows a new key: the same one to the same request with the same key."""
    try:
        return await _answer_once(request, access, body, work)
    except BeyondAuthorityError:
        gate: Gate = request.app.state.gate
        await gate.refuse(request, access, "members:manage", BEYOND)


async def _answer_once(
    request: Request,
    access: Access,
    body: StrictBody,
    work: Callable[[Tx], Awaitable[keys.MadeKey]],
) -> JSONResponse:
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    sealer = sealing.Sealer(database, settings.sealing)
    name = idempotency_key(request)
    sealing_key = await sealer.prepare(access.tenant_id, utc_now()) if name is not None else None
    stored = None
    async with database.tenant(access.tenant_id, access.mode) as tx:
        if name is not None:
            stored = await reserve(tx, access, name, request_hash(request, body))
        if stored is None:
            made = await _made(tx, work)
            shown = _body(made.row, access.tenant_id).model_dump(mode="json")
            answer = JSONResponse(shown | {"key": made.secret}, 201)
            if name is not None and sealing_key is not None:
                place = place_of(access, name, "key", shown["id"])
                sealed = sealing_key.seal(made.secret.encode(), place).value
                kept = shown | {"key_sealed": base64.b64encode(sealed).decode()}
                await remember(tx, access, name, 201, kept)
    if stored is not None:
        assert name is not None, "an answer is stored under its key"
        answer = await _open_answer(sealer, access, name, stored)
    answer.headers["Cache-Control"] = "no-store"
    await stamp(answer, database, access.tenant_id)
    return answer


async def _made(tx: Tx, work: Callable[[Tx], Awaitable[keys.MadeKey]]) -> keys.MadeKey:
    """The new key, or the problem that says why there is none."""
    try:
        return await work(tx)
    except keys.TooManyKeysError:
        sentence = f"A tenant has at most {keys.KEYS_MAX} valid keys. Revoke one first."
        raise Conflict(sentence, code="too_many_keys") from None
    except keys.NotLiveError:
        raise NotLive from None
    except keys.KeyReplacedError:
        sentence = "This key was rotated already. Rotate the one that took its place."
        raise Conflict(sentence, code="key_replaced") from None
    except keys.KeyEndedError:
        sentence = "This key was revoked or has expired. Make a new one."
        raise Conflict(sentence, code="key_ended") from None


def _new_key(body: NewApiKeyBody, caller: Caller) -> keys.NewKey:
    """The key asked for.

    Raises:
        InvalidFields: an unknown scope, or an end that is not within ten years.
    """
    unknown = [place for place, scope in enumerate(body.scopes) if scope not in SCOPES]
    if unknown:
        known = f"Must be one of {', '.join(SCOPES)}."
        raise InvalidFields(
            fields=[FieldProblem(field=f"body.scopes.{place}", detail=known) for place in unknown]
        )
    now = utc_now()
    if body.expires_at is not None and not now < body.expires_at <= now + LIFE_MAX:
        problem = FieldProblem(field="body.expires_at", detail="Must be within the next ten years.")
        raise InvalidFields(fields=[problem])
    return keys.NewKey(
        name=body.name,
        mode=body.mode,
        scopes=frozenset(body.scopes),
        expires_at=body.expires_at,
        created_by=caller.actor,
    )


def _modes_of(caller: Caller) -> list[str]:
    """The modes whose keys the caller manages: a tenant's key only its own, people both."""
    if caller.operator or caller.role is not None:
        return list(MODES)
    return [caller.mode]


async def _open_answer(
    sealer: sealing.Sealer, access: Access, name: str, stored: JSONResponse
) -> JSONResponse:
    """The first answer again, its secret opened."""
    shown: dict[str, Any] = json.loads(bytes(stored.body))
    sealed = base64.b64decode(shown.pop("key_sealed"))
    place = place_of(access, name, "key", shown["id"])
    secret = await sealer.open(access.tenant_id, sealed, place)
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse(shown | {"key": secret.decode()}, stored.status_code, headers=headers)


def _body(row: Row, tenant_id: UUID) -> ApiKeyBody:
    return ApiKeyBody(
        id=public_id("api_key", row["key_id"]),
        tenant_id=tenant_id,
        name=row["name"],
        prefix=row["prefix"],
        mode=row["mode"],
        scopes=list(row["scopes"]),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        revoke_reason=row["revoke_reason"],
        replaces=public_id("api_key", row["replaces"]) if row["replaces"] else None,
        replaced_by=public_id("api_key", row["replaced_by"]) if row["replaced_by"] else None,
        last_used_at=row["last_used_at"],
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
