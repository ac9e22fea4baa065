"""The running parts of a service beside its HTTP: consumers, relay, jobs.

They start without Kafka and Postgres and become ready when both are there. A part that ends with
an error ends the process: the supervisor starts it again, and exactly-once effects make that safe.
"""

import asyncio
import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker

from libs.db.pool import TRANSIENT_ERRORS, Database, UnsafeRoleError, refuse_unsafe_role
from libs.messaging import retention
from libs.messaging.consume import Consumer
from libs.messaging.kafka_connection import mend_resets
from libs.messaging.key_use import KEY_USES
from libs.messaging.relay import Relay
from libs.observability.health import Check, Health
from libs.observability.metrics import JOB_RUNS_TOTAL, JOB_SECONDS

log = structlog.get_logger()

CANCELLATIONS_MAX = 8
BROKEN_JOB_PAUSE_SECONDS = 10.0
STOP_SECONDS = 6.0

Job = Callable[[], Awaitable[None]]


class Runtime:
    """What a service runs beside answering requests."""

    def __init__(self, database: Database, bootstrap: str, health: Health) -> None:
        self._database = database
        self._bootstrap = bootstrap
        self._parts: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = []
        self._role_checked = False
        mend_resets()
        health.register("postgres", self._check_postgres)
        self._health = health
        self.add_job("prune_core_tables", partial(retention.prune, database), every_seconds=30)
        self.add_job("measure_parked", partial(retention.measure, database), every_seconds=5)
        self.add_job("tell_key_use", partial(KEY_USES.tell, database), every_seconds=5)

    def add_consumers(self, consumers: Sequence[Consumer]) -> None:
        """Consume for as long as the service runs."""
        for consumer in consumers:
            self._health.register(f"consumer {consumer.title}", consumer.check)
            self._parts.append((f"consume {consumer.title}", partial(self._consume, consumer)))
            self._parts.append((f"watch {consumer.title}", consumer.watch))

    def add_relay(self, *, pause_seconds: float = 0.0) -> None:
        """Send what the outbox holds.

        Args:
            pause_seconds: what is committed so soon after something was sent waits for it, and goes
                together; for a service that commits many times a second and would send as often.
        """
        relay = Relay(self._database, self._bootstrap, pause_seconds=pause_seconds)
        self._health.register("relay", relay.check)
        self._parts.append(("relay", relay.run))

    def add_job(self, name: str, run_once: Job, *, every_seconds: float) -> None:
        """Run a bounded piece of timed work again and again."""
        self._parts.append((name, partial(_repeat, name, run_once, every_seconds)))

    @asynccontextmanager
    async def running(self) -> AsyncGenerator[None, None]:
        """Start every part; stop them all when the block ends."""
        tasks = [
            asyncio.create_task(self._guard(name, part), name=name) for name, part in self._parts
        ]
        try:
            yield
        finally:
            self._health.stop()
            await _end(tasks)
            await self._database.close()

    async def _guard(self, name: str, part: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await part()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.critical("part_failed", part=name, exc_info=True)
            os.kill(os.getpid(), signal.SIGTERM)
            raise

    async def _consume(self, consumer: Consumer) -> None:
        """Keep a FastStream broker running for one consumer; Kafka may come and go."""
        pause_seconds = 0.2
        while True:
            broker = KafkaBroker(
                self._bootstrap,
                consumer_only=True,
                allow_auto_create_topics=False,
                graceful_timeout=5.0,
                metadata_max_age_ms=30_000,
                logger=None,
            )
            consumer.subscribe(broker)
            try:
                await broker.start()
                await asyncio.Event().wait()
            except (KafkaError, OSError) as error:
                log.warning("kafka_unreachable", consumer=consumer.name, error=type(error).__name__)
            finally:
                try:
                    async with asyncio.timeout(STOP_SECONDS):
                        await broker.stop()
                finally:
                    await consumer.end()
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, 5.0)

    async def _check_postgres(self) -> Check:
        """Postgres answers, and the role is one that row-level security holds."""
        if not await self._database.ping():
            return Check(ok=False, detail="Postgres does not answer")
        if not self._role_checked:
            try:
                await refuse_unsafe_role(self._database)
            except UnsafeRoleError as error:
                return Check(ok=False, detail=str(error))
            self._role_checked = True
        return Check(ok=True)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    """Cancel tasks until they have ended: a client library may swallow a cancellation."""
    pending = set(tasks)
    for _ in range(CANCELLATIONS_MAX):
        if not pending:
            return
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=1.0)
    log.error("parts_did_not_end", parts=sorted(task.get_name() for task in pending))


async def _repeat(name: str, run_once: Job, every_seconds: float) -> None:
    """Run a job for ever; a failure waits for a later turn, and does not end what else runs here."""
    while True:
        pause_seconds = every_seconds
        try:
            with JOB_SECONDS.labels(job=name).time():
                await run_once()
            JOB_RUNS_TOTAL.labels(job=name, outcome="ok").inc()
        except (KafkaError, *TRANSIENT_ERRORS) as error:
            JOB_RUNS_TOTAL.labels(job=name, outcome="failed").inc()
            log.warning("job_failed", job=name, error=f"{type(error).__name__}: {error}"[:200])
        except Exception:
            JOB_RUNS_TOTAL.labels(job=name, outcome="broken").inc()
            log.exception("job_broken", job=name)
            pause_seconds = max(every_seconds, BROKEN_JOB_PAUSE_SECONDS)
        await asyncio.sleep(pause_seconds)
