"""`/api/v1/usage/producers`: who may put usage straight on `usage.events`."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.messaging.outbox import emit
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import NotFound, problem_responses
from services.metering import store_producers as store
from services.metering.producers import Pass, ProducerKeys

router = APIRouter(tags=["usage"])

Operator = Annotated[Access, Depends(Requires(OPERATOR))]

LIFE_DAYS_MAX = 366
REVOKED_AFTER = timedelta(seconds=10)
"""What is being counted at this moment is decided the same when it is read again."""


class ProducerRequest(BaseModel):
    """A new producer. For all tenants' usage name the tenant `platform`, or none."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[
        str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]+$")
    ]
    expires_in_days: Annotated[int, Field(ge=1, le=LIFE_DAYS_MAX)] = 90


class ProducerBody(BaseModel):
    """A producer and its pass, which is no secret."""

    id: str
    name: str
    tenant_id: UUID | None = Field(description="Whose usage; null: every tenant's.")
    mode: Mode
    shown: str = Field(serialization_alias="pass", description="What it shows on each record.")
    created_by: str
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None = Field(
        description="Records that come in from then on are refused."
    )


class MadeProducer(ProducerBody):
    """A producer with the secret that it proves its pass with."""

    secret: str = Field(description="In this answer only; it is kept nowhere.")


@router.post("/api/v1/usage/producers", status_code=201, response_model=MadeProducer)
async def create_producer(
    request: Request, body: ProducerRequest, access: Operator
) -> JSONResponse:
    """Let a service put usage straight on the topic, for one tenant or all of them."""
    database: Database = request.app.state.database
    keys: ProducerKeys = request.app.state.producer_keys

    async def work(tx: Tx) -> ProducerBody:
        producer_id, now = new_id(), utc_now().replace(microsecond=0)
        ends = now + timedelta(days=body.expires_in_days)
        await store.add(tx, producer_id, body.name, access.caller.actor, now, ends)
        after = {"name": body.name, "expires_at": ends.isoformat()}
        _audit(tx, "usage_producer.created", access, producer_id, now, after)
        return await _found(tx, producer_id)

    answered = await answer_once(request, access, database, body, work)
    shown: dict[str, Any] = json.loads(bytes(answered.body))
    # The secret follows from the pass, so it is told again without being kept.
    headers = {
        name: value
        for name, value in answered.headers.items()
        if name not in ("content-length", "content-type")
    }
    told = shown | {"secret": keys.secret_of(shown["pass"])}
    return JSONResponse(told, answered.status_code, headers=headers)


@router.get("/api/v1/usage/producers")
async def list_producers(
    request: Request, access: Operator, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[ProducerBody]:
    """The producers of a tenant, or those for all tenants where none is named; oldest first."""
    position = page.after(UUID)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        after = position[0] if position else None
        rows = await store.page(tx, after=after, limit=page.limit + 1)
    return Page[ProducerBody].of(rows, page.limit, lambda row: (row["id"],), _shape)


@router.post(
    "/api/v1/usage/producers/{producer}/revoke",
    responses=problem_responses(NotFound),
)
async def revoke_producer(
    request: Request, producer: Annotated[str, Path(max_length=100)], access: Operator
) -> ProducerBody:
    """Refuse what a producer puts on the topic from ten seconds on; what is counted stays."""
    try:
        producer_id = parse_public_id("producer", producer)
    except InvalidIdError:
        raise _absent() from None
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        found = await _found(tx, producer_id)
        if found.revoked_at is not None:
            return found
        now = utc_now()
        await store.revoke(tx, producer_id, now + REVOKED_AFTER)
        _audit(tx, "usage_producer.revoked", access, producer_id, now, {"name": found.name})
        return await _found(tx, producer_id)


def _audit(
    tx: Tx,
    action: str,
    access: Access,
    producer_id: UUID,
    at: datetime,
    after: Mapping[str, str],
) -> None:
    fact = ConfigurationChanged(
        action=action,
        actor=access.caller.actor,
        object_id=public_id("producer", producer_id),
        after=dict(after),
    )
    emit(tx, fact, effective_at=at)


async def _found(tx: Tx, producer_id: UUID) -> ProducerBody:
    row = await store.find(tx, producer_id)
    if row is None:
        raise _absent()
    return _shape(row)


def _absent() -> NotFound:
    return NotFound("There is no such producer. Check the id, the tenant and your key's mode.")


def _shape(row: Row) -> ProducerBody:
    whose = None if row["tenant_id"] == PLATFORM_TENANT_ID else row["tenant_id"]
    held = Pass(row["id"], whose, row["mode"], row["expires_at"])
    return ProducerBody(
        id=public_id("producer", row["id"]),
        name=row["name"],
        tenant_id=whose,
        mode=row["mode"],
        shown=held.text,
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
    )
