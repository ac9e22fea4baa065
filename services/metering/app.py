"""The metering service's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial

from fastapi import FastAPI

from libs.db.pool import open_database
from libs.db.shared_looks import SharedLooks
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.limits import Limits
from libs.web.serve import create_app, serve
from services.metering import (
    archiving,
    jobs,
    rebuilding,
    routes_backfills,
    routes_conflicts,
    routes_corrections,
    routes_events,
    routes_forecast,
    routes_limits,
    routes_meters,
    routes_overages,
    routes_planned,
    routes_producers,
    routes_rebuilds,
    routes_reservations,
    routes_usage,
)
from services.metering.admission import admission_since
from services.metering.cloudevents import BODY_BYTES_MAX
from services.metering.forgotten import Memory
from services.metering.glances import Glances
from services.metering.handlers import HANDLERS, READERS, batch_handlers_of, weigh
from services.metering.producers import ProducerKeys
from services.metering.progress import Progress
from services.metering.settings import Settings
from services.metering.unchanging import Unchanging
from services.metering.usage_log import UsageLog
from services.metering.usage_reader import UsageReader

BATCH_RECORDS = 5_000


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service)
        directory = Directory(database)
        keys = ProducerKeys.under(settings.key_pepper_bytes)
        admission = admission_since(settings.signed_since, keys)
        usage_log = UsageLog(settings.kafka, keys if admission else None)
        progress = Progress()
        app.state.producer_keys = keys
        app.state.database, app.state.directory = database, directory
        app.state.usage_log, app.state.progress = usage_log, progress
        app.state.memory = Memory(database, settings.archive)
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(
            consumers_of(
                database,
                settings.kafka,
                HANDLERS,
                batch_handlers=batch_handlers_of(admission),
                parks=False,
                max_records=BATCH_RECORDS,
                readers=READERS,
                weigh=weigh,
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
        runtime.add_job(
            "prune_usage_values", partial(jobs.prune_usage_values, database), every_seconds=60
        )
        runtime.add_job(
            "look_at_limits", partial(jobs.look_at_limits, database, directory), every_seconds=1
        )
        runtime.add_job(
            "refresh_forecasts",
            partial(jobs.refresh_forecasts, database, directory),
            every_seconds=5,
        )
        runtime.add_job(
            "decide_planned_usage",
            partial(jobs.decide_planned_usage, database, directory),
            every_seconds=1,
        )
        runtime.add_job(
            "work_on_backfills",
            partial(jobs.work_on_backfills, database, usage_log, settings.archive),
            every_seconds=1,
        )
        runtime.add_job(
            "prune_refusals", partial(jobs.prune_refusals, database), every_seconds=3600
        )
        runtime.add_job(
            "prune_conflicts", partial(jobs.prune_conflicts, database), every_seconds=3600
        )
        reader, folder = UsageReader(settings.kafka), settings.archive
        every = timedelta(seconds=settings.archive_every_seconds)
        runtime.add_job(
            "archive_usage",
            partial(archiving.archive_apart, database, reader, every),
            every_seconds=archiving.LOOK_SECONDS,
        )
        runtime.add_job(
            "rebuild_next",
            partial(
                rebuilding.rebuild_next,
                database,
                reader,
                folder,
                settings.postgres_dsn,
                directory,
                admission,
            ),
            every_seconds=1,
        )
        try:
            async with runtime.running():
                yield
        finally:
            await usage_log.close()

    app = create_app(
        "Metering",
        health=health,
        routers=[
            routes_meters.router,
            routes_usage.router,
            routes_overages.router,
            routes_conflicts.router,
            routes_corrections.router,
            routes_forecast.router,
            routes_planned.router,
            routes_reservations.router,
            routes_rebuilds.router,
            routes_producers.router,
            routes_backfills.router,
        ],
        plain_routers=[routes_events.router, routes_limits.router],
        lifespan=lifespan,
        limits=Limits(
            body_bytes_max_by_prefix={
                "/api/v1/events": BODY_BYTES_MAX,
                "/api/v1/usage/backfills": BODY_BYTES_MAX,
            }
        ),
        description="Meters, usage events, quantities and limits.",
    )
    app.state.limit_checks = SharedLooks()
    app.state.billers_meters, app.state.glances = Unchanging(), Glances()
    return app


if __name__ == "__main__":
    serve(build, load(Settings))
