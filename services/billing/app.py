"""The billing service's composition root."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from libs.contracts.topics import topics_consumed_by
from libs.crypto.personal import PersonalKeys
from libs.db.pool import open_database
from libs.directory.consume import DIRECTORY_TOPICS, consumers_of
from libs.directory.local import Directory
from libs.messaging.broker import Runtime
from libs.messaging.caught_up import CaughtUp, ends_in_kafka
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.serve import create_app, serve
from services.billing import (
    jobs,
    routes_credits,
    routes_customers,
    routes_invoices,
    routes_personal_data,
    routes_plans,
    routes_prepaid,
)
from services.billing.handlers import HANDLERS
from services.billing.settings import Settings


def build() -> FastAPI:
    """The application, from settings to routes."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service)
        directory = Directory(database, settings.key_pepper_bytes)
        app.state.database, app.state.directory = database, directory
        app.state.personal_keys = PersonalKeys(settings.key_pepper_bytes)
        app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
        runtime = Runtime(database, settings.kafka, health)
        runtime.add_consumers(consumers_of(database, settings.kafka, HANDLERS, parks=True))
        runtime.add_relay()
        runtime.add_job(
            "ensure_free_plans", partial(jobs.ensure_free_plans, database), every_seconds=30
        )
        topics = {topic.name for topic in topics_consumed_by(settings.service)} - DIRECTORY_TOPICS
        # After a restore the usage that an invoice was made of may stand there unread.
        read = CaughtUp(database, ends_in_kafka(settings.kafka, sorted(topics)))
        runtime.add_job(
            "expire_credits",
            read.first(partial(jobs.expire_credits, database)),
            every_seconds=1,
        )
        async with runtime.running():
            yield

    return create_app(
        "Billing",
        health=health,
        routers=[
            routes_plans.router,
            routes_customers.router,
            routes_invoices.router,
            routes_credits.router,
            routes_prepaid.router,
            routes_personal_data.router,
        ],
        lifespan=lifespan,
        description="Plans, customers, subscriptions, invoices and credits.",
    )


if __name__ == "__main__":
    serve(build, load(Settings))
