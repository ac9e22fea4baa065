"""`/api/v1/limits/check`: may this much more be used?"""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database
from libs.directory.local import business_now
from libs.ids import parse_uuid
from libs.web.auth import Access, Requires
from services.metering import limits, store_usage
from services.metering.measuring import plain
from services.metering.progress import Progress
from services.metering.routes_meters import found_meter
from services.metering.routes_usage import Text, customers_of

router = APIRouter(tags=["limits"])


class LimitCheck(BaseModel):
    """Whether an amount may be used; `limit` and `remaining` are null where there is no limit."""

    allowed: bool
    meter: str
    used: str
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


@router.get("/api/v1/limits/check")
async def check_limit(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    meter: Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$")],
    customer: Annotated[Text | None, Query(description="Without: the tenant itself.")] = None,
    amount: Annotated[
        str,
        Query(pattern=r"^[0-9]{1,20}(\.[0-9]{1,15})?$", description="How much more; a decimal."),
    ] = "1",
) -> LimitCheck:
    """Whether this much more may be used in the current period. It reserves nothing."""
    row = await found_meter(request, access, meter)
    customers = customers_of(access, customer or "self")
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        now = business_now(access.tenant, access.mode)
        standing = await limits.standing_of(tx, parse_uuid(customers[-1]), now)
        found = await limits.check(tx, row.meter, standing, customers, Decimal(amount))
        last_received_at = await store_usage.last_received_at(tx)
    progress: Progress = request.app.state.progress
    return LimitCheck(
        allowed=found.allowed,
        meter=row.meter.key,
        used=plain(found.used),
        limit=None if found.limit is None else plain(found.limit),
        remaining=None if found.remaining is None else plain(found.remaining),
        kind=found.kind,
        period_from=standing.start,
        period_to=standing.end,
        as_of=progress.as_of(access.tenant_id, last_received_at),
    )
