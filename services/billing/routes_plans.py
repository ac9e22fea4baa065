"""`/api/v1/plans`: the catalog."""

from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel

from libs.clock import utc_now
from libs.contracts.billing import Collection, GraduatedPrice, Interval, Price
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Tx
from libs.ids import InvalidIdError, parse_public_id, public_id
from libs.web.auth import OPERATOR, Access, Requires
from libs.web.idempotency import answer_once
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import FieldProblem, InvalidFields, InvalidRequest, NotFound
from services.billing import plans
from services.billing.catalog import PlanBody
from services.billing.plans import Published
from services.billing.rating import plain

router = APIRouter(tags=["plans"])


class TierAnswer(BaseModel):
    """Quantities up to and including `up_to`; null on the last tier."""

    up_to: str | None
    unit_amount_minor: str


class PriceAnswer(BaseModel):
    """A price: `amount_minor` of a flat one; the rest of a graduated one."""

    id: str
    kind: Literal["flat", "graduated"]
    amount_minor: int | None = None
    meter: str | None = None
    included: str | None = None
    tiers: list[TierAnswer] | None = None


class LimitAnswer(BaseModel):
    """How much of a meter the plan allows per period."""

    meter: str
    amount: str
    kind: Literal["soft", "hard"]


class PlanAnswer(BaseModel):
    """The newest version of a plan."""

    id: str
    plan_version_id: UUID
    version: int
    key: str
    name: str
    interval: Interval
    currency: str
    collection: Collection
    prices: list[PriceAnswer]
    limits: list[LimitAnswer]
    features: dict[str, Any]
    upgrades_to: list[str]
    stripe_price_id: str | None
    published_at: datetime


@router.post("/api/v1/plans", status_code=201, response_model=PlanAnswer)
async def publish_plan(
    request: Request, body: PlanBody, access: Annotated[Access, Depends(Requires(OPERATOR))]
) -> JSONResponse:
    """Publish a plan, or a new version of it; the same content again changes nothing."""
    if access.tenant_id != PLATFORM_TENANT_ID:
        raise InvalidRequest(
            "Plans belong to the platform. Leave out `X-Tenant-ID` to publish one for all tenants."
        )
    database: Database = request.app.state.database
    missing = await plans.wait_for_meters(database, access.tenant_id, access.mode, body.meters)
    if missing:
        raise InvalidFields(
            "A price or limit names a meter that does not exist. Create it with "
            "`POST /api/v1/meters` first.",
            code="unknown_meter",
            fields=_fields_naming(body, missing),
        )

    async def work(tx: Tx) -> PlanAnswer:
        return _shape(await plans.publish(tx, body, utc_now(), actor=access.caller.actor))

    return await answer_once(request, access, database, body, work)


@router.get("/api/v1/plans")
async def list_plans(
    request: Request,
    access: Annotated[Access, Depends(Requires("billing:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[PlanAnswer]:
    """The platform's plans, each in its newest version."""
    position = page.after(UUID)
    database: Database = request.app.state.database
    async with database.tenant(PLATFORM_TENANT_ID, access.mode) as tx:
        found = await plans.list_plans(
            tx, after=position[0] if position else None, limit=page.limit + 1
        )
    return Page[PlanAnswer].of(found, page.limit, lambda plan: (plan.fact.plan_id,), _shape)


@router.get("/api/v1/plans/{plan}")
async def get_plan(
    request: Request,
    plan: Annotated[str, Path(max_length=100, description="Key or id of the plan.")],
    access: Annotated[Access, Depends(Requires("billing:read"))],
) -> PlanAnswer:
    """A plan of the platform in its newest version."""
    database: Database = request.app.state.database
    async with database.tenant(PLATFORM_TENANT_ID, access.mode) as tx:
        found = await plans.find_plan(tx, _reference(plan))
    if found is None:
        raise NotFound
    return _shape(found)


def _reference(text: str) -> str | UUID:
    try:
        return parse_public_id("plan", text)
    except InvalidIdError:
        return text


def _fields_naming(body: PlanBody, missing: frozenset[str]) -> list[FieldProblem]:
    sentence = "No meter has this key."
    prices = [
        FieldProblem(field=f"body.prices.{index}.meter", detail=sentence)
        for index, price in enumerate(body.prices)
        if price.kind == "graduated" and price.meter in missing
    ]
    limits = [
        FieldProblem(field=f"body.limits.{index}.meter", detail=sentence)
        for index, limit in enumerate(body.limits)
        if limit.meter in missing
    ]
    return (prices + limits)[:20]


def _shape(published: Published) -> PlanAnswer:
    fact = published.fact
    return PlanAnswer(
        id=public_id("plan", fact.plan_id),
        plan_version_id=fact.plan_version_id,
        version=fact.version,
        key=fact.key,
        name=fact.name,
        interval=fact.interval,
        currency=fact.currency,
        collection=fact.collection,
        prices=[_shape_price(price) for price in fact.prices],
        limits=[
            LimitAnswer(meter=limit.meter, amount=plain(limit.amount), kind=limit.kind)
            for limit in fact.limits
        ],
        features=fact.features,
        upgrades_to=list(fact.upgrades_to),
        stripe_price_id=fact.stripe_price_id,
        published_at=published.published_at,
    )


def _shape_price(price: Price) -> PriceAnswer:
    name = public_id("price", price.price_id)
    if not isinstance(price, GraduatedPrice):
        return PriceAnswer(id=name, kind="flat", amount_minor=price.amount_minor)
    tiers = [
        TierAnswer(
            up_to=None if tier.up_to is None else plain(tier.up_to),
            unit_amount_minor=plain(tier.unit_amount_minor),
        )
        for tier in price.tiers
    ]
    return PriceAnswer(
        id=name, kind="graduated", meter=price.meter, included=plain(price.included), tiers=tiers
    )
