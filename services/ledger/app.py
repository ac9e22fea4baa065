"""The ledger service's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from libs.db.pool import open_database
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.messaging.broker import Runtime
from libs.messaging.caught_up import CaughtUp, ends_in_kafka
from libs.messaging.topic_reader import TopicReader
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.serve import create_app, serve
from services.ledger import (
    jobs,
    rebuilding,
    routes,
    routes_accounts,
    routes_bounds,
    routes_breaks,
    routes_chart,
    routes_exports,
    routes_holds,
    routes_periods,
    routes_postings,
    routes_rebuilds,
    routes_recognition,
    routes_reconciliations,
    routes_reversals,
    routes_statements,
)
from services.ledger.coalescing import Coalescer
from services.ledger.handlers import HANDLERS
from services.ledger.settings import Settings

POSTED_RECORDS_MAX = 1_000
"""Events of a batch: fewer cost more for each, more make nobody faster and everybody wait."""
YOUNG_OBJECTS_MAX = 100_000
"""More objects than the batches of all lanes are made of, which go by themselves: the collector would
only look at them, for a tenth of the process's time."""
LANES = 2
"""Half of the time of a batch is Postgres' and half the process's, so two at a time keep both busy."""
RELAY_PAUSE_SECONDS = 0.1
"""Callers of the API commit together up to forty times a second. To send what each commit tells by
itself, and to read its commands again, takes a third of the process's time, and callers wait for it."""
CONNECTIONS_MAX = 10
"""Two more than a service with one lane has."""


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(
            settings.postgres_dsn, settings.service, max_connections=CONNECTIONS_MAX
        )
        directory = Directory(database)
        app.state.database, app.state.directory = database, directory
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        app.state.coalescer = Coalescer(database)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(
            consumers_of(
                database,
                settings.kafka,
                HANDLERS,
                parks=True,
                max_records=POSTED_RECORDS_MAX,
                lanes=LANES,
            )
        )
        runtime.add_relay(pause_seconds=RELAY_PAUSE_SECONDS)
        runtime.add_job(
            "anchor_chains", partial(jobs.anchor_chains, database, settings), every_seconds=5
        )
        told = CaughtUp(database, ends_in_kafka(settings.kafka, jobs.TOPICS_OF_RECOGNITION))
        runtime.add_job(
            "recognize_revenue",
            told.first(partial(jobs.recognize_revenue, database)),
            every_seconds=1,
        )
        runtime.add_job("reconcile", partial(jobs.reconcile, database, settings), every_seconds=2)
        runtime.add_job(
            "look_at_breaks", partial(jobs.look_at_breaks, database, settings), every_seconds=30
        )
        runtime.add_job("expire_holds", partial(jobs.expire_holds, database), every_seconds=1)
        runtime.add_job("tell_overruns", partial(jobs.tell_overruns, database), every_seconds=2)
        runtime.add_job(
            "rebuild_next",
            partial(
                rebuilding.rebuild_next,
                database,
                TopicReader(settings.kafka),
                HANDLERS,
                settings.postgres_dsn,
            ),
            every_seconds=1,
        )
        runtime.add_job("measure_rebuilds", partial(rebuilding.measure, database), every_seconds=30)
        async with runtime.running():
            yield

    return create_app(
        "Ledger",
        health=health,
        routers=[
            routes.router,
            routes_accounts.router,
            routes_bounds.router,
            routes_chart.router,
            routes_holds.router,
            routes_periods.router,
            routes_recognition.router,
            routes_reconciliations.router,
            routes_breaks.router,
            routes_exports.router,
            routes_rebuilds.router,
            routes_reversals.router,
            routes_statements.router,
        ],
        plain_routers=(routes_postings.router,),
        lifespan=lifespan,
        description="Journal entries, balances at any time and the trial balance, in double entry.",
    )


if __name__ == "__main__":
    serve(build, load(Settings), young_objects_max=YOUNG_OBJECTS_MAX)
