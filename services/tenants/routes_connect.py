"""`/api/v1/connect`: connecting a Stripe account without giving its keys, and its health."""

from datetime import datetime
from typing import Annotated, Literal
from urllib.parse import urlencode, urlsplit
from uuid import UUID

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.contracts.tenants import ConnectionKind, ConnectionStatus
from libs.web.auth import Access, Requires
from libs.web.connections import StripeNotConnected, needs_connection
from libs.web.problems import (
    Conflict,
    Forbidden,
    InvalidFields,
    InvalidRequest,
    RateLimited,
    Unavailable,
    problem_responses,
)
from services.tenants import account_links, connect, connect_states, connection_view, sessions
from services.tenants.answers import stamp
from services.tenants.bodies import StrictBody
from services.tenants.connect_states import PAGE, Start
from services.tenants.connection_view import ConnectionHealthBody
from services.tenants.means import Means
from services.tenants.settings import Settings
from services.tenants.stripe_api import NotConfiguredError, StripeAwayError, StripeError

router = APIRouter(tags=["stripe connection"])

Reader = Annotated[Access, Depends(Requires("billing:read"))]
Manager = Annotated[Access, Depends(Requires("billing:manage"))]

State = Annotated[str, Query(max_length=connect_states.STATE_LENGTH_MAX)]

SENTENCES = {
    "connect_denied": "The owner of the account did not agree. Start again when they do.",
    "connect_code_refused": "Stripe did not accept its own answer any more. Start again.",
    "connect_wrong_mode": "The account was connected in the other mode. Start again in this one.",
    "connect_platform_account": "This is the platform's own account. Connect one of the tenant's.",
    "connect_not_permitted": "Whoever began may not manage this tenant's billing any more. Nothing was "
    "connected.",
    "stripe_unavailable": "Stripe did not answer in time. Start again shortly.",
    "stripe_account_taken": "This Stripe account is connected to another tenant. Disconnect it there "
    "first, or use another account.",
    "stripe_account_differs": "This is another Stripe account than the one that was connected. If the "
    "tenant is to move there, start again with `confirm_account_change: true`.",
}
STATE_REFUSED = (
    "This way back from Stripe is unknown, used or too old, or belongs to another browser's session. "
    "Sign in and start again."
)


class StartBody(StrictBody):
    """How to connect, and where to go afterwards."""

    kind: Literal["oauth", "account_link"] = Field(
        default="oauth",
        description="`oauth`: an account that exists; `account_link`: one that is made for it.",
    )
    account_type: Literal["standard", "express"] = Field(
        default="standard", description="Of an account that is made. Custom is not offered."
    )
    return_to: str | None = Field(
        default=None, max_length=500, description="A path of this origin to be shown afterwards."
    )
    confirm_account_change: bool = Field(
        default=False, description="Another account than before may be connected."
    )


class StartedBody(BaseModel):
    """Where to send the owner of the account."""

    url: str


class PayingAccountBody(BaseModel):
    """Whose account payments of the tenant's customers go into."""

    account: Literal["tenant", "platform"] = Field(
        description="`platform`: the platform's account stands in (demo and early tenants)."
    )
    stripe_account_id: str | None
    kind: ConnectionKind | None


class DisconnectBody(StrictBody):
    """How to disconnect."""

    release_account: bool = Field(
        default=False,
        description="Let another tenant connect this account; its history stays with this one.",
    )


class DisconnectedBody(BaseModel):
    """What is left of the connection."""

    status: ConnectionStatus
    kind: ConnectionKind
    stripe_account_id: str | None
    is_active: bool
    revoked_at: datetime | None


@router.post(
    "/api/v1/connect/start",
    responses=problem_responses(InvalidRequest, Forbidden, Conflict, RateLimited, Unavailable),
)
async def start_connecting(
    request: Request, access: Manager, body: StartBody | None = None
) -> StartedBody:
    """Begin to connect a Stripe account; its owner agrees on Stripe's own page.

    `oauth` is begun by a person who is signed in: the way back is good in that browser only.
    """
    means: Means = request.app.state.means
    body = body or StartBody()
    start = Start(
        actor=access.caller.actor,
        session_id=access.caller.session_id,
        return_to=_path_of(body.return_to, means.settings),
        account_type=body.account_type,
        confirm_account_change=body.confirm_account_change,
    )
    begin = connect.begin if body.kind == "oauth" else account_links.begin
    try:
        return StartedBody(url=await begin(means, access.tenant_id, access.mode, start))
    except NotConfiguredError:
        raise Conflict(
            "Connect is not set up here in this mode. Ask the platform's operators to set "
            "STRIPE_SECRET_KEY and STRIPE_CLIENT_ID, or give your keys to "
            "POST /api/v1/billing/config.",
            code="connect_not_configured",
        ) from None
    except connect_states.TooManyStartsError:
        raise RateLimited(
            "Too many starts are open. Finish one, or wait until they have expired.",
            retry_after_seconds=int(connect_states.OAUTH_LIFE.total_seconds()),
        ) from None
    except connect.SignInToConnectError:
        raise Conflict(
            "Stripe's consent is bound to the browser that began, and an API key has none. Start "
            "signed in, at /settings/stripe, or begin with `kind: account_link`, or give your keys "
            "to POST /api/v1/billing/config.",
            code="sign_in_to_connect",
        ) from None
    except account_links.OtherAccountError:
        raise Conflict(
            "This tenant has, or had, another Stripe account. Disconnect that one first; then send "
            "the same request with `confirm_account_change: true` to begin with a new account.",
            code="stripe_account_differs",
        ) from None
    except StripeError as error:
        raise _not_now(error) from None


@router.get(
    "/api/v1/connect/callback",
    response_model=None,
    status_code=303,
    responses=problem_responses(InvalidRequest, Forbidden, Conflict, Unavailable),
)
async def finish_connecting(
    request: Request,
    state: State = "",
    code: Annotated[str | None, Query(max_length=500)] = None,
    error: Annotated[str | None, Query(max_length=200)] = None,
) -> Response:
    """Where Stripe sends the owner's browser back to; the state is the proof of who began."""
    means: Means = request.app.state.means
    try:
        session_id = await _session_of(request, means)
        tenant_id, path = await connect.finish(
            means, state, code=code, denied=error is not None, session_id=session_id
        )
    except connect_states.StateRefusedError:
        return _refused(request, means, "connect_state_refused", STATE_REFUSED, PAGE)
    except connect.ConnectRefusedError as refusal:
        sentence = SENTENCES[refusal.code]
        return _refused(request, means, refusal.code, sentence, refusal.return_to)
    answer = _to_page(means, path, "connected")
    await stamp(answer, means.database, tenant_id)
    return answer


@router.get(
    "/api/v1/connect/return",
    response_model=None,
    status_code=303,
    responses=problem_responses(InvalidRequest),
)
async def finish_onboarding(request: Request, state: State = "") -> Response:
    """Where Stripe sends the browser after onboarding; the account is looked at again."""
    means: Means = request.app.state.means
    try:
        path = await account_links.finish(means, state)
    except connect_states.StateRefusedError:
        return _refused(request, means, "connect_state_refused", STATE_REFUSED, PAGE)
    except (StripeError, NotConfiguredError):
        return _to_page(means, PAGE, "later")
    return _to_page(means, path, "onboarded")


@router.get(
    "/api/v1/connect/refresh",
    response_model=None,
    status_code=303,
    responses=problem_responses(InvalidRequest),
)
async def renew_onboarding(request: Request, state: State = "") -> Response:
    """Where Stripe sends the browser when an onboarding address was too old: on to a new one."""
    means: Means = request.app.state.means
    try:
        url = await account_links.renew(means, state)
    except connect_states.StateRefusedError:
        return _refused(request, means, "connect_state_refused", STATE_REFUSED, PAGE)
    except (StripeError, NotConfiguredError, connect_states.TooManyStartsError):
        return _to_page(means, PAGE, "later")
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


@router.post(
    "/api/v1/connect/disconnect",
    response_model=DisconnectedBody,
    responses=problem_responses(Forbidden, Conflict, Unavailable),
)
async def disconnect_account(
    request: Request, access: Manager, body: DisconnectBody | None = None
) -> JSONResponse:
    """Disconnect the account, at Stripe and here; its secrets are destroyed, its history stays."""
    means: Means = request.app.state.means
    try:
        await connect.disconnect(
            means,
            access.tenant_id,
            access.mode,
            access.caller.actor,
            release_account=body is not None and body.release_account,
        )
    except connect.NotConnectedError:
        raise Conflict(
            "This tenant has no Stripe account connected in this mode.", code="stripe_not_connected"
        ) from None
    except connect.ChangedMeanwhileError:
        raise Conflict(
            "The connection was made anew or given other keys while it was being ended, and stays as "
            "it is now. Look at it, then disconnect again if that is still meant.",
            code="connection_changed",
        ) from None
    except (StripeAwayError, NotConfiguredError) as error:
        raise _not_now(error) from None
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        left = await connection_view.disconnected(tx)
    answer = JSONResponse(DisconnectedBody.model_validate(left).model_dump(mode="json"))
    await stamp(answer, means.database, access.tenant_id)
    return answer


@router.get(
    "/api/v1/connect/account",
    responses=problem_responses(StripeNotConnected),
)
async def get_paying_account(request: Request, access: Reader) -> PayingAccountBody:
    """Whose Stripe account the tenant's customers pay into; a problem where there is none."""
    means: Means = request.app.state.means
    connection = needs_connection(access.tenant, access.mode, means.settings)
    if connection is None:
        return PayingAccountBody(account="platform", stripe_account_id=None, kind=None)
    return PayingAccountBody(
        account="tenant", stripe_account_id=connection.account_id, kind=connection.kind
    )


@router.get("/api/v1/connect/health")
async def get_connection_health(request: Request, access: Reader) -> ConnectionHealthBody:
    """Whether the tenant's own account is well: connected, able to charge, its key valid."""
    means: Means = request.app.state.means
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        return await connection_view.read_health(tx, access.mode, utc_now())


def _path_of(return_to: str | None, settings: Settings) -> str:
    """A path of our own origin.

    Raises:
        InvalidFields: it leads elsewhere.
    """
    if return_to is None:
        return PAGE
    path = return_to.removeprefix(settings.origin_url)
    parts = urlsplit(path)
    plain = path.isascii() and path.isprintable() and "\\" not in path
    if not plain or parts.scheme or parts.netloc or not path.startswith("/"):
        raise InvalidFields("`return_to` must be a path of this origin, such as /settings/stripe.")
    return path


def _to_page(means: Means, path: str, outcome: str) -> Response:
    separator = "&" if "?" in path else "?"
    url = f"{means.settings.origin_url}{path}{separator}{urlencode({'connect': outcome})}"
    return RedirectResponse(url, 303, {"Cache-Control": "no-store"})


def _refused(request: Request, means: Means, code: str, sentence: str, path: str) -> Response:
    """A browser is shown the page with the reason, a program the problem."""
    if "text/html" in request.headers.get("accept", ""):
        return _to_page(means, path, code)
    if code == "stripe_unavailable":
        raise Unavailable(sentence, code=code)
    if code == "connect_not_permitted":
        raise Forbidden("billing:manage", sentence, code=code)
    if code in ("stripe_account_taken", "stripe_account_differs"):
        raise Conflict(sentence, code=code)
    raise InvalidRequest(sentence, code=code)


def _not_now(error: StripeError | NotConfiguredError) -> Unavailable | Conflict:
    if isinstance(error, StripeAwayError):
        return Unavailable(
            "Stripe does not answer right now. Try again shortly.", code="stripe_unavailable"
        )
    return Conflict(
        "Stripe refused this. Check the platform's Connect settings in Stripe's dashboard.",
        code="stripe_refused",
    )


async def _session_of(request: Request, means: Means) -> UUID | None:
    """The session of the browser that came back, if it has one."""
    cookie = request.cookies.get(means.settings.cookie_name)
    async with means.database.transaction() as tx:
        try:
            return (await sessions.find(tx, cookie, utc_now())).session_id
        except sessions.NoSessionError:
            return None
