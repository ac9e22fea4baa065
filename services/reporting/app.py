"""The reporting service's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from libs.db.pool import open_database
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.serve import create_app, serve
from services.reporting import routes_ops, routes_reports
from services.reporting.handlers import HANDLERS
from services.reporting.settings import Settings
from services.reporting.topics import TopicWatch


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service)
        directory = Directory(database)
        app.state.database, app.state.directory = database, directory
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        app.state.topic_watch = TopicWatch(settings.kafka)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(consumers_of(database, settings.kafka, HANDLERS, parks=False))
        # Reporting produces no facts of its own, but refusals are security events.
        runtime.add_relay()
        async with runtime.running():
            yield

    return create_app(
        "Reporting",
        health=health,
        routers=[routes_reports.router, routes_ops.router],
        lifespan=lifespan,
        description="Revenue, counts, and what stands on Kafka.",
    )


if __name__ == "__main__":
    serve(build, load(Settings))
