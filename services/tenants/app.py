"""The tenants service's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from libs.db.pool import open_database
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.serve import create_app, serve
from services.tenants import (
    connect_leftovers,
    connection_jobs,
    fees,
    jobs,
    personal,
    routes_account,
    routes_audit,
    routes_clock,
    routes_config,
    routes_configuration,
    routes_connect,
    routes_details,
    routes_invitations,
    routes_keys,
    routes_live,
    routes_members,
    routes_oidc,
    routes_personal_data,
    routes_rotation,
    routes_sessions,
    routes_teams,
    routes_tenants,
    webhooks,
)
from services.tenants.handlers import HANDLERS
from services.tenants.means import Means
from services.tenants.sealing import Sealer
from services.tenants.settings import Settings
from services.tenants.stripe_api import open_stripe


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    personal.unlock(settings.key_pepper_bytes)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service)
        directory = Directory(database)
        app.state.settings = settings
        app.state.database, app.state.directory = database, directory
        pepper = settings.key_pepper_bytes
        app.state.gate = Gate(database, directory, pepper, admits_before_live=True)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(consumers_of(database, settings.kafka, HANDLERS, parks=False))
        runtime.add_relay()
        runtime.add_job(
            "ensure_reserved",
            partial(jobs.ensure_reserved, database, settings),
            every_seconds=5,
        )
        runtime.add_job(
            "keep_default_active",
            partial(jobs.keep_default_active, database, settings),
            every_seconds=60,
        )
        runtime.add_job("prune", partial(jobs.prune, database), every_seconds=30)
        runtime.add_job("tell_anew", partial(jobs.tell_anew, database), every_seconds=30)
        runtime.add_job("seal_people", partial(jobs.seal_people, database), every_seconds=5)
        runtime.add_job(
            "anchor_audit", partial(jobs.anchor_audit, database, settings), every_seconds=1
        )
        sealer = Sealer(database, settings.sealing)
        runtime.add_job("rotate_keys", partial(jobs.rotate_keys, database, sealer), every_seconds=1)
        runtime.add_job(
            "measure_rotations", partial(jobs.measure_rotations, database), every_seconds=30
        )
        runtime.add_job(
            "destroy_secrets", partial(jobs.destroy_secrets, database, sealer), every_seconds=30
        )
        async with open_stripe(settings) as stripe:
            means = Means(database, sealer, stripe, settings)
            app.state.means = means
            runtime.add_job("register_webhooks", partial(webhooks.run_once, means), every_seconds=5)
            runtime.add_job(
                "check_stripe_keys", partial(connection_jobs.check_keys, means), every_seconds=20
            )
            runtime.add_job(
                "finish_secrets", partial(connection_jobs.finish_secrets, means), every_seconds=10
            )
            runtime.add_job("copy_fees", partial(fees.run_once, database), every_seconds=1)
            runtime.add_job(
                "give_back_access", partial(connect_leftovers.run_once, means), every_seconds=30
            )
            runtime.add_job(
                "expire_starts", partial(connection_jobs.expire_starts, means), every_seconds=60
            )
            async with runtime.running():
                yield

    return create_app(
        "Tenants",
        health=health,
        routers=[
            routes_tenants.router,
            routes_details.router,
            routes_keys.router,
            routes_config.router,
            routes_connect.router,
            routes_live.router,
            routes_configuration.router,
            routes_clock.router,
            routes_sessions.router,
            routes_account.router,
            routes_oidc.router,
            routes_members.router,
            routes_invitations.router,
            routes_teams.router,
            routes_personal_data.router,
            routes_audit.router,
            routes_rotation.router,
        ],
        lifespan=lifespan,
        description="Tenants, API keys, sessions, the business clock and the audit log.",
    )


if __name__ == "__main__":
    serve(build, load(Settings))
