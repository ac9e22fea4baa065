"""`/api/v1/usage/planned`: usage that is declared ahead."""

from collections.abc import Sequence
from datetime import datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, model_validator

from libs.clock import zone_named
from libs.db.pool import Database, Row, Tx
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id, parse_uuid, public_id
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, FieldProblem, InvalidFields, NotFound, problem_responses
from libs.web.times import UtcTime
from services.metering import limits, planned, reservations
from services.metering import store_planned as store
from services.metering.measuring import plain
from services.metering.planning import Outcome, Reason
from services.metering.recurrence import (
    OCCURRENCES_MAX,
    Every,
    Recurrence,
    TooManyOccurrencesError,
    times_of,
)
from services.metering.routes_limits import billers_meter
from services.metering.routes_meters import found_meter
from services.metering.routes_reservations import HOLD_SECONDS_MAX, Name, Positive
from services.metering.routes_usage import Text, customers_of
from services.metering.zones import zone_name_of

router = APIRouter(tags=["usage"])

AHEAD_MAX = timedelta(days=1_096)

IdPath = Annotated[str, Path(max_length=100)]
Reader = Annotated[Access, Depends(Requires("usage:read"))]
Writer = Annotated[Access, Depends(Requires("usage:write"))]


class RecurrenceBody(BaseModel):
    """How often it happens: a number of times, or as long as a time is not past."""

    model_config = ConfigDict(extra="forbid")

    every: Every
    count: Annotated[int, Field(strict=True, ge=2, le=OCCURRENCES_MAX)] | None = None
    until: UtcTime | None = None

    @model_validator(mode="after")
    def _ends(self) -> "RecurrenceBody":
        if (self.count is None) == (self.until is None):
            raise ValueError("give `count` or `until`: what recurs needs one end")
        return self


class PlannedRequest(BaseModel):
    """What is to be used, and when."""

    model_config = ConfigDict(extra="forbid")

    meter: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    quantity: Positive
    at: UtcTime = Field(description="When it happens first; ahead of the business time.")
    recurrence: RecurrenceBody | None = Field(default=None, description="Without: once.")
    customer: Name | None = Field(default=None, description="Without: the tenant itself.")
    user: Name | None = None
    hold_seconds: Annotated[int, Field(strict=True, ge=1, le=HOLD_SECONDS_MAX)] = Field(
        default=3_600, description="How long what is admitted is held for usage to come."
    )
    note: Annotated[str, Field(max_length=200, pattern=r"^[^\x00]*$")] = ""


class OccurrenceBody(BaseModel):
    """One time that it happens, and what became of it."""

    number: int
    at: datetime
    state: Literal["planned", "admitted", "deferred", "refused", "canceled"] = Field(
        description="`planned` until it is due; `deferred` is tried again."
    )
    outcome: Outcome = Field(
        description="What was decided; while it is planned, what was foreseen at `judged_at`, when it was "
        "declared: what is planned or canceled later does not change it."
    )
    reason: Reason | None = Field(description="Why it was not admitted.")
    used: str | None = Field(description="Of the bound that decided: the plan's, or credit's.")
    limit: str | None
    judged_at: datetime
    passes_at: datetime | None = Field(
        description="When what is deferred finds room; null where nobody knows."
    )
    tried_at: datetime | None = Field(
        description="When it is looked at next, or first; null where all is said."
    )
    waits_until: datetime = Field(description="What has found no room until then is refused.")
    reservation: str | None = Field(description="What holds it: settle it with what was used.")
    held: Literal["held", "settled", "released", "expired"] | None
    settled_quantity: str | None


class PlannedBody(BaseModel):
    """Planned usage; times are business time, in UTC."""

    id: str
    meter_id: str
    customer: str | None
    user: str | None
    quantity: str
    every: Every | None = Field(description="Null: once.")
    time_zone: str = Field(description="By whose clocks it recurs.")
    hold_seconds: int
    note: str
    created_at: datetime
    canceled_at: datetime | None
    next: OccurrenceBody | None = Field(description="What is to be decided next.")
    last: OccurrenceBody | None = Field(description="What was decided last.")


class PlannedWhole(PlannedBody):
    """The same with all its occurrences."""

    occurrences: list[OccurrenceBody]


@router.post("/api/v1/usage/planned", status_code=201, responses=problem_responses(NotFound))
async def plan_usage(request: Request, body: PlannedRequest, access: Writer) -> JSONResponse:
    """Declare usage ahead, once or recurring by the clocks of the tenant's time zone.

    It enters the forecast, and each time it is due it is admitted, deferred or refused against the
    limit and the credit of then. What is admitted is held as a reservation.
    """
    customers = customers_of(access, body.customer or "self")
    meter = await billers_meter(request, access, body.meter, customers)
    quantity = Decimal(body.quantity)
    if quantity == 0:
        raise InvalidFields("`quantity` must be above zero.")
    name = await zone_name_of(request.app.state.directory, access.tenant)
    zone = zone_named(name)

    async def work(tx: Tx) -> PlannedWhole:
        # Whether it lies ahead is asked once: the same request is answered again when it is past.
        now = business_now(access.tenant, access.mode)
        plan = planned.Plan(
            meter=meter,
            customers=customers,
            subject=body.customer if customers[0] else None,
            user=body.user,
            quantity=quantity,
            times=_times(body, zone, now),
            every=None if body.recurrence is None else body.recurrence.every,
            time_zone=name,
            hold_seconds=body.hold_seconds,
            note=body.note,
            actor=access.caller.actor,
        )
        standing = await limits.standing_of(tx, parse_uuid(customers[-1]), now, zone)
        try:
            planned_id = await planned.declare(tx, plan, standing, zone)
        except reservations.NotReservableError:
            raise InvalidFields(
                "Only meters that count or sum can be planned.", code="not_reservable"
            ) from None
        except reservations.AmountError as error:
            raise InvalidFields(f"`quantity`: {error}.", code="invalid_amount") from None
        except planned.TooMuchPlannedError:
            raise Conflict(
                f"Up to {planned.OPEN_MAX} may be planned at a time. Cancel what does not hold any "
                "more, or declare one that recurs.",
                code="too_much_planned",
            ) from None
        return await _whole(tx, planned_id)

    return await answer_once(request, access, request.app.state.database, body, work)


@router.get("/api/v1/usage/planned", responses=problem_responses(NotFound))
async def list_planned_usage(
    request: Request,
    access: Reader,
    page: Annotated[PageRequest, Depends(page_request)],
    meter: Annotated[Text | None, Query(description="Only of this meter, by key or id.")] = None,
    customer: Annotated[
        Text | None, Query(description="Only of this customer; `self` is the tenant itself.")
    ] = None,
    only_open: Annotated[
        bool, Query(alias="open", description="Only what is not decided to its end.")
    ] = False,
) -> Page[PlannedBody]:
    """What was declared ahead, newest first, with what is next and what became of the last."""
    position = page.after(UUID)
    wanted = None if customer is None else customers_of(access, customer)
    meter_id = None
    if meter is not None and wanted is not None:
        meter_id = (await billers_meter(request, access, meter, wanted)).id
    elif meter is not None:
        meter_id = (await found_meter(request, access, meter)).meter.id
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = await store.page(
            tx,
            meter_id=meter_id,
            customer=None if wanted is None else wanted[-1],
            only_open=only_open,
            before=position[0] if position else None,
            limit=page.limit + 1,
        )
        nearest = await store.nearest_of(tx, [row["id"] for row in rows])

    def shape(row: Row) -> PlannedBody:
        return _shape(row, nearest.get((row["id"], True)), nearest.get((row["id"], False)))

    return Page[PlannedBody].of(rows, page.limit, lambda row: (row["id"],), shape)


@router.get("/api/v1/usage/planned/{planned_usage}", responses=problem_responses(NotFound))
async def get_planned_usage(
    request: Request, planned_usage: IdPath, access: Reader
) -> PlannedWhole:
    """What was declared, and what became of each occurrence."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        return await _whole(tx, _id(planned_usage))


@router.delete("/api/v1/usage/planned/{planned_usage}", responses=problem_responses(NotFound))
async def cancel_planned_usage(
    request: Request, planned_usage: IdPath, access: Writer
) -> PlannedWhole:
    """Let nothing more of it happen; what it holds is free again. What was decided stays on record."""
    now = business_now(access.tenant, access.mode)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await store.find(tx, _id(planned_usage))
        if row is None:
            raise NotFound
        await planned.cancel(tx, row, now)
        return await _whole(tx, row["id"])


def _times(body: PlannedRequest, zone: tzinfo, now: datetime) -> Sequence[datetime]:
    """When it happens.

    Raises:
        InvalidFields: not ahead, too far ahead, or too often.
    """
    if body.at <= now:
        raise _invalid("body.at", f"Must be ahead of the business time, {now.isoformat()}.")
    times: list[datetime] = [body.at]
    try:
        if body.recurrence is not None and body.at <= now + AHEAD_MAX:
            asked = body.recurrence
            times = times_of(body.at, Recurrence(asked.every, asked.count, asked.until), zone)
    except TooManyOccurrencesError:
        raise _invalid("body.recurrence", f"Has more than {OCCURRENCES_MAX} occurrences.") from None
    if not times:
        raise _invalid("body.recurrence.until", "Must not be before `at`.")
    if times[-1] > now + AHEAD_MAX:
        raise _invalid("body.at", "All of it must lie within three years.")
    return times


def _invalid(field: str, detail: str) -> InvalidFields:
    return InvalidFields(fields=[FieldProblem(field=field, detail=detail)])


def _id(reference: str) -> UUID:
    try:
        return parse_public_id("planned_usage", reference)
    except InvalidIdError:
        raise NotFound from None


async def _whole(tx: Tx, planned_id: UUID) -> PlannedWhole:
    row = await store.find(tx, planned_id)
    if row is None:
        raise NotFound
    found = await store.occurrences_of(tx, planned_id)
    open_ones = [each for each in found if each["due_at"] is not None]
    decided = [each for each in found if each["due_at"] is None and each["state"] != "canceled"]
    body = _shape(row, next(iter(open_ones), None), decided[-1] if decided else None)
    return PlannedWhole(**body.model_dump(), occurrences=[_occurrence(each) for each in found])


def _shape(row: Row, following: Row | None, last: Row | None) -> PlannedBody:
    return PlannedBody(
        id=public_id("planned_usage", row["id"]),
        meter_id=public_id("meter", row["meter_id"]),
        customer=row["subject"],
        user=row["user_id"],
        quantity=plain(row["quantity"]),
        every=row["every"],
        time_zone=row["time_zone"],
        hold_seconds=row["hold_seconds"],
        note=row["note"],
        created_at=row["created_at"],
        canceled_at=row["canceled_at"],
        next=None if following is None else _occurrence(following),
        last=None if last is None else _occurrence(last),
    )


def _occurrence(row: Row) -> OccurrenceBody:
    held, reservation_id = row["reservation_state"], row["reservation_id"]
    settled = row["settled_amount"]
    return OccurrenceBody(
        number=row["number"],
        at=row["at"],
        state=row["state"],
        outcome=row["outcome"],
        reason=row["reason"],
        used=None if row["used"] is None else plain(row["used"]),
        limit=None if row["limit_amount"] is None else plain(row["limit_amount"]),
        judged_at=row["judged_at"],
        passes_at=row["passes_at"],
        tried_at=row["due_at"],
        waits_until=row["until"],
        reservation=None if reservation_id is None else public_id("reservation", reservation_id),
        held="settled" if held == "settling" else held,
        settled_quantity=None if settled is None else plain(settled),
    )
