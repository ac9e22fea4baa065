"""`/api/v1/reservations`: hold an amount before it is used, then settle or release."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from libs.clock import utc_now
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.directory.local import business_now
from libs.ids import InvalidIdError, parse_public_id, parse_uuid, public_id
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.idempotency import answer_once
from libs.web.problems import (
    Conflict,
    Forbidden,
    InvalidFields,
    InvalidRequest,
    NotFound,
    TooLarge,
    problem_responses,
)
from services.metering import exact_json, limits, meters, reporters, reservations
from services.metering import store_reservations as store
from services.metering.ingest import Arrival
from services.metering.measuring import Meter, plain
from services.metering.routes_limits import AMOUNT, LimitCheck, billers_meter, shape
from services.metering.routes_usage import customers_of
from services.metering.usage_log import UsageLog
from services.metering.zones import zone_of

router = APIRouter(tags=["limits"])

HOLD_SECONDS_MAX = 24 * 60 * 60

IdPath = Annotated[str, Path(max_length=100)]
Writer = Annotated[Access, Depends(Requires("usage:write"))]
Name = Annotated[str, Field(max_length=128, pattern=r"^[^\x00]*$")]
Positive = Annotated[str, Field(pattern=AMOUNT, description="A decimal above zero.")]


class LimitReached(Conflict):
    """409: the hard limit, or credit, does not leave so much; the answer says what they leave."""

    default_code = "limit_reached"
    default_title = "Limit reached"
    default_detail = "The plan or the credit does not leave so much. Reserve less, change the plan, or add credit."


class HeldByPlatform(Forbidden):
    """403: the platform holds it for the tenant, so the tenant cannot end it."""

    default_code = reporters.REPORTED_BY_PLATFORM
    default_title = "Held by the platform"
    default_detail = (
        "The platform holds this amount for the tenant. Only the platform settles or releases it."
    )

    def __init__(self) -> None:
        super().__init__(OPERATOR, self.default_detail)


class ReservationRequest(BaseModel):
    """What to hold, for whom, and for how long."""

    model_config = ConfigDict(extra="forbid")

    meter: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\x00]+$")]
    amount: Positive
    customer: Name | None = Field(default=None, description="Without: the tenant itself.")
    user: Name | None = None
    expires_in_seconds: Annotated[int, Field(ge=1, le=HOLD_SECONDS_MAX)] = 300


class SettleRequest(BaseModel):
    """What was really used."""

    model_config = ConfigDict(extra="forbid")

    amount: Annotated[str, Field(pattern=AMOUNT)] | None = Field(
        default=None, description="At most what is held; without: all of it. Zero releases it."
    )
    data: dict[str, Any] = Field(
        default_factory=dict,
        max_length=100,
        description="The usage event's `data` but for the value: what groups and filters read.",
    )


class ReservationBody(BaseModel):
    """An amount that is held, or was."""

    id: str
    meter_id: str
    customer: str | None
    user: str | None
    amount: str
    settled_amount: str | None
    state: Literal["held", "settled", "released", "expired"]
    created_at: datetime
    expires_at: datetime
    ended_at: datetime | None


class HeldBody(ReservationBody):
    """A new reservation, with how the limit stands without it."""

    check: LimitCheck


@router.post(
    "/api/v1/reservations", status_code=201, responses=problem_responses(NotFound, LimitReached)
)
async def hold_amount(request: Request, body: ReservationRequest, access: Writer) -> JSONResponse:
    """Hold an amount of the current period: nobody else can use it up meanwhile."""
    customers = customers_of(access, body.customer or "self")
    meter = await billers_meter(request, access, body.meter, customers)
    amount = Decimal(body.amount)
    if amount == 0:
        raise InvalidFields("`amount` must be above zero.")
    zone = await zone_of(request.app.state.directory, access.tenant)

    async def work(tx: Tx) -> HeldBody:
        now = business_now(access.tenant, access.mode)
        standing = await limits.standing_of(tx, parse_uuid(customers[-1]), now, zone)
        wish = reservations.Wish(
            meter=meter,
            customers=customers,
            subject=body.customer if customers[0] else None,
            user=body.user,
            amount=amount,
            expires_at=utc_now() + timedelta(seconds=body.expires_in_seconds),
            by_platform=access.caller.operator,
        )
        try:
            held, found = await reservations.hold(tx, wish, standing)
        except reservations.NotReservableError:
            raise InvalidFields(
                "Only meters that count or sum can be reserved.", code="not_reservable"
            ) from None
        except reservations.AmountError as error:
            raise InvalidFields(f"`amount`: {error}.", code="invalid_amount") from None
        except reservations.LimitReachedError as reached:
            told = shape(meter, standing, reached.check, None).model_dump(mode="json")
            raise LimitReached(extra={"check": told}) from None
        return HeldBody(**_body(held).model_dump(), check=shape(meter, standing, found, None))

    return await answer_once(request, access, request.app.state.database, body, work)


@router.get("/api/v1/reservations/{reservation}", responses=problem_responses(NotFound))
async def get_reservation(
    request: Request,
    reservation: IdPath,
    access: Annotated[Access, Depends(Requires("usage:read"))],
) -> ReservationBody:
    """Read one reservation."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await store.find(tx, _id(reservation))
    if row is None:
        raise NotFound
    return _body(row)


@router.post(
    "/api/v1/reservations/{reservation}/settle",
    responses=problem_responses(NotFound, HeldByPlatform, Conflict, TooLarge),
)
async def settle_reservation(
    request: Request, reservation: IdPath, body: SettleRequest, access: Writer
) -> ReservationBody:
    """Tell what was used of it: that becomes usage events, and the rest is free again.

    Settling again with the same amount answers the same and has no second effect.
    """
    data = _exact_data(await request.body()) if body.data else {}
    database: Database = request.app.state.database
    await _require_own(request, access, reservation)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await _locked(tx, reservation)
        amount = row["amount"] if body.amount is None else Decimal(body.amount)
        if row["state"] in ("settling", "settled") and row["settled_amount"] == amount:
            return _body(row)
        known = await meters.applying(tx, [access.tenant_id], access.mode)
        await tx.enter(Scope((access.tenant_id,), access.mode))
        mine = meters.of_tenant(known, access.tenant_id)
        meter = next(each for each in mine if each.id == row["meter_id"])
        arrival = await _arrival(tx, access, mine)
        try:
            row = await reservations.settle(tx, row, meter, arrival, amount, data)
        except reservations.EndedError as ended:
            raise _has_ended(ended) from None
        except reservations.AmountError as error:
            raise InvalidFields(f"`amount`: {error}.", code="invalid_amount") from None
        except reservations.DataError as error:
            raise InvalidFields(
                "With these `data` the meter would not count what was used. Send what its groups "
                "and filters read.",
                code=error.code,
            ) from None
        except reservations.SettlementTooLargeError:
            raise TooLarge(
                "The usage events would be over "
                f"{reservations.SETTLED_BYTES_MAX // 1024 // 1024} MiB. Send less `data`: each event of a "
                "count carries it.",
                code="settlement_too_large",
            ) from None
    usage_log: UsageLog = request.app.state.usage_log
    if row["state"] == "settling":
        await reservations.publish(database, usage_log, row, row["events"])
    return _body(row)


@router.post(
    "/api/v1/reservations/{reservation}/release",
    responses=problem_responses(NotFound, HeldByPlatform, Conflict),
)
async def release_reservation(
    request: Request, reservation: IdPath, access: Writer
) -> ReservationBody:
    """Nothing was used: all of it is free again. Releasing twice is fine."""
    database: Database = request.app.state.database
    await _require_own(request, access, reservation)
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await _locked(tx, reservation)
        if row["state"] == "released":
            return _body(row)
        try:
            return _body(await reservations.release(tx, row))
        except reservations.EndedError as ended:
            raise _has_ended(ended) from None


def _exact_data(body: bytes) -> dict[str, Any]:
    """The `data` of a valid request with its numbers exactly as written, which FastAPI does not keep.

    Raises:
        InvalidRequest: another encoding than UTF-8, which JSON between systems must have.
    """
    try:
        data: dict[str, Any] = exact_json.loads(body.decode())["data"]
    except (ValueError, RecursionError):
        raise InvalidRequest(
            "The body is not valid JSON in UTF-8. Correct it and send it again.",
            code="invalid_json",
        ) from None
    return data


async def _arrival(tx: Tx, access: Access, mine: Sequence[Meter]) -> Arrival:
    marked_since = await reporters.marked_since(tx, access)
    received_at = utc_now()
    return Arrival(
        access.tenant_id,
        access.mode,
        received_at,
        access.tenant.snapshot.clock_offset_seconds if access.mode == "test" else 0,
        mine,
        by_platform=received_at >= marked_since,
    )


async def _require_own(request: Request, access: Access, reference: str) -> None:
    """Only the platform ends what the platform holds; who tries is recorded.

    Raises:
        HeldByPlatform: the caller is the tenant's.
    """
    if access.caller.operator:
        return
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        row = await store.find(tx, _id(reference))
    if row is not None and row["by_platform"]:
        gate: Gate = request.app.state.gate
        await gate.tell(request, access, reporters.CORRECTION_REFUSED, OPERATOR)
        raise HeldByPlatform


async def _locked(tx: Tx, reference: str) -> Row:
    row = await reservations.lock(tx, _id(reference))
    if row is None:
        raise NotFound
    return row


def _id(reference: str) -> UUID:
    try:
        return parse_public_id("reservation", reference)
    except InvalidIdError:
        raise NotFound from None


def _has_ended(ended: reservations.EndedError) -> Conflict:
    return Conflict(
        f"The reservation is {ended.state}. What was used in spite of that is told as a usage event.",
        code=f"reservation_{ended.state}",
    )


def _body(row: Row) -> ReservationBody:
    return ReservationBody(
        id=public_id("reservation", row["id"]),
        meter_id=public_id("meter", row["meter_id"]),
        customer=row["subject"],
        user=row["user_id"],
        amount=plain(row["amount"]),
        settled_amount=None if row["settled_amount"] is None else plain(row["settled_amount"]),
        state="settled" if row["state"] == "settling" else row["state"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        ended_at=row["ended_at"],
    )
