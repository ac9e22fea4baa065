"""`/api/v1/limits/check`: may this much more be used?"""

import asyncio
from datetime import datetime
from decimal import Decimal
from functools import partial
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.gathered_looks import TOGETHER_MAX
from libs.db.pool import Database
from libs.db.shared_looks import SharedLooks
from libs.db.tenant import Mode
from libs.directory.local import business_now
from libs.ids import parse_uuid
from libs.web.auth import Access, Requires
from libs.web.plain import PlainRoute
from services.metering import limits, reservations, store_usage
from services.metering.capacity import spread_of
from services.metering.glances import Asked, Glance, Glances
from services.metering.limits import Check, CreditCheck, Standing
from services.metering.measuring import Meter, plain
from services.metering.progress import Progress
from services.metering.routes_meters import found_meter
from services.metering.routes_usage import customers_of
from services.metering.unchanging import Unchanging
from services.metering.zones import zone_of

router = APIRouter(tags=["limits"], route_class=PlainRoute)

CHECKS_MAX = 100
AMOUNT = r"^[0-9]{1,20}(\.[0-9]{1,15})?$"

Reader = Annotated[Access, Depends(Requires("usage:read"))]


class CreditStanding(BaseModel):
    """What the customer's credit pays for, of what is used from `since` on."""

    since: datetime
    used: str
    limit: str
    remaining: str


class LimitCheck(BaseModel):
    """Whether an amount may be used; `limit` and `remaining` are null where there is no limit."""

    allowed: bool
    meter: str
    used: str
    reserved: str = Field(
        description="Held by reservations, or settled by them and not counted yet."
    )
    limit: str | None
    remaining: str | None
    kind: Literal["soft", "hard"] | None = Field(
        description="A soft limit refuses nothing: what is over it is charged."
    )
    period_from: datetime
    period_to: datetime
    as_of: datetime | None = Field(
        description="Everything that came in before this moment is counted."
    )
    credit: CreditStanding | None = Field(
        default=None, description="A bound beside the plan's; null where credit bounds nothing."
    )


class Wanted(BaseModel):
    """What is to be checked."""

    model_config = ConfigDict(extra="forbid")

    meter: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    customer: Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")] | None = Field(
        default=None, description="Without: the tenant itself."
    )
    amount: Annotated[str, Field(pattern=AMOUNT, description="How much more; a decimal.")] = "1"


class ChecksRequest(BaseModel):
    """Several checks at once."""

    model_config = ConfigDict(extra="forbid")

    checks: Annotated[list[Wanted], Field(min_length=1, max_length=CHECKS_MAX)]


class ChecksAnswer(BaseModel):
    """The answers in the order of the checks."""

    results: list[LimitCheck]


@router.get("/api/v1/limits/check", response_model=LimitCheck)
async def check_limit(
    request: Request, access: Reader, wanted: Annotated[Wanted, Query()]
) -> Response:
    """Whether this much more may be used in the current period. It reserves nothing."""
    return Response(await _checked(request, access, wanted), media_type="application/json")


@router.post("/api/v1/limits/check", response_model=ChecksAnswer)
async def check_limits(request: Request, body: ChecksRequest, access: Reader) -> Response:
    """The same for several meters and customers at once; each is looked at by itself."""
    results: list[bytes] = []
    for first in range(0, len(body.checks), TOGETHER_MAX):
        some = body.checks[first : first + TOGETHER_MAX]
        asked = (_checked(request, access, each) for each in some)
        for found in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(found, BaseException):
                raise found
            results.append(found)
    answer = b'{"results":[%b]}' % b",".join(results)
    return Response(answer, media_type="application/json")


async def _checked(request: Request, access: Access, wanted: Wanted) -> bytes:
    """A check as JSON; those who ask the same at the same moment share it."""
    customers = customers_of(access, wanted.customer or "self")
    checks: SharedLooks[bytes] = request.app.state.limit_checks
    question = (access.tenant_id, access.mode, *customers, wanted.meter, wanted.amount)
    return await checks.ask(question, partial(_look, request, access, wanted, customers))


async def _look(request: Request, access: Access, wanted: Wanted, customers: list[str]) -> bytes:
    meter = await billers_meter(request, access, wanted.meter, customers)
    database: Database = request.app.state.database
    zone = await zone_of(request.app.state.directory, access.tenant)
    asked = Asked(
        access.tenant_id,
        access.mode,
        meter,
        customers,
        Decimal(wanted.amount),
        business_now(access.tenant, access.mode),
        zone,
    )
    glances: Glances = request.app.state.glances
    found = await glances.check(database, asked) or await look_longer(database, asked)
    progress: Progress = request.app.state.progress
    spread = await spread_of(request.app.state.directory, access.tenant)
    as_of = progress.as_of(access.tenant_id, found.last_received_at, spread)
    return shape(meter, found.standing, found.check, as_of).model_dump_json().encode()


async def look_longer(database: Database, asked: Asked) -> Glance:
    """The same, statement by statement."""
    async with database.tenant(asked.tenant_id, asked.mode) as tx:
        customer_id = parse_uuid(asked.customers[-1])
        standing = await limits.standing_of(tx, customer_id, asked.now, asked.zone)
        found = await reservations.check(tx, asked.meter, standing, asked.customers, asked.amount)
        return Glance(standing, found, await store_usage.last_received_at(tx))


async def billers_meter(
    request: Request, access: Access, reference: str, customers: list[str]
) -> Meter:
    """The meter that counts for a customer's limit.

    For the tenant itself that is the platform's, where it has one of that key: a meter of the tenant's
    own with the same key must not stand before it.

    Raises:
        NotFound: neither the tenant nor the platform has it.
    """
    platform_first = not customers[0]
    at_hand: Unchanging[tuple[UUID, Mode, str], Meter] = request.app.state.billers_meters
    owner = PLATFORM_TENANT_ID if platform_first else access.tenant_id
    named = (owner, access.mode, reference)
    meter = at_hand.find(named)
    if meter is None:
        row = await found_meter(request, access, reference, platform_first=platform_first)
        meter = row.meter
        if meter.tenant_id == owner:
            # Another's is only for now: the one that comes first may still be defined.
            at_hand.keep(named, meter)
    return meter


def shape(meter: Meter, standing: Standing, found: Check, as_of: datetime | None) -> LimitCheck:
    """A check as the API tells it."""
    return LimitCheck(
        allowed=found.allowed,
        meter=meter.key,
        used=plain(found.used),
        reserved=plain(found.reserved),
        limit=None if found.limit is None else plain(found.limit),
        remaining=None if found.remaining is None else plain(found.remaining),
        kind=found.kind,
        period_from=standing.start,
        period_to=standing.end,
        as_of=as_of,
        credit=None if found.credit is None else _credit(found.credit),
    )


def _credit(found: CreditCheck) -> CreditStanding:
    return CreditStanding(
        since=found.since,
        used=plain(found.used),
        limit=plain(found.limit),
        remaining=plain(found.remaining),
    )
