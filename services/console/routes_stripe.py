"""`/settings/stripe`: the Stripe account that the tenant's customers pay into, in the mode in view."""

from fastapi import APIRouter, Request, Response

from libs.ids import new_id
from services.console.forms import Once, OwnForm, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.routes import OfTenant, PageRoute, page
from services.console.shapes_settings import BillingConfig
from services.console.view import Viewer

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/stripe"
CONFIG = "/api/v1/billing/config"
OVERLAPS = (("86400", "1 day"), ("3600", "1 hour"), ("0", "none: end them now"))


@router.get(PATH)
async def show_connection(request: Request, viewer: OfTenant) -> Response:
    """How the account is connected, and whether it is well."""
    return await _show(request, viewer, None)


@router.post(PATH + "/keys", dependencies=[OwnForm])
async def keep_keys(
    request: Request,
    viewer: OfTenant,
    secret_key: Text = "",
    publishable_key: Text = "",
    webhook_secret: Text = "",
    overlap: Text = "",
    confirm_account_change: Text = "",
    once: Once = "",
) -> Response:
    """Keep the tenant's own keys, or put new ones in their place; what is left empty stays."""
    given = {
        "stripe_secret_key": secret_key.strip(),
        "stripe_publishable_key": publishable_key.strip(),
        "webhook_secret": webhook_secret.strip(),
    }
    body: dict[str, object] = {name: value for name, value in given.items() if value}
    if overlap.isascii() and overlap.isdigit():
        body["overlap_seconds"] = int(overlap[:9])
    if confirm_account_change:
        body["confirm_account_change"] = True
    try:
        kept = await viewer.api.make(BillingConfig, CONFIG, body, once=once)
    except ApiProblem as problem:
        return await _show(request, viewer, shown(problem))
    return page(request, "keys_kept.html", viewer, config=kept)


@router.post(PATH + "/switch", dependencies=[OwnForm])
async def switch(request: Request, viewer: OfTenant, active: Text = "") -> Response:
    """Switch the connection off without losing it, or on again."""
    on = active == "yes"
    work = viewer.api.change("PATCH", CONFIG, {"is_active": on})
    return await attempt(request, viewer, work, _show, PATH, "stripe_on" if on else "stripe_off")


async def _show(request: Request, viewer: Viewer, problem: ApiProblem | None) -> Response:
    return page(
        request,
        "stripe.html",
        viewer,
        problem=problem,
        config=await _config(viewer),
        overlaps=OVERLAPS,
        once=new_id,
    )


async def _config(viewer: Viewer) -> BillingConfig | None:
    try:
        return await viewer.api.read(BillingConfig, CONFIG)
    except ApiProblem as problem:
        if problem.status != 404:
            raise
        return None
