"""Credit bounds usage as a quantity: checks and reservations refuse what it does not pay for."""

import asyncio
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from libs.clock import floor_to_minute, format_time, utc_now
from libs.contracts.billing import CreditLimitSet
from libs.ids import new_id
from libs.testing.databases import TestDatabase
from metering.test_limits import subscribe
from metering.world import Api, Party, World, checksums

DAY = timedelta(days=1)


@pytest.fixture
def now() -> datetime:
    return floor_to_minute(utc_now())


async def tell(
    world: World, party: Party, since: datetime, amount: str | None, version: int = 1, **parts: Any
) -> None:
    """Billing tells what credit pays for."""
    fact = CreditLimitSet(
        customer_id=party.self_customer_id,
        billed_by="platform",
        meter="api_calls",
        version=version,
        since=since,
        amount=None if amount is None else Decimal(amount),
    )
    world.tell(party, fact.model_copy(update=parts))
    await world.log.settle()


async def check(api: Api, party: Party, amount: str = "1", **params: Any) -> Any:
    path = "/api/v1/limits/check"
    return (await api.get(path, party, meter="api_calls", amount=amount, **params)).json()


async def test_credit_counts_what_was_used_since_it_was_told_across_periods(
    api: Api, world: World, now: datetime
) -> None:
    await api.meter(world.platform)
    # Given a soft limit in a period that began yesterday, and credit for ten since the day before,
    await subscribe(world, world.acme, "soft", "3", (now - DAY, now + 29 * DAY))
    await tell(world, world.acme, now - 2 * DAY, "10")
    used = [(now - 3 * DAY, 100), (now - 1.5 * DAY, 4), (now, 2)]
    await api.send(
        world.acme, *[world.event(time=format_time(at), data={"calls": n}) for at, n in used]
    )
    # when more is asked for, the plan has charged overages all along, and credit refuses.
    found = await check(api, world.acme, "4")
    assert (found["allowed"], found["used"], found["kind"]) == (True, "2", "soft")
    since = format_time(now - 2 * DAY)
    assert found["credit"] == {"since": since, "used": "6", "limit": "10", "remaining": "4"}
    assert (await check(api, world.acme, "4.5"))["allowed"] is False
    body = {"meter": "api_calls", "amount": "4.5"}
    refused = await api.post("/api/v1/reservations", world.acme, body)
    assert (refused.status_code, refused.json()["code"]) == (409, "limit_reached")
    assert refused.json()["check"]["credit"]["remaining"] == "4"
    # Others, and meters that credit does not name, are not bounded by it.
    assert (await check(api, world.globex))["credit"] is None
    assert (await check(api, world.acme, customer="shop-7"))["credit"] is None


async def test_only_a_later_word_replaces_an_earlier_one(
    api: Api, world: World, now: datetime, database: TestDatabase
) -> None:
    await api.meter(world.platform)
    await subscribe(world, world.acme, "hard", "100", (now - DAY, now + 29 * DAY))
    await tell(world, world.acme, now, "7", version=3)
    await tell(world, world.acme, now, "5", version=2)
    assert (await check(api, world.acme))["credit"]["limit"] == "7"
    # Of another customer, another biller, or an unknown meter: it bounds nothing here.
    await tell(world, world.acme, now, "1", customer_id=new_id())
    await tell(world, world.acme, now, "1", meter="else")
    assert (await check(api, world.acme))["credit"]["limit"] == "7"
    before = await checksums(database)
    for clear_inboxes in (False, True):
        await world.log.replay(clear_inboxes=clear_inboxes)
        assert await checksums(database) == before
    await tell(world, world.acme, now, "0", version=4, billed_by="tenant")
    assert (await check(api, world.acme))["credit"] is None
    await tell(world, world.acme, now, "0", version=5)
    assert (await check(api, world.acme))["allowed"] is False
    await tell(world, world.acme, now, None, version=6)
    found = await check(api, world.acme)
    assert (found["allowed"], found["credit"]) == (True, None)


async def test_many_at_once_get_exactly_what_credit_pays_for(
    api: Api, world: World, now: datetime
) -> None:
    await api.meter(world.platform)
    await subscribe(world, world.acme, "hard", "100", (now - DAY, now + 29 * DAY))
    await tell(world, world.acme, now, "6")
    body = {"meter": "api_calls", "amount": "1"}
    answers = await asyncio.gather(
        *(api.post("/api/v1/reservations", world.acme, body) for _ in range(20))
    )
    assert [answer.status_code for answer in answers].count(201) == 6
    found = await check(api, world.acme)
    assert (found["allowed"], found["credit"]["remaining"]) == (False, "0")
