"""What all page routes share: who looks, how a page is answered, how a failure becomes a page."""

import re
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.routing import APIRoute
from jinja2 import Environment
from starlette.exceptions import HTTPException

from libs.observability.logging import get_logger
from libs.web.answers import request_id_of
from services.console.forms import DONE
from services.console.origin import ApiProblem, NotSignedIn, Origin
from services.console.pages import SECURITY_HEADERS, TITLES
from services.console.shapes import Listed, Tenant
from services.console.view import HOME, Viewer, look

_logger = get_logger(__name__)

_SEGMENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_SENTENCES = {
    404: "There is no such page. Check the address, or begin at the list of tenants.",
    405: "This page cannot be asked for in this way. Open it from a link or a form.",
    422: "The address holds a value that this page cannot read. Open the page from a link.",
}


class NoTenantChosen(Exception):  # noqa: N818 - a state, not a failure
    """An operator opened a page of one tenant and has chosen none yet."""


class PageRoute(APIRoute):
    """A route whose unexpected failures are logged and shown as a page."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with the failure page around it."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            try:
                return await handler(request)
            except (
                ApiProblem,
                NotSignedIn,
                NoTenantChosen,
                HTTPException,
                RequestValidationError,
            ):
                raise
            except Exception:
                _logger.exception("page_failed", path=self.path)
                sentence = "Something failed on our side. Try again; if it stays, report this."
                return problem_page(request, 500, "Internal error", sentence)

        return handle


async def signed_in(request: Request) -> Viewer:
    """The viewer of this page; kept for the failure page too."""
    origin: Origin = request.app.state.origin
    viewer = await look(origin, request.cookies, request.query_params)
    request.state.viewer = viewer
    return viewer


SignedIn = Annotated[Viewer, Depends(signed_in)]


async def of_tenant(viewer: SignedIn) -> Viewer:
    """The viewer of a page that shows one tenant.

    Raises:
        NoTenantChosen: answered with the choice of one.
    """
    if viewer.tenant is None:
        raise NoTenantChosen
    return viewer


OfTenant = Annotated[Viewer, Depends(of_tenant)]


def page(
    request: Request,
    template: str,
    viewer: Viewer | None,
    *,
    status: int = 200,
    problem: ApiProblem | None = None,
    **values: Any,
) -> HTMLResponse:
    """A template as an answer.

    Args:
        request: whose path says which page is in view, and which form has just worked.
        template: its name.
        viewer: None on pages before signing in.
        status: of the answer.
        problem: what kept a form of this page from working; also gives the status.
        values: what the template shows.
    """
    environment: Environment = request.app.state.templates
    text = environment.get_template(template).render(
        viewer=viewer,
        path=request.url.path,
        done=DONE.get(request.query_params.get("done", "")),
        refused=problem.detail if problem else None,
        **values,
    )
    answered = problem.status if problem else status
    return HTMLResponse(text, status_code=answered, headers=SECURITY_HEADERS)


def segment(text: str) -> str:
    """An id, slug or name as a segment of a path of the API.

    Raises:
        ApiProblem: 404 for whatever cannot be one.
    """
    if len(text) > 100 or not _SEGMENT.fullmatch(text):
        raise ApiProblem(
            404, "There is no such thing. Open the page from a link.", title="Not found"
        )
    return text


def problem_page(
    request: Request, status: int, title: str, detail: str, request_id: str | None = None
) -> HTMLResponse:
    """A failure in words."""
    return page(
        request,
        "problem.html",
        getattr(request.state, "viewer", None),
        status=status,
        title=title,
        detail=detail,
        request_id=request_id or request_id_of(request),
    )


def go_on(goal: str, set_cookies: tuple[str, ...] = ()) -> RedirectResponse:
    """Off to another page, with the cookies that the API set."""
    response = RedirectResponse(goal, status_code=303, headers=SECURITY_HEADERS)
    for cookie in set_cookies:
        response.headers.append("Set-Cookie", cookie)
    return response


def to_sign_in(request: Request) -> RedirectResponse:
    """Off to `/login`, and back here afterwards."""
    wanted = request.url.path
    if request.url.query:
        wanted += f"?{request.url.query}"
    query = "" if wanted in ("/", HOME) else "?" + urlencode({"next": wanted})
    return RedirectResponse(f"/login{query}", status_code=303, headers=SECURITY_HEADERS)


def install(app: FastAPI) -> None:
    """Make `app` answer with pages whatever keeps a page from being shown."""
    app.add_exception_handler(ApiProblem, _on_api_problem)
    app.add_exception_handler(NotSignedIn, _on_not_signed_in)
    app.add_exception_handler(NoTenantChosen, _on_no_tenant_chosen)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)


async def _on_api_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiProblem)
    if error.status == 401:
        return to_sign_in(request)
    return problem_page(request, error.status, error.title, error.detail, error.request_id)


async def _on_not_signed_in(request: Request, _error: Exception) -> Response:
    return to_sign_in(request)


async def _on_no_tenant_chosen(request: Request, _error: Exception) -> Response:
    viewer: Viewer = request.state.viewer
    try:
        known = await viewer.whole.read(Listed[Tenant], "/api/v1/tenants", limit="50")
    except ApiProblem as problem:
        return await _on_api_problem(request, problem)
    title = TITLES.get(request.url.path, "Settings")
    return page(request, "choose.html", viewer, tenants=known.items, title=title)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _plain(request, error.status_code)


async def _on_invalid_request(request: Request, _error: Exception) -> Response:
    return _plain(request, 422)


def _plain(request: Request, status: int) -> Response:
    title = "Not found" if status == 404 else HTTPStatus(status).phrase.capitalize()
    sentence = _SENTENCES.get(status, "The request cannot be answered. Try again from a link.")
    return problem_page(request, status, title, sentence)
