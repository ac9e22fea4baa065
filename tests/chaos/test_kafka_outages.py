"""Kafka goes away again and again while webhooks arrive: every one is accepted, then processed.

`make chaos` freezes Kafka ten times for 30 seconds; `make test` twice for three. A frozen broker is
the worst kind of away: connections stay open and nothing answers.
"""

import asyncio
import itertools
import json
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from cli import proof
from cli.story import Story
from deploy.local.stack import Stack
from services.gateway.signature import sign
from tests.conftest import story_seed
from tests.nothing_waits import nothing_waits

LONG = os.environ.get("SLUICE_CHAOS") == "long"
OUTAGES, OUTAGE_SECONDS, BETWEEN_SECONDS = (10, 30.0, 10.0) if LONG else (2, 3.0, 2.0)
PER_SECOND = 30
P99_SECONDS_MAX = 0.5
DRAIN_SECONDS_MAX = 60.0
SHORT_SEED = 20_260_105

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1_200 if LONG else 300)]


@dataclass
class Sender:
    """Sends webhooks at a steady rate, as Stripe would, and never sends one a second time."""

    environment: Mapping[str, str]
    originals: list[dict[str, Any]]
    rng: random.Random
    statuses: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    ids: list[str] = field(default_factory=list)
    stopped: bool = False

    async def run(self) -> None:
        """Send until stopped, and wait for what is under way; a slow answer holds up nothing."""
        started = time.monotonic()
        async with (
            httpx.AsyncClient(base_url=self.environment["SLUICE_GATEWAY_URL"], timeout=30) as http,
            asyncio.TaskGroup() as group,
        ):
            for place in itertools.takewhile(lambda _: not self.stopped, itertools.count()):
                await asyncio.sleep(max(0.0, started + place / PER_SECOND - time.monotonic()))
                group.create_task(self._send(http))

    async def _send(self, http: httpx.AsyncClient) -> None:
        event = {**self.rng.choice(self.originals), "id": f"evt_{self.rng.randbytes(12).hex()}"}
        body = json.dumps(event).encode()
        secret = self.environment["STRIPE_WEBHOOK_SECRET"].encode()
        since = time.perf_counter()
        try:
            answer = await http.post(
                "/api/webhooks/stripe",
                content=body,
                headers=[(b"stripe-signature", sign(secret, body, int(time.time())))],
            )
        except httpx.TransportError:
            self.statuses.append(0)
            return
        self.seconds.append(time.perf_counter() - since)
        self.statuses.append(answer.status_code)
        self.ids.append(event["id"])


@asynccontextmanager
async def sending(sender: Sender) -> AsyncGenerator[None, None]:
    """Webhooks arrive for as long as the block lasts."""
    task = asyncio.create_task(sender.run())
    try:
        yield
    finally:
        sender.stopped = True
        await task


async def sandbox_events(environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """What happened at Stripe, of objects that exist."""
    headers = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=30) as sandbox:
        page = await sandbox.get("/v1/events", params={"limit": 100}, headers=headers)
    found: list[dict[str, Any]] = page.json()["data"]
    return found


def kafka_pid(stack: Stack) -> int:
    """The process of the stack's Kafka."""
    state = stack.state()
    assert state is not None
    (pid,) = [program.pid for program in state.programs if program.name == "kafka"]
    assert pid is not None
    return pid


async def fates(environment: Mapping[str, str], ids: list[str]) -> tuple[int, int, int, int]:
    """Of these events: kept, told, sent to Kafka, taken by stripe_sync."""
    admin = await proof.connect(environment)
    try:
        row = await admin.fetchrow(
            """
            with kept as (
                select stripe_event_id from gateway.webhook_event
                where stripe_event_id = any($1::text[])
            ), told as (
                select event_id, sent_at from gateway.outbox where topic = 'stripe.events'
                and (payload::jsonb -> 'data' ->> 'stripe_event_id') = any($1::text[])
            )
            select (select count(*) from kept), (select count(*) from told),
                (select count(*) from told where sent_at is not null),
                (select count(*) from told join stripe_sync.inbox using (event_id))
            """,
            ids,
        )
        return row[0], row[1], row[2], row[3]
    finally:
        await admin.close()


async def test_webhooks_are_accepted_while_kafka_is_away_and_processed_after(
    stack: Stack, played_story: Story
) -> None:
    environment = played_story.environment
    rng = random.Random(story_seed() if LONG else SHORT_SEED)
    sender = Sender(environment, await sandbox_events(environment), rng)
    await proof.settle(environment)
    before = await proof.checksums(environment)
    async with sending(sender):
        for _ in range(OUTAGES):
            await asyncio.sleep(BETWEEN_SECONDS)
            pid = kafka_pid(stack)
            os.kill(pid, signal.SIGSTOP)
            try:
                await asyncio.sleep(OUTAGE_SECONDS)
            finally:
                os.kill(pid, signal.SIGCONT)
    healed = time.monotonic()
    await proof.settle(environment, seconds=DRAIN_SECONDS_MAX)
    drained_seconds = time.monotonic() - healed
    assert set(sender.statuses) == {200}, "every webhook is accepted, at its first attempt"
    number = len(sender.ids)
    assert await fates(environment, sender.ids) == (number,) * 4
    await nothing_waits(stack)
    changed = proof.differences(before, await proof.checksums(environment))
    moved = [name for name in changed if name.startswith(("ledger.", "billing."))]
    assert moved == [], "the webhooks told of nothing new"
    ordered = sorted(sender.seconds)
    p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(f"{number} webhooks in {OUTAGES} outages of {OUTAGE_SECONDS:.0f} s: all accepted")
    print(
        f"p50 {p50 * 1000:.0f} ms, p99 {p99 * 1000:.0f} ms; drained {drained_seconds:.1f} s after"
    )
