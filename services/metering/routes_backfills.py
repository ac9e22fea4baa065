"""`/api/v1/usage/backfills`: usage of before the window, told as a job."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Path, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.messaging.outbox import emit
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    NotFound,
    TooLarge,
    UnsupportedMediaType,
    problem_responses,
)
from services.metering import backfills, cloudevents, meters, reporters
from services.metering import store_backfills as store
from services.metering.ingest import Arrival
from services.metering.plain_events import Plain
from services.metering.routes_corrections import Reason
from services.metering.routes_events import EVENTS_BODY, EventsAnswer

router = APIRouter(tags=["usage"])

IdPath = Annotated[str, Path(max_length=100)]
Reader = Annotated[Access, Depends(Requires("usage:read"))]
Writer = Annotated[Access, Depends(Requires("usage:write"))]

_ENCODER = msgspec.json.Encoder()


class BackfillRequest(BaseModel):
    """Why usage is told so late."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason


class BackfillBody(BaseModel):
    """A backfill and how far it is."""

    id: str
    state: Literal["open", "comparing", "publishing", "counting", "done", "dropped"] = Field(
        description="`open` until it is started; dropped when nobody goes on with it for a day."
    )
    reason: str
    actor: str
    events: int = Field(description="Taken in.")
    known: int = Field(description="Of these, counted before: they do not count again.")
    published: int = Field(description="Of these, published; all are counted when it is `done`.")
    archive_complete: bool | None = Field(
        description="False: the archive lacks usage from before it began, or that was lost. What was "
        "counted then and is not in it was not left out. Null until it is compared."
    )
    created_at: datetime
    ended_at: datetime | None


@router.post(
    "/api/v1/usage/backfills",
    status_code=201,
    response_model=BackfillBody,
    responses=problem_responses(Conflict),
)
async def create_backfill(request: Request, body: BackfillRequest, access: Writer) -> JSONResponse:
    """Begin a backfill. Nothing counts until it is started; up to five may be under way at a time."""
    database: Database = request.app.state.database

    async def work(tx: Tx) -> BackfillBody:
        backfill_id = new_id()
        try:
            await backfills.begin(tx, backfill_id, body.reason, access.caller.actor)
        except backfills.TooManyBackfillsError:
            raise Conflict(
                f"A tenant has up to {backfills.OPEN_MAX} backfills at a time. Start one, or wait until "
                "one is done.",
                code="too_many_backfills",
            ) from None
        row = await store.find(tx, backfill_id)
        assert row is not None, "it was entered in this transaction"
        return _shape(row)

    return await answer_once(request, access, database, body, work)


@router.post(
    "/api/v1/usage/backfills/{backfill}/events",
    status_code=202,
    response_model=EventsAnswer,
    openapi_extra=EVENTS_BODY,
    responses=problem_responses(Conflict, NotFound, TooLarge, UnsupportedMediaType),
)
async def add_backfill_events(request: Request, backfill: IdPath, access: Writer) -> Response:
    """Add events to an open backfill, in any form that events are published in; a verdict for each.

    They must be older than what the ingest takes (34 days), and three years old at most. Sent again they
    are duplicates.
    """
    sent = cloudevents.read_events(request.headers, await request.body())
    database: Database = request.app.state.database
    async with database.transaction() as tx:
        known = await meters.applying(tx, [access.tenant_id], access.mode)
        marked_since = await reporters.marked_since(tx, access)
        received_at = utc_now()
        await tx.enter(Scope((access.tenant_id,), access.mode))
        row = await _open(tx, backfill)
        arrival = Arrival(
            access.tenant_id,
            access.mode,
            received_at,
            access.tenant.snapshot.clock_offset_seconds if access.mode == "test" else 0,
            meters.of_tenant(known, access.tenant_id),
            backfill=row["id"],
            by_platform=received_at >= marked_since,
        )
        documents = [_document(each) for each in sent]
        try:
            verdicts = await backfills.take_in(tx, row["id"], row["events"], documents, arrival)
        except backfills.TooManyEventsError:
            raise Conflict(
                f"A backfill holds up to {backfills.EVENTS_MAX} events. Start it, and begin another.",
                code="backfill_full",
            ) from None
    answer = _ENCODER.encode({"results": verdicts})
    return Response(answer, status_code=202, media_type="application/json")


@router.post(
    "/api/v1/usage/backfills/{backfill}/start",
    status_code=202,
    responses=problem_responses(Conflict, NotFound),
)
async def start_backfill(request: Request, backfill: IdPath, access: Writer) -> BackfillBody:
    """Count what a backfill holds; what was counted before is left out. Started again, it goes on."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await _found(tx, backfill)
        if row["state"] == "dropped":
            raise _not_open(row)
        if row["state"] == "open":
            now = utc_now()
            await store.move(tx, row["id"], "comparing", now)
            fact = ConfigurationChanged(
                action="usage.backfilled",
                actor=access.caller.actor,
                object_id=public_id("backfill", row["id"]),
                after={"events": row["events"], "reason": row["reason"]},
            )
            emit(tx, fact, effective_at=now)
            row = await _found(tx, backfill)
    return _shape(row)


@router.get("/api/v1/usage/backfills/{backfill}", responses=problem_responses(NotFound))
async def get_backfill(request: Request, backfill: IdPath, access: Reader) -> BackfillBody:
    """How far a backfill is."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        return _shape(await _found(tx, backfill))


@router.get("/api/v1/usage/backfills")
async def list_backfills(
    request: Request, access: Reader, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[BackfillBody]:
    """The tenant's backfills, newest first."""
    position = page.after(UUID)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        before = position[0] if position else None
        rows = await store.page(tx, before=before, limit=page.limit + 1)
    return Page[BackfillBody].of(rows, page.limit, lambda row: (row["id"],), _shape)


def _document(sent: object) -> object:
    """An event as the JSON value that it is."""
    if not isinstance(sent, Plain):
        return sent
    return {
        name: value for name, value in msgspec.structs.asdict(sent).items() if value is not None
    }


async def _found(tx: Tx, backfill: str) -> Row:
    try:
        row = await store.lock(tx, parse_public_id("backfill", backfill))
    except InvalidIdError:
        row = None
    if row is None:
        raise NotFound("There is no such backfill. Check the id, the tenant and your key's mode.")
    return row


async def _open(tx: Tx, backfill: str) -> Row:
    row = await _found(tx, backfill)
    if row["state"] != "open":
        raise _not_open(row)
    return row


def _not_open(row: Row) -> Conflict:
    return Conflict(
        f"The backfill is {row['state']}. Begin another for more events.", code="backfill_not_open"
    )


def _shape(row: Row) -> BackfillBody:
    return BackfillBody(
        id=public_id("backfill", row["id"]),
        state=row["state"],
        reason=row["reason"],
        actor=row["actor"],
        events=row["events"],
        known=row["known"],
        published=row["published"],
        archive_complete=row["archive_complete"],
        created_at=row["created_at"],
        ended_at=row["ended_at"],
    )
