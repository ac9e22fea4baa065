"""Composition root of stripe_sync."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI

from libs.crypto.personal import PersonalKeys
from libs.db.pool import open_database
from libs.directory.consume import consumers_of
from libs.directory.local import Directory
from libs.directory.secrets import Secrets
from libs.messaging.broker import Runtime
from libs.observability.health import Health
from libs.settings import load
from libs.web.auth import Gate
from libs.web.serve import create_app, serve
from services.stripe_sync import (
    allocating,
    jobs,
    routes_checkout,
    routes_healing,
    routes_intents,
    routes_links,
    routes_money,
    routes_outside,
    routes_refunds,
)
from services.stripe_sync.checks import Checking
from services.stripe_sync.connections import ConnectionWatch
from services.stripe_sync.crew import all_running
from services.stripe_sync.customers import CustomerLinks
from services.stripe_sync.handlers import HANDLERS
from services.stripe_sync.healing import Healing
from services.stripe_sync.identities import open_identities
from services.stripe_sync.janitor import RequestWorker
from services.stripe_sync.settings import Settings
from services.stripe_sync.statements import StatementWorker


def build() -> FastAPI:
    """Stripe on one side, our topics on the other."""
    settings = load(Settings)
    health = Health()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        database = await open_database(settings.postgres_dsn, settings.service, max_connections=16)
        directory = Directory(database, settings.key_pepper_bytes)
        secrets = Secrets(database, settings.sealing)
        async with open_identities(settings, database, directory, secrets) as identities:
            app.state.database, app.state.directory = database, directory
            app.state.gate = Gate(database, directory, settings.key_pepper_bytes)
            app.state.personal_keys = PersonalKeys(settings.key_pepper_bytes)
            app.state.settings, app.state.identities = settings, identities
            app.state.links = CustomerLinks(database)
            runtime = Runtime(database, settings.kafka, health)
            runtime.add_consumers(consumers_of(database, settings.kafka, HANDLERS, parks=True))
            runtime.add_relay()
            refreshing = jobs.Refreshing(database, directory, identities)
            runtime.add_job("refresh_dirty", refreshing.run_once, every_seconds=0.2)
            runtime.add_job(
                "carry_out_commands",
                partial(jobs.carry_out_commands, database, identities),
                every_seconds=0.2,
            )
            runtime.add_job(
                "move_clocks", partial(jobs.move_clocks, database, identities), every_seconds=0.2
            )
            runtime.add_job(
                "ask_for_transactions",
                partial(jobs.ask_for_transactions, database, identities),
                every_seconds=settings.transactions_every_seconds,
            )
            runtime.add_job(
                "leave_unclaimed", partial(jobs.leave_unclaimed, database), every_seconds=5
            )
            runtime.add_job(
                "allocate_payouts",
                partial(allocating.allocate_due, database, directory, identities),
                every_seconds=5,
            )
            watch = ConnectionWatch(database)
            runtime.add_job("watch_connections", watch.run_once, every_seconds=0.5)
            runtime.add_job("forget_idle_keys", identities.forget_idle, every_seconds=30)
            healing = Healing(database, directory, identities, settings)
            runtime.add_job("heal", healing.run_once, every_seconds=1)
            runtime.add_job("enrol_accounts", healing.enrol, every_seconds=30)
            statements = StatementWorker(database, identities)
            runtime.add_job("list_statements", statements.run_once, every_seconds=0.5)
            checking = Checking(database, identities)
            runtime.add_job("compare_replays", checking.run_once, every_seconds=0.5)
            requests = RequestWorker(database, directory, identities)
            runtime.add_job("settle_requests", requests.run_once, every_seconds=0.5)
            crews = (healing.crew, statements.crew, checking.crew, requests.crew)
            async with runtime.running(), refreshing.running(), all_running(crews):
                yield

    return create_app(
        "Stripe sync",
        health=health,
        routers=[
            routes_checkout.router,
            routes_intents.router,
            routes_links.router,
            routes_refunds.router,
            routes_outside.router,
            routes_money.router,
            routes_healing.router,
        ],
        lifespan=lifespan,
    )


if __name__ == "__main__":
    serve(build, load(Settings))
