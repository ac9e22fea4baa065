"""Composition root of the gateway."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from libs.db.pool import open_database
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.directory.secrets import Secrets
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.limits import Limits
from libs.web.serve import create_app, serve
from services.gateway import jobs, routes_archive, routes_replays, routes_webhooks
from services.gateway.arrivals import Arrivals
from services.gateway.handlers import HANDLERS
from services.gateway.settings import Settings

LIMITS = Limits(body_bytes_max=512 * 1024, body_timeout_seconds=10.0)
RELAY_PAUSE_SECONDS = 0.02
"""Webhooks are committed a hundred times a second where many come. To send what each commit tells by
itself takes a tenth of the process's time, and Stripe waits for it."""
ROUTERS = (routes_replays.router, routes_archive.router)


def build() -> FastAPI:
    """The gateway: webhooks in, archive and topic out."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service, max_connections=16)
        directory = Directory(database)
        app.state.database, app.state.directory = database, directory
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        app.state.endpoint_secrets = settings.endpoint_secrets()
        app.state.secrets = Secrets(database, settings.sealing)
        app.state.arrivals = Arrivals(database)
        app.state.spool = spool = settings.spool(database)
        app.state.tenant_rates = settings.tenant_rates()
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(consumers_of(database, settings.kafka, HANDLERS, parks=False))
        runtime.add_relay(pause_seconds=RELAY_PAUSE_SECONDS)
        for name, run_once, every_seconds in (
            ("keep_months", partial(jobs.keep_months, database, settings.archive_months), 60),
            ("measure_spool", spool.measure, 1),
            ("release_quarantined", partial(jobs.release_quarantined, database), 1),
            ("go_on_with_replays", partial(jobs.go_on_with_replays, database), 0.5),
            ("forget_erased", partial(jobs.forget_erased, database), 1),
            ("tell_quarantine", partial(jobs.tell_quarantine, database), 15),
        ):
            runtime.add_job(name, run_once, every_seconds=every_seconds)
        async with runtime.running():
            yield

    return create_app(
        "Gateway",
        health=health,
        routers=ROUTERS,
        plain_routers=(routes_webhooks.router,),
        lifespan=lifespan,
        limits=LIMITS,
    )


if __name__ == "__main__":
    serve(build, load(Settings))
