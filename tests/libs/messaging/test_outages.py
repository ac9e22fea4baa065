"""Postgres or Kafka goes away: the parts of a service stay, say so, and come back by themselves."""

import asyncio
import os
import signal
from collections.abc import Callable

import pytest
from prometheus_client import REGISTRY

from deploy.local.scratch import RunningKafka
from libs.contracts.billing import CreditGranted
from libs.ids import new_id
from libs.messaging import relay as relay_module
from libs.messaging.apply import Handler
from libs.messaging.create_topics import create_topics
from libs.messaging.outbox import emit
from libs.messaging.relay import Relay
from libs.testing.databases import TestDatabase
from tests.libs.messaging.test_exactly_once import Sums, credit
from tests.libs.messaging.test_on_kafka import grant, running

NOWHERE = "127.0.0.1:1"


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.05)


async def cut(database: TestDatabase, service: str) -> int:
    """Cut every connection of a service to this database, and wait for its end; how many there were."""
    async with database.admin() as admin:
        return len(
            await admin.fetch(
                "select pg_terminate_backend(pid, 60000) from pg_stat_activity "
                "where usename = $1 and datname = current_database()",
                f"sluice_{service}",
            )
        )


async def holders(database: TestDatabase) -> set[int]:
    """The connections that have the locks of this database's shards."""
    async with database.admin() as admin:
        rows = await admin.fetch(
            "select pid from pg_locks where locktype = 'advisory' and database = "
            "(select oid from pg_database where datname = current_database())"
        )
    return {row["pid"] for row in rows}


async def test_the_relay_survives_a_restart_of_postgres(database: TestDatabase) -> None:
    async with database.open("ledger") as ledger:
        relay = asyncio.create_task(Relay(ledger, NOWHERE).run())
        try:
            former: set[int] = set()
            for _ in ("as it begins", "as it begins again", "and a third time"):
                async with asyncio.timeout(60):
                    while not (held := await holders(database)) or held & former:
                        await asyncio.sleep(0.05)
                assert not relay.done()
                former |= held
                assert await cut(database, "ledger")
        finally:
            relay.cancel()
            await asyncio.wait({relay})


async def test_what_waits_is_shown_while_kafka_is_away(database: TestDatabase) -> None:
    tenant = new_id()
    async with database.open("billing") as billing:
        async with billing.tenant(tenant, "test") as tx:
            emit(tx, credit(tenant).data)
        relay = asyncio.create_task(Relay(billing, NOWHERE).run())
        try:
            await until(lambda: REGISTRY.get_sample_value("sluice_outbox_unsent_records") == 1)
        finally:
            relay.cancel()
            await asyncio.wait({relay})


@pytest.mark.kafka
async def test_an_idle_consumer_is_ready_again_after_an_outage_of_postgres(
    database: TestDatabase, kafka_server: RunningKafka
) -> None:
    await create_topics(kafka_server.bootstrap)
    handlers: dict[type, Handler] = {CreditGranted: Sums().on_credit}
    async with (
        running(database, "ledger", kafka_server.bootstrap, handlers) as (_, consumers),
        database.admin() as admin,
    ):
        await until(lambda: all(consumer.check().ok for consumer in consumers))
        await admin.execute("alter role sluice_ledger connection limit 0")
        try:
            await cut(database, "ledger")
            await until(lambda: not any(consumer.check().ok for consumer in consumers))
        finally:
            await admin.execute("alter role sluice_ledger connection limit -1")
        await until(lambda: all(consumer.check().ok for consumer in consumers))


@pytest.mark.kafka
async def test_a_producer_let_go_while_kafka_hangs_is_gone_at_last(
    database: TestDatabase, kafka_server: RunningKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sender and its connection must not stay: an outage would leave one for each attempt."""
    await create_topics(kafka_server.bootstrap)
    monkeypatch.setattr(relay_module, "SEND_TIMEOUT_SECONDS", 3.0)
    monkeypatch.setattr(relay_module, "STOP_SECONDS", 0.5)
    tenant = new_id()
    async with database.open("billing") as billing:
        before = kafka_tasks()
        relay = asyncio.create_task(Relay(billing, kafka_server.bootstrap).run())
        try:
            await grant(billing, tenant, 1)
            await until_sent(database, 1)
            os.kill(kafka_server.pid, signal.SIGSTOP)
            try:
                await grant(billing, tenant, 2)
                await asyncio.sleep(5)
            finally:
                os.kill(kafka_server.pid, signal.SIGCONT)
            await until_sent(database, 2)
        finally:
            relay.cancel()
            await asyncio.wait({relay})
        await until(lambda: kafka_tasks() == before)


def kafka_tasks() -> int:
    """Tasks of Kafka's client in this loop."""
    names = [getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks()]
    return sum(name.startswith(("Sender.", "AIOKafka", "MessageAcc")) for name in names)


async def until_sent(database: TestDatabase, rows: int) -> None:
    async with database.admin() as admin, asyncio.timeout(60):
        while rows != await admin.fetchval(
            "select count(*) from billing.outbox where sent_at is not null"
        ):
            await asyncio.sleep(0.05)
