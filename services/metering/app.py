"""The metering service's composition root."""

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
from libs.web.limits import Limits
from libs.web.serve import create_app, serve
from services.metering import (
    jobs,
    routes_events,
    routes_limits,
    routes_meters,
    routes_reservations,
    routes_usage,
)
from services.metering.cloudevents import BODY_BYTES_MAX
from services.metering.handlers import BATCH_HANDLERS, HANDLERS, READERS
from services.metering.progress import Progress
from services.metering.settings import Settings
from services.metering.usage_log import UsageLog

BATCH_RECORDS = 5_000


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service)
        directory = Directory(database)
        usage_log, progress = UsageLog(settings.kafka), Progress()
        app.state.database, app.state.directory = database, directory
        app.state.usage_log, app.state.progress = usage_log, progress
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(
            consumers_of(
                database,
                settings.kafka,
                HANDLERS,
                batch_handlers=BATCH_HANDLERS,
                parks=False,
                max_records=BATCH_RECORDS,
                readers=READERS,
            )
        )
        runtime.add_relay()
        runtime.add_job(
            "close_periods", partial(jobs.close_periods, database, usage_log), every_seconds=0.5
        )
        runtime.add_job(
            "note_progress", partial(progress.note, database, usage_log), every_seconds=1
        )
        runtime.add_job(
            "end_reservations",
            partial(jobs.end_reservations, database, usage_log),
            every_seconds=1,
        )
        runtime.add_job(
            "prune_event_ids", partial(jobs.prune_event_ids, database), every_seconds=60
        )
        try:
            async with runtime.running():
                yield
        finally:
            await usage_log.close()

    return create_app(
        "Metering",
        health=health,
        routers=[
            routes_meters.router,
            routes_events.router,
            routes_usage.router,
            routes_limits.router,
            routes_reservations.router,
        ],
        lifespan=lifespan,
        limits=Limits(body_bytes_max_by_prefix={"/api/v1/events": BODY_BYTES_MAX}),
        description="Meters, usage events, quantities and limits.",
    )


if __name__ == "__main__":
    serve(build, load(Settings))
