"""`/api/v1/meters`: what is measured."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from libs.clock import utc_now
from libs.contracts.metering import Aggregation, TimeUnit
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, NotFound, problem_responses
from services.metering import meters, store_meters
from services.metering.measuring import plain
from services.metering.store_meters import MeterRow

router = APIRouter(tags=["meters"])

Key = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}$")]
DataPath = Annotated[
    str,
    StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,7}$"),
    Field(description="Names inside `data`, joined by dots: `request.bytes`."),
]
EventType = Annotated[
    str, StringConstraints(min_length=1, max_length=128, pattern=r"^[^\x00-\x1f\x7f]+$")
]
FilterValue = Annotated[str, StringConstraints(max_length=128, pattern=r"^[^\x00]*$")]
Percentile = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,2}(\.[0-9]{1,6})?$")]


class MeterBody(BaseModel):
    """A new meter. It never changes: prices and limits rely on what it means."""

    model_config = ConfigDict(extra="forbid")

    key: Key
    event_type: EventType = Field(description="`type` of the events that it listens to.")
    aggregation: Aggregation
    value_path: DataPath | None = Field(
        default=None, description="Where the value lies; needed by all but `count`."
    )
    percentile: Percentile | None = Field(
        default=None,
        description="Which one, of a `percentile`: above 0 and below 100, such as `95` or `99.9`. It is "
        "the least value that so many of a hundred reach or stay below, to three significant digits: "
        "off by half a percent at most, however many events there are.",
    )
    time_unit: TimeUnit | None = Field(
        default=None,
        description="Of a `time_weighted_sum`: a level of 5 that holds for 2 hours is 10 by the "
        "`hour`. An event sets the level of its customer and group, whoever told it, until the next.",
    )
    group_by: list[DataPath] = Field(default=[], max_length=5)
    filters: dict[DataPath, Annotated[list[FilterValue], Field(min_length=1, max_length=50)]] = (
        Field(
            default={},
            max_length=10,
            description="By path, the values of which one must be there; numbers as text.",
        )
    )

    @model_validator(mode="after")
    def _has_its_value(self) -> "MeterBody":
        if self.aggregation == "count" and self.value_path is not None:
            raise ValueError("a count reads no value: leave out `value_path`")
        if self.aggregation != "count" and self.value_path is None:
            raise ValueError(f"`{self.aggregation}` needs a `value_path`")
        if (self.aggregation == "percentile") != (self.percentile is not None):
            raise ValueError("`percentile` is for meters that are one, and they need it")
        if self.percentile is not None and not Decimal(self.percentile):
            raise ValueError("`percentile` must be above 0")
        if (self.aggregation == "time_weighted_sum") != (self.time_unit is not None):
            raise ValueError("`time_unit` is for a `time_weighted_sum`, which needs it")
        if len(set(self.group_by)) != len(self.group_by):
            raise ValueError("`group_by` names a path twice")
        return self


class MeterAnswer(BaseModel):
    """A meter; `owner` says whether it is the platform's, which counts every tenant's events."""

    id: str
    key: str
    event_type: str
    aggregation: Aggregation
    value_path: str | None
    group_by: list[str]
    filters: dict[str, list[str]]
    percentile: str | None = None
    time_unit: TimeUnit | None = None
    owner: Literal["platform", "tenant"]
    created_at: datetime


@router.post(
    "/api/v1/meters",
    status_code=201,
    response_model=MeterAnswer,
    responses=problem_responses(Conflict),
)
async def create_meter(
    request: Request,
    body: MeterBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
) -> JSONResponse:
    """Define a meter; it counts the events that come in from now on."""
    database: Database = request.app.state.database

    async def work(tx: Tx) -> MeterAnswer:
        try:
            row = await meters.create(
                tx,
                key=body.key,
                event_type=body.event_type,
                aggregation=body.aggregation,
                value_path=body.value_path,
                group_by=tuple(body.group_by),
                filters={path: frozenset(values) for path, values in body.filters.items()},
                percentile=None if body.percentile is None else Decimal(body.percentile),
                time_unit=body.time_unit,
                created_at=utc_now(),
                actor=access.caller.actor,
            )
        except meters.MeterExistsError:
            raise Conflict(
                "A meter with this key exists, and meters never change. Choose another key.",
                code="meter_exists",
            ) from None
        except meters.TooManyMetersError as error:
            raise Conflict(str(error), code="too_many_meters") from None
        return _shape(row)

    return await answer_once(request, access, database, body, work)


@router.get("/api/v1/meters")
async def list_meters(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[MeterAnswer]:
    """The meters that count the tenant's events: its own and the platform's, oldest first."""
    position = page.after(UUID)
    owners = tuple(sorted({access.tenant_id, PLATFORM_TENANT_ID}))
    database: Database = request.app.state.database
    async with database.transaction(Scope(owners, access.mode)) as tx:
        rows = await store_meters.page_of_meters(
            tx, owners, after=position[0] if position else None, limit=page.limit + 1
        )
    return Page[MeterAnswer].of(rows, page.limit, lambda row: (row.meter.id,), _shape)


@router.get("/api/v1/meters/{meter}")
async def get_meter(
    request: Request,
    meter: Annotated[str, Path(max_length=200, description="Key or id of the meter.")],
    access: Annotated[Access, Depends(Requires("usage:read"))],
) -> MeterAnswer:
    """A meter of the tenant, or of the platform."""
    return _shape(await found_meter(request, access, meter))


async def found_meter(
    request: Request, access: Access, reference: str, *, platform_first: bool = False
) -> MeterRow:
    """The meter a request names by key or id; of two with one key the tenant's own.

    Args:
        platform_first: then the platform's.

    Raises:
        NotFound: neither the tenant nor the platform has it.
    """
    try:
        wanted: str | UUID = parse_public_id("meter", reference)
    except InvalidIdError:
        wanted = reference
    database: Database = request.app.state.database
    row = await meters.visible(
        database, access.tenant_id, access.mode, wanted, platform_first=platform_first
    )
    if row is None:
        raise NotFound("There is no such meter. Check its key, the tenant and your key's mode.")
    return row


def _shape(row: MeterRow) -> MeterAnswer:
    meter = row.meter
    return MeterAnswer(
        id=public_id("meter", meter.id),
        key=meter.key,
        event_type=meter.event_type,
        aggregation=meter.aggregation,
        value_path=meter.value_path,
        group_by=list(meter.group_by),
        filters={path: sorted(values) for path, values in meter.filters.items()},
        percentile=None if meter.percentile is None else plain(meter.percentile),
        time_unit=meter.time_unit,
        owner="platform" if meter.tenant_id == PLATFORM_TENANT_ID else "tenant",
        created_at=row.created_at,
    )
