"""The console's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from libs.observability.health import Health
from libs.settings import load
from libs.web.limits import Limits
from libs.web.serve import create_app, serve
from services.console import (
    routes,
    routes_account,
    routes_audit,
    routes_configuration,
    routes_invitation,
    routes_invoices,
    routes_keys,
    routes_ledger,
    routes_ledger_periods,
    routes_members,
    routes_ops,
    routes_payments,
    routes_payouts,
    routes_reconciliation,
    routes_replays,
    routes_session,
    routes_settings,
    routes_static,
    routes_stripe,
    routes_teams,
    routes_tenants,
    routes_usage,
    routes_webhooks,
)
from services.console.origin import Origin, open_client
from services.console.pages import load_static, make_environment
from services.console.settings import Settings

FORM_BYTES_MAX = 128 * 1024
"""Settings written as JSON are the largest; a form writes each odd character as three."""


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    static = load_static()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with open_client(settings.api_url) as http:
            app.state.origin = Origin(http, settings.browser_origin)
            yield

    app = create_app(
        "Console",
        health=Health(),
        routers=[
            routes_session.router,
            routes_tenants.router,
            routes_usage.router,
            routes_invoices.router,
            routes_payments.router,
            routes_payouts.router,
            routes_ledger.router,
            routes_ledger_periods.router,
            routes_reconciliation.router,
            routes_replays.router,
            routes_webhooks.router,
            routes_ops.router,
            routes_settings.router,
            routes_stripe.router,
            routes_invitation.router,
            routes_members.router,
            routes_teams.router,
            routes_keys.router,
            routes_account.router,
            routes_configuration.router,
            routes_audit.router,
            routes_static.router,
        ],
        lifespan=lifespan,
        limits=Limits(body_bytes_max=FORM_BYTES_MAX),
        description="The pages that people see.",
    )
    app.state.static = static
    app.state.templates = make_environment(static)
    app.state.browser_origin = settings.browser_origin
    app.state.provider_name = settings.oidc_name if settings.oidc_issuer else None
    routes.install(app)
    return app


if __name__ == "__main__":
    serve(build, load(Settings))
