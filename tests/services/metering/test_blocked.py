"""What fails each time holds up nothing else: the oldest fails, and the next one is done."""

from datetime import timedelta
from typing import Any

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.metering import LimitThresholdCrossed
from libs.directory.local import Directory
from metering.test_limits import subscribe
from metering.world import Api, World
from services.metering import closing, forecasts, jobs, thresholds

DAY = timedelta(days=1)


async def test_a_period_that_cannot_be_answered(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    monkeypatch.setattr(jobs, "CLOSURES_MAX", 1)
    unknown = await world.close(world.acme, now - 4 * DAY, now - 3 * DAY, "nobody_knows")
    broken = await world.close(world.acme, now - 3 * DAY, now - 2 * DAY, "api_calls")
    sound = await world.close(world.acme, now - DAY, now, "api_calls")
    straight = closing.quantity_of

    async def quantity_of(tx: Any, meter: Any, closure: Any, self_customer: Any) -> Any:
        if closure["id"] == broken.closure_id:
            raise ArithmeticError("each time")
        return await straight(tx, meter, closure, self_customer)

    with monkeypatch.context() as patched:
        patched.setattr(closing, "quantity_of", quantity_of)
        for _ in range(3):
            answers = await world.answers()
    assert [each.closure_id for each in answers] == [sound.closure_id]
    for _ in range(2):
        answers = await world.answers()
    assert [each.closure_id for each in answers] == [sound.closure_id, broken.closure_id]
    assert unknown.closure_id not in {each.closure_id for each in answers}


async def test_a_customer_whose_limits_cannot_be_looked_at(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    now = floor_to_minute(utc_now())
    for party in (world.acme, world.globex):
        await subscribe(world, party, "soft", "10", (now - DAY, now + DAY))
        await api.send(party, world.event(data={"calls": 10}, time=format_time(now)))
    straight, directory = thresholds._look, Directory(world.database)

    async def look(tx: Any, mark: Any, *rest: Any) -> bool:
        if mark.tenant_id == world.acme.id:
            raise ArithmeticError("each time")
        return await straight(tx, mark, *rest)

    monkeypatch.setattr(jobs, "CUSTOMERS_LOOKED_AT_MAX", 1)
    with monkeypatch.context() as patched:
        patched.setattr(thresholds, "_look", look)
        for _ in range(6):
            await jobs.look_at_limits(world.database, directory)
    await world.log.settle()
    told = world.log.events(LimitThresholdCrossed)
    assert {each.tenant_id for each in told} == {world.globex.id}
    for _ in range(2):
        await jobs.look_at_limits(world.database, directory)
    await world.log.settle()
    told = world.log.events(LimitThresholdCrossed)
    assert {each.tenant_id for each in told} == {world.acme.id, world.globex.id}


async def test_a_forecast_that_cannot_be_made(
    api: Api, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    await api.meter(world.platform)
    path = "/api/v1/usage/forecast"
    for party in (world.acme, world.globex):
        await api.send(party, world.event())
        await api.get(path, party, meter="api_calls")
    async with world.database.maintenance() as tx:
        await tx.execute("update usage_forecast set due_at = now() - interval '1 s', used = 5")
        await tx.execute(
            "update usage_forecast set due_at = due_at - interval '1 s' where tenant_id = $1",
            world.acme.id,
        )
    straight = forecasts._made_again

    async def made_again(tx: Any, tenant: Any, zone: Any, due: Any) -> Any:
        if due.tenant_id == world.acme.id:
            raise ArithmeticError("each time")
        return await straight(tx, tenant, zone, due)

    monkeypatch.setattr(forecasts, "_made_again", made_again)
    monkeypatch.setattr(jobs, "FORECASTS_MAX", 1)
    for _ in range(2):
        await jobs.refresh_forecasts(world.database, Directory(world.database))
    async with world.database.maintenance() as tx:
        rows = await tx.fetch("select tenant_id, used from usage_forecast where due_at > now()")
    assert {row["tenant_id"]: row["used"] for row in rows} == {world.acme.id: 5, world.globex.id: 1}
