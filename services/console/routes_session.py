"""`/login`, `/logout`: the forms; the session itself is the tenants service's.

Another site cannot make a browser sign in or out here: the form must come from our own origin
(`Origin`, or `Sec-Fetch-Site` where a browser sends none), and the cookie is `SameSite=Lax`.
"""

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from services.console.forms import refuse_foreign_form
from services.console.origin import ApiProblem, NotSignedIn, Origin
from services.console.pages import SECURITY_HEADERS
from services.console.routes import PageRoute, SignedIn, go_on, page
from services.console.view import HOME, same_site_path

router = APIRouter(include_in_schema=False, route_class=PageRoute)

Next = Annotated[str | None, Query(alias="next")]
NextField = Annotated[str | None, Form(alias="next")]
EmailField = Annotated[str, Form(max_length=320)]
PasswordField = Annotated[str, Form(max_length=1024)]
Problem = Annotated[str | None, Query(max_length=50)]

PROBLEMS = {
    "sign_in_failed": "This sign-in did not work. Begin again.",
    "sign_in_expired": "This sign-in took too long or was used before. Begin again.",
    "sign_in_refused": "The sign-in was refused at your identity provider.",
    "sign_in_unavailable": "Your identity provider does not answer as it should. Try again shortly.",
    "email_unverified": "Your identity provider has not verified your e-mail address. Verify it "
    "there, then sign in again.",
    "email_taken": "Somebody else signs in with this e-mail address. Ask an operator.",
}
"""What a sign-in at the identity provider came to, by the code it comes back with."""


@router.get("/")
async def first_page() -> Response:
    """The console begins with the list of tenants."""
    return RedirectResponse(HOME, status_code=303, headers=SECURITY_HEADERS)


@router.get("/login")
async def show_login(request: Request, then: Next = None, problem: Problem = None) -> Response:
    """The form; a person signed in already goes on at once."""
    origin: Origin = request.app.state.origin
    goal = same_site_path(then)
    try:
        await origin.assertion(request.cookies, {})
    except (NotSignedIn, ApiProblem):
        error = None if problem is None else PROBLEMS.get(problem, PROBLEMS["sign_in_failed"])
        return _login(request, goal, error=error)
    return RedirectResponse(goal, status_code=303, headers=SECURITY_HEADERS)


@router.post("/login")
async def sign_in(
    request: Request,
    email: EmailField = "",
    password: PasswordField = "",
    then: NextField = None,
) -> Response:
    """Open a session at the API and hand its cookie to the browser."""
    refuse_foreign_form(request)
    origin: Origin = request.app.state.origin
    goal = same_site_path(then)
    if not email.strip() or not password:
        sentence = "Enter your e-mail address and your password."
        return _login(request, goal, status=422, email=email, error=sentence)
    try:
        answer = await origin.sign_in(request.cookies, email.strip(), password)
    except ApiProblem as problem:
        return _login(request, goal, status=problem.status, email=email, error=problem.detail)
    return go_on(goal, answer.set_cookies)


def _login(
    request: Request, goal: str, *, status: int = 200, email: str = "", error: str | None = None
) -> Response:
    provider: str | None = request.app.state.provider_name
    start = f"/api/v1/session/oidc/start?{urlencode({'return_to': goal})}"
    return page(
        request,
        "login.html",
        None,
        status=status,
        goal=goal,
        email=email,
        error=error,
        provider=provider,
        provider_start=start,
    )


@router.get("/logout")
async def show_logout(request: Request, viewer: SignedIn) -> Response:
    """Signing out takes a form: a link must change nothing."""
    return page(request, "logout.html", viewer)


@router.post("/logout")
async def sign_out(request: Request) -> Response:
    """End the session and forget its cookie."""
    refuse_foreign_form(request)
    origin: Origin = request.app.state.origin
    try:
        answer = await origin.sign_out(request.cookies)
    except ApiProblem as problem:
        if problem.status != 401:
            raise
        return go_on("/login", ())
    return go_on("/login", answer.set_cookies)
