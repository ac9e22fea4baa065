"""`/api/v1/events/void`, `/api/v1/events/amend`: usage that was told wrong is put right."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from libs.clock import utc_now
from libs.db.pool import Database, Row
from libs.ids import new_id, public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    FieldProblem,
    InvalidFields,
    InvalidRequest,
    Unavailable,
    UnsupportedMediaType,
    problem_responses,
)
from services.metering import corrections, exact_json, meters, reporters, store_corrections
from services.metering.corrections import Correction, Kind, Name
from services.metering.forgotten import Memory
from services.metering.ingest import Arrival
from services.metering.usage_log import LogUnavailableError, UsageLog
from services.metering.verdicts import Status

router = APIRouter(tags=["usage"])

CORRECTIONS_MAX = 1_000

NameText = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00]+$")]
Reason = Annotated[
    str,
    Field(min_length=1, max_length=500, pattern=r"^[^\x00]+$", description="Kept and audited."),
]
Writer = Annotated[Access, Depends(Requires("usage:write"))]


class EventName(BaseModel):
    """An event, by what makes it the only one."""

    model_config = ConfigDict(extra="forbid")

    id: NameText
    source: NameText


class VoidRequest(BaseModel):
    """Events that shall not count."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    events: Annotated[list[EventName], Field(min_length=1, max_length=CORRECTIONS_MAX)]


class Amendment(EventName):
    """An event that shall not count, and the one in its place."""

    event: dict[str, Any] = Field(description="A CloudEvent with an `id` of its own.")


class AmendRequest(BaseModel):
    """Events that others are to stand in for."""

    model_config = ConfigDict(extra="forbid")

    reason: Reason
    events: Annotated[list[Amendment], Field(min_length=1, max_length=CORRECTIONS_MAX)]


class CorrectionVerdict(BaseModel):
    """What becomes of one event; `duplicate`: it was voided before."""

    id: str
    source: str
    status: Status
    code: str | None = Field(
        default=None,
        description="Why it was rejected; `not_counted_yet` on an accepted one that has not been "
        "counted: it will not be.",
    )


class CorrectionAnswer(BaseModel):
    """A verdict per event, in the order they were sent."""

    correction: str | None = Field(description="Its id; null where nothing was accepted.")
    results: list[CorrectionVerdict]


class CorrectionBody(BaseModel):
    """A correction that was made."""

    id: str
    kind: Kind
    reason: str
    actor: str
    events: int
    created_at: datetime


@router.post("/api/v1/events/void", status_code=202, responses=problem_responses(Unavailable))
async def void_events(request: Request, body: VoidRequest, access: Writer) -> CorrectionAnswer:
    """Take usage back: each event as if it had never come, or, where it comes later, never counted.

    Sent again, nothing happens twice.
    """
    wanted = [Correction(Name(each.source, each.id)) for each in body.events]
    return await _correct(request, access, "void", body.reason, wanted)


_AMEND_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["reason", "events"],
                    "additionalProperties": False,
                    "properties": {
                        "reason": {"type": "string", "minLength": 1, "maxLength": 500},
                        "events": {
                            "type": "array",
                            "minItems": 1,
                            "maxItems": CORRECTIONS_MAX,
                            "items": {
                                "type": "object",
                                "required": ["id", "source", "event"],
                                "additionalProperties": False,
                                "properties": {
                                    "id": {"type": "string", "minLength": 1, "maxLength": 256},
                                    "source": {"type": "string", "minLength": 1, "maxLength": 256},
                                    "event": {
                                        "type": "object",
                                        "description": "A CloudEvent with an `id` of its own.",
                                    },
                                },
                            },
                        },
                    },
                }
            }
        },
    }
}


@router.post(
    "/api/v1/events/amend",
    status_code=202,
    openapi_extra=_AMEND_BODY,
    responses=problem_responses(UnsupportedMediaType, Unavailable),
)
async def amend_events(request: Request, access: Writer) -> CorrectionAnswer:
    """Void events and publish others in their place, both or neither.

    Sent again, nothing happens twice.
    """
    media_type = request.headers.get("content-type", "application/json").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        raise UnsupportedMediaType
    body = _read_amendments(await request.body())
    wanted = [Correction(Name(each.source, each.id), each.event) for each in body.events]
    return await _correct(request, access, "amend", body.reason, wanted)


@router.get("/api/v1/usage/corrections")
async def list_corrections(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[CorrectionBody]:
    """Who corrected usage, why, and how many events; oldest first."""
    position = page.after(UUID)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await store_corrections.page_of_corrections(
            tx, after=position[0] if position else None, limit=page.limit + 1
        )
    return Page[CorrectionBody].of(rows, page.limit, lambda row: (row["id"],), _shape)


def _read_amendments(body: bytes) -> AmendRequest:
    """The request with its numbers exactly as written, which FastAPI's own reading does not keep.

    Raises:
        InvalidRequest: not JSON.
        InvalidFields: some field is not what it must be.
    """
    try:
        document = exact_json.loads(body.decode())
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "The body is not valid JSON in UTF-8. Correct it and send it again.",
            code="invalid_json",
        ) from None
    try:
        return AmendRequest.model_validate(document)
    except ValidationError as error:
        raise InvalidFields(
            fields=[
                FieldProblem(field=".".join(map(str, ("body", *each["loc"]))), detail=each["msg"])
                for each in error.errors(include_url=False, include_input=False)[:50]
            ]
        ) from None


async def _correct(
    request: Request, access: Access, kind: Kind, reason: str, wanted: list[Correction]
) -> CorrectionAnswer:
    database: Database = request.app.state.database
    correction_id = new_id()
    arrival, actor = await _arrival(database, access), access.caller.actor
    async with database.tenant(access.tenant_id, access.mode) as tx:
        unknown = await corrections.unknown(tx, wanted, arrival)
    memory: Memory = request.app.state.memory
    forgotten = await memory.ask(unknown, access.mode, arrival)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        judged = await corrections.judge(tx, correction_id, wanted, arrival, actor, forgotten)
        if judged.accepted:
            await corrections.record(tx, correction_id, kind, judged, reason, actor, arrival)
    if judged.is_of_platform:
        gate: Gate = request.app.state.gate
        await gate.tell(request, access, reporters.CORRECTION_REFUSED, OPERATOR)
    usage_log: UsageLog = request.app.state.usage_log
    try:
        if judged.values:
            await usage_log.publish(access.tenant_id, judged.values)
    except LogUnavailableError:
        raise Unavailable(
            "The correction could not be stored durably. Send the same request again; nothing of it "
            "happens twice.",
            retry_after_seconds=2,
        ) from None
    return CorrectionAnswer(
        correction=public_id("correction", correction_id) if judged.accepted else None,
        results=[
            CorrectionVerdict(id=v.name.id, source=v.name.source, status=v.status, code=v.code)
            for v in judged.verdicts
        ],
    )


async def _arrival(database: Database, access: Access) -> Arrival:
    async with database.transaction() as tx:
        known = await meters.applying(tx, [access.tenant_id], access.mode)
        marked_since = await reporters.marked_since(tx, access)
    received_at = utc_now()
    return Arrival(
        access.tenant_id,
        access.mode,
        received_at,
        access.tenant.snapshot.clock_offset_seconds if access.mode == "test" else 0,
        meters.of_tenant(known, access.tenant_id),
        by_platform=received_at >= marked_since,
    )


def _shape(row: Row) -> CorrectionBody:
    return CorrectionBody(
        id=public_id("correction", row["id"]),
        kind=row["kind"],
        reason=row["reason"],
        actor=row["actor"],
        events=row["events"],
        created_at=row["created_at"],
    )
