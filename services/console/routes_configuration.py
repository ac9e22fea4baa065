"""`/settings/configuration`: a tenant's settings by namespace, and the step into live mode."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from services.console.forms import OwnForm, Several, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.routes import OfTenant, PageRoute, go_on, page, segment
from services.console.shapes import Listed
from services.console.shapes_settings import (
    Checklist,
    Configuration,
    ConfigurationVersion,
    Described,
    TenantRecord,
)
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/configuration"
TEXT_LENGTH_MAX = 20_000
VERSIONS_SHOWN = "20"
ITEMS = {
    "connection_connected": ("A Stripe account is connected", "/settings/stripe"),
    "charges_enabled": ("The account may take payments", "/settings/stripe"),
    "webhook_seen": ("A webhook has come in", "/settings/stripe"),
    "plan_chosen": ("A plan is chosen", None),
    "tax_region_set": ("The tax region is set", None),
}
"""The checklist's items in words, with the page where they are done in live mode."""
CHANGED_MEANWHILE = (
    "Somebody else changed these settings after you opened them, so nothing was saved. What holds "
    "now is shown beside what you typed: put the two together, then save again."
)


@router.get(PATH)
async def show_configuration(request: Request, viewer: OfTenant) -> Response:
    """Every namespace, and how far the tenant is from live mode."""
    return await _show(request, viewer, None)


@router.post(PATH + "/live", dependencies=[OwnForm])
async def go_live(
    request: Request,
    viewer: OfTenant,
    confirm_free_plan: Text = "",
    items: Several = [],  # noqa: B006 - FastAPI makes a new one for each request
    reasons: Annotated[list[str], Form(max_length=50)] = [],  # noqa: B006 - likewise
) -> Response:
    """Open live mode to the tenant, for good."""
    pairs = zip(items, reasons, strict=False)
    body = {
        "confirm_free_plan": bool(confirm_free_plan),
        "waive": [{"item": item, "reason": why.strip()} for item, why in pairs if why.strip()],
    }
    work = viewer.api.change("POST", f"/api/v1/tenants/{viewer.tenant}/live", body)
    return await attempt(request, viewer, work, _show, PATH, "went_live")


@router.post(PATH + "/record", dependencies=[OwnForm])
async def save_record(
    request: Request,
    viewer: OfTenant,
    name: Text = "",
    locale: Text = "",
    currency: Text = "",
    tax_region: Text = "",
    billing_email: Text = "",
    etag: Annotated[str, Form(max_length=70, pattern=r'^("[0-9a-f]*")?$')] = "",
) -> Response:
    """Change the tenant's record, unless somebody else did so meanwhile."""
    body = {
        "name": name,
        "locale": locale.strip() or None,
        "currency": currency.strip().upper() or None,
        "tax_region": tax_region.strip() or None,
        "settings": {"billing_email": billing_email.strip() or None},
    }
    work = viewer.api.change("PUT", _record(viewer), body, etag=etag or None)
    return await attempt(request, viewer, work, _show, PATH, "record_saved")


@router.get(PATH + "/custom")
async def open_custom(
    viewer: OfTenant, name: Annotated[str, Query(max_length=60)] = ""
) -> Response:
    """On to a namespace of the tenant's own."""
    return go_on(viewer.link(f"{PATH}/custom.{segment(name.strip().removeprefix('custom.'))}"))


@router.get(PATH + "/{namespace}")
async def show_namespace(request: Request, viewer: OfTenant, namespace: str) -> Response:
    """One namespace: what holds, what the tenant sets itself, what was set before."""
    return await _show_namespace(request, viewer, segment(namespace), None, None)


@router.post(PATH + "/{namespace}", dependencies=[OwnForm])
async def save_namespace(
    request: Request,
    viewer: OfTenant,
    namespace: str,
    values: Annotated[str, Form(max_length=TEXT_LENGTH_MAX)] = "",
    version: Annotated[str, Form(max_length=9, pattern=r"^[0-9]*$")] = "0",
) -> Response:
    """Replace what the tenant sets, unless somebody else did so meanwhile."""
    name = segment(namespace)
    try:
        body = {"values": _parsed(values)}
        path = _api(viewer, name)
        await viewer.api.change("PUT", path, body, etag=f'"{version or "0"}"')
    except ApiProblem as problem:
        told = shown(problem)
        if problem.status == 412:
            told = ApiProblem(412, CHANGED_MEANWHILE, code=problem.code)
        return await _show_namespace(request, viewer, name, told, values)
    return go_on(viewer.link(f"{PATH}/{name}", done="configuration_saved"))


async def _show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
    found = await viewer.api.read(Listed[Described], f"/api/v1/tenants/{viewer.tenant}/config")
    checklist = await viewer.api.read(Checklist, f"/api/v1/tenants/{viewer.tenant}/live")
    record, etag = await viewer.api.read_tagged(TenantRecord, _record(viewer))
    return page(
        request,
        "configuration.html",
        viewer,
        problem=problem,
        record=record,
        etag=etag,
        items=ITEMS,
        namespaces=found.items,
        checklist=checklist,
    )


async def _show_namespace(
    request: Request, viewer: Viewer, name: str, problem: ApiProblem | None, typed: str | None
) -> Response:
    found = await viewer.api.read(Configuration, _api(viewer, name))
    every = await viewer.api.read(Listed[Described], f"/api/v1/tenants/{viewer.tenant}/config")
    described = next((each for each in every.items if each.namespace == name), None)
    earlier = await viewer.api.read(
        Listed[ConfigurationVersion], f"{_api(viewer, name)}/versions", limit=VERSIONS_SHOWN
    )
    return page(
        request,
        "namespace.html",
        viewer,
        problem=problem,
        found=found,
        described=described,
        text=written(found.values) if typed is None else typed,
        effective=written(found.effective),
        versions=[(each, written(each.values)) for each in earlier.items],
    )


def _record(viewer: Viewer) -> str:
    return f"/api/v1/tenants/{viewer.tenant}"


def _api(viewer: Viewer, name: str) -> str:
    return f"/api/v1/tenants/{viewer.tenant}/config/{name}"


def written(values: Any) -> str:
    """Values as JSON that people edit; numbers are as the API wrote them."""
    return json.dumps(values, indent=2, ensure_ascii=False, sort_keys=True, default=float)


def _parsed(text: str) -> dict[str, Any]:
    """What was typed.

    Raises:
        ApiProblem: it is no JSON object.
    """
    try:
        found = json.loads(text or "{}", parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ApiProblem(422, f"This is no JSON: {error.msg} ({place}).") from None
    except (ValueError, RecursionError):
        raise ApiProblem(422, "This holds a value that JSON does not have.") from None
    if not isinstance(found, dict):
        raise ApiProblem(422, "Write one JSON object: { … }.")
    return found


def _no_constant(name: str) -> None:
    raise ValueError(name)
