"""A platform, two tenants, and short words for what happens to them."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import httpx

from libs.clock import format_time, utc_now
from libs.contracts.billing import UsagePeriodClosed
from libs.contracts.envelope import Fact, Mode, wrap
from libs.contracts.metering import PeriodUsage
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord, TenantSnapshot
from libs.crypto import apikeys
from libs.db.pool import Database
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from services.metering import jobs
from services.metering.usage_log import TOPIC, LogUnavailableError

PEPPER = b"p" * 32

PARAMETERS: dict[str, dict[str, Any]] = {
    "percentile": {"percentile": "90"},
    "time_weighted_sum": {"time_unit": "hour"},
}
"""What meters of these aggregations need besides."""


@dataclass(frozen=True)
class Party:
    """A tenant and its keys."""

    id: UUID
    self_customer_id: UUID
    snapshot: TenantSnapshot
    keys: tuple[str, ...]


@dataclass
class MemoryUsageLog:
    """`usage.events` on the log in memory, in place of Kafka's own client."""

    log: MemoryLog
    down: bool = False
    published: list[tuple[UUID, int, list[bytes]]] = field(default_factory=list)

    async def publish(self, tenant_id: UUID, values: Sequence[bytes], place: int = 0) -> None:
        if self.down:
            raise LogUnavailableError
        self.published.append((tenant_id, place, list(values)))
        for value in values:
            self.log.append(TOPIC, str(tenant_id).encode(), value)

    async def end_offsets(self) -> dict[int, int]:
        return {0: len(self.log.topics[TOPIC])}


@dataclass
class World:
    database: Database
    log: MemoryLog
    usage_log: MemoryUsageLog
    platform: Party
    acme: Party
    globex: Party
    source: str = "product/api"
    numbers: list[int] = field(default_factory=lambda: [0])

    def event(self, **attributes: Any) -> dict[str, Any]:
        """A usage event, valid but for what is changed; None leaves an attribute out."""
        self.numbers[0] += 1
        event = {
            "specversion": "1.0",
            "id": f"e-{self.numbers[0]}",
            "source": self.source,
            "type": "api.call",
            "time": format_time(utc_now()),
            "userid": "ann",
            "data": {"calls": 1},
        } | attributes
        return {name: value for name, value in event.items() if value is not None}

    def put(
        self,
        party: Party,
        event: dict[str, Any],
        mode: Mode = "test",
        at: datetime | None = None,
    ) -> None:
        """Put an event straight on the topic, as a product service does."""
        value = json.dumps({"mode": mode} | event).encode()
        self.log.append(TOPIC, str(party.id).encode(), value, at=at)

    def tell(self, party: Party, fact: Fact, at: datetime | None = None) -> None:
        """Another service tells something about a tenant."""
        self.log.publish(
            wrap(
                fact,
                tenant_id=party.id,
                mode="test",
                source="billing",
                effective_at=at or utc_now(),
            )
        )

    async def move_clock(self, party: Party, offset: timedelta, version: int = 2) -> None:
        """The tenant's business clock is ahead from now on."""
        publish_snapshot(
            self.log,
            party.id,
            party.snapshot.model_copy(
                update={"version": version, "clock_offset_seconds": int(offset.total_seconds())}
            ),
        )
        await self.log.settle()

    async def close(
        self, party: Party, start: datetime, end: datetime, *meters: str, grace_seconds: int = 0
    ) -> UsagePeriodClosed:
        """Billing closes a period of the tenant itself."""
        fact = UsagePeriodClosed(
            closure_id=new_id(),
            subscription_id=new_id(),
            customer_id=party.self_customer_id,
            meters=meters,
            period_from=start,
            period_to=end,
            grace_seconds=grace_seconds,
        )
        self.tell(party, fact)
        await self.log.settle()
        return fact

    async def answers(self) -> list[PeriodUsage]:
        """Run the job once, and read every answer given so far."""
        await jobs.close_periods(self.database, self.usage_log)  # type: ignore[arg-type]
        await self.log.settle()
        return [event.data for event in self.log.events(PeriodUsage)]


@dataclass
class Api:
    """A client of the service."""

    client: httpx.AsyncClient
    world: World

    async def get(self, path: str, party: Party, **params: Any) -> httpx.Response:
        named = {name.rstrip("_"): value for name, value in params.items()}
        return await self.client.get(path, headers={"X-API-Key": party.keys[0]}, params=named)

    async def post(self, path: str, party: Party, body: Any, **headers: str) -> httpx.Response:
        sent = {"X-API-Key": party.keys[0]} | {n.replace("_", "-"): v for n, v in headers.items()}
        if isinstance(body, bytes):
            return await self.client.post(path, content=body, headers=sent)
        return await self.client.post(path, json=body, headers=sent)

    async def meter(self, party: Party, **parts: Any) -> dict[str, Any]:
        """Define a meter."""
        body = {
            "key": "api_calls",
            "event_type": "api.call",
            "aggregation": "sum",
            "value_path": "calls",
        } | parts
        body = PARAMETERS.get(body["aggregation"], {}) | body
        body = {name: value for name, value in body.items() if value is not None}
        answer = await self.post("/api/v1/meters", party, body)
        assert answer.status_code == 201, answer.text
        meter: dict[str, Any] = answer.json()
        return meter

    async def send(self, party: Party, *events: Any) -> list[dict[str, Any]]:
        """Publish events and let them be counted; the verdicts."""
        answer = await self.post("/api/v1/events", party, list(events))
        assert answer.status_code == 202, answer.text
        await self.world.log.settle()
        results: list[dict[str, Any]] = answer.json()["results"]
        assert len(results) == len(events)
        return results

    async def rows(self, party: Party, meter: str = "api_calls", **params: Any) -> list[Any]:
        """The rows of a query over the last 40 days and the next one."""
        now = utc_now()
        span = {
            "from": format_time(now - timedelta(days=40)),
            "to": format_time(now + timedelta(days=1)),
        }
        answer = await self.get(f"/api/v1/meters/{meter}/query", party, **(span | params))
        assert answer.status_code == 200, answer.text
        rows: list[Any] = answer.json()["rows"]
        return rows

    async def value(self, party: Party, meter: str = "api_calls", **params: Any) -> Decimal:
        """The one value of a query."""
        (row,) = await self.rows(party, meter, **params)
        return Decimal(row["value"])


def publish_tenant(
    log: MemoryLog,
    slug: str,
    scopes: tuple[tuple[str, ...], ...],
    *,
    tenant_id: UUID | None = None,
    operator: bool = False,
    mode: Mode = "test",
    version: int = 1,
) -> Party:
    """Announce a tenant in the directory, with a key per set of scopes.

    Args:
        version: only a higher one replaces what was announced of the tenant before.
    """
    tenant = tenant_id or new_id()
    keys = [apikeys.generate(mode) for _ in scopes]
    snapshot = TenantSnapshot(
        version=version,
        slug=slug,
        name=slug.title(),
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        api_keys=tuple(
            ApiKeyRecord(
                key_id=new_id(),
                prefix=key.prefix,
                key_hash=apikeys.hash_key(key.key, PEPPER).hex(),
                mode=mode,
                scopes=granted,
                operator=operator,
            )
            for key, granted in zip(keys, scopes, strict=True)
        ),
    )
    publish_snapshot(log, tenant, snapshot)
    return Party(tenant, snapshot.self_customer_id, snapshot, tuple(key.key for key in keys))


def publish_platform(log: MemoryLog) -> Party:
    """Announce the platform on a Kafka that others share, who announced it as well: the last one holds."""
    return publish_tenant(
        log,
        "platform",
        ((),),
        tenant_id=PLATFORM_TENANT_ID,
        operator=True,
        version=time.time_ns() // 1000,
    )


def publish_snapshot(log: MemoryLog, tenant_id: UUID, snapshot: TenantSnapshot) -> None:
    log.publish(
        wrap(snapshot, tenant_id=tenant_id, mode=None, source="tenants", effective_at=utc_now())
    )


COMPARED = (
    "meter",
    "usage_event_id",
    "usage_series",
    "usage_minute",
    "usage_unique",
    "usage_rank",
    "usage_value",
    "usage_progress",
    "closure",
    "closure_usage",
    "plan_version",
    "subscription",
    "credit_limit",
    "reservation",
    "planned_usage",
    "planned_occurrence",
    "limited_meter",
    "subscription_period",
    "limit_crossing",
    "limit_overrun",
    "usage_conflict",
    "usage_conflict_day",
    "dead_letter",
    "usage_producer",
    "usage_refusal",
    "usage_backfill",
)


async def checksums(database: TestDatabase) -> dict[str, tuple[int, str]]:
    """The number and content of the rows of every table that a replay must not change."""
    sums = {}
    async with database.admin() as admin:
        for table in (*COMPARED, "outbox"):
            columns = "event_id::text" if table == "outbox" else "t::text"
            rows = await admin.fetch(f"select {columns} as row from metering.{table} t order by 1")
            digest = hashlib.sha256("\n".join(row["row"] for row in rows).encode())
            sums[table] = (len(rows), digest.hexdigest())
    return sums
