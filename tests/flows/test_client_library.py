"""What a product service publishes with `sluice-client` counts exactly once, on the whole stack."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from cli.api import Api, eventually
from deploy.local.stack import Stack
from libs.clock import format_time, utc_now
from sluice_client import AsyncClient, Client, Options
from sluice_client.event import new_id

pytestmark = pytest.mark.flow

EVENTS = 600


async def test_published_by_thread_and_task_and_twice_over_it_counts_once(stack: Stack) -> None:
    environment = stack.environment()
    origin, name = environment["SLUICE_ORIGIN"], f"library-{new_id()[-8:]}"
    operator = Api(origin, environment["SLUICE_OPERATOR_KEY"])
    for aggregation in ("count", "sum"):
        meter: dict[str, Any] = {"key": f"{name}-{aggregation}", "event_type": name}
        meter |= {"aggregation": aggregation}
        meter |= {"value_path": "gigabytes"} if aggregation == "sum" else {}
        await operator.post("/api/v1/meters", meter)
    tenant = await operator.post("/api/v1/tenants", {"name": name})
    body = {"tenant": tenant["id"], "name": "product", "mode": "test"}
    made = await operator.post("/api/v1/api-keys", body | {"scopes": ["usage:write", "usage:read"]})
    reader = Api(origin, made["key"])
    reader.read_after(operator.version)

    # Given a product service that publishes from threads, and one that publishes from a loop,
    began = utc_now()
    options = Options(batch_events=50, flush_seconds=0.05, close_seconds=60)
    used = Decimal("0.001")
    with Client(origin, made["key"], options) as threaded:
        ids = [threaded.track(name, {"gigabytes": used}) for _ in range(EVENTS)]
    async with AsyncClient(origin, made["key"], options) as asynchronous:
        ids += [asynchronous.track(name, {"gigabytes": used}) for _ in range(EVENTS)]
        # when a third one tells half of it again,
        for told in ids[::2]:
            asynchronous.track(name, {"gigabytes": used}, event_id=told)

    # then every use counts, and counts once.
    assert threaded.counters.delivered == EVENTS
    assert asynchronous.counters.delivered + asynchronous.counters.rejected == 2 * EVENTS
    window = {
        "from": format_time(
            (began - timedelta(hours=1)).replace(minute=0, second=0, microsecond=0)
        ),
        "to": format_time(
            (utc_now() + timedelta(hours=2)).replace(minute=0, second=0, microsecond=0)
        ),
    }

    async def total(aggregation: str) -> Decimal:
        answer = await reader.get(f"/api/v1/meters/{name}-{aggregation}/query", **window)
        return sum((Decimal(row["value"]) for row in answer["rows"]), Decimal(0))

    async def counted() -> bool:
        return await total("count") >= 2 * EVENTS

    await eventually("all of the usage", counted)
    assert await total("count") == 2 * EVENTS
    assert await total("sum") == 2 * EVENTS * used
    await reader.close()
    await operator.close()
