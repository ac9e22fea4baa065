"""`/api/v1/events`: usage comes in."""

import asyncio
from collections.abc import Set as AbstractSet
from typing import Annotated
from uuid import UUID

import msgspec
from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.db.pool import Database
from libs.directory.local import Directory, Tenant
from libs.ids import parse_uuid
from libs.observability.metrics import USAGE_EVENTS_TOTAL
from libs.web.auth import Access, Gate, Requires
from libs.web.plain import PlainRoute
from libs.web.problems import (
    InvalidRequest,
    NotFound,
    TenantForbidden,
    TooLarge,
    Unavailable,
    UnsupportedMediaType,
    problem_responses,
)
from services.metering import cloudevents, meters, reporters
from services.metering.capacity import spread_of
from services.metering.ingest import Arrival
from services.metering.plain_events import Plain
from services.metering.usage_log import LogUnavailableError, UsageLog
from services.metering.verdicts import Batch, Status

router = APIRouter(tags=["usage"], route_class=PlainRoute)

TENANTS_MAX = 20
"""Tenants other than the caller's that the events of one request may name."""


class EventVerdict(BaseModel):
    """What becomes of one event."""

    id: str | None
    source: str | None
    status: Status
    code: str | None = Field(
        default=None,
        description="Why an event was rejected; `no_meter` on an accepted event that no meter "
        "counts yet.",
    )


class EventsAnswer(BaseModel):
    """A verdict per event, in the order they were sent."""

    results: list[EventVerdict]


_EVENT = {"type": "object", "required": ["id", "source", "type"]}
EVENTS_BODY = {
    "requestBody": {
        "required": True,
        "description": "A CloudEvent, an array of them, or a batch; `data` holds what meters read.",
        "content": {
            "application/json": {
                "schema": {"oneOf": [_EVENT, {"type": "array", "items": _EVENT, "maxItems": 1000}]}
            },
            cloudevents.STRUCTURED: {"schema": _EVENT},
            cloudevents.BATCH: {"schema": {"type": "array", "items": _EVENT, "maxItems": 1000}},
        },
    }
}


_ENCODER = msgspec.json.Encoder()


@router.post(
    "/api/v1/events",
    status_code=202,
    response_model=EventsAnswer,
    openapi_extra=EVENTS_BODY,
    responses=problem_responses(TooLarge, UnsupportedMediaType, Unavailable),
)
async def publish_events(
    request: Request, access: Annotated[Access, Depends(Requires("usage:write"))]
) -> Response:
    """Publish usage. 202 means that what was accepted is durable and counts once, ever."""
    sent = cloudevents.read_events(request.headers, await request.body())
    named = [_named_tenant(event) for event in sent]
    arrivals = await _arrivals(request, access, set(named))
    batch = Batch()
    for event, tenant in zip(sent, named, strict=True):
        arrival = arrivals.get(tenant)
        if arrival is None:
            batch.reject(event, "wrong_tenant")
        else:
            batch.judge(event, arrival)
    usage_log: UsageLog = request.app.state.usage_log
    try:
        for (tenant_text, place), values in batch.values.items():
            await usage_log.publish(UUID(tenant_text), values, place)
    except LogUnavailableError:
        raise Unavailable(
            "The events could not be stored durably. Send the same request again; what was stored "
            "already counts once.",
            retry_after_seconds=2,
        ) from None
    for status, number in batch.counts.items():
        USAGE_EVENTS_TOTAL.labels(verdict=status).inc(number)
    answer = _ENCODER.encode({"results": batch.verdicts})
    return Response(answer, status_code=202, media_type="application/json")


def _named_tenant(event: object) -> str | None:
    """The tenant an event names in its `tenantid`; the empty text for one that makes no sense."""
    if type(event) is Plain:
        named: object = event.tenantid
    else:
        named = event.get("tenantid") if isinstance(event, dict) else None
    if named is None:
        return None
    return named.lower() if isinstance(named, str) and parse_uuid(named) else ""


async def _others(request: Request, access: Access, named: list[str]) -> dict[str | None, Tenant]:
    """Those of these tenants that the caller may name; for all that are unknown is waited at once."""
    gate: Gate = request.app.state.gate

    async def find(reference: str) -> Tenant | None:
        # The gate records each tenant that is not the caller's to name.
        try:
            return (await gate.for_tenant(request, access, reference)).tenant
        except (NotFound, TenantForbidden):
            return None

    found = await asyncio.gather(*(find(reference) for reference in named), return_exceptions=True)
    tenants: dict[str | None, Tenant] = {}
    for reference, tenant in zip(named, found, strict=True):
        if isinstance(tenant, BaseException):
            raise tenant
        if tenant is not None:
            tenants[reference] = tenant
    return tenants


async def _arrivals(
    request: Request, access: Access, named: AbstractSet[str | None]
) -> dict[str | None, Arrival]:
    """By the tenant that events name (None: they name none), whose they are."""
    tenants: dict[str | None, Tenant] = {None: access.tenant, str(access.tenant_id): access.tenant}
    others = named - tenants.keys() - {""}
    if len(others) > TENANTS_MAX:
        raise InvalidRequest(
            f"The events name over {TENANTS_MAX} tenants. Send fewer at once.",
            code="too_many_tenants",
        )
    if not access.named:
        tenants |= await _others(request, access, sorted(filter(None, others)))
    database: Database = request.app.state.database
    ids = sorted({tenant.id for tenant in tenants.values()})
    async with database.transaction() as tx:
        known = await meters.applying(tx, ids, access.mode)
        marked_since = await reporters.marked_since(tx, access)
    directory: Directory = request.app.state.directory
    spreads = {tenant.id: await spread_of(directory, tenant) for tenant in tenants.values()}
    received_at = utc_now()
    return {
        reference: Arrival(
            tenant.id,
            access.mode,
            received_at,
            tenant.snapshot.clock_offset_seconds if access.mode == "test" else 0,
            meters.of_tenant(known, tenant.id),
            spreads[tenant.id],
            by_platform=received_at >= marked_since,
        )
        for reference, tenant in tenants.items()
    }
