"""`/api/v1/meters/{meter}/query` and `/api/v1/usage/report`: what was used."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import BaseModel, Field

from libs.clock import UnknownZoneError, floor_to_minute, zone_named
from libs.db.pool import Database, Tx
from libs.directory.local import business_now
from libs.ids import public_id
from libs.web.auth import Access, Requires
from libs.web.problems import InvalidRequest
from libs.web.times import UtcTime
from services.metering import closing, limits, report, store_queries, store_usage, zones
from services.metering.capacity import spread_of
from services.metering.limits import Standing
from services.metering.measuring import Meter, plain
from services.metering.progress import Progress
from services.metering.routes_meters import found_meter
from services.metering.store_levels import TooManyWindowsError
from services.metering.store_queries import Question, Total
from services.metering.usage_record import customer_of
from services.metering.windows import Window, ceil_to_minute, month_of

router = APIRouter(tags=["usage"])

ROWS_MAX = 5_000
RANGE_MAX = timedelta(days=1_100)

Text = Annotated[str, Query(max_length=128, pattern=r"^[^\x00]*$")]


ZoneName = Annotated[
    str | None,
    Query(
        max_length=64,
        description="By whose clocks hours, days and months begin, such as `Europe/Berlin`; without it "
        "the tenant's own zone, `time_zone` in its configuration `metering`.",
    ),
]


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
    time_zone: str = Field(description="By whose clocks windows begin; times are UTC all the same.")
    as_of: datetime | None = Field(
        description="Everything that came in before this moment is counted; null before any usage."
    )


@dataclass(frozen=True)
class Interval:
    """Whole minutes, the end not included."""

    start: datetime
    end: datetime


async def zone_of(request: Request, access: Access, name: str | None) -> tuple[str, tzinfo]:
    """The time zone that a caller named, or the tenant's own.

    Raises:
        InvalidRequest: there is none of that name.
    """
    if name is None:
        name = await zones.zone_name_of(request.app.state.directory, access.tenant)
    try:
        return name, zone_named(name)
    except UnknownZoneError:
        raise InvalidRequest(
            "`time_zone` must be the name of a time zone, such as `Europe/Berlin`.",
            code="unknown_time_zone",
        ) from None


def interval(
    access: Access,
    start: datetime | None,
    end: datetime | None,
    zone: tzinfo = UTC,
    default: Interval | None = None,
) -> Interval:
    """What a caller asked for, widened to whole minutes; without a word the running month.

    Raises:
        InvalidRequest: it ends before it starts, or is too long.
    """
    now = business_now(access.tenant, access.mode)
    fallback = default or Interval(*month_of(now, zone))
    first = floor_to_minute(start or fallback.start)
    last = end or (fallback.end if start is None else now)
    try:
        last = ceil_to_minute(last)
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
    time_zone: ZoneName = None,
) -> UsageAnswer:
    """How much was used, exactly; times are widened to whole minutes.

    A level over time counts to the end of the running minute, and in every window that it holds in.
    """
    row = await found_meter(request, access, meter)
    zone_name, zone = await zone_of(request, access, time_zone)
    asked = interval(access, from_, to, zone)
    if user is not None and row.meter.aggregation == "time_weighted_sum":
        raise InvalidRequest(
            "A level is of a customer and a group, whoever told it: leave out `user`.",
            code="no_users",
        )
    paths = [path for each in group_by or [] for path in each.split(",")]
    question = Question(
        asked.start,
        asked.end,
        window,
        None if customer is None else customers_of(access, customer),
        user,
        _breakdown(row.meter, paths),
        zone,
        business_now(access.tenant, access.mode),
    )
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        last_received_at = await store_usage.last_received_at(tx)
        totals = await _add_up(tx, row.meter, question)
    rows = [_shape(total, question, paths) for total in totals]
    if not rows and window is None and not paths:
        rows = [UsageRow(from_=asked.start, to=asked.end, group={}, value="0")]
    progress: Progress = request.app.state.progress
    spread = await spread_of(request.app.state.directory, access.tenant)
    as_of = progress.as_of(access.tenant_id, last_received_at, spread)
    return UsageAnswer(rows=rows, time_zone=zone_name, as_of=as_of)


@router.get("/api/v1/usage/report")
async def report_usage(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    from_: Annotated[UtcTime | None, Query(alias="from")] = None,
    to: UtcTime | None = None,
    time_zone: ZoneName = None,
) -> report.Report:
    """The tenant's use by meter and user, against its plan.

    Without a period it is of the plan's current one; where the plan has none, of the calendar month by
    the clocks of the time zone.
    """
    zone_name, zone = await zone_of(request, access, time_zone)
    spread = await spread_of(request.app.state.directory, access.tenant)
    database: Database = request.app.state.database
    snapshot = access.tenant.snapshot
    async with database.tenant(access.tenant_id, access.mode) as tx:
        now = business_now(access.tenant, access.mode)
        standing = await limits.standing_of(tx, snapshot.self_customer_id, now, zone)
        asked = interval(access, from_, to, zone, _period_of(standing))
        last_received_at = await store_usage.last_received_at(tx)
        progress: Progress = request.app.state.progress
        return await report.write(
            tx,
            access.tenant,
            standing,
            asked.start,
            asked.end,
            zone_name,
            progress.as_of(access.tenant_id, last_received_at, spread),
        )


def _period_of(standing: Standing) -> Interval | None:
    """The plan's current period, where it has one."""
    return Interval(standing.start, standing.end) if standing.is_planned else None


async def _add_up(tx: Tx, meter: Meter, question: Question) -> list[Total]:
    """The rows of an answer.

    Raises:
        InvalidRequest: they are too many, or reach beyond the calendar.
    """
    try:
        totals = await store_queries.add_up(tx, meter, question, limit=ROWS_MAX + 1)
    except OverflowError:
        raise InvalidRequest("The time is out of range.", code="invalid_interval") from None
    except TooManyWindowsError:
        raise _too_many_rows() from None
    if len(totals) > ROWS_MAX:
        raise _too_many_rows()
    return totals


def _too_many_rows() -> InvalidRequest:
    return InvalidRequest(
        f"The answer has over {ROWS_MAX} rows. Ask for less time, longer windows or no groups.",
        code="too_many_rows",
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
    if total.window is not None:
        start, end = max(start, total.window[0]), min(end, total.window[1])
    return UsageRow(
        from_=start,
        to=end,
        group=dict(zip(paths, total.parts, strict=True)),
        value=plain(total.value),
    )
