"""`/usage`: how much of each meter one tenant has used, by period and day; `/usage.csv`."""

from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from libs.clock import format_time, utc_now
from libs.web.times import UtcTime
from services.console import usage
from services.console.origin import ApiProblem, all_of
from services.console.pages import SECURITY_HEADERS, decimal
from services.console.routes import OfTenant, PageRoute, SignedIn, page

router = APIRouter(include_in_schema=False, route_class=PageRoute)

MeterPlace = Annotated[str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")]
From = Annotated[UtcTime | None, Query(alias="from")]
At = Annotated[UtcTime, Query(alias="from")]


@router.get("/usage")
async def show_usage(request: Request, viewer: OfTenant, begin: From = None) -> Response:
    """Each meter of the tenant in view; an operator who chose none is asked to."""
    meters = await usage.meters(viewer.api)
    known_periods = await usage.periods(viewer.api, meters, utc_now())
    place = usage.choose(known_periods, begin)
    period = known_periods[place]
    before = known_periods[place + 1] if place + 1 < len(known_periods) else None
    found = await all_of(usage.use_of(viewer.api, meter, period, before) for meter in meters)
    # What was used comes before what only could have been.
    found.sort(key=lambda use: not (use.total or use.before))
    outlooks = await usage.outlooks(viewer.api, found) if place == 0 else {}
    return page(
        request,
        "usage.html",
        viewer,
        periods=[(each, format_time(each.begin)) for each in known_periods],
        period=period,
        current=place == 0,
        begin=format_time(period.begin),
        end=format_time(period.end),
        uses=found,
        outlooks=outlooks,
    )


@router.get("/usage.csv")
async def usage_csv(viewer: SignedIn, meter: MeterPlace, begin: At, to: UtcTime) -> Response:
    """A meter's use by day, for a spreadsheet; it is named by its id or key."""
    if viewer.tenant is None or not _fits(begin, to):
        raise ApiProblem(
            400, "Choose a tenant, and a time from before its end and at most 400 days long."
        )
    key, days = await usage.days_of(viewer.api, meter, usage.Period(begin, to))
    lines = ["day,meter,value", *(f"{day},{key},{decimal(value)}" for day, value in days)]
    name = f"usage-{viewer.tenant}-{key.replace(':', '-')}-{begin.date()}.csv"
    return Response(
        "\r\n".join(lines) + "\r\n",
        media_type="text/csv; charset=utf-8",
        headers={**SECURITY_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'},
    )


def _fits(begin: datetime, end: datetime) -> bool:
    return timedelta(0) < end - begin <= timedelta(days=usage.DAYS_MAX)
