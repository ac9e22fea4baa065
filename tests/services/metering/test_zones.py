"""What holds for a month or a day holds by the clocks of the tenant's own time zone."""

from datetime import datetime, timedelta
from typing import Any

from libs.clock import format_time, utc_now
from libs.contracts.metering import LimitThresholdCrossed
from libs.contracts.tenants import ConfigRecord
from libs.directory.local import Directory
from metering.test_thresholds import plan_of, subscription_of
from metering.world import Api, Party, World, publish_snapshot
from services.metering import jobs

AUCKLAND_MAY = datetime.fromisoformat("2061-04-30T12:00:00+00:00")
"""When May begins there; 2061 is ahead of every real clock, and its rules are those of today."""

HOUR = timedelta(hours=1)


async def put_in_zone(world: World, party: Party, zone: str, at: datetime) -> None:
    """Move a tenant into a time zone and to a time."""
    config = (ConfigRecord(namespace="metering", version=1, values={"time_zone": zone}),)
    offset = int((at - utc_now()).total_seconds())
    changes = {"version": 2, "config": config, "clock_offset_seconds": offset}
    publish_snapshot(world.log, party.id, party.snapshot.model_copy(update=changes))
    await world.log.settle()


async def test_a_limit_without_a_period_is_of_the_month_where_the_tenant_is(
    api: Api, world: World
) -> None:
    await api.meter(world.platform)
    plan = plan_of("10", "hard")
    world.tell(world.platform, plan)
    for party, zone in ((world.acme, "Pacific/Auckland"), (world.globex, "UTC")):
        world.tell(party, subscription_of(party, plan, None))
        await put_in_zone(world, party, zone, AUCKLAND_MAY + 8.5 * HOUR)
        # Three on what is the last day of April there, nine on the first of May.
        for hour, calls in ((-1, 3), (1, 9)):
            time = format_time(AUCKLAND_MAY + hour * HOUR)
            await api.send(party, world.event(time=time, data={"calls": calls}))

    async def told(path: str, party: Party) -> tuple[str, str, str]:
        body = (await api.get(path, party, meter="api_calls")).json()
        return body["used"], body["period_from"], body["period_to"]

    may = ("9", "2061-04-30T12:00:00Z", "2061-05-31T12:00:00Z")
    april = ("12", "2061-04-01T00:00:00Z", "2061-05-01T00:00:00Z")
    for path in ("/api/v1/limits/check", "/api/v1/usage/forecast"):
        assert await told(path, world.acme) == may
        assert await told(path, world.globex) == april
    assert (await reserve(api, world.acme, "2")).status_code == 409
    assert (await reserve(api, world.acme, "1")).status_code == 201
    await jobs.look_at_limits(world.database, Directory(world.database))
    await world.log.settle()
    crossed = {
        (event.tenant_id, event.data.percent, event.data.period_from)
        for event in world.log.events(LimitThresholdCrossed)
    }
    in_april = datetime.fromisoformat("2061-04-01T00:00:00+00:00")
    assert crossed == {
        *((world.acme.id, percent, AUCKLAND_MAY) for percent in (50, 80)),
        *((world.globex.id, percent, in_april) for percent in (50, 80, 100)),
    }


async def reserve(api: Api, party: Party, amount: str) -> Any:
    return await api.post("/api/v1/reservations", party, {"meter": "api_calls", "amount": amount})


async def test_a_forecast_has_the_days_of_the_tenant(api: Api, world: World) -> None:
    """Two calls each day, at the hour before midnight and the one after it."""
    await api.meter(world.platform)
    plan = plan_of("17", "soft")
    world.tell(world.platform, plan)
    world.tell(world.acme, subscription_of(world.acme, plan, None))
    await put_in_zone(world, world.acme, "Pacific/Auckland", AUCKLAND_MAY + 5 * 24 * HOUR + HOUR)
    times = [AUCKLAND_MAY + (24 * day + hour) * HOUR for day in range(-14, 5) for hour in (0, 23)]
    await api.send(world.acme, *[world.event(time=format_time(time)) for time in times])
    body = (await api.get("/api/v1/usage/forecast", world.acme, meter="api_calls")).json()
    # The season before as it was: every whole day had two, so nothing was ever missed.
    assert (body["method"], body["used"]) == ("seasonal_naive", "10")
    assert body["low"] == body["expected"] == body["high"]
    assert body["limit_hit_on"] == "2061-05-09"
