"""`/api/v1/limits/overages`: usage beyond limits, as it accrues."""

from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from libs.db.pool import Database, Row
from libs.directory.local import business_now
from libs.ids import parse_uuid, public_id
from libs.web.auth import Access, Requires
from libs.web.pagination import Page, PageRequest, page_request
from services.metering import store_thresholds as store
from services.metering import thresholds
from services.metering.measuring import EXACT, plain
from services.metering.routes_usage import Text, customers_of

router = APIRouter(tags=["limits"])


class OverageBody(BaseModel):
    """Usage beyond a limit in one period. Its price is billing's: on the invoice of the period."""

    id: str
    meter: str
    customer: str = Field(description="Id of the customer whose plan has the limit.")
    subscription: str
    kind: Literal["soft", "hard"] = Field(
        description="Beyond a soft limit it is charged; beyond a hard one it came in all the same."
    )
    limit: str
    used: str = Field(description="Of the period, as counted now.")
    over: str = Field(description="What lies beyond; 0 where corrections took it back.")
    period_from: datetime
    period_to: datetime
    exceeded_at: datetime = Field(description="When it was found first.")


@router.get("/api/v1/limits/overages")
async def list_overages(
    request: Request,
    access: Annotated[Access, Depends(Requires("usage:read"))],
    page: Annotated[PageRequest, Depends(page_request)],
    customer: Annotated[
        Text | None, Query(description="Only of this customer; `self` is the tenant itself.")
    ] = None,
    meter: Annotated[Text | None, Query(description="Only of the meter with this key.")] = None,
) -> Page[OverageBody]:
    """Where usage went beyond limits, newest first, with what it has come to by now.

    A new overage appears within seconds of the usage that made it.
    """
    position = page.after(UUID)
    before = None if position is None else position[0]
    own = access.tenant.snapshot.self_customer_id
    now = business_now(access.tenant, access.mode)
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = []
        customer_id = None if customer is None else parse_uuid(customers_of(access, customer)[-1])
        if customer is None or customer_id is not None:
            rows = await store.page_of_overruns(
                tx, customer_id=customer_id, meter=meter, before=before, limit=page.limit + 1
            )
        used = await thresholds.used_by_now(tx, rows[: page.limit], own, now)
    return Page[OverageBody].of(
        rows, page.limit, lambda row: (row["id"],), lambda row: _body(row, used[row["id"]])
    )


def _body(row: Row, used: Decimal) -> OverageBody:
    over = max(EXACT.subtract(used, row["limit_amount"]), Decimal(0))
    return OverageBody(
        id=public_id("overage", row["id"]),
        meter=row["meter"],
        customer=public_id("customer", row["customer_id"]),
        subscription=public_id("subscription", row["subscription_id"]),
        kind=row["kind"],
        limit=plain(row["limit_amount"]),
        used=plain(used),
        over=plain(over),
        period_from=row["period_from"],
        period_to=row["period_to"],
        exceeded_at=row["exceeded_at"],
    )
