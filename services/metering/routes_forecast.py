"""`/api/v1/usage/forecast`: what a meter comes to by the end of the period."""

from datetime import date, datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database
from libs.directory.local import business_now
from libs.web.auth import Access, Requires
from libs.web.problems import NotFound, problem_responses
from services.metering import forecasts
from services.metering.forecasting import Method
from services.metering.measuring import plain
from services.metering.routes_limits import billers_meter
from services.metering.routes_usage import Text, customers_of
from services.metering.zones import zone_of

router = APIRouter(tags=["usage"])


class ForecastBody(BaseModel):
    """An estimate, at most an hour old, of the meter's value at the end of the current period."""

    meter: str
    customer: str | None
    period_from: datetime
    period_to: datetime
    used: str = Field(description="When the forecast was made.")
    trend: str = Field(description="What it comes to without what is planned still.")
    planned: str = Field(description="What is planned until the period ends and not used yet.")
    expected: str = Field(description="Trend and plan together.")
    low: str = Field(description="Nine of ten outcomes lie between `low` and `high`.")
    high: str
    method: Method = Field(description="The one that was best on past usage.")
    limit: str | None
    kind: Literal["soft", "hard"] | None
    limit_hit_on: date | None = Field(
        description="The day the plan's limit, or what credit pays for, is reached, whichever comes "
        "first, by the clocks of the tenant's time zone; null: not in this period."
    )
    limit_hit_by: Literal["plan", "credit"] | None = Field(
        description="Which of them comes first; null also where an older version made the forecast."
    )
    made_at: datetime


@router.get("/api/v1/usage/forecast", responses=problem_responses(NotFound))
async def forecast_usage(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    meter: Annotated[str, Query(min_length=1, max_length=200, pattern=r"^[^\x00]+$")],
    customer: Annotated[Text | None, Query(description="Without: the tenant itself.")] = None,
) -> ForecastBody:
    """Forecast a meter to the end of the customer's period, and when its limit is reached."""
    customers = customers_of(access, customer or "self")
    found = await billers_meter(request, access, meter, customers)
    now = business_now(access.tenant, access.mode)
    zone = await zone_of(request.app.state.directory, access.tenant)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        made = await forecasts.current(tx, found, customers, zone, now)
    return ForecastBody(
        meter=found.key,
        customer=customer,
        period_from=made.period_from,
        period_to=made.period_to,
        used=plain(made.used),
        trend=plain(made.trend),
        planned=plain(made.planned),
        expected=plain(made.expected),
        low=plain(made.low),
        high=plain(made.high),
        method=made.method,
        limit=None if made.limit_amount is None else plain(made.limit_amount),
        kind=made.limit_kind,
        limit_hit_on=made.limit_hit_on,
        limit_hit_by=made.limit_hit_by,
        made_at=made.made_at,
    )
