"""`/invitation`: where the holder of an invitation's link accepts it; open to everybody."""

from typing import Annotated

from fastapi import APIRouter, Form, Query, Request, Response

from services.console.forms import OwnForm
from services.console.origin import ApiProblem, NotSignedIn, Origin
from services.console.routes import PageRoute, go_on, page
from services.console.shapes import Assertion
from services.console.view import HOME

router = APIRouter(include_in_schema=False, route_class=PageRoute)

PATH = "/invitation"
TOKEN_LENGTH_MAX = 100


@router.get(PATH)
async def show_invitation(
    request: Request, token: Annotated[str, Query(max_length=TOKEN_LENGTH_MAX)] = ""
) -> Response:
    """The form; what the token is worth shows when it is used."""
    return await _show(request, token, "", None)


@router.post(PATH, dependencies=[OwnForm])
async def accept_invitation(
    request: Request,
    token: Annotated[str, Form(max_length=TOKEN_LENGTH_MAX)] = "",
    name: Annotated[str, Form(max_length=400)] = "",
    password: Annotated[str, Form(max_length=1024)] = "",
) -> Response:
    """Become a member, and be signed in."""
    origin: Origin = request.app.state.origin
    body = {"token": token, "name": name.strip() or None, "password": password or None}
    try:
        answer = await origin.accept_invitation(request.cookies, body)
    except ApiProblem as problem:
        return await _show(request, token, name, problem)
    return go_on(HOME, answer.set_cookies)


async def _show(request: Request, token: str, name: str, problem: ApiProblem | None) -> Response:
    return page(
        request,
        "invitation.html",
        None,
        problem=problem,
        token=token,
        name=name,
        email=await _signed_in_as(request),
    )


async def _signed_in_as(request: Request) -> str | None:
    """The e-mail of whoever is signed in in this browser."""
    origin: Origin = request.app.state.origin
    try:
        found = await origin.assertion(request.cookies, {})
    except (NotSignedIn, ApiProblem):
        return None
    return Assertion.model_validate(found).user.email
