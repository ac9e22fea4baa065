"""Routes of the archive, for operators and tenants."""

from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from libs.db.pool import Database, Row, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, NotFound, problem_responses
from libs.web.times import UtcTime
from services.gateway import assigning, releasing, store
from services.gateway.readable import readable

router = APIRouter()


class WebhookEventBody(BaseModel):
    """A received event."""

    id: str
    tenant_id: UUID
    mode: str
    account: str
    stripe_event_id: str
    type: str
    api_version: str | None
    object_type: str | None
    object_id: str | None
    assignment: str = Field(
        description="How its tenant was found: `customer`, `metadata`, `account` (whose Stripe "
        "account it is), `operator` (given by hand) or `unassigned`."
    )
    quarantine_reason: str | None
    bytes: int
    created_at: datetime
    received_at: datetime


class WebhookEventDetail(WebhookEventBody):
    """A received event with what Stripe sent."""

    payload: dict[str, Any] = Field(
        description="What is nested deeper than 100 levels stands as the text of its JSON."
    )
    headers: dict[str, str]


class AssignmentRequest(BaseModel):
    """Whose an unassigned event is."""

    model_config = ConfigDict(extra="forbid")

    tenant_id: Annotated[str, Field(max_length=100, pattern=r"^[^\x00]*$")] = Field(
        description="Id or slug of the tenant."
    )


class ReleaseRequest(BaseModel):
    """Why an event is believed that is kept aside."""

    model_config = ConfigDict(extra="forbid")

    why: Annotated[str, Field(min_length=1, max_length=500, pattern=r"^[^\x00]*$")] = Field(
        description="The reason, for the audit log."
    )
    dry_run: bool = Field(
        default=False, description="Change nothing; tell what would become of it."
    )


class ReleaseBody(BaseModel):
    """What became of an event that was let go, or would."""

    outcome: Literal["stored", "duplicate", "quarantined"] = Field(
        description="`stored`: published. `duplicate`: the same event had come before, nothing was "
        "published. `quarantined`: nobody has its account yet; it waits for that alone."
    )
    tenant_id: UUID
    account: str
    mode: Literal["test", "live"]
    dry_run: bool


@router.get("/api/v1/webhook-events")
async def list_webhook_events(
    request: Request,
    access: Annotated[Access, Depends(Requires("billing:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
    type: Annotated[str | None, Query(max_length=255)] = None,  # noqa: A002 - the API's word
    object_id: Annotated[str | None, Query(max_length=255)] = None,
    stripe_event_id: Annotated[str | None, Query(max_length=255)] = None,
    assignment: Annotated[str | None, Query(max_length=20)] = None,
    quarantined: bool | None = None,
    received_from: UtcTime | None = None,
    received_to: UtcTime | None = None,
) -> Page[WebhookEventBody]:
    """List received events, newest first; an operator who names no tenant sees all of them."""
    position = page.after(datetime, UUID)
    wanted = store.Wanted(
        mode=access.mode,
        event_type=type,
        object_id=object_id,
        stripe_event_id=stripe_event_id,
        assignment=assignment,
        quarantined=quarantined,
        received_from=received_from,
        received_to=received_to,
    )
    after = (position[0], position[1]) if position else None
    async with _reading(request.app.state.database, access) as tx:
        rows = await store.list_events(tx, wanted, after, page.limit + 1)
    return Page[WebhookEventBody].of(
        rows, page.limit, lambda row: (row["received_at"], row["id"]), _body
    )


@router.get("/api/v1/webhook-events/{event}", responses=problem_responses(NotFound))
async def get_webhook_event(
    request: Request, event: str, access: Annotated[Access, Depends(Requires("billing:read"))]
) -> WebhookEventDetail:
    """Read one received event with what Stripe sent."""
    event_id = _event_id(event)
    async with _reading(request.app.state.database, access) as tx:
        row = await store.find_event(tx, access.mode, event_id)
    if row is None:
        raise NotFound
    return WebhookEventDetail(
        **_body(row).model_dump(), payload=readable(row["payload"]), headers=row["headers"]
    )


@router.post(
    "/api/v1/webhook-events/{event}/assign", responses=problem_responses(Conflict, NotFound)
)
async def assign_webhook_event(
    request: Request,
    event: str,
    body: AssignmentRequest,
    access: Annotated[Access, Depends(Requires(OPERATOR))],
) -> WebhookEventBody:
    """Give an unassigned event to a tenant; it is published there as if it had just come."""
    gate: Gate = request.app.state.gate
    chosen = await gate.for_tenant(request, access, body.tenant_id)
    try:
        row = await assigning.assign(
            request.app.state.database,
            _event_id(event),
            chosen.tenant_id,
            access.mode,
            access.caller.actor,
        )
    except assigning.NoSuchEventError:
        raise NotFound from None
    except assigning.QuarantinedError:
        raise Conflict(
            "The event is in quarantine: it is not what its signature stands for.",
            code="webhook_event_quarantined",
        ) from None
    except assigning.AssignedError:
        raise Conflict("The event has a tenant already.", code="webhook_event_assigned") from None
    return _body(row)


@router.post(
    "/api/v1/webhook-events/{event}/release", responses=problem_responses(Conflict, NotFound)
)
async def release_webhook_event(
    request: Request,
    event: str,
    body: ReleaseRequest,
    access: Annotated[Access, Depends(Requires(OPERATOR))],
) -> ReleaseBody:
    """Let go an event that is kept aside: it is taken in as what it says it is, once."""
    wish = releasing.Wish(access.caller.actor, body.why, body.dry_run)
    try:
        released = await releasing.release(
            request.app.state.database, _event_id(event), access.mode, wish
        )
    except releasing.NoSuchEventError:
        raise NotFound from None
    except releasing.NotHeldError:
        raise Conflict(
            "The event is not kept aside, or waits for its account alone: assign it then.",
            code="webhook_event_not_held",
        ) from None
    return ReleaseBody(dry_run=body.dry_run, **released._asdict())


def _reading(database: Database, access: Access) -> AbstractAsyncContextManager[Tx]:
    """A transaction that sees the caller's tenant, or everything for the platform's staff."""
    if access.whole_platform:
        return database.maintenance()
    return database.tenant(access.tenant_id, access.mode)


def _event_id(text: str) -> UUID:
    try:
        return parse_public_id("webhook_event", text)
    except InvalidIdError:
        raise NotFound from None


def _body(row: Row) -> WebhookEventBody:
    return WebhookEventBody(
        id=public_id("webhook_event", row["id"]),
        tenant_id=row["tenant_id"],
        mode=row["mode"],
        account=row["account"],
        stripe_event_id=row["stripe_event_id"],
        type=row["event_type"],
        api_version=row["api_version"],
        object_type=row["object_type"],
        object_id=row["object_id"],
        assignment=row["assignment"],
        quarantine_reason=row["quarantine_reason"],
        bytes=row["payload_bytes"],
        created_at=row["event_created_at"],
        received_at=row["received_at"],
    )
