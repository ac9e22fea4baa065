"""What all forms share: who may send them, and how what they asked for is answered.

Whatever worked leads on to a page (so that a reload asks for nothing twice) which tells it by a code
in its address; whatever was refused shows the form's page again with the API's sentence.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated

from fastapi import Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from services.console.origin import ApiProblem
from services.console.pages import SECURITY_HEADERS
from services.console.view import Viewer

Text = Annotated[str, Form(max_length=2_000)]
Several = Annotated[list[str], Form(max_length=50)]
Once = Annotated[str, Form(max_length=64, pattern=r"^[0-9a-f-]*$")]
"""An idempotency key that the form was given, so that sending it again makes nothing twice."""

Show = Callable[[Request, Viewer, ApiProblem | None], Awaitable[Response]]

WRONG_PASSWORD = "wrong_password"  # noqa: S105 - a problem's code

DONE: Mapping[str, str] = {
    "key_revoked": "The key is revoked. It is refused everywhere within two seconds.",
    "stripe_disconnected": "The account is disconnected, at Stripe and here. Its history stays.",
    "member_changed": "The member is changed; known everywhere within two seconds.",
    "member_removed": "The member is removed, and may nothing here within two seconds.",
    "invitation_withdrawn": "The invitation is withdrawn. Its link is worth nothing now.",
    "team_made": "The team is made. Put members into it.",
    "team_renamed": "The team has its new name.",
    "team_removed": "The team is removed. Its members stay members of the tenant.",
    "team_joined": "The member is in the team.",
    "team_left": "The member is out of the team.",
    "stripe_on": "The connection is on again, everywhere within two seconds.",
    "stripe_off": "The connection is off, everywhere within two seconds. Its keys are kept.",
    "session_ended": "That session is ended.",
    "sessions_ended": "You are signed in here only.",
    "password_changed": "The password is changed, and you are signed in here only.",
    "record_saved": "The record is saved; known everywhere within two seconds.",
    "went_live": "Live mode is open to this tenant.",
    "refund_asked": "The refund is asked for at Stripe. Its state is shown below within seconds.",
    "event_assigned": "The event belongs to its tenant now, and is worked on.",
    "event_released": "The event is let go: it is taken in as what it says it is, once.",
    "replay_canceled": "The replay stops. What was sent stays sent; nothing has an effect twice.",
    "period_closed": "The month is closed. Its figures stay as they are.",
    "period_reopened": "The month is open again.",
    "break_accepted": "The repair is under way. The next run says whether it helped.",
    "break_ignored": "The break is let be, until its amounts change.",
    "break_assigned": "The break has its owner.",
    "reconciliation_asked": "The comparison is under way. Its run is shown below.",
    "configuration_saved": "The settings are saved; known everywhere within two seconds.",
}
"""What a page says after a form worked, by the code in its address."""


def refuse_foreign_form(request: Request) -> None:
    """Refuse a form that another site sent.

    Raises:
        ApiProblem: 403, with the address to use.
    """
    own: str = request.app.state.browser_origin
    sent = request.headers.get("origin")
    if sent is not None:
        same = sent.lower() == own
    else:
        same = request.headers.get("sec-fetch-site") in ("same-origin", "none")
    if not same:
        raise ApiProblem(
            403,
            f"This form was sent from another site. Open the console at {own} and try again.",
            title="Wrong site",
        )


OwnForm = Depends(refuse_foreign_form)
"""The dependency of every route that changes something."""


def shown(problem: ApiProblem) -> ApiProblem:
    """What a form's page shows of a refusal.

    Raises:
        ApiProblem: the same, where signing in again is the way on.
    """
    if problem.status == 401 and problem.code != WRONG_PASSWORD:
        raise problem
    return problem


async def attempt(
    request: Request,
    viewer: Viewer,
    work: Awaitable[object],
    show: Show,
    goal: str,
    done: str,
    **query: str | None,
) -> Response:
    """Do what a form asked for, then go on to `goal`; or show the page again with the refusal.

    Args:
        request: the form's.
        viewer: who sent it.
        work: the call of the API.
        show: the page that the form stands on.
        goal: the page to go on to.
        done: a code of `DONE`.
        query: of the address of that page.
    """
    try:
        await work
    except ApiProblem as problem:
        return await show(request, viewer, shown(problem))
    return RedirectResponse(viewer.link(goal, done=done, **query), 303, headers=SECURITY_HEADERS)
