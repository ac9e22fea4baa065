"""`/api/v1/session/oidc`: signing in at the identity provider, by two redirects of the browser.

What goes wrong is told on the sign-in page: who comes here is a browser, not a program.
"""

from datetime import datetime
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from libs.clock import utc_now
from libs.db.pool import Database
from libs.observability.logging import get_logger
from libs.observability.remote import remote_address
from libs.web.problems import NotFound, RateLimited, problem_responses
from services.tenants import identities, oidc, sessions, throttle
from services.tenants.answers_session import begin_session, set_cookie
from services.tenants.settings import Settings

router = APIRouter(tags=["session"])

_logger = get_logger(__name__)

ReturnTo = Annotated[
    str | None, Query(max_length=2_000, description="A path of this site to go on to.")
]
Told = Annotated[str | None, Query(max_length=oidc.VALUE_LENGTH_MAX)]


@router.get(
    "/api/v1/session/oidc/start",
    status_code=302,
    response_class=RedirectResponse,
    responses=problem_responses(NotFound, RateLimited),
)
async def start_oidc(request: Request, return_to: ReturnTo = None) -> Response:
    """Send the browser to the identity provider."""
    settings: Settings = request.app.state.settings
    database: Database = request.app.state.database
    provider = _provider(request)
    attempt = throttle.Attempt.of(None, remote_address() or "unknown", settings.key_pepper_bytes)
    now = utc_now()
    async with database.transaction() as tx:
        wait_seconds = await throttle.count(tx, attempt, now)
    if wait_seconds:
        raise RateLimited(
            "Too many sign-ins were begun here. Wait as long as `Retry-After` says.",
            retry_after_seconds=wait_seconds,
        )
    async with database.transaction() as tx:
        beginning = await oidc.begin(tx, oidc.same_site_path(return_to), now)
    try:
        address = await provider.address(beginning)
    except oidc.OidcError as error:
        return _to_sign_in(settings, error.reason)
    answer = RedirectResponse(address, status_code=302, headers={"Cache-Control": "no-store"})
    life_seconds = int(oidc.LIFE.total_seconds())
    _set_browser_cookie(answer, settings, beginning.browser, max_age_seconds=life_seconds)
    return answer


@router.get(
    "/api/v1/session/oidc/callback",
    status_code=303,
    response_class=RedirectResponse,
    responses=problem_responses(NotFound),
)
async def finish_oidc(
    request: Request,
    state: Told = None,
    code: Told = None,
    iss: Told = None,
    error: Told = None,
) -> Response:
    """Take the browser back from the identity provider; sets the session cookie, always a new one."""
    settings: Settings = request.app.state.settings
    provider = _provider(request)
    told = {"code": code, "iss": iss, "error": error}
    answer = {name: value for name, value in told.items() if value is not None}
    try:
        return await _finished(request, settings, provider, state, answer, utc_now())
    except oidc.OidcError as failure:
        _logger.warning("oidc_sign_in_failed", reason=failure.reason)
        await _note_failure(request, settings)
        return _to_sign_in(settings, failure.reason)


async def _finished(
    request: Request,
    settings: Settings,
    provider: oidc.Provider,
    state: str | None,
    answer: dict[str, str],
    now: datetime,
) -> Response:
    database: Database = request.app.state.database
    browser = request.cookies.get(settings.oidc_cookie_name)
    async with database.transaction() as tx:
        beginning, return_to = await oidc.take(tx, state, browser, now)
    identity = await provider.identify(beginning, answer, now)
    address = remote_address() or "unknown"
    attempt = throttle.Attempt.of(None, address, settings.key_pepper_bytes)
    async with database.transaction() as tx:
        user_id = await identities.user_of(tx, identity, now)
        await throttle.forgive(tx, attempt)
        token, _ = await begin_session(tx, request, settings, user_id, now, address)
        await sessions.note_of_user(
            tx, user_id, kind="signed_in", path=request.url.path, address=address
        )
    done = RedirectResponse(return_to, status_code=303, headers={"Cache-Control": "no-store"})
    set_cookie(done, settings, token, max_age_seconds=settings.session_hours * 3600)
    _set_browser_cookie(done, settings, "", max_age_seconds=0)
    return done


async def _note_failure(request: Request, settings: Settings) -> None:
    """Recorded as often as the address may try: anybody can send an answer that nobody asked for."""
    database: Database = request.app.state.database
    attempt = throttle.Attempt.of(None, remote_address() or "unknown", settings.key_pepper_bytes)
    async with database.transaction() as tx:
        if await throttle.count(tx, attempt, utc_now()):
            return
        await sessions.note_failure(
            tx, path=request.url.path, address=remote_address() or "unknown"
        )


def _provider(request: Request) -> oidc.Provider:
    """The provider, kept with the process: it remembers what discovery told.

    Raises:
        NotFound: none is configured.
    """
    state = request.app.state
    settings: Settings = state.settings
    if settings.oidc_issuer is None:
        sentence = "No identity provider is configured. Sign in with e-mail and password."
        raise NotFound(sentence, code="oidc_not_configured")
    provider: oidc.Provider | None = getattr(state, "oidc_provider", None)
    if provider is None:
        provider = state.oidc_provider = oidc.Provider(settings)
    return provider


def _to_sign_in(settings: Settings, reason: str) -> RedirectResponse:
    query = urlencode({"problem": reason})
    headers = {"Cache-Control": "no-store"}
    answer = RedirectResponse(f"/login?{query}", status_code=303, headers=headers)
    _set_browser_cookie(answer, settings, "", max_age_seconds=0)
    return answer


def _set_browser_cookie(
    answer: Response, settings: Settings, value: str, *, max_age_seconds: int
) -> None:
    """Lax, not Strict: the provider's redirect comes from another site."""
    answer.set_cookie(
        settings.oidc_cookie_name,
        value,
        max_age=max_age_seconds,
        path="/",
        secure=settings.is_https,
        httponly=True,
        samesite="lax",
    )
