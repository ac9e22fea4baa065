"""`/webhooks`: every event that Stripe sent; look at one, give one to its tenant, let one go."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from services.console.days import times_of
from services.console.forms import OwnForm, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.routes import PageRoute, SignedIn, page, segment
from services.console.shapes import Listed
from services.console.shapes_payments import Released, WebhookEvent, WebhookEventDetail
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

API = "/api/v1/webhook-events"
PAGE_SIZE = "50"
ASSIGNMENTS = (
    ("", "any"),
    ("account", "by account"),
    ("customer", "by customer"),
    ("metadata", "by metadata"),
    ("operator", "by an operator"),
    ("unassigned", "unassigned"),
)
QUARANTINE = (("", "any"), ("true", "in quarantine"), ("false", "not in quarantine"))
WHY_QUARANTINED = {
    "unknown_account": "The signature is right, but no tenant has connected this Stripe account "
    "yet. The event is released by itself when one does.",
    "account_missing": "It was signed with the secret for connected accounts, and names none.",
    "account_unexpected": "It names another Stripe account than the one whose secret signed it.",
    "livemode_mismatch": "It is of the other mode than the secret that signed it.",
    "event_mismatch": "What was found in Stripe's list is not the event it was said to be.",
    "tenant_mismatch": "The account that it came from is not this tenant's.",
    "released": "An operator let it go. It stands in the archive once more, as what it says it is.",
}
RELEASABLE = WHY_QUARANTINED.keys() - {"unknown_account", "released"}
"""Reasons that staff may know better than: of the others one waits for its account, one is let go."""
HOW_ASSIGNED = {
    "account": "found by the Stripe account, which is the tenant's",
    "customer": "found by the customer or subscription at Stripe",
    "metadata": "found by the metadata that Sluice wrote",
    "operator": "given by an operator",
    "unassigned": "which keeps it: whose it is was not found",
}
Cursor = Annotated[str | None, Query(max_length=1024)]
Wanted = Annotated[str, Query(max_length=200)]


def wanted_events(
    kind: Annotated[str, Query(alias="type", max_length=200)] = "",
    object_id: Annotated[str, Query(alias="object", max_length=200)] = "",
    assignment: Wanted = "",
    quarantined: Wanted = "",
    begin: Annotated[str, Query(alias="from", max_length=40)] = "",
    end: Annotated[str, Query(alias="to", max_length=40)] = "",
) -> dict[str, str]:
    """The filters as the form names them."""
    return {
        "type": kind.strip(),
        "object": object_id.strip(),
        "assignment": assignment,
        "quarantined": quarantined,
        "from": begin,
        "to": end,
    }


Given = Annotated[dict[str, str], Depends(wanted_events)]


@router.get("/webhooks")
async def list_events(
    request: Request, viewer: SignedIn, given: Given, cursor: Cursor = None
) -> Response:
    """The events that fit, newest first; an operator who chose no tenant sees everybody's."""
    received_from, received_to = times_of(given["from"], given["to"])
    found = await viewer.api.read(
        Listed[WebhookEvent],
        API,
        limit=PAGE_SIZE,
        cursor=cursor,
        type=given["type"] or None,
        object_id=given["object"] or None,
        assignment=given["assignment"] or None,
        quarantined=given["quarantined"] or None,
        received_from=received_from,
        received_to=received_to,
    )
    return page(
        request,
        "webhooks.html",
        viewer,
        events=found.items,
        cursor=found.next_cursor,
        wanted=given,
        query={f"{name}_" if name == "from" else name: value for name, value in given.items()},
        filtered=any(given.values()),
        assignments=ASSIGNMENTS,
        quarantine=QUARANTINE,
    )


@router.get("/webhooks/{event}")
async def show_event(request: Request, event: str, viewer: SignedIn) -> Response:
    """One event, with what Stripe sent."""
    return await _show(request, viewer, event, None)


@router.post("/webhooks/{event}/assign", dependencies=[OwnForm])
async def assign(request: Request, event: str, viewer: SignedIn, to_tenant: Text = "") -> Response:
    """Give an event to the tenant that it belongs to; for the platform's staff."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, event, problem)

    work = _assign(viewer, segment(event), to_tenant.strip())
    return await attempt(request, viewer, work, show, f"/webhooks/{event}", "event_assigned")


@router.post("/webhooks/{event}/release", dependencies=[OwnForm])
async def release(
    request: Request, event: str, viewer: SignedIn, why: Text = "", really: Text = ""
) -> Response:
    """Let go an event that is kept aside, or tell what that would do; for the platform's staff."""

    async def show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
        return await _show(request, viewer, event, problem, why=why)

    path, body = f"{API}/{segment(event)}/release", {"why": why.strip()}
    if really == "yes":
        work = viewer.whole.change("POST", path, body)
        return await attempt(request, viewer, work, show, f"/webhooks/{event}", "event_released")
    try:
        foreseen = await viewer.whole.make(Released, path, body | {"dry_run": True})
    except ApiProblem as problem:
        return await show(request, viewer, shown(problem))
    return await _show(request, viewer, event, None, why=why, foreseen=foreseen)


async def _assign(viewer: Viewer, event: str, to_tenant: str) -> None:
    known = [each for each in viewer.choices if to_tenant in (each.slug, each.id)]
    tenant_id = known[0].id if known else to_tenant
    await viewer.whole.change("POST", f"{API}/{event}/assign", {"tenant_id": tenant_id})


async def _show(
    request: Request,
    viewer: Viewer,
    event: str,
    problem: ApiProblem | None,
    *,
    why: str = "",
    foreseen: Released | None = None,
) -> Response:
    found = await viewer.api.read(WebhookEventDetail, f"{API}/{segment(event)}")
    return page(
        request,
        "webhook.html",
        viewer,
        problem=problem,
        event=found,
        aside=WHY_QUARANTINED.get(found.quarantine_reason or ""),
        releasable=found.quarantine_reason in RELEASABLE,
        why=why,
        foreseen=foreseen,
        how=HOW_ASSIGNED.get(found.assignment, found.assignment),
    )
