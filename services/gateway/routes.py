"""HTTP of the gateway: Stripe's webhooks, and the archive for operators and tenants."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto.errors import MasterKeyUnavailableError, SecretStoreUnavailableError
from libs.db.pool import Database, Row
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, new_id, parse_public_id, public_id
from libs.messaging.outbox import emit
from libs.observability.metrics import WEBHOOKS_RECEIVED_TOTAL
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    InvalidFields,
    InvalidRequest,
    NotFound,
    RequestTimeout,
    RouteNotFound,
    Unavailable,
    problem_responses,
)
from libs.web.times import UtcTime
from services.gateway import intake, store
from services.gateway.endpoints import find_endpoint
from services.gateway.stripe_event import NotAnEventError

router = APIRouter()

KEPT_HEADERS = ("content-type", "stripe-signature", "user-agent")
HEADER_LENGTH_MAX = 4096

REFUSAL_SECONDS = 0.05
"""A refusal at a tenant's URL takes this long, whatever was known: time tells a stranger nothing."""
REPLAY_EVENTS_MAX = 1000

NoNul = Annotated[str, Field(max_length=255, pattern=r"^[^\x00]*$")]


class WebhookReceipt(BaseModel):
    """Stripe reads only the status; people read this."""

    status: str = Field(description="`stored`, `duplicate` or `quarantined`.")


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
        "account it is) or `unassigned`."
    )
    quarantine_reason: str | None
    bytes: int
    created_at: datetime
    received_at: datetime


class WebhookEventDetail(WebhookEventBody):
    """A received event with what Stripe sent."""

    payload: dict[str, Any]
    headers: dict[str, str]


class ReplayRequest(BaseModel):
    """Which events to publish again, oldest first; without any filter: all of them."""

    model_config = ConfigDict(extra="forbid")

    ids: list[NoNul] | None = Field(default=None, max_length=REPLAY_EVENTS_MAX)
    type: NoNul | None = None
    object_id: NoNul | None = None
    received_from: UtcTime | None = None
    received_to: UtcTime | None = None
    dry_run: bool = False


class ReplayBody(BaseModel):
    """What a replay did, or would do."""

    replay_id: str | None
    matched: int
    replayed: int = Field(description=f"At most {REPLAY_EVENTS_MAX} at once.")
    dry_run: bool


@router.post(
    "/api/webhooks/stripe",
    responses=problem_responses(InvalidRequest, RouteNotFound),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_stripe_webhook(request: Request) -> WebhookReceipt:
    """Take a webhook of Stripe; 2xx means it is durable."""
    return await _receive_for_platform(request)


@router.post(
    "/api/v1/billing/webhook",
    responses=problem_responses(InvalidRequest, RouteNotFound),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_billing_webhook(request: Request) -> WebhookReceipt:
    """Take a webhook of Stripe: another address of the same."""
    return await _receive_for_platform(request)


@router.post(
    "/api/webhooks/stripe/{token}",
    responses=problem_responses(InvalidRequest),
    openapi_extra={"requestBody": {"content": {"application/json": {}}, "required": True}},
)
async def receive_tenant_webhook(request: Request, token: str) -> WebhookReceipt:
    """Take a webhook of a tenant's own Stripe account; an unknown token is a wrong signature."""
    state = request.app.state

    async def take(webhook: intake.Webhook) -> intake.Outcome:
        started = time.monotonic()
        try:
            endpoint = await find_endpoint(token, state.directory, state.secrets)
            return await intake.take_for_tenant(webhook, endpoint, state.database)
        except intake.SignatureRefusedError:
            await asyncio.sleep(started + REFUSAL_SECONDS - time.monotonic())
            raise
        except (MasterKeyUnavailableError, SecretStoreUnavailableError):
            raise Unavailable("The endpoint's secret cannot be read right now.") from None

    return await _receive(request, take)


async def _receive_for_platform(request: Request) -> WebhookReceipt:
    state = request.app.state

    async def take(webhook: intake.Webhook) -> intake.Outcome:
        return await intake.take(webhook, state.endpoint_secrets, state.database, state.directory)

    return await _receive(request, take)


async def _receive(
    request: Request, take: Callable[[intake.Webhook], Awaitable[intake.Outcome]]
) -> WebhookReceipt:
    """Read a webhook, take it in, and put into words why it was not."""
    try:
        body = await request.body()
    except ClientDisconnect:
        raise RequestTimeout from None
    webhook = intake.Webhook(body, _signature_header(request), _kept_headers(request))
    try:
        outcome = await take(webhook)
    except intake.EndpointClosedError:
        raise RouteNotFound from None
    except intake.OtherAccountError:
        WEBHOOKS_RECEIVED_TOTAL.labels(outcome="refused").inc()
        raise InvalidRequest(
            "The event names another Stripe account than the one this address belongs to.",
            code="account_mismatch",
        ) from None
    except intake.SignatureRefusedError:
        WEBHOOKS_RECEIVED_TOTAL.labels(outcome="refused").inc()
        raise InvalidRequest(
            "The signature in `Stripe-Signature` is missing, wrong or not of the last five "
            "minutes. Check the endpoint's signing secret and the clock.",
            code="signature_invalid",
        ) from None
    except NotAnEventError as error:
        WEBHOOKS_RECEIVED_TOTAL.labels(outcome="refused").inc()
        raise InvalidRequest(
            f"The body is signed but is not a Stripe event: {error}.", code="not_an_event"
        ) from None
    WEBHOOKS_RECEIVED_TOTAL.labels(outcome=outcome).inc()
    return WebhookReceipt(status=outcome)


def _signature_header(request: Request) -> bytes | None:
    """The one `Stripe-Signature`; two of them are as good as none."""
    values = [value for name, value in request.scope["headers"] if name == b"stripe-signature"]
    return values[0] if len(values) == 1 else None


def _kept_headers(request: Request) -> dict[str, str]:
    """The headers worth keeping; a header is bytes, so what is not printable is escaped."""
    return {
        name: request.headers[name][:HEADER_LENGTH_MAX].encode("ascii", "backslashreplace").decode()
        for name in KEPT_HEADERS
        if name in request.headers
    }


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
    try:
        event_id = parse_public_id("webhook_event", event)
    except InvalidIdError:
        raise NotFound from None
    async with _reading(request.app.state.database, access) as tx:
        row = await store.find_event(tx, access.mode, event_id)
    if row is None:
        raise NotFound
    return WebhookEventDetail(
        **_body(row).model_dump(), payload=_readable(row["payload"]), headers=row["headers"]
    )


def _readable(payload: bytes) -> Any:
    """The body as it came, but for halves of surrogate pairs: no answer can carry those."""
    text = json.dumps(json.loads(payload), ensure_ascii=False)
    return json.loads(text.encode("utf-8", "replace"))


@router.post("/api/v1/webhook-events/replay", status_code=202)
async def replay_webhook_events(
    request: Request,
    body: ReplayRequest,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> ReplayBody:
    """Publish archived events again under a `replay_id`; no effect happens twice by it."""
    database: Database = request.app.state.database
    wanted = store.Wanted(
        mode=access.mode,
        ids=_event_ids(body.ids),
        event_type=body.type,
        object_id=body.object_id,
        received_from=body.received_from,
        received_to=body.received_to,
    )
    async with _reading(database, access) as tx:
        matched = await store.count_for_replay(tx, wanted)
        events = [] if body.dry_run else await store.read_for_replay(tx, wanted, REPLAY_EVENTS_MAX)
    if body.dry_run or not events:
        return ReplayBody(replay_id=None, matched=matched, replayed=0, dry_run=body.dry_run)
    replay_id = str(new_id())
    auditor = PLATFORM_TENANT_ID if access.whole_platform else access.tenant_id
    async with database.tenant(auditor, access.mode) as tx:
        for tenant_id, event in events:
            await tx.enter(Scope((tenant_id,), access.mode))
            intake.publish(tx, event, replay_id)
        await tx.enter(Scope((auditor,), access.mode))
        emit(
            tx,
            ConfigurationChanged(
                action="webhook_events.replayed",
                actor=access.caller.actor,
                object_id=replay_id,
                after={"events": len(events)},
            ),
        )
    return ReplayBody(replay_id=replay_id, matched=matched, replayed=len(events), dry_run=False)


def _reading(database: Database, access: Access) -> Any:
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
