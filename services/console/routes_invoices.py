"""`/invoices`: what was billed, and why each line costs what it costs."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from services.console.origin import ApiProblem, all_of
from services.console.pages import SECURITY_HEADERS
from services.console.routes import OfTenant, PageRoute, SignedIn, page
from services.console.shapes import Explanation, Invoice, InvoiceWithLines, Listed, Tenant
from services.console.view import TENANTS_IN_SWITCHER, Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PAGE_SIZE = "50"
EXPLAINED_MAX = 50
TENANTS_SEARCHED_MAX = 50
EXPLAINED_KINDS = ("usage", "credit")
Cursor = Annotated[str | None, Query(max_length=1024)]


@router.get("/invoices")
async def list_invoices(request: Request, viewer: OfTenant, cursor: Cursor = None) -> Response:
    """The invoices of the tenant in view; an operator who chose none is asked to."""
    found = await viewer.api.read(
        Listed[Invoice], "/api/v1/invoices", limit=PAGE_SIZE, cursor=cursor
    )
    return page(request, "invoices.html", viewer, invoices=found.items, cursor=found.next_cursor)


@router.get("/invoices/{invoice}")
async def show_invoice(request: Request, invoice: str, viewer: SignedIn) -> Response:
    """One invoice; its usage and credit lines open to their arithmetic."""
    path = f"/api/v1/invoices/{_segment(invoice)}"
    if viewer.tenant is None:
        slug = await _owner_of(viewer, path)
        goal = viewer.link(f"/invoices/{invoice}", tenant=slug)
        return RedirectResponse(goal, status_code=303, headers=SECURITY_HEADERS)
    found = await viewer.api.read(InvoiceWithLines, path)
    wanted = [line for line in found.lines if line.kind in EXPLAINED_KINDS][:EXPLAINED_MAX]
    explained = await all_of(
        viewer.api.read(Explanation, f"{path}/lines/{line.id}/explain") for line in wanted
    )
    return page(
        request,
        "invoice.html",
        viewer,
        invoice=found,
        explained={each.line_id: each for each in explained},
    )


async def _owner_of(viewer: Viewer, path: str) -> str:
    """Whose invoice it is, for an operator with a link that names no tenant.

    The newest tenants are asked one by one, for each look at a tenant is recorded.

    Raises:
        ApiProblem: 404 where none of them has it.
    """
    known = await viewer.whole.read(
        Listed[Tenant], "/api/v1/tenants", limit=str(TENANTS_IN_SWITCHER)
    )
    for tenant in known.items[: -TENANTS_SEARCHED_MAX - 1 : -1]:
        try:
            await viewer.whole.for_tenant(tenant.slug).read(Invoice, path)
        except ApiProblem as problem:
            if problem.status != 404:
                raise
        else:
            return tenant.slug
    raise ApiProblem(
        404,
        "No tenant has this invoice in this mode. Check the address, or choose the tenant first.",
        title="Not found",
    )


def _segment(text: str) -> str:
    """An id as a segment of a path.

    Raises:
        ApiProblem: 404 for whatever cannot be one.
    """
    if not text.isascii() or not text.replace("-", "").replace("_", "").isalnum():
        raise ApiProblem(404, "There is no such invoice. Check the address.", title="Not found")
    return text[:100]
