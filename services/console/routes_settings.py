"""`/settings`: what there is to set, and who may."""

from fastapi import APIRouter, Request, Response

from services.console.routes import PageRoute, SignedIn, page

ABOUT = {
    "/settings/stripe": "The Stripe account that your customers pay into.",
    "/settings/members": "Who may do what, and who is invited. For owners and admins.",
    "/settings/teams": "Named groups of members. For owners and admins.",
    "/settings/api-keys": "What programs call the API with. For owners and admins.",
    "/settings/configuration": "How the tenant is billed and looks, and the step into live mode.",
    "/settings/account": "Your own password, and where you are signed in.",
    "/audit": "Who changed what, when and from where. For owners and admins.",
}

router = APIRouter(include_in_schema=False, route_class=PageRoute)


@router.get("/settings")
async def show_settings(request: Request, viewer: SignedIn) -> Response:
    """The pages behind Settings, each with what it is for."""
    return page(request, "settings.html", viewer, about=ABOUT)
