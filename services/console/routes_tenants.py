"""`/tenants`: who is here, and the door to each."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from services.console.origin import Api, ApiProblem
from services.console.routes import PageRoute, SignedIn, page
from services.console.shapes import Balances, Clock, Listed, Prepaid, Subscription, Tenant
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE_SIZE = "50"
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get("/tenants")
async def list_tenants(request: Request, viewer: SignedIn, cursor: Cursor = None) -> Response:
    """All tenants to an operator, their own to everybody else."""
    found = await viewer.whole.read(
        Listed[Tenant], "/api/v1/tenants", limit=PAGE_SIZE, cursor=cursor
    )
    return page(request, "tenants.html", viewer, tenants=found.items, cursor=found.next_cursor)


@router.get("/tenants/{tenant}")
async def show_tenant(request: Request, tenant: str, viewer: SignedIn) -> Response:
    """One tenant: its record, what it has bought, its credit and its clock."""
    record = await viewer.whole.read(Tenant, f"/api/v1/tenants/{_segment(tenant)}")
    own = viewer.whole.for_tenant(record.slug)
    subscriptions = await own.read(Listed[Subscription], "/api/v1/subscriptions", limit=PAGE_SIZE)
    balances = await own.read(Balances, "/api/v1/billing/balance")
    return page(
        request,
        "tenant.html",
        viewer,
        tenant=record,
        subscriptions=subscriptions.items,
        balances=balances.balances,
        prepaid=await _prepaid(own, record),
        clock=await _clock(viewer, record.slug),
    )


async def _prepaid(own: Api, tenant: Tenant) -> Prepaid:
    """What the tenant itself may use only as far as its credit pays."""
    try:
        return await own.read(Prepaid, f"/api/v1/customers/{tenant.self_customer_id}/prepaid")
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        return Prepaid()  # The tenant signed up just now, or billing is of a version without it.


async def _clock(viewer: Viewer, slug: str) -> Clock | None:
    """Where the tenant's business clock stands: in test mode, to operators."""
    if not viewer.operator or viewer.mode != "test":
        return None
    return await viewer.whole.read(Clock, f"/api/v1/tenants/{slug}/clock")


def _segment(text: str) -> str:
    """A slug or id as a segment of a path.

    Raises:
        ApiProblem: 404 for whatever cannot be one.
    """
    if not text.isascii() or not text.replace("-", "").isalnum() or len(text) > 100:
        raise ApiProblem(404, "There is no such tenant. Choose one of the list.", title="Not found")
    return text
