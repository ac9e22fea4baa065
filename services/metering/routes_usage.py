"""`/api/v1/meters/{meter}/query` and `/api/v1/usage/report`: what was used."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from libs.clock import floor_to_minute
from libs.db.pool import Database
from libs.directory.local import business_now
from libs.ids import public_id
from libs.web.auth import Access, Requires
from libs.web.problems import InvalidRequest
from libs.web.times import UtcTime
from services.metering import closing, limits, report, store_queries, store_usage
from services.metering.intake import customer_of
from services.metering.limits import month_of
from services.metering.measuring import Meter, plain
from services.metering.progress import Progress
from services.metering.routes_meters import found_meter
from services.metering.store_queries import Question, Total, Window

router = APIRouter(tags=["usage"])

ROWS_MAX = 5_000
RANGE_MAX = timedelta(days=1_100)

_LENGTHS = {
    "minute": timedelta(minutes=1),
    "hour": timedelta(hours=1),
    "day": timedelta(days=1),
}

Text = Annotated[str, Query(max_length=128, pattern=r"^[^\x00]*$")]


class UsageRow(BaseModel):
    """The exact value in one window and group."""

    from_: datetime = Field(serialization_alias="from")
    to: datetime
    group: dict[str, str]
    value: str


class UsageAnswer(BaseModel):
    """Rows in order of time.

    Without `window` and `group_by` there is exactly one row; else a row where there was any use.
    """

    rows: list[UsageRow]
    as_of: datetime | None = Field(
        description="Everything that came in before this moment is counted; null before any usage."
    )


@dataclass(frozen=True)
class Interval:
    """Whole minutes, the end not included."""

    start: datetime
    end: datetime


def interval(
    access: Access, start: datetime | None, end: datetime | None, default: Interval | None = None
) -> Interval:
    """What a caller asked for, widened to whole minutes; without a word the running month.

    Raises:
        InvalidRequest: it ends before it starts, or is too long.
    """
    now = business_now(access.tenant, access.mode)
    fallback = default or Interval(*month_of(now))
    first = floor_to_minute(start or fallback.start)
    last = end or (fallback.end if start is None else now)
    try:
        last = floor_to_minute(last + timedelta(minutes=1) - timedelta(microseconds=1))
        if not first < last or last - first > RANGE_MAX:
            raise InvalidRequest(
                "`from` must lie before `to`, and at most three years apart.",
                code="invalid_interval",
            )
    except OverflowError:
        raise InvalidRequest("`to` is out of range.", code="invalid_interval") from None
    return Interval(first, last)


@router.get("/api/v1/meters/{meter}/query")
async def query_meter(
    request: Request,
    meter: Annotated[str, Path(max_length=200, description="Key or id of the meter.")],
    access: Annotated[Access, Depends(Requires("usage:read"))],
    from_: Annotated[UtcTime | None, Query(alias="from")] = None,
    to: UtcTime | None = None,
    window: Window | None = None,
    group_by: Annotated[
        list[Text] | None, Query(max_length=5, description="Paths of the meter's own `group_by`.")
    ] = None,
    customer: Annotated[
        Text | None, Query(description="Without: all of the tenant's use, whoever's it is.")
    ] = None,
    user: Text | None = None,
) -> UsageAnswer:
    """How much was used, exactly; times are widened to whole minutes, windows are UTC."""
    row = await found_meter(request, access, meter)
    asked = interval(access, from_, to)
    paths = [path for each in group_by or [] for path in each.split(",")]
    question = Question(
        asked.start,
        asked.end,
        window,
        None if customer is None else customers_of(access, customer),
        user,
        _breakdown(row.meter, paths),
    )
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        last_received_at = await store_usage.last_received_at(tx)
        totals = await store_queries.add_up(tx, row.meter, question, limit=ROWS_MAX + 1)
    if len(totals) > ROWS_MAX:
        raise InvalidRequest(
            f"The answer has over {ROWS_MAX} rows. Ask for less time, longer windows or no groups.",
            code="too_many_rows",
        )
    rows = [_shape(total, question, paths) for total in totals]
    if not rows and window is None and not paths:
        rows = [UsageRow(from_=asked.start, to=asked.end, group={}, value="0")]
    progress: Progress = request.app.state.progress
    return UsageAnswer(rows=rows, as_of=progress.as_of(access.tenant_id, last_received_at))


@router.get("/api/v1/usage/report")
async def report_usage(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    from_: Annotated[UtcTime | None, Query(alias="from")] = None,
    to: UtcTime | None = None,
) -> report.Report:
    """The tenant's use by meter and user, against its plan; without a period the current one."""
    database: Database = request.app.state.database
    snapshot = access.tenant.snapshot
    async with database.tenant(access.tenant_id, access.mode) as tx:
        now = business_now(access.tenant, access.mode)
        standing = await limits.standing_of(tx, snapshot.self_customer_id, now)
        asked = interval(access, from_, to, Interval(standing.start, standing.end))
        last_received_at = await store_usage.last_received_at(tx)
        progress: Progress = request.app.state.progress
        return await report.write(
            tx,
            access.tenant,
            standing,
            asked.start,
            asked.end,
            progress.as_of(access.tenant_id, last_received_at),
        )


def customers_of(access: Access, reference: str) -> list[str]:
    """How aggregates name the customer of a request: `self`, a public id, or a subject."""
    own = access.tenant.snapshot.self_customer_id
    if reference in ("self", "", str(own), public_id("customer", own)):
        return closing.customers_of(own, own)
    return [customer_of(reference)]


def _breakdown(meter: Meter, paths: list[str]) -> tuple[int, ...]:
    unknown = [path for path in paths if path not in meter.group_by]
    if unknown or len(set(paths)) != len(paths):
        known = ", ".join(meter.group_by) or "none"
        raise InvalidRequest(
            f"`group_by` takes paths that the meter groups by, each once: {known}.",
            code="unknown_group",
        )
    return tuple(meter.group_by.index(path) for path in paths)


def _shape(total: Total, question: Question, paths: list[str]) -> UsageRow:
    start, end = question.start, question.end
    if total.window_start is not None:
        start = max(start, total.window_start)
        end = min(end, _end_of(question.window, total.window_start))
    return UsageRow(
        from_=start,
        to=end,
        group=dict(zip(paths, total.parts, strict=True)),
        value=plain(total.value),
    )


def _end_of(window: Window | None, start: datetime) -> datetime:
    assert window is not None, "a row has a start of its own only in windows"
    return month_of(start)[1] if window == "month" else start + _LENGTHS[window]
