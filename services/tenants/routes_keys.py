"""`/api/v1/api-keys`: make, list, revoke."""

import base64
import json
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.crypto.keyring import Keyring
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Caller, Gate, Requires
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    problem_responses,
)
from libs.web.times import UtcTime
from services.tenants import keys, sealing
from services.tenants.answers import stamp
from services.tenants.bodies import Name, StrictBody, TenantReference
from services.tenants.roles import SCOPES
from services.tenants.settings import Settings

router = APIRouter(tags=["api keys"])

Manager = Annotated[Access, Depends(Requires("members:manage"))]

LIFE_MAX = timedelta(days=3660)
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
    database: Database = request.app.state.database
    settings: Settings = request.app.state.settings
    access = await gate.for_tenant(request, access, body.tenant)
    new = _new_key(body, access.caller)
    for scope in sorted(new.scopes):
        if not access.caller.may(scope):
            await gate.refuse(request, access, scope, "A key cannot do more than its maker may.")
    if new.mode not in _modes_of(access.caller):
        sentence = "A key makes keys of its own mode only; sign in to make this one."
        await gate.refuse(request, access, "members:manage", sentence)
    name = idempotency_key(request)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        stored = None
        if name is not None:
            stored = await reserve(tx, access, name, request_hash(request, body))
        if stored is not None:
            answer = await _open_answer(tx, settings.keyring, stored)
        else:
            try:
                made = await keys.make(tx, new, settings.key_pepper_bytes, utc_now())
            except keys.TooManyKeysError:
                raise Conflict(
                    f"A tenant has at most {keys.KEYS_MAX} keys. Revoke one first.",
                    code="too_many_keys",
                ) from None
            shown = _body(made.row, access.tenant_id).model_dump(mode="json")
            if name is not None:
                sealed = await _sealed(tx, settings.keyring, made.secret, shown["id"])
                await remember(tx, access, name, 201, shown | {"key_sealed": sealed})
            answer = JSONResponse(shown | {"key": made.secret}, 201)
    answer.headers["Cache-Control"] = "no-store"
    await stamp(answer, database, access.tenant_id)
    return answer


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


@router.delete("/api/v1/api-keys/{key}", status_code=204, responses=problem_responses(NotFound))
async def revoke_api_key(request: Request, key: str, access: Manager) -> Response:
    """Revoke a key for good; refused everywhere within two seconds. Again: the same answer."""
    try:
        key_id = parse_public_id("api_key", key)
    except InvalidIdError:
        raise NotFound from None
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await keys.find(tx, key_id)
        if row is None or row["mode"] not in _modes_of(access.caller):
            raise NotFound
        await keys.revoke(tx, row, access.caller.actor, utc_now())
    answer = Response(status_code=204)
    await stamp(answer, database, access.tenant_id)
    return answer


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


async def _sealed(tx: Tx, keyring: Keyring, secret: str, key_id: str) -> str:
    sealed, _ = await sealing.seal_value(tx, keyring, secret.encode(), _place(key_id), utc_now())
    return base64.b64encode(sealed).decode()


async def _open_answer(tx: Tx, keyring: Keyring, stored: JSONResponse) -> JSONResponse:
    """The first answer again, its secret opened."""
    shown: dict[str, Any] = json.loads(bytes(stored.body))
    sealed = base64.b64decode(shown.pop("key_sealed"))
    secret = await sealing.open_value(tx, keyring, sealed, _place(shown["id"]))
    headers = {"Idempotent-Replayed": "true"}
    return JSONResponse(shown | {"key": secret.decode()}, stored.status_code, headers=headers)


def _place(key_id: str) -> sealing.Place:
    return sealing.Place("idempotency_key", "answer.key", key_id)


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
        created_by=row["created_by"],
        created_at=row["created_at"],
    )
