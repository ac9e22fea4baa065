"""Routes of replays: sending archived events again."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, InvalidFields, NotFound, problem_responses
from libs.web.times import UtcTime
from services.gateway import replays, store_replays
from services.gateway.store_replays import Selection

router = APIRouter()

IDS_MAX = 1000

NoNul = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]
ReplayPath = Annotated[str, Path(max_length=100)]
Reader = Annotated[Access, Depends(Requires("billing:read"))]
Manager = Annotated[Access, Depends(Requires("billing:manage"))]


class ReplayRequest(BaseModel):
    """Which events to publish again, oldest first; without any filter: all of them."""

    model_config = ConfigDict(extra="forbid")

    ids: list[NoNul] | None = Field(default=None, max_length=IDS_MAX)
    tenant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] | None = Field(
        default=None,
        description="Id or slug of the tenant; an operator who names none means every tenant.",
    )
    type: NoNul | None = None
    object_id: NoNul | None = None
    received_from: UtcTime | None = None
    received_to: UtcTime | None = None
    dry_run: bool = Field(
        default=False, description="Only show what would change; nothing is changed by it."
    )


class ReplayBody(BaseModel):
    """How far a replay has come; it goes on by itself, also after a restart."""

    id: str = Field(description="Travels as `replay_id` with every event sent again.")
    tenant_id: UUID | None = Field(description="Whose events; null for those of every tenant.")
    mode: Literal["test", "live"]
    state: Literal["running", "done", "canceled"]
    dry_run: bool
    matched: int = Field(
        description="Events that the filters choose; while `counted` is false, of those looked at."
    )
    counted: bool = Field(description="Whether all are counted; only then events are sent.")
    replayed: int = Field(description="Events sent so far.")
    ids: int | None = Field(description="How many events were named by their ids.")
    type: str | None
    object_id: str | None
    received_from: datetime | None
    received_to: datetime | None
    started_by: str
    started_at: datetime
    finished_at: datetime | None


@router.post(
    "/api/v1/webhook-events/replay",
    status_code=202,
    response_model=ReplayBody,
    responses=problem_responses(Conflict, NotFound),
)
async def replay_webhook_events(
    request: Request, body: ReplayRequest, access: Manager
) -> JSONResponse:
    """Publish archived events again under a replay's id; no effect happens twice by it.

    One replay runs at a time for a tenant (and one for the platform as a whole).
    """
    gate: Gate = request.app.state.gate
    database: Database = request.app.state.database
    access = await gate.for_tenant(request, access, body.tenant_id)
    selection = Selection(
        every_tenant=access.whole_platform,
        event_ids=_event_ids(body.ids),
        event_type=body.type,
        object_id=body.object_id,
        received_from=body.received_from,
        received_to=body.received_to,
    )
    holder_id = PLATFORM_TENANT_ID if access.whole_platform else access.tenant_id
    wish = replays.Wish(selection, body.dry_run, access.caller.actor)

    async def work(tx: Tx) -> ReplayBody:
        here = tx.scope
        await tx.enter(Scope((holder_id,), access.mode))
        row = await replays.begin(tx, wish)
        await tx.enter(here)
        return _body(row)

    try:
        return await answer_once(request, access, database, body, work, status=202)
    except replays.ReplayRunningError:
        raise Conflict(
            "A replay is under way. Wait until it is `done`, or cancel it.", code="replay_running"
        ) from None


@router.get("/api/v1/webhook-replays")
async def list_webhook_replays(
    request: Request, access: Reader, page: Annotated[PageRequest, Depends(page_request)]
) -> Page[ReplayBody]:
    """Replays, the newest first; an operator who names no tenant sees those of all."""
    position = page.after(datetime, UUID)
    before = (position[0], position[1]) if position else None
    async with _reading(request.app.state.database, access) as tx:
        rows = await store_replays.list_replays(tx, access.mode, before, page.limit + 1)
    return Page[ReplayBody].of(rows, page.limit, lambda row: (row["started_at"], row["id"]), _body)


@router.get("/api/v1/webhook-replays/{replay}", responses=problem_responses(NotFound))
async def get_webhook_replay(request: Request, replay: ReplayPath, access: Reader) -> ReplayBody:
    """How far a replay has come."""
    replay_id = _replay_id(replay)
    async with _reading(request.app.state.database, access) as tx:
        row = await store_replays.find_replay(tx, access.mode, replay_id)
    if row is None:
        raise NotFound
    return _body(row)


@router.post(
    "/api/v1/webhook-replays/{replay}/cancel", responses=problem_responses(Conflict, NotFound)
)
async def cancel_webhook_replay(
    request: Request, replay: ReplayPath, access: Manager
) -> ReplayBody:
    """End a replay before its end; what it has sent is sent. Canceling again changes nothing."""
    replay_id = _replay_id(replay)
    async with _reading(request.app.state.database, access) as tx:
        row = await store_replays.find_replay(tx, access.mode, replay_id, for_update=True)
        if row is None:
            raise NotFound
        await tx.enter(Scope((row["tenant_id"],), access.mode))
        try:
            row = await replays.cancel(tx, row, access.caller.actor)
        except replays.ReplayDoneError:
            raise Conflict("The replay is done already.", code="replay_done") from None
    return _body(row)


def _reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _event_ids(texts: list[str] | None) -> list[UUID] | None:
    if texts is None:
        return None
    try:
        return [parse_public_id("webhook_event", text) for text in texts]
    except InvalidIdError as error:
        raise InvalidFields(f"One of `ids` is not valid: {error}.") from None


def _replay_id(text: str) -> UUID:
    try:
        return parse_public_id("webhook_replay", text)
    except InvalidIdError:
        raise NotFound from None


def _body(row: Row) -> ReplayBody:
    return ReplayBody(
        id=public_id("webhook_replay", row["id"]),
        tenant_id=None if row["every_tenant"] else row["tenant_id"],
        mode=row["mode"],
        state=row["state"],
        dry_run=row["dry_run"],
        matched=row["matched"],
        counted=row["is_counted"],
        replayed=row["replayed"],
        ids=None if row["event_ids"] is None else len(row["event_ids"]),
        type=row["event_type"],
        object_id=row["object_id"],
        received_from=row["received_from"],
        received_to=row["received_to"],
        started_by=row["actor"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
    )
