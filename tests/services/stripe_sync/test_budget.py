"""Our own limit on calls to Stripe: how many, whose turn, and how long anybody waits."""

import asyncio
import time

import pytest

from services.stripe_sync import budget
from services.stripe_sync.budget import Budget, Lane, NotInTimeError, current_lane, user_facing
from services.stripe_sync.client import StripeTransientError
from tests.services.stripe_sync.accounts import own_account
from tests.services.stripe_sync.conftest import World


async def call(of: Budget, lane: Lane, done: list[Lane], seconds: float = 0.0) -> None:
    await of.take(lane)
    try:
        done.append(lane)
        await asyncio.sleep(seconds)
    finally:
        of.give_back(lane)


async def test_calls_keep_to_the_rate_and_a_burst() -> None:
    of, done = Budget(40), list[Lane]()
    started = time.monotonic()
    await asyncio.gather(*(call(of, "user", done) for _ in range(30)))
    assert len(done) == 30
    # Ten at once, and twenty more at forty a second.
    assert time.monotonic() - started >= 20 / 40 - 0.01


async def test_people_go_first_and_the_background_leaves_a_share() -> None:
    now, done = 0.0, list[Lane]()
    of = Budget(50, clock=lambda: now)
    background = [asyncio.create_task(call(of, "background", done)) for _ in range(60)]
    async with asyncio.timeout(60):
        # Ten at once, and forty a second.
        for gone in (10, 15, 20, 25):
            while len(done) < gone:
                await asyncio.sleep(0.01)
            now += 0.125
        now -= 0.125
        # The share that was kept is there while no time passes.
        await asyncio.gather(*(call(of, "user", done) for _ in range(5)))
    assert done == ["background"] * 25 + ["user"] * 5
    for task in background:
        task.cancel()
    await asyncio.gather(*background, return_exceptions=True)


async def test_slow_calls_of_the_background_leave_room_for_people() -> None:
    of, done = Budget(0), list[Lane]()
    slow = [asyncio.create_task(call(of, "background", done, 60)) for _ in range(20)]
    await asyncio.sleep(0)
    assert len(done) == budget.BACKGROUND_AT_ONCE_MAX
    await asyncio.gather(*(call(of, "user", done) for _ in range(10)))
    assert done.count("user") == 10
    for task in slow:
        task.cancel()
    await asyncio.gather(*slow, return_exceptions=True)
    await asyncio.gather(*(call(of, "background", done) for _ in range(10)))
    assert done.count("background") == budget.BACKGROUND_AT_ONCE_MAX + 10


async def test_who_cannot_be_served_in_time_hears_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budget.WAIT_SECONDS_MAX, "user", 0.2)
    now, done = 0.0, list[Lane]()
    of = Budget(4, clock=lambda: now)
    outcomes = await asyncio.gather(
        *(call(of, "user", done) for _ in range(10)), return_exceptions=True
    )
    refused = [each for each in outcomes if isinstance(each, NotInTimeError)]
    # One at once; the next waits in vain, as no time passes, and the others not at all.
    assert (len(done), len(refused)) == (1, 9)
    now = 0.3
    await call(of, "user", done)


async def test_a_caller_that_leaves_takes_no_turn_with_it() -> None:
    of, done = Budget(0), list[Lane]()
    held = [asyncio.create_task(call(of, "user", done, 0.1)) for _ in range(8)]
    await asyncio.sleep(0)
    for _ in range(50):
        leaving = asyncio.create_task(call(of, "user", done))
        await asyncio.sleep(0)
        leaving.cancel()
    # One leaves in the very moment in which its turn comes.
    late = asyncio.create_task(call(of, "user", done))
    await asyncio.sleep(0)
    held[0].cancel()
    await asyncio.sleep(0)
    late.cancel()
    await asyncio.gather(*held, late, return_exceptions=True)
    await asyncio.gather(*(call(of, "user", done, 0.01) for _ in range(20)))
    assert of._running == {"user": 0, "background": 0}


async def test_the_lane_is_the_callers_own() -> None:
    seen = []

    async def look() -> None:
        await asyncio.sleep(0)
        seen.append(current_lane())

    with user_facing():
        first = asyncio.create_task(look())
    await asyncio.gather(first, look())
    assert seen == ["user", "background"]


async def test_a_limited_account_is_paused_alone_and_people_hear_at_once(world: World) -> None:
    sick, well = await own_account(world, "acme"), await own_account(world, "globex")
    await world.settle()
    world.sandbox.fault(
        kind="error", status=429, path="/v1/customers", account=sick.account, count=100
    )
    api = await sick.api()
    task = asyncio.create_task(api.get("customer.list", "/v1/customers"))
    await asyncio.sleep(0.3)
    api._resume_at = time.monotonic() + 60
    started = time.monotonic()
    with user_facing(), pytest.raises(StripeTransientError, match="rate_limited"):
        await api.get("customer.list", "/v1/customers")
    await (await well.api()).get("customer.list", "/v1/customers")
    assert time.monotonic() - started < 30
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
