"""`/settings/stripe`: the Stripe account that the tenant's customers pay into, in the mode in view."""

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response

from libs.ids import new_id
from services.console.forms import Once, OwnForm, Text, attempt, shown
from services.console.origin import ApiProblem
from services.console.routes import OfTenant, PageRoute, page
from services.console.shapes_settings import BillingConfig, ConnectionHealth, Started
from services.console.view import Viewer

WAYS_BACK = {
    "connected": "The account is connected.",
    "onboarded": "Stripe's pages are done; what Stripe says of the account is shown below.",
    "later": "Stripe did not answer in time. Look again shortly.",
    "expired": "That way back from Stripe was too old. Start again.",
    "connect_state_refused": "That way back from Stripe is unknown, used or too old, or belongs to "
    "another browser's session. Start again.",
    "connect_denied": "The owner of the account did not agree. Start again when they do.",
    "connect_code_refused": "Stripe did not accept its own answer any more. Start again.",
    "connect_wrong_mode": "The account was connected in the other mode. Start again in this one.",
    "connect_platform_account": "This is the platform's own account. Connect one of the tenant's.",
    "connect_not_permitted": "Whoever began may not manage this tenant's billing any more. Nothing was "
    "connected.",
    "stripe_unavailable": "Stripe did not answer in time. Start again shortly.",
    "stripe_account_taken": "This Stripe account is connected to another tenant. Disconnect it "
    "there first, or use another account.",
    "stripe_account_differs": "This is another Stripe account than the one that was connected. If "
    "the tenant is to move there, start again and say so.",
}
"""What the page says to whoever comes back from Stripe, by the code in the address."""

GOOD_WAYS_BACK = ("connected", "onboarded")
LOOPBACK = ("http://127.0.0.1:", "http://localhost:")

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/settings/stripe"
CONFIG = "/api/v1/billing/config"
OVERLAPS = (("86400", "1 day"), ("3600", "1 hour"), ("0", "none: end them now"))


@router.get(PATH)
async def show_connection(
    request: Request,
    viewer: OfTenant,
    part: Annotated[Literal["badges"] | None, Query()] = None,
) -> Response:
    """How the account is connected, and whether it is well; `part=badges` is renewed by itself."""
    return await _show(request, viewer, None, part)


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


@router.post(PATH + "/connect", dependencies=[OwnForm])
async def connect(
    request: Request,
    viewer: OfTenant,
    kind: Text = "oauth",
    account_type: Text = "standard",
    confirm_account_change: Text = "",
) -> Response:
    """Send the owner of an account to Stripe's own pages.

    By a page and not by a redirect: what a form leads to is checked against `form-action` as well.
    """
    body = {
        "kind": kind,
        "account_type": account_type,
        "return_to": viewer.link(PATH),
        "confirm_account_change": bool(confirm_account_change),
    }
    try:
        url = _checked(await viewer.api.make(Started, "/api/v1/connect/start", body))
    except ApiProblem as problem:
        return await _show(request, viewer, shown(problem))
    return page(request, "to_stripe.html", viewer, url=url)


@router.post(PATH + "/disconnect", dependencies=[OwnForm])
async def disconnect(request: Request, viewer: OfTenant, release: Text = "") -> Response:
    """Disconnect the account, at Stripe and here."""
    body = {"release_account": bool(release)}
    work = viewer.api.change("POST", "/api/v1/connect/disconnect", body)
    return await attempt(request, viewer, work, _show, PATH, "stripe_disconnected")


def _checked(started: Started) -> str:
    """The address to go on to.

    Raises:
        ApiProblem: it is none that a browser may be sent to.
    """
    if not started.url.startswith(("https://", *LOOPBACK)):
        raise ApiProblem(502, "The API answered an address that no browser may be sent to.")
    return started.url


async def _show(
    request: Request, viewer: Viewer, problem: ApiProblem | None, part: str | None = None
) -> Response:
    back = "" if problem else request.query_params.get("connect", "")
    return page(
        request,
        "stripe_badges.html" if part else "stripe.html",
        viewer,
        problem=problem,
        config=await _config(viewer),
        health=await viewer.api.read(ConnectionHealth, "/api/v1/connect/health"),
        way_back=WAYS_BACK.get(back),
        came_well=back in GOOD_WAYS_BACK,
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
