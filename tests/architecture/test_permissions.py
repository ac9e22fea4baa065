"""Every route asks for a permission, or stands on the list of public ones with its reason."""

from collections.abc import Mapping, Sequence

import pytest
from fastapi import APIRouter, Depends, FastAPI

from cli.generate_apps import (
    CONSOLE,
    ContradictionError,
    Route,
    ServiceApp,
    refuse_overlaps,
    routes_of,
)
from libs.web.auth import Requires

PUBLIC: Mapping[str, str] = {
    "POST /api/webhooks/stripe": "Stripe signs its webhooks; nothing is read before the signature",
    "POST /api/webhooks/stripe/{token}": "a tenant's own Stripe signs; nobody else is heard",
    "POST /api/v1/billing/webhook": "the same endpoint under its other address",
    "GET /api/v1/connect/callback": "Stripe sends a browser back; the state is the proof, good once",
    "GET /api/v1/connect/return": "the same after onboarding; only looks at the account again",
    "GET /api/v1/connect/refresh": "the same where the onboarding address was too old",
    "POST /api/v1/session": "signs in: the e-mail and password are the proof",
    "DELETE /api/v1/session": "signs out: the session's own secret is the proof",
    "POST /api/v1/session/assertion": "the session's own secret is the proof",
    "GET /api/v1/session/oidc/start": "begins to sign in: nobody is known yet",
    "GET /api/v1/session/oidc/callback": "signs in: the provider's word for this browser is the proof",
    "POST /api/v1/invitations/accept": "the invitation's token is the proof",
}
"""Routes of the API that anybody may call. Pages of the console answer to its session instead."""


def undeclared(routes: Sequence[Route], public: Mapping[str, str]) -> list[str]:
    """Routes without a permission that are not excused, and excuses for routes that are not there."""
    open_routes = {
        f"{method} {route.path}"
        for route in routes
        for method in route.methods
        if not route.permissions
    }
    faults = [f"{name} asks for no permission" for name in sorted(open_routes - set(public))]
    return faults + [f"{name} is excused in vain" for name in sorted(set(public) - open_routes)]


def test_every_route_declares_who_may_call_it(apps: list[ServiceApp]) -> None:
    routes = [route for app in apps if app.service != CONSOLE for route in app.routes]
    assert undeclared(routes, PUBLIC) == []


def test_a_route_without_a_permission_is_found() -> None:
    router = APIRouter(prefix="/api/v1")

    @router.get("/closed", dependencies=[Depends(Requires("billing:read"))])
    async def closed() -> None: ...

    @router.get("/open")
    async def opened() -> None: ...

    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.include_router(router)
    assert undeclared(routes_of("trial", app), {"GET /gone": "was removed"}) == [
        "GET /api/v1/open asks for no permission",
        "GET /gone is excused in vain",
    ]


def _route(service: str, path: str) -> Route:
    return Route(service, path, ("GET",), "x", in_schema=True, permissions=("billing:read",))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/api/v1/plans", "/api/v1/plans"),
        ("/api/v1/plans/{plan}", "/api/v1/plans/free"),
        ("/api/v1/{noun}/x", "/api/v1/plans/{plan}"),
        ("/static/{path:path}", "/static/style.css"),
    ],
)
def test_a_path_of_two_services_is_refused(one: str, other: str) -> None:
    with pytest.raises(ContradictionError, match="one service only"):
        refuse_overlaps([_route("billing", one), _route("ledger", other)])


def test_paths_of_one_service_and_disjoint_paths_are_fine() -> None:
    refuse_overlaps(
        [
            _route("billing", "/api/v1/plans/{plan}"),
            _route("billing", "/api/v1/plans/free"),
            _route("ledger", "/api/v1/plans"),
            _route("ledger", "/api/v1/plans/{plan}/x"),
        ]
    )
